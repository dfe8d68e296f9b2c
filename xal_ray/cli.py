"""The command line: thin over the Python API."""

from __future__ import annotations

import importlib.metadata
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from xal_ray.config import Config, build_config, load_config, read_yaml
from xal_ray.errors import XalRayError
from xal_ray.progress import Reporter

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xal-ray {importlib.metadata.version('xal-ray')}")
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Explainable active learning on images, on Ray: which images should be labelled next?"""


labels_app = typer.Typer(help="Labels that people made.", no_args_is_help=True)
app.add_typer(labels_app, name="labels")

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. select.query_size=50. Repeatable."),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show what Ray itself says.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]


@app.command()
def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help="A manifest (CSV, TSV, Parquet), an image folder (--set pool.group_by=image), or 'phantom'."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The pool's folder.")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="A run's YAML: its section 'pool' says how; SOURCE replaces its source."
        ),
    ] = None,
    overrides: SetOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Decode images once into a packed pool.

    Example: xal-ray prepare manifest.csv --out pools/mri --set pool.image_size=160
    """
    with _errors_shown(debug):
        from xal_ray.engine.prepare import prepare as prepare_pool

        settings = _config_for_prepare(source, config, overrides or [])
        pool = prepare_pool(settings.pool, out, settings.ray, Reporter(), verbose=verbose)
        _print_card(out, pool.card)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="The run's YAML file, e.g. configs/quickstart.yaml.")],
    overrides: SetOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run's folder. Default: runs/<name>.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved plan and stop.")] = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Run the loop: train, score, select, label, commit, round after round.

    The pool is prepared on first use. The same command takes up a run that was stopped, at whatever moment;
    a finished run is left alone. With labels.source=export it stops at AWAITING_LABELS (exit code 0) whenever
    people have to label.
    """
    with _errors_shown(debug):
        settings = load_config(config, overrides or [])
        folder = out or Path("runs") / settings.name
        from xal_ray.loop import describe
        from xal_ray.loop import run as run_loop

        if dry_run:
            for line in describe(settings, folder):
                typer.echo(line)
            return
        outcome = run_loop(settings, folder, Reporter(), verbose=verbose)
        if outcome.waiting is not None:
            typer.echo(
                f"AWAITING_LABELS: {outcome.waiting.title} waits for {outcome.num_missing} labels\n"
                f"  1. fill in the column 'label' of {outcome.waiting.to_label / 'selection.csv'}\n"
                f"  2. xal-ray labels import {folder} {outcome.waiting.to_label / 'selection.csv'}\n"
                "  3. run this command again"
            )
        elif outcome.status == "already_finished":
            typer.echo(f"this run is finished; nothing to do. Report: {outcome.report}")
        else:
            typer.echo(f"finished. Report: {outcome.report}")


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(help="The YAML file of a run: the base of all arms.")],
    params: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            metavar="KEY=SPEC",
            help="What to try: a range 0:1:0.1, a list a,b,c, or 0:1 and 1e-4:1:log to draw from. "
            "Repeatable; replaces sweep.params.",
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Runs of each arm; seeds are paired across arms.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="Whose validation curve decides: balanced_accuracy, accuracy, ..."),
    ] = None,
    search: Annotated[str | None, typer.Option("--search", help="grid, random or optuna.")] = None,
    num_samples: Annotated[
        int | None, typer.Option("--num-samples", min=1, help="Arms that random and optuna try.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option("--scheduler", help="none or asha.")] = None,
    trials_at_once: Annotated[
        int | None, typer.Option("--trials-at-once", min=1, help="Default: as many as fit.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            metavar="KEY=VALUE",
            help="What arms are compared with; default select.strategy=random. Repeatable.",
        ),
    ] = None,
    overrides: SetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The sweep's folder. Default: sweeps/<name>.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved plan and stop.")] = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Run whole runs side by side: every arm with the same seeds, compared with a baseline.

    The same command takes up a sweep that was stopped; one with more --param or --seeds adds to it.

    Example: xal-ray sweep configs/quickstart.yaml --param select.weight=0:1:0.1 --seeds 10
    """
    with _errors_shown(debug):
        from xal_ray.sweep import describe_sweep, settings_of
        from xal_ray.sweep import sweep as run_sweep

        options = {
            "seeds": seeds,
            "metric": metric,
            "search": search,
            "num_samples": num_samples,
            "scheduler": scheduler,
            "trials_at_once": trials_at_once,
        }
        settings = settings_of(load_config(config, overrides or []), params or [], baseline or [], options)
        folder = out or Path("sweeps") / settings.name
        if dry_run:
            for line in describe_sweep(settings, folder):
                typer.echo(line)
            return
        outcome = run_sweep(settings, folder, Reporter(), verbose=verbose)
        for line in outcome.in_words():
            typer.echo(line)
        if not any(trial.status in ("finished", "stopped") for trial in outcome.trials):
            raise typer.Exit(1)


