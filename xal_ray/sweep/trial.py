"""A trial: one run of one arm, and the files that say how it ended.

SWEEP/trials/<arm>/
  seed-0004/              the run's folder
  seed-0004.failed.json   why it failed; gone when it is tried again
  seed-0004.stopped.json  after which round the scheduler stopped it

A trial is found again by its folder, so whatever finished once is never done again.
"""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xal_ray import config
from xal_ray.config import Config
from xal_ray.engine.actors import WarmActors
from xal_ray.engine.code_check import Check
from xal_ray.errors import XalRayError
from xal_ray.loop import run
from xal_ray.metrics.evaluate import area_over_rounds
from xal_ray.progress import QUIET
from xal_ray.record.layout import RoundLayout, RunLayout
from xal_ray.storage import read_json, write_json
from xal_ray.sweep.arms import Status, Trial, Value
from xal_ray.sweep.draws import ARM, OBJECTIVE, SEED, SEED_INDEX, read_drawn
from xal_ray.sweep.plan import ArmPlan, plan_arm, with_places
from xal_ray.sweep.space import Space

ROUNDS_DONE = "rounds_done"  # what a scheduler counts; from 1
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Setting:
    """Holds what all trials of a sweep share; it is sent to the workers.

    Attributes:
        base: The sweep's configuration, places as the user wrote them.
        folder: The sweep's, absolute.
        root: What relative places are relative to, absolute.
        resources: The section `ray` of each trial.
        stops_count: Whether a trial that a scheduler stopped stays stopped.
        spaces: What a search draws from, by configuration key.
        wait_s: How long a trial waits for another process that holds its folder: a worker that an earlier,
            killed sweep left behind, or, where a search may suggest an arm twice, the trial's own twin.
        checks: What a worker makes sure of first: its code, and that it sees the sweep's folder.
        seeds: Of all arms, in the order in which a search counts them.
    """

    base: Config
    folder: Path
    root: Path
    resources: config.Ray
    stops_count: bool
    spaces: Mapping[str, Space] = field(default_factory=dict)
    wait_s: float = 60.0
    checks: tuple[Check, ...] = ()
    seeds: tuple[int, ...] = ()

    def drawn_trial(self, drawn: Mapping[str, Any]) -> TrialPlan:
        """Return the trial that Tune means with one of its configurations: of a grid, or of a search."""
        if SEED in drawn:
            return self.trial(drawn[ARM], drawn[SEED])
        return self.trial(read_drawn(self.spaces, drawn[ARM]), self.seeds[drawn[SEED_INDEX]])

    def trial(self, params: Mapping[str, Value], seed: int) -> TrialPlan:
        """Return the trial of an arm with a seed."""
        return self.trial_of(plan_arm(self.base, params), seed)

    def trial_of(self, plan: ArmPlan, seed: int) -> TrialPlan:
        """Return the trial of a planned arm with a seed."""
        settings = with_places(plan.config, self.root)
        settings = settings.model_copy(update={"seed": seed, "ray": self.resources, "sweep": config.Sweep()})
        return TrialPlan(plan, seed, settings, self.folder / "trials" / plan.name / f"seed-{seed:04d}")


