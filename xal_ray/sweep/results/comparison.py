"""Compares the arms of a sweep with its baseline, seed by seed, on the validation split.

The test split is read for two arms only, after the choice, and goes into nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import fmean
from typing import Literal

from xal_ray.config import Config
from xal_ray.metrics.paired import holm, mean_with_interval, sign_flip_test
from xal_ray.seeds import derive_seed
from xal_ray.sweep.arms import Arm
from xal_ray.sweep.results.readings import TrialReading, arm_key

SIGNIFICANCE = 0.05
ENOUGH_SEEDS = 10  # with which an arm may be chosen beside others with more

Standing = Literal["baseline", "better", "worse", "not shown", "not compared"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval; `low` and `high` are None for a single seed."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """An arm less the baseline over the seeds that both have.

    Attributes:
        by_seed: Of each pair.
        estimate: Mean and 95 % interval.
        p: Of the sign-flip test.
        adjusted_p: After Holm's correction over all compared arms.
    """

    by_seed: Mapping[int, float]
    estimate: Estimate
    p: float
    adjusted_p: float

    @property
    def standing(self) -> Standing:
        """Say what the difference shows: where p-value and interval disagree, the more careful decides."""
        low, high = self.estimate.low, self.estimate.high
        if self.adjusted_p >= SIGNIFICANCE or low is None or high is None:
            return "not shown"
        return "better" if low > 0.0 else "worse" if high < 0.0 else "not shown"


@dataclass(frozen=True)
class ArmSummary:
    """An arm over its seeds.

    Attributes:
        readings: Its trials, by seed.
        objectives: Seed to area under the validation curve, of finished trials.
        estimate: Of the objectives; None without any.
        is_complete: Every seed that it was planned with has an objective. Only such arms are compared and
            chosen.
        difference: To the baseline; None for the baseline itself, and where nothing is compared.
    """

    arm: Arm
    readings: tuple[TrialReading, ...]
    objectives: Mapping[int, float]
    estimate: Estimate | None
    is_complete: bool
    difference: Difference | None = None

    @property
    def label(self) -> str:
        """Return how a person calls it."""
        return self.arm.label

    @property
    def standing(self) -> Standing:
        """Return where it stands beside the baseline."""
        if self.arm.is_baseline:
            return "baseline"
        return self.difference.standing if self.difference else "not compared"

    @property
    def seconds(self) -> float | None:
        """Mean of training and scoring, over the finished trials."""
        return _mean_of([reading.seconds for reading in self.finished])

    @property
    def num_labels(self) -> float | None:
        """Mean number of labels that a finished trial ends with."""
        return _mean_of([reading.rounds[-1].num_labels for reading in self.finished if reading.rounds])

    @property
    def finished(self) -> tuple[TrialReading, ...]:
        """Return the trials that ran to their end."""
        return tuple(reading for reading in self.readings if reading.trial.status == "finished")

    @property
    def num_seeds(self) -> int:
        """Return how many seeds it was planned with."""
        return len(self.readings)

    def count(self, status: str) -> int:
        """Return how many trials have a status."""
        return sum(reading.trial.status == status for reading in self.readings)


@dataclass(frozen=True)
class OnTest:
    """The test split of the chosen arm and the baseline, read after the choice."""

    chosen: Estimate
    baseline: Estimate
    difference: Estimate
    num_pairs: int


@dataclass(frozen=True)
class Comparison:
    """A sweep's outcome in numbers.

    Attributes:
        metric: Whose area is the objective.
        seeds: Of all arms together; an arm that was added with others has some of them.
        arms: In the order in which they came.
        baseline: None where no trial of it is known.
        candidates: The arms that may be chosen: complete, no control, and with `ENOUGH_SEEDS` seeds, or as
            many as any of them has.
        best: The candidate with the largest mean difference to the baseline, the earliest of equals; by the
            objective itself where there is no baseline to compare with.
        test: None without a best arm other than the baseline, or without a test split.
    """

    metric: str
    seeds: tuple[int, ...]
    arms: tuple[ArmSummary, ...]
    baseline: ArmSummary | None
    candidates: tuple[ArmSummary, ...]
    best: ArmSummary | None
    test: OnTest | None

    @property
    def compared(self) -> tuple[ArmSummary, ...]:
        """Return the arms that are held against the baseline."""
        return tuple(arm for arm in self.arms if arm.difference is not None)

    @property
    def num_pairs(self) -> int:
        """Return the most seeds that a compared arm shares with the baseline."""
        return max((len(arm.difference.by_seed) for arm in self.arms if arm.difference), default=0)

    @property
    def on_test(self) -> tuple[ArmSummary, ...]:
        """The arms whose test split is shown: the chosen one and the baseline, once there is a choice."""
        return tuple(arm for arm in self.arms if self.best and (arm is self.best or arm.arm.is_baseline))

    def standing(self, standing: Standing) -> tuple[ArmSummary, ...]:
        """Return the arms that stand so."""
        return tuple(arm for arm in self.arms if arm.standing == standing)


def compare(base: Config, readings: Sequence[TrialReading]) -> Comparison:
    """Summarise the arms, compare them with the baseline, and choose.

    Args:
        base: The sweep's configuration.
        readings: Of all trials, those of an arm side by side (`read_trials`).
    """
    grouped = groupby(readings, key=lambda reading: arm_key(reading.trial.arm))
    arms = tuple(_summarise(tuple(group)) for _, group in grouped)
    arms = _with_differences(arms, _baseline_of(arms), base.seed)
    baseline = _baseline_of(arms)
    candidates = _candidates(arms)
    best = max(candidates, key=lambda arm: merit(arm, baseline), default=None)
    return Comparison(
        metric=base.sweep.metric,
        seeds=tuple(sorted({reading.trial.seed for reading in readings})),
        arms=arms,
        baseline=baseline,
        candidates=candidates,
        best=best,
        test=_read_test(best, baseline),
    )


def estimate_mean(values: Sequence[float]) -> Estimate:
    """Mean over seeds of an area or another metric, each in [0, 1], and its interval."""
    return Estimate(*mean_with_interval(values, (0.0, 1.0)))


def estimate_difference(values: Sequence[float]) -> Estimate:
    """Mean over seeds of the difference of two such, and its interval."""
    return Estimate(*mean_with_interval(values, (-1.0, 1.0)))


def _summarise(readings: tuple[TrialReading, ...]) -> ArmSummary:
    arm = readings[0].trial.arm
    objectives = _by_seed(readings, lambda reading: reading.objective)
    return ArmSummary(
        arm=arm,
        readings=readings,
        objectives=objectives,
        estimate=estimate_mean(list(objectives.values())) if objectives else None,
        is_complete=len(objectives) == len(readings),
    )


def _with_differences(
    arms: tuple[ArmSummary, ...], baseline: ArmSummary | None, base_seed: int
) -> tuple[ArmSummary, ...]:
    """Arms that miss a seed are left out: what ended early is not missing at random."""
    if baseline is None or not baseline.objectives:
        return arms
    found = {
        number: _difference(arm, baseline, base_seed)
        for number, arm in enumerate(arms)
        if arm.is_complete and not arm.arm.is_baseline and arm.objectives.keys() & baseline.objectives.keys()
    }
    adjusted = holm([difference.p for difference in found.values()])
    for number, p in zip(found, adjusted, strict=True):
        found[number] = replace(found[number], adjusted_p=p)
    return tuple(replace(arm, difference=found.get(number)) for number, arm in enumerate(arms))


def _difference(arm: ArmSummary, baseline: ArmSummary, base_seed: int) -> Difference:
    by_seed = _paired(arm.objectives, baseline.objectives)
    values = list(by_seed.values())
    p = sign_flip_test(values, derive_seed(base_seed, "sweep", arm.label, "sign flips"))
    return Difference(by_seed, estimate_difference(values), p, adjusted_p=p)


def _read_test(best: ArmSummary | None, baseline: ArmSummary | None) -> OnTest | None:
    if best is None or baseline is None or best.arm.is_baseline:
        return None
    chosen, reference = (
        _by_seed(arm.readings, lambda reading: reading.test_area) for arm in (best, baseline)
    )
    pairs = _paired(chosen, reference)
    if not pairs:
        return None
    return OnTest(
        estimate_mean([chosen[seed] for seed in pairs]),
        estimate_mean([reference[seed] for seed in pairs]),
        estimate_difference(list(pairs.values())),
        len(pairs),
    )


def _baseline_of(arms: Sequence[ArmSummary]) -> ArmSummary | None:
    return next((arm for arm in arms if arm.arm.is_baseline), None)


def _by_seed(
    readings: Sequence[TrialReading], area: Callable[[TrialReading], float | None]
) -> dict[int, float]:
    areas = {reading.trial.seed: area(reading) for reading in readings}
    return {seed: value for seed, value in areas.items() if value is not None}


def _paired(one: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    return {seed: value - other[seed] for seed, value in one.items() if seed in other}


def _candidates(arms: Sequence[ArmSummary]) -> tuple[ArmSummary, ...]:
    able = [arm for arm in arms if arm.is_complete and arm.estimate and not arm.arm.is_control]
    least = min(ENOUGH_SEEDS, max((arm.num_seeds for arm in able), default=0))
    return tuple(arm for arm in able if arm.num_seeds >= least)


def merit(arm: ArmSummary, baseline: ArmSummary | None) -> float:
    """Return what arms are compared by: a difference within seeds, as they may have other seeds."""
    if baseline is None or not baseline.objectives:
        return arm.estimate.mean if arm.estimate else float("-inf")
    if arm.arm.is_baseline:
        return 0.0
    return arm.difference.estimate.mean if arm.difference else float("-inf")


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
