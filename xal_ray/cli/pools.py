"""These commands take in data: images and labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xal_ray.cli.application import app
from xal_ray.cli.errors import errors_shown
from xal_ray.cli.options import DebugOption, SetOption, VerboseOption, a_place
from xal_ray.config import Config, build_config, read_yaml
from xal_ray.errors import ConfigError
from xal_ray.progress import Reporter
from xal_ray.registry.lookup import UnknownNameError
from xal_ray.registry.sources import SOURCES

if TYPE_CHECKING:
    from xal_ray.pool.card_content import PoolCard

_PANEL = "Images and labels"

labels_app = typer.Typer(help="Take in labels that people made.", no_args_is_help=True)
app.add_typer(labels_app, name="labels", rich_help_panel=_PANEL)


@app.command(rich_help_panel=_PANEL)
def prepare(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Read this manifest (CSV, TSV, Parquet), image folder (with --set pool.group_by=image) or "
            "root of a data set (with --kind), or draw images where it is 'phantom'.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", parser=a_place, metavar="PLACE", help="Write the pool into this folder.")
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Prepare as the section 'pool' of this run's YAML file says; SOURCE replaces its source.",
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind", metavar="KIND", help="Read SOURCE as one of " + ", ".join(SOURCES.names()) + "."
        ),
    ] = None,
    overrides: SetOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Decode images once into a packed pool.

    Example: xal-ray prepare manifest.csv --out pools/mri --set pool.image_size=160

    Example: xal-ray prepare BraTS2021 --kind brats --out pools/brats --set pool.channels=3
    """
    with errors_shown(debug):
        from xal_ray.engine.context import open_context
        from xal_ray.engine.prepare import prepare as prepare_pool

        settings = _config_for_prepare(source, kind, config, overrides or [])
        with open_context(settings.ray, Reporter(), verbose=verbose) as context:
            pool = prepare_pool(settings.pool, out, context)
        _print_card(out, pool.card)


@labels_app.command("import")
def import_(
    run_folder: Annotated[
        Path,
        typer.Argument(parser=a_place, metavar="RUN", help="Import into the run that lies in this folder."),
    ],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Read this CSV file (a filled in selection.csv) with the columns image_id, label and, where "
            "there are any, mask or box_x0 .. box_y1.",
        ),
    ],
    label_column: Annotated[
        str,
        typer.Option(
            "--label-column",
            metavar="COLUMN",
            help="Take the classes from this column, e.g. choice of Label Studio.",
        ),
    ] = "label",
    close: Annotated[
        bool,
        typer.Option("--close", help="Pass over the picks that still have no label, and never ask for them."),
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Import labels into the round that waits for them. Importing twice changes nothing."""
    with errors_shown(debug):
        from xal_ray.labels.inbox import import_labels

        received = import_labels(
            run_folder, file, label_column=label_column, close=close, tell=Reporter().line
        )
        passed_over = f", {received.num_passed_over} passed over" if received.num_passed_over else ""
        typer.echo(
            f"{received.round_title}: {received.num_new} new labels, {received.num_missing} still missing"
            + passed_over
        )


def _config_for_prepare(source: str, kind: str | None, config: Path | None, overrides: list[str]) -> Config:
    tree: dict[str, Any] = read_yaml(config) if config is not None else {"name": "prepare"}
    pool: dict[str, Any] = tree.setdefault("pool", {})
    section: dict[str, Any] = pool.setdefault("source", {})
    if _is_source_without_path(source):
        section["kind"] = source
    else:
        if section.get("kind") is not None and not SOURCES[section["kind"]].needs_path:
            del section["kind"]
        section["path"] = source
    if kind is not None:
        section["kind"] = _known_kind(kind)
    return build_config(tree, overrides, where=str(config or "the command line"))


def _is_source_without_path(source: str) -> bool:
    """Tell the name of a source that makes its images itself from a path."""
    is_plugin = ":" in source and "://" not in source and not Path(source).exists()
    return (source in SOURCES.names() or is_plugin) and not SOURCES[source].needs_path


def _known_kind(kind: str) -> str:
    try:
        return SOURCES[kind].name
    except UnknownNameError as error:
        raise ConfigError(
            "the kind of the source is not known",
            expected="one of " + ", ".join(error.known),
            found=kind,
            where=f"--kind {kind}",
            next_step=f"did you mean --kind {error.near}?"
            if error.near
            else "leave it out: a file is a table",
        ) from error


def _print_card(path: Path, card: PoolCard) -> None:
    typer.echo(f"{path}: {card['num_rows']} images of {sum(card['num_groups'].values())} groups")
    for title, counted in (
        ("splits", card["counts"]),
        ("classes", card["class_counts"]),
        ("ROIs", card["roi"]),
    ):
        counts = ", ".join(f"{name} {count}" for name, count in sorted(counted.items()))
        typer.echo(f"  {title + ':':<10}{counts or 'none'}")
    left_out = [
        f"{entry['reason']} {entry['count']} (images that {entry['words']})" for entry in card["excluded"]
    ]
    typer.echo(f"  left out: {left_out[0] if left_out else 'none'}")
    for line in left_out[1:]:
        typer.echo(f"            {line}")