@dataclass(frozen=True)
class TrialPlan:
    """A trial before it runs.

    Attributes:
        plan: Its arm.
        seed: Of the run.
        config: The run's configuration, whole.
        folder: The run's folder.
    """

    plan: ArmPlan
    seed: int
    config: Config
    folder: Path

    @property
    def title(self) -> str:
        """Return how a person calls it."""
        return f"{self.plan.arm.label}, seed {self.seed}"

    @property
    def failure(self) -> Path:
        """Return the record of a failure."""
        return self.folder.with_name(f"{self.folder.name}.failed.json")

    @property
    def stop(self) -> Path:
        """Return the record of a scheduler's decision."""
        return self.folder.with_name(f"{self.folder.name}.stopped.json")

    def is_finished(self) -> bool:
        """Return whether its run's ledger says so.

        The ledger is looked at, not opened: opening it mends its end, which is up to who holds the lock.
        """
        try:
            whole = RunLayout(self.folder).ledger.read_bytes().rpartition(b"\n")[0]
            return bool(json.loads(whole.rpartition(b"\n")[2])["event"] == "run_finished")
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return False

    def outcome(self, *, stops_count: bool) -> Trial:
        """Return how it stands, from its files alone.

        Args:
            stops_count: Whether what a scheduler stopped stays stopped.
        """
        status: Status = "unfinished"
        cause = None
        if self.is_finished():
            status = "finished"
        elif self.failure.exists():
            status, cause = "failed", str(read_json(self.failure)["cause"])
        elif stops_count and self.stop.exists():
            status = "stopped"
        return Trial(self.plan.arm, self.seed, self.folder, status, cause)


def run_trial(
    setting: Setting, drawn: Mapping[str, Any], report: Report, actors: WarmActors | None = None
) -> None:
    """Run a trial, or the rest of it, and report each of its rounds.

    A failure is written down, not raised: Tune would try again what can't succeed. What it does try again is
    a trial whose worker died.

    Args:
        setting: What trials share.
        drawn: Tune's configuration of the trial.
        report: Takes a round's results. A scheduler's stop leaves it as `SystemExit`.
        actors: Of this process, which stay for its next trial; None: the trial's own.

    Raises:
        RunError: This machine does not see the sweep's folder.
        StageError: This process has other code than the sweep's driver.
    """
    for each in setting.checks:
        each.check()
    trial = setting.drawn_trial(drawn)
    trial.failure.unlink(missing_ok=True)
    readings: list[dict[str, Any]] = []

    def on_round(files: RoundLayout) -> None:
        readings.append(_read_round(files, readings, setting.base.sweep.metric))
        if files.number < trial.config.num_rounds:
            report(readings[-1])

    if setting.stops_count and trial.stop.exists() and not trial.is_finished():
        for files in RunLayout(trial.folder).rounds():
            if files.committed.exists():
                on_round(files)
        return
    try:
        run(
            trial.config,
            trial.folder,
            QUIET,
            on_round=on_round,
            with_report=False,
            wait_s=setting.wait_s,
            actors=actors,
        )
    except Exception as error:
        is_ours = isinstance(error, XalRayError)
        record_failure(trial, cause_of(error), str(error) if is_ours else traceback.format_exc())
    else:
        report(readings[-1])  # only now: a scheduler may end the process that hears of the last round


def record_failure(trial: TrialPlan, cause: str, details: str = "") -> None:
    """Write down why a trial failed."""
    write_json(trial.failure, {"cause": cause, "details": details})


def cause_of(error: Exception) -> str:
    """Return an error in one line."""
    if isinstance(error, XalRayError):
        found = error.details["found"]
        text = f"{error.what}, found {found}" if found else error.what
    else:
        text = f"an unexpected {type(error).__name__}: {error}"
    return " ".join(text.split())


def _read_round(files: RoundLayout, before: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    """Return a round's results as Tune and TensorBoard get them.

    The objective is the area under the validation curve so far, divided by its width; of the first round the
    value itself. The test split is none of theirs: Tune's logs, TensorBoard and MLflow are read before the
    choice.
    """
    metrics = read_json(files.metrics)
    validation = _numbers(metrics["splits"]["val"] or {})
    value = validation.get(metric, math.nan)
    num_labels = [*(reading["num_labels"] for reading in before), metrics["num_labels"]]
    values = [*(reading["val"].get(metric) for reading in before), value]
    area = area_over_rounds(num_labels, values) if before else value
    return {
        "round": files.number,
        ROUNDS_DONE: files.number + 1,
        "num_labels": metrics["num_labels"],
        OBJECTIVE: math.nan if area is None else area,
        "val": validation,
    }


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in found.items() if isinstance(value, float)}
