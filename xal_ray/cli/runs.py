"""These commands compute: a run, a sweep, a single pass, and the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from xal_ray.cli.application import app
from xal_ray.cli.errors import echo, errors_shown
from xal_ray.cli.options import (
    AddressOption,
    ClusterOption,
    DebugOption,
    DetachOption,
    DownOption,
    DryRunOption,
    KeepOption,
    SetOption,
    VerboseOption,
    a_place,
    for_job,
    on_cluster,
    target_of,
)
from xal_ray.config import Metric, load_config, read_yaml
from xal_ray.places import is_remote
from xal_ray.progress import Reporter

_PANEL = "Runs"


@app.command(rich_help_panel=_PANEL)
def run(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG", help="Read the run from this YAML file, e.g. configs/quickstart.yaml."
        ),
    ],
    overrides: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            parser=a_place,
            metavar="PLACE",
            help="Write the run into this folder; the default is runs/<name>.",
        ),
    ] = None,
    dry_run: DryRunOption = False,
    cluster: ClusterOption = None,
    address: AddressOption = None,
    down: DownOption = False,
    keep_on_failure: KeepOption = False,
    detach: DetachOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Run the loop: train, score, select, label, commit, round after round.

    The pool is prepared on first use. The same command takes up a run that was stopped, at whatever moment;
    a finished run is left alone. With labels.source=export it stops at AWAITING_LABELS (exit code 0) whenever
    people have to label.
    """
    with errors_shown(debug):
        settings = load_config(config, overrides or [])
        folder = out or Path("runs") / settings.name
        target = target_of(cluster, address, down, keep_on_failure, detach)
        from xal_ray.loop import describe
        from xal_ray.loop import run as run_loop

        if target is not None:
            plan = describe(settings, folder, here=False) if dry_run else None
            on_cluster(target, plan, "run", settings, folder, options=for_job(verbose, debug))
            return
        if dry_run:
            echo(describe(settings, folder))
            return
        outcome = run_loop(settings, folder, Reporter(), verbose=verbose)
        if outcome.waiting is not None:
            typer.echo(
                f"AWAITING_LABELS: {outcome.waiting.title} waits for {outcome.num_missing} labels\n"
                f"  1. fill in the column 'label' of {outcome.waiting.to_label / 'selection.csv'}\n"
                f"  2. xal-ray labels import {folder} {outcome.waiting.to_label / 'selection.csv'}\n"
                "     (with --close, if those that are left can't be labelled)\n"
                "  3. run this command again"
            )
        elif outcome.status == "already_finished":
            typer.echo(f"this run is finished; nothing to do. Report: {outcome.report}")
        else:
            typer.echo(f"finished. Report: {outcome.report}")