@app.command()
def score(
    model: Annotated[
        Path, typer.Option("--model", help="A model's folder (RUN/rounds/NNN) or its .safetensors file.")
    ],
    pool: Annotated[Path, typer.Option("--pool", help="A packed pool.")],
    out: Annotated[Path, typer.Option("--out", help="The scores go to OUT/scores/*.parquet.")],
    split: Annotated[
        list[str] | None,
        typer.Option("--split", help="pool (the default), labeled, val or test. Repeatable."),
    ] = None,
    query_size: Annotated[
        int, typer.Option("--query-size", min=0, help="Also choose so many images: OUT/selection.parquet.")
    ] = 0,
    overrides: SetOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Score a pool once with a trained model. A command that was stopped goes on when it is given again.

    Of the --set keys, only those of score, roi, ray and, with --query-size, select and seed count.

    Example: xal-ray score --model runs/a/rounds/004 --pool pools/b --out scored --query-size 500
    """
    with _errors_shown(debug):
        from xal_ray.single_pass import score_pool

        settings = build_config({"name": "score"}, overrides or [], where="--set")
        splits = split or ["pool"]
        count = score_pool(
            model, pool, out, settings, Reporter(), splits=splits, query_size=query_size, verbose=verbose
        )
        typer.echo(f"scored {count} images: {out / 'scores'}")
        if query_size:
            typer.echo(f"chose {query_size} of them: {out / 'selection.parquet'}")


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    debug: DebugOption = False,
) -> None:
    """Build RUN/report.html again from what the run left."""
    with _errors_shown(debug):
        from xal_ray.layout import RunLayout
        from xal_ray.pool.schema import open_pool
        from xal_ray.report.page import build_report

        settings = load_config(RunLayout(run_folder).config)
        typer.echo(build_report(run_folder, open_pool(settings.pool_path())))


@labels_app.command("import")
def import_(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV: image_id, label, optionally mask or box_x0 .. box_y1 (a filled in selection.csv)."
        ),
    ],
    debug: DebugOption = False,
) -> None:
    """Import labels into the round that waits for them. Importing twice changes nothing."""
    with _errors_shown(debug):
        from xal_ray.labels.inbox import import_labels

        received = import_labels(run_folder, file)
        typer.echo(
            f"{received.round_title}: {received.num_new} new labels, {received.num_missing} still missing"
        )


@app.command()
def doctor(
    folder: Annotated[Path, typer.Option("--folder", help="Where runs would be written.")] = Path(),
    debug: DebugOption = False,
) -> None:
    """Say what this machine can do: versions, GPUs, disk, decoders, and whether Ray starts.

    The exit code is 1 where something is missing without which nothing runs.
    """
    with _errors_shown(debug):
        from xal_ray.doctor import examine

        states = set()
        for finding in examine(folder):
            states.add(finding.state)
            typer.echo(f"{finding.state:<9}{finding.topic:<46}{finding.text}")
        if "missing" in states:
            raise typer.Exit(1)


def main() -> None:
    """Entry point of `xal-ray`."""
    app()


@contextmanager
def _errors_shown(debug: bool) -> Iterator[None]:
    """Show an error as its message, and leave with its exit code; the traceback only where asked for."""
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, XalRayError):
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        typer.echo(
            f"error: an unexpected {type(error).__name__}: {error}\n"
            "  next:     run it again with --debug and report what it shows",
            err=True,
        )
        raise typer.Exit(1) from error
    finally:
        _stop_ray()


def _stop_ray() -> None:
    if "ray" in sys.modules:
        from xal_ray.engine.session import stop

        stop()


def _config_for_prepare(source: str, config: Path | None, overrides: list[str]) -> Config:
    tree: dict[str, Any] = read_yaml(config) if config is not None else {"name": "prepare"}
    pool: dict[str, Any] = tree.setdefault("pool", {})
    section: dict[str, Any] = pool.setdefault("source", {})
    if source == "phantom":
        section["kind"] = "phantom"
    else:
        section.pop("kind", None)
        section["path"] = source
    return build_config(tree, overrides, where=str(config or "prepare"))


def _print_card(path: Path, card: dict[str, Any]) -> None:
    typer.echo(f"{path}: {card['num_rows']} images of {sum(card['num_groups'].values())} groups")
    for title, key in (
        ("splits", "counts"),
        ("classes", "class_counts"),
        ("ROIs", "roi"),
        ("left out", "exclusions"),
    ):
        counts = ", ".join(f"{name} {count}" for name, count in sorted(card[key].items()))
        typer.echo(f"  {title + ':':<10}{counts or 'none'}")


if __name__ == "__main__":
    main()
