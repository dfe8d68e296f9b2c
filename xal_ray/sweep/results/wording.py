"""Says what a comparison found, in words that claim no more than it holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from xal_ray.metrics.paired import holm, smallest_sign_flip_p
from xal_ray.report.numbers import format_number, p_words, signed
from xal_ray.sweep.arms import Arm
from xal_ray.sweep.results.comparison import (
    SIGNIFICANCE,
    ArmSummary,
    Comparison,
    Difference,
    Estimate,
    merit,
)

MANY_SEEDS = 64  # from far fewer on the sign-flip test has as many flips as it ever has
PATH_KEYS = frozenset({"pool.path", "pool.source.path", "model.weights"})

# Folders in a message: whatever a quoted path holds, and in plain text what starts at the root, at home or
# after a scheme, and goes on without spaces.
_QUOTED_FOLDERS = re.compile(r"(['\"])[^'\"]*/([^'\"/]*)\1")
_FOLDERS = re.compile(r"(?<![\w.~/])(?:[A-Za-z][A-Za-z0-9+.-]*:|~)?/+(?:[^\s/'\"<>|]+/+)+")


@dataclass(frozen=True)
class Verdict:
    """Holds what a sweep found.

    Attributes:
        headline: Whether anything is better than the baseline, in one or two sentences.
        remarks: How far to trust it, a sentence or two each.
        comparison: The numbers.
    """

    headline: str
    remarks: tuple[str, ...]
    comparison: Comparison


def give_verdict(comparison: Comparison, shown_on_test: Sequence[str] = ()) -> Verdict:
    """Put a comparison into words.

    Args:
        comparison: The numbers.
        shown_on_test: Labels of the arms whose test metrics have been shown before.
    """
    remarks = (
        _about_seeds(comparison),
        _about_missing(comparison),
        _about_baseline(comparison),
        _about_choice(comparison),
        _about_controls(comparison),
        _about_test(comparison, shown_on_test),
    )
    return Verdict(_headline(comparison), tuple(remark for remark in remarks if remark), comparison)


def arm_name(arm: Arm, keys: Mapping[str, str] | None = None) -> str:
    """Return an arm's label on one line, of paths the last part alone: folders can name people and places.

    Args:
        arm: Whose.
        keys: Key to what it is called here; those that are missing keep their name.
    """
    params = {
        (keys or {}).get(key, key): last_part(str(value)) if key in PATH_KEYS else value
        for key, value in arm.params.items()
    }
    return one_line(Arm(params).label)


def last_part(path: str) -> str:
    """Return the last part of a path or URI, without a query: that can hold a signature."""
    return PurePath(path.partition("?")[0]).name


def one_line(text: str) -> str:
    """Text without line breaks and control characters."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def without_folders(text: str) -> str:
    """Return a message on one line, of each path in it the last part alone."""
    return _FOLDERS.sub("…/", _QUOTED_FOLDERS.sub(r"\1…/\2\1", one_line(text)))


def estimate_words(estimate: Estimate, *, with_sign: bool = False) -> str:
    """`0.812 [0.790, 0.834]`, or with a sign for a difference."""
    mean = signed(estimate.mean) if with_sign else format_number(estimate.mean)
    if estimate.low is None:
        return mean
    return f"{mean} [{format_number(estimate.low)}, {format_number(estimate.high)}]"


def _headline(comparison: Comparison) -> str:
    baseline, compared = comparison.baseline, comparison.compared
    if baseline is None or not compared:
        return _nothing_compared(comparison)
    reference = f"the baseline ({arm_name(baseline.arm)})"
    better, worse = comparison.standing("better"), comparison.standing("worse")
    usable = [arm for arm in better if not arm.arm.is_control]
    shown = max(usable or better or compared, key=lambda arm: _difference(arm).estimate.mean)
    evidence = _evidence(_difference(shown), len(compared))
    value = estimate_words(_difference(shown).estimate, with_sign=True)
    if not better:
        if worse:
            evidence += f"; {len(worse)} of {len(compared)} {_are(len(worse))} worse"
        largest = f"the largest difference is {value} for {arm_name(shown.arm)} ({evidence})"
        return f"No arm is shown to be better than {reference}: {largest}."
    text = f"{arm_name(shown.arm)} is better than {reference}: {value} ({evidence})."
    if not usable:
        text = f"No arm but a control is shown to be better than {reference}. {text}"
    if len(compared) == 1:
        return text
    counts = f"{len(better)} of {len(compared)} arms {_are(len(better))} better"
    return f"{text} In all, {counts} after Holm's correction, and {len(worse)} {_are(len(worse))} worse."


def _nothing_compared(comparison: Comparison) -> str:
    baseline = comparison.baseline
    if baseline is None:
        return "The sweep has no baseline, so no arm is compared."
    name = f"the baseline ({arm_name(baseline.arm)})"
    if len(comparison.arms) == 1:
        return f"Only {name} was tried: there is nothing to compare."
    if not baseline.finished:
        return f"No trial of {name} finished, so no arm can be compared with it."
    if not baseline.objectives:
        return (
            f"The validation {comparison.metric.replace('_', ' ')} of {name} has gaps in every trial, "
            "so no arm can be compared with it."
        )
    return f"No other arm finished {_all_seeds(comparison)}, so none is compared with {name}."


def _evidence(difference: Difference, num_compared: int) -> str:
    adjusted = "Holm-adjusted " if num_compared > 1 else ""
    return f"{adjusted}{p_words(difference.adjusted_p)}, {_counted(len(difference.by_seed), 'paired seed')}"