@app.command(rich_help_panel=_PANEL)
def sweep(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", help="Take the run of this YAML file as the base of all arms."),
    ],
    params: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            metavar="KEY=SPEC",
            help="Try these values of a key: a range 0:1:0.1, a list a,b,c, or 0:1 and 1e-4:1:log to draw "
            "from. The option may be repeated, and replaces sweep.params.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            min=1,
            metavar="N",
            help="Run each arm with this many seeds, which are the same for all arms.",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="METRIC",
            help="Let the validation curve of this metric decide: " + ", ".join(get_args(Metric)) + ".",
        ),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option("--search", metavar="SEARCH", help="Propose arms as grid, random or optuna does."),
    ] = None,
    num_samples: Annotated[
        int | None,
        typer.Option("--num-samples", min=1, metavar="N", help="Let random or optuna propose N arms."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler", metavar="SCHEDULER", help="Stop weak trials early with asha, or never with none."
        ),
    ] = None,
    trials_at_once: Annotated[
        int | None,
        typer.Option(
            "--trials-at-once",
            min=1,
            metavar="N",
            help="Run this many trials at once; the default is as many as fit.",
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            metavar="KEY=VALUE",
            help="Compare arms with this setting; the default is select.strategy=random. The option may be "
            "repeated.",
        ),
    ] = None,
    overrides: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            parser=a_place,
            metavar="PLACE",
            help="Write the sweep into this folder; the default is sweeps/<name>.",
        ),
    ] = None,
    dry_run: DryRunOption = False,
    cluster: ClusterOption = None,
    address: AddressOption = None,
    down: DownOption = False,
    keep_on_failure: KeepOption = False,
    detach: DetachOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Run whole runs side by side: every arm with the same seeds, compared with a baseline.

    The same command takes up a sweep that was stopped; one with more --param or --seeds adds to it.

    Example: xal-ray sweep configs/quickstart.yaml --param select.weight=0:1:0.1 --seeds 10
    """
    with errors_shown(debug):
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
        target = target_of(cluster, address, down, keep_on_failure, detach)
        if target is not None:
            plan = describe_sweep(settings, folder, here=False) if dry_run else None
            on_cluster(target, plan, "sweep", settings, folder, options=for_job(verbose, debug))
            return
        if dry_run:
            echo(describe_sweep(settings, folder))
            return
        outcome = run_sweep(settings, folder, Reporter(), verbose=verbose)
        echo(outcome.in_words())
        if not any(trial.status in ("finished", "stopped") for trial in outcome.trials):
            raise typer.Exit(1)


@app.command(rich_help_panel=_PANEL)
def score(
    model: Annotated[
        Path,
        typer.Option(
            "--model",
            parser=a_place,
            metavar="PLACE",
            help="Score with the model of this folder (RUN/rounds/NNN) or .safetensors file.",
        ),
    ],
    pool: Annotated[
        Path,
        typer.Option("--pool", parser=a_place, metavar="PLACE", help="Score images of this packed pool."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", parser=a_place, metavar="PLACE", help="Write the scores to OUT/scores/*.parquet."
        ),
    ],
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            metavar="SPLIT",
            help="Score this split: pool (the default), labeled, val or test. The option may be repeated.",
        ),
    ] = None,
    query_size: Annotated[
        int,
        typer.Option(
            "--query-size",
            min=0,
            metavar="N",
            help="Also choose this many images, and write them to OUT/selection.parquet.",
        ),
    ] = 0,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            parser=a_place,
            metavar="RUN",
            help="Choose nothing that this run has labelled or picked; the default is the model's run.",
        ),
    ] = None,
    exclude: Annotated[
        list[Path] | None,
        typer.Option(
            "--exclude",
            parser=a_place,
            metavar="FILE",
            help="Choose none of these images, either: a CSV or Parquet file with image_id, or an id a line. "
            "The option may be repeated.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Let the sections of this run's YAML file replace those of the model's run.",
        ),
    ] = None,
    overrides: SetOption = None,
    dry_run: DryRunOption = False,
    cluster: ClusterOption = None,
    address: AddressOption = None,
    down: DownOption = False,
    keep_on_failure: KeepOption = False,
    detach: DetachOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Score a pool once with a trained model. A command that was stopped goes on when it is given again.

    With --query-size, what the model's run has labelled or picked is not chosen again. Keys of score, roi,
    select, seed and ray count; all but the last are the run's where nothing else is said.

    Example: xal-ray score --model runs/a/rounds/004 --pool pools/b --out scored --query-size 500
    """
    with errors_shown(debug):
        from xal_ray.labels.exclusions import run_of_model
        from xal_ray.loop.score_pool import describe_pass, score_pool, settings_of_pass

        asks_cloud = any(is_remote(path) for path in (model, run) if path is not None)
        run = run or (None if dry_run and asks_cloud else run_of_model(model))
        tree = {} if config is None else read_yaml(config)
        settings = settings_of_pass(
            None if dry_run and asks_cloud else run,
            tree,
            overrides or [],
            where=str(config or "the command line"),
        )
        splits, lists = tuple(split or ["pool"]), tuple(exclude or [])
        asked: dict[str, Any] = {"splits": splits, "query_size": query_size, "run": run, "exclude": lists}
        target = target_of(cluster, address, down, keep_on_failure, detach)
        here = target is None
        plan = describe_pass(model, pool, out, settings, **asked, here=here) if dry_run else None
        if target is not None:
            options = [word for name in splits for word in ("--split", name)]
            options += ["--query-size", str(query_size), *for_job(verbose, debug)]
            places = {"model": model, "pool": pool, "run": run, "exclude": lists}
            on_cluster(target, plan, "score", settings, out, options=tuple(options), **places)
            return
        if plan is not None:
            echo(plan)
            return
        outcome = score_pool(model, pool, out, settings, Reporter(), **asked, verbose=verbose)
        typer.echo(f"scored {outcome.num_scored} images: {out / 'scores'}")
        if query_size:
            typer.echo(f"chose {outcome.num_chosen} of them: {out / 'selection.parquet'}")


@app.command(rich_help_panel=_PANEL)
def report(
    run_folder: Annotated[
        Path, typer.Argument(parser=a_place, metavar="RUN", help="Read the run in this folder.")
    ],
    debug: DebugOption = False,
) -> None:
    """Build RUN/report.html again from what the run left."""
    with errors_shown(debug):
        from xal_ray.pool.schema import open_pool
        from xal_ray.report.page import build_report
        from xal_ray.report.reader import config_of_run

        settings = config_of_run(run_folder)
        typer.echo(build_report(run_folder, open_pool(settings.pool_path())))
