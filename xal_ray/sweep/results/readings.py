"""Reads the run folders of a sweep's trials: rounds, curves, and a table with a row for each round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from xal_ray.errors import XalRayError
from xal_ray.metrics.evaluate import area_over_rounds
from xal_ray.record.layout import RoundLayout, RunLayout
from xal_ray.record.ledger import Ledger
from xal_ray.storage import read_json
from xal_ray.sweep.arms import Arm, Trial, Value

SPLITS = ("val", "test")
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")
ALIGNMENTS = ("soft_dice", "lift")
TIMED_STAGES = ("train", "score")


@dataclass(frozen=True)
class RoundReading:
    """A committed round.

    Attributes:
        seconds: Stage to seconds, summed where a round was resumed; a stage without a record is missing.
        values: `val_accuracy`, `test_lift_shuffled` and so on; None where undefined.
        num_groups: Split to its number of groups (patients); a split without labelled images is missing.
    """

    number: int
    num_labels: int
    seconds: Mapping[str, float]
    values: Mapping[str, float | None]
    num_groups: Mapping[str, int]


@dataclass(frozen=True)
class TrialReading:
    """A trial and what its run folder holds.

    Attributes:
        trial: With the status `failed` where its folder could not be read.
        name: The folder, relative to the sweep's.
        rounds: Committed ones, in order.
        metric: Of the areas.
    """

    trial: Trial
    name: str
    rounds: tuple[RoundReading, ...]
    metric: str

    @property
    def objective(self) -> float | None:
        """Area under the validation curve, divided by its width; None unless the trial finished."""
        return self._area("val")

    @property
    def test_area(self) -> float | None:
        """Return the same for the test split. It is shown, and decides nothing."""
        return self._area("test")

    @property
    def seconds(self) -> float | None:
        """Add up the seconds of training and scoring, over all rounds; None where nothing is recorded."""
        known = [seconds for a_round in self.rounds for seconds in a_round.seconds.values()]
        return sum(known) if known else None

    def _area(self, split: str) -> float | None:
        num_labels = [a_round.num_labels for a_round in self.rounds]
        if self.trial.status != "finished":
            return None
        return area_over_rounds(
            num_labels, [a_round.values[f"{split}_{self.metric}"] for a_round in self.rounds]
        )


def read_trials(folder: Path, trials: Sequence[Trial], metric: str) -> list[TrialReading]:
    """Read all trials, in the order of arms (as they come first), then of seeds.

    A trial whose folder is damaged counts as failed, with the damage as its cause: one bad folder must not
    take the result of all the others with it.

    Args:
        folder: The sweep's folder.
        trials: In any order within an arm.
        metric: `Sweep.metric`.
    """
    positions = {
        key: position for position, key in reversed(list(enumerate(arm_key(trial.arm) for trial in trials)))
    }
    in_order = sorted(trials, key=lambda trial: (positions[arm_key(trial.arm)], trial.seed))
    return [_read_trial(folder, trial, metric) for trial in in_order]


def arm_key(arm: Arm) -> tuple[Any, ...]:
    """Return what tells arms apart: their values with their types, since `True == 1`."""
    return (arm.is_baseline, *((key, type(value).__name__, value) for key, value in arm.params.items()))


def swept_keys(arms: Sequence[Arm]) -> list[str]:
    """Return all keys that an arm sets, those of the baseline alone last."""
    by_role = sorted(arms, key=lambda arm: arm.is_baseline)
    return list(dict.fromkeys(key for arm in by_role for key in arm.params))


def is_numeric(values: Sequence[Value]) -> bool:
    """Return whether all are numbers; truth values are none."""
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def table_schema(arms: Sequence[Arm]) -> pa.Schema:
    """The schema of `sweep.parquet`: swept keys are float64 where all values are numbers, else strings."""
    return pa.schema(
        [
            pa.field("trial", pa.string(), nullable=False),
            pa.field("arm", pa.string(), nullable=False),
            pa.field("is_baseline", pa.bool_(), nullable=False),
            *(pa.field(key, _key_type(key, arms)) for key in swept_keys(arms)),
            pa.field("seed", pa.int64(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            pa.field("cause", pa.string()),
            pa.field("round", pa.int32()),
            pa.field("num_labels", pa.int64()),
            *(pa.field(f"{stage}_s", pa.float64()) for stage in TIMED_STAGES),
            pa.field("objective", pa.float64()),
            *(pa.field(name, pa.float64()) for split in SPLITS for name in _value_names(split)),
        ]
    )


def trials_table(readings: Sequence[TrialReading], on_test: Collection[Arm]) -> pa.Table:
    """Return a row for each trial and round (`table_schema`); a trial without rounds has one row of nulls.

    Args:
        readings: Of all trials.
        on_test: The arms whose test metrics may be seen; those of the others are null, so that nobody chooses
            by them.
    """
    schema = table_schema([reading.trial.arm for reading in readings])
    rows = [
        _trial_cells(reading, schema) | _round_cells(a_round, with_test=reading.trial.arm in on_test)
        for reading in readings
        for a_round in reading.rounds or (None,)
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def _read_trial(folder: Path, trial: Trial, metric: str) -> TrialReading:
    whole, place = folder.resolve(), trial.folder.resolve()
    name = place.relative_to(whole) if place.is_relative_to(whole) else place.name
    layout = RunLayout(trial.folder)
    try:
        seconds = _stage_seconds(layout)
        rounds = tuple(_read_round(files, seconds) for files in layout.rounds() if files.committed.is_file())
    except (XalRayError, KeyError, TypeError, ValueError, AttributeError) as error:
        found = error.what if isinstance(error, XalRayError) else f"{type(error).__name__}: {error}"
        cause = trial.cause or f"its run folder can't be read: {found}"
        return TrialReading(replace(trial, status="failed", cause=cause), str(name), (), metric)
    return TrialReading(trial, str(name), rounds, metric)


def _stage_seconds(layout: RunLayout) -> dict[tuple[int | None, str], float]:
    """(round, stage) to seconds: a stage that was resumed has a record for each try that ended."""
    total: defaultdict[tuple[int | None, str], float] = defaultdict(float)
    if layout.ledger.is_file():
        for record in Ledger(layout.ledger).records:
            if record.event == "stage_finished":
                total[record.round, str(record.data["stage"])] += float(record.data["seconds"])
    return dict(total)


def _read_round(files: RoundLayout, seconds: Mapping[tuple[int | None, str], float]) -> RoundReading:
    metrics = read_json(files.metrics)
    values: dict[str, float | None] = {}
    num_groups = {}
    for split in SPLITS:
        found = metrics["splits"].get(split)
        if found is not None:
            num_groups[split] = int(found["num_groups"])
        values |= dict(zip(_value_names(split), _split_values(found), strict=True))
    return RoundReading(
        number=files.number,
        num_labels=int(metrics["num_labels"]),
        seconds={
            stage: seconds[files.number, stage] for stage in TIMED_STAGES if (files.number, stage) in seconds
        },
        values=values,
        num_groups=num_groups,
    )


def _value_names(split: str) -> list[str]:
    twins = [f"{name}{twin}" for name in ALIGNMENTS for twin in ("", "_shuffled")]
    return [f"{split}_{name}" for name in (*METRICS, *twins)]


def _split_values(found: Mapping[str, Any] | None) -> list[float | None]:
    """In the order of `_value_names`."""
    if found is None:
        return [None] * len(_value_names(""))
    alignment = found["alignment"]
    twins = [
        source[name] if alignment else None
        for name in ALIGNMENTS
        for source in ((alignment, alignment["shuffled"]) if alignment else ({}, {}))
    ]
    return [*(found[name] for name in METRICS), *twins]


def _trial_cells(reading: TrialReading, schema: pa.Schema) -> dict[str, Any]:
    trial = reading.trial
    params = {
        key: _as_text(value) if pa.types.is_string(schema.field(key).type) else float(value)
        for key, value in trial.arm.params.items()
    }
    return {
        "trial": reading.name,
        "arm": trial.arm.label,
        "is_baseline": trial.arm.is_baseline,
        **params,
        "seed": trial.seed,
        "status": trial.status,
        "cause": trial.cause,
        "objective": reading.objective,
    }


def _round_cells(a_round: RoundReading | None, *, with_test: bool) -> dict[str, Any]:
    if a_round is None:
        return {}
    hidden = () if with_test else _value_names("test")
    return {
        "round": a_round.number,
        "num_labels": a_round.num_labels,
        **{f"{stage}_s": seconds for stage, seconds in a_round.seconds.items()},
        **{name: value for name, value in a_round.values.items() if name not in hidden},
    }


def _key_type(key: str, arms: Sequence[Arm]) -> pa.DataType:
    return pa.float64() if is_numeric([arm.params[key] for arm in arms if key in arm.params]) else pa.string()


def _as_text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
