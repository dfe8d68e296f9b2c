"""The loop: train, score, evaluate, select, label, commit, round after round.

Each stage ends in a file that is written atomically. A stage whose file exists is not done again, so the same
command takes a killed run up where it stopped and ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xal_ray.advice import followable
from xal_ray.config import Config
from xal_ray.engine.actors import WarmActors
from xal_ray.engine.context import open_context
from xal_ray.engine.readiness import made_ready, start_where_needed
from xal_ray.engine.shared import remove_marks, sharing
from xal_ray.errors import InputError, StorageError
from xal_ray.labels.export import export_selection
from xal_ray.loop.binding import keeping_labels
from xal_ray.loop.commit import commit_round
from xal_ray.loop.labelling import answerable_images, check_initial_set, label_images, missing_labels
from xal_ray.loop.plan import check_budget, check_model, open_or_prepare
from xal_ray.loop.selection import draw_initial_set, select_images
from xal_ray.loop.stages import evaluate_model, score_images, train_model
from xal_ray.loop.state import Run, open_run
from xal_ray.progress import Reporter
from xal_ray.record.layout import RoundLayout, RunLayout
from xal_ray.record.ledger import locked
from xal_ray.report.page import build_report
from xal_ray.storage import read_table, refuse_no_folder, remove_tree

OnRound = Callable[[RoundLayout], None]


@dataclass(frozen=True)
class Outcome:
    """Says how a call of `run` ended.

    Attributes:
        status: `finished`, `already_finished`, or `awaiting_labels`.
        report: The page; a run `with_report=False` has none until `build_report` makes it.
        waiting: The round that waits for labels, and how many it still lacks.
    """

    status: Literal["finished", "already_finished", "awaiting_labels"]
    report: Path
    waiting: RoundLayout | None = None
    num_missing: int = 0


def run(
    config: Config,
    out: Path,
    reporter: Reporter,
    *,
    verbose: bool = False,
    on_round: OnRound = lambda files: None,
    with_report: bool = True,
    wait_s: float = 0.0,
    actors: WarmActors | None = None,
) -> Outcome:
    """Run the whole loop, or the rest of it.

    Args:
        config: The run.
        out: The run's folder.
        reporter: Hears about progress.
        verbose: Let Ray speak.
        on_round: Called for each committed round in its order, also for those of earlier calls.
        with_report: Build the page at the end.
        wait_s: How long to wait for another process that holds the folder.
        actors: Actors that the caller owns, to go on with in its next run; None: this run's own, which end
            with it.

    Raises:
        InputError: Something the user gave is wrong; a folder that this call began is removed again.
        StageError: A stage failed; the same call goes on from there.
    """
    layout = RunLayout(out)
    refuse_no_folder(out)
    config = made_ready(config, reporter)
    with (
        open_context(config.ray, reporter, verbose=verbose, actors=actors) as context,
        followable(config, lambda: _elsewhere(config, layout)),
    ):
        pool = open_or_prepare(config, context)
        check_budget(config, pool)
        if not layout.ledger.exists():  # what stands in its way is known before anything is written
            check_model(config, pool, reporter.line)
            start_where_needed(context, num_workers=config.train.num_workers)
        with locked(layout.path, wait_s=wait_s) as check_lock:
            is_new = not layout.ledger.exists()
            try:
                answerable = answerable_images(config, pool, reporter)
                opened = open_run(config, pool, layout, context, check_lock, answerable)
                remove_marks(layout.path)
                with sharing([pool.path, layout.path], config.ray):
                    return _run_rounds(opened, on_round, with_report=with_report)
            except InputError:
                if is_new and not layout.initial.committed.exists() and not layout.initial.to_label.exists():
                    _remove_own(layout)
                raise


def _run_rounds(run: Run, on_round: OnRound, *, with_report: bool) -> Outcome:
    if run.is_finished():
        for files in run.layout.rounds():
            on_round(files)
        return Outcome("already_finished", run.layout.report)
    if not run.is_committed(run.layout.initial) and not start_round(run, run.layout.initial):
        return _await(run, run.layout.initial)
    for number in range(run.config.num_rounds + 1):
        files = run.layout.round(number)
        if not run.is_committed(files) and not run_round(run, files):
            return _await(run, files)
        on_round(files)
        if run.found_none_left(files):
            run.context.reporter.line(f"{files.title}: no candidate is left: the run ends here")
            break
    if with_report:
        build_report(run.layout.path, run.pool)
    run.ledger.append("run_finished")
    return Outcome("finished", run.layout.report)


def start_round(run: Run, files: RoundLayout) -> bool:
    """Draw and label the initial set; False while it waits for labels."""
    draw_initial_set(run, files)
    check_initial_set(run, files)
    if not label_images(run, files):
        return False
    commit_round(run, files)
    return True


def run_round(run: Run, files: RoundLayout) -> bool:
    """Go through one round; False while it waits for labels.

    The round after the last query trains and evaluates only: the labels that were paid for count.
    """
    train_model(run, files)
    score_images(run, files)
    evaluate_model(run, files)
    if run.asks(files):
        select_images(run, files)
        if not label_images(run, files):
            return False
    commit_round(run, files)
    return True


def _await(run: Run, files: RoundLayout) -> Outcome:
    export_selection(files.to_label, run.pool, read_table(files.selection))
    build_report(run.layout.path, run.pool)
    return Outcome("awaiting_labels", run.layout.report, files, len(missing_labels(files)))


def _elsewhere(config: Config, layout: RunLayout) -> str:
    """Return where other settings can be tried once a run has begun."""
    return (
        f"give another --out for a new run{keeping_labels(config, layout)}" if layout.ledger.exists() else ""
    )


def _remove_own(layout: RunLayout) -> None:
    """Remove what this call began, so that a corrected command can use the same folder; the lock stays."""
    if layout.ledger.exists():
        layout.config.unlink()
        layout.ledger.unlink()
        with suppress(StorageError):
            remove_tree(layout.initial.folder)