def _about_seeds(comparison: Comparison) -> str:
    """Return where even full agreement of all seeds could not reach significance."""
    counts = [len(_difference(arm).by_seed) for arm in comparison.compared]
    if not counts:
        return ""
    smallest = min(holm([smallest_sign_flip_p(count) for count in counts]))
    if smallest < SIGNIFICANCE:
        return ""
    pairs, arms = _counted(max(counts), "paired seed"), _counted(len(counts), "compared arm")
    needed = seeds_needed(len(counts))
    way_out = f"It takes {needed} seeds."
    if needed is None:
        most = int(SIGNIFICANCE / smallest_sign_flip_p(MANY_SEEDS))
        way_out = f"No number of seeds would do: the test is too coarse for more than {most} arms at once."
    return (
        f"{'Too few seeds' if needed else 'Too many arms'}: with {pairs} and {arms} no p-value below "
        f"{SIGNIFICANCE:.2f} is possible after the correction, whatever the differences (the smallest is "
        f"{format_number(smallest, 2)}). {way_out}"
    )


def seeds_needed(num_arms: int) -> int | None:
    """The least number of paired seeds with which an arm of so many could be significant; None for none."""
    possible = (
        count for count in range(2, MANY_SEEDS) if num_arms * smallest_sign_flip_p(count) < SIGNIFICANCE
    )
    return next(possible, None)


def _about_missing(comparison: Comparison) -> str:
    left_out = [arm for arm in comparison.standing("not compared") if not arm.is_complete]
    if not left_out:
        return ""
    reasons = [
        f"{sum(arm.count(status) for arm in left_out)} {words}"
        for status, words in (
            ("stopped", "stopped by the scheduler"),
            ("failed", "failed"),
            ("unfinished", "unfinished"),
        )
        if any(arm.count(status) for arm in left_out)
    ]
    trials = f" ({', '.join(reasons)})" if reasons else ""
    count = f"{len(left_out)} of {_counted(len(comparison.arms), 'arm')} {_are(len(left_out))}"
    return (
        f"{count} not compared, since not every seed of theirs has a result{trials}: the seeds that are left "
        "are no fair sample of an arm's."
    )


def _about_baseline(comparison: Comparison) -> str:
    baseline = comparison.baseline
    if baseline is None or baseline.is_complete or not comparison.compared:
        return ""
    return (
        f"The baseline has a result for {len(baseline.objectives)} of {baseline.num_seeds} seeds only: "
        "differences are over these, and it can't be chosen."
    )


def _about_choice(comparison: Comparison) -> str:
    best, candidates = comparison.best, comparison.candidates
    if best is None or best.estimate is None:
        what = "arm" if not any(arm.is_complete for arm in comparison.arms) else "arm but a control"
        return f"No {what} finished {_all_seeds(comparison)}, so none is chosen: there is no best.yaml."
    others = [arm for arm in comparison.arms if arm.is_complete and not arm.arm.is_control]
    fewer = ""
    if len(others) > len(candidates):
        few = len(others) - len(candidates)
        fewer = f" {_counted(few, 'arm')} with fewer seeds can't be chosen."
    if len(candidates) == 1:
        return f"best.yaml holds {arm_name(best.arm)}, the only arm that could be chosen.{fewer}"
    chosen = f"{'the baseline' if best.arm.is_baseline else arm_name(best.arm)} has the largest mean"
    if best.standing not in ("baseline", "better"):
        chosen += ", which does not show that it is better than the baseline"
    return (
        f"best.yaml: {chosen}. The mean of {format_number(best.estimate.mean)} is optimistic, as the largest "
        f"of {len(candidates)} on the same validation split (the winner's curse).{fewer}"
    )


def _about_controls(comparison: Comparison) -> str:
    """Return where a control does at least as well as what was chosen."""
    best, baseline = comparison.best, comparison.baseline
    if best is None:
        return ""
    least = merit(best, baseline)
    above = [
        arm
        for arm in comparison.arms
        if arm.arm.is_control and arm.is_complete and arm.estimate and merit(arm, baseline) >= least
    ]
    if not above:
        return ""
    names = ", ".join(f"{arm_name(arm.arm)} {_beside_baseline(arm)}" for arm in above)
    return (
        f"A control has as large a mean as the chosen arm ({names}). It is never chosen: what it gains does "
        "not come from looking where the expert looks, and so perhaps nor does what the others gain."
    )


def _beside_baseline(arm: ArmSummary) -> str:
    if arm.difference:
        return f"{estimate_words(arm.difference.estimate, with_sign=True)} to the baseline"
    return estimate_words(arm.estimate) if arm.estimate else ""


def _about_test(comparison: Comparison, shown_before: Sequence[str]) -> str:
    """Return where this choice was made after a look at the test split."""
    now = [arm.label for arm in comparison.on_test]
    others = [label for label in shown_before if label not in now]
    if not others:
        return ""
    names = ", ".join(one_line(label) for label in others)
    return (
        f"The test split has been shown before, for {without_folders(names)}: it is no longer fresh for what "
        "was chosen since."
    )


def _all_seeds(comparison: Comparison) -> str:
    count = len(comparison.seeds)
    return f"all {count} seeds" if all(arm.num_seeds == count for arm in comparison.arms) else "all its seeds"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _difference(arm: ArmSummary) -> Difference:
    if arm.difference is None:
        raise ValueError(f"{arm.label} is not compared")
    return arm.difference
