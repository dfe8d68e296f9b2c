"""From finished trials to what a sweep leaves behind: table, verdict, best configuration and page.

SWEEP/
  sweep.parquet   a row for each trial and round
  verdict.json    what the page says, as numbers
  best.yaml       the chosen arm, where there is one
  sweep.html      the page
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xal_ray.config import Config
from xal_ray.storage import read_json, write_json, write_table
from xal_ray.sweep.arms import Trial
from xal_ray.sweep.layout import TABLE_NAME, VERDICT_NAME
from xal_ray.sweep.page.page import build_page
from xal_ray.sweep.results.best import write_best
from xal_ray.sweep.results.comparison import ArmSummary, Comparison, compare
from xal_ray.sweep.results.readings import read_trials, trials_table
from xal_ray.sweep.results.wording import Verdict, arm_name, give_verdict, without_folders

STATUSES = ("finished", "stopped", "failed", "unfinished")


def write_results(folder: Path, base: Config, trials: Sequence[Trial], warnings: Sequence[str]) -> Verdict:
    """Write all that a sweep leaves behind; it is about all trials of the folder.

    The same trials give the same bytes. The test metrics of the table are those of the baseline and the
    chosen arm alone.

    Args:
        folder: The sweep's folder.
        base: Its configuration.
        trials: All of the folder, arms in the order in which they are to be shown; unfinished ones too.
        warnings: Sentences for the page.

    Returns:
        The verdict.

    Raises:
        ConfigError: The configuration of the chosen arm's first trial can't be read.
        StorageError: The disk refused.
    """
    readings = read_trials(folder, trials, base.sweep.metric)
    comparison = compare(base, readings)
    shown = [arm.arm for arm in comparison.on_test]
    write_table(folder / TABLE_NAME, trials_table(readings, shown))
    before = _shown_before(folder)
    verdict = give_verdict(comparison, before)
    tree = verdict_tree(verdict, warnings)
    tree["shown_on_test"] = list(dict.fromkeys([*before, *(arm.label for arm in shown)]))
    write_json(folder / VERDICT_NAME, tree)
    write_best(folder, base, verdict.comparison)
    build_page(folder, base, verdict, warnings)
    return verdict


def _shown_before(folder: Path) -> list[str]:
    """Return the arms whose test metrics earlier calls have shown."""
    path = folder / VERDICT_NAME
    return list(read_json(path).get("shown_on_test", ())) if path.exists() else []


def verdict_tree(verdict: Verdict, warnings: Sequence[str]) -> dict[str, Any]:
    """Return the verdict as plain values."""
    comparison = verdict.comparison
    return {
        "headline": verdict.headline,
        "remarks": list(verdict.remarks),
        "warnings": list(warnings),
        "metric": comparison.metric,
        "seeds": list(comparison.seeds),
        "num_compared": len(comparison.compared),
        "num_pairs": comparison.num_pairs,
        "baseline": comparison.baseline.label if comparison.baseline else None,
        "best": comparison.best.label if comparison.best else None,
        "arms": [_arm_tree(arm, comparison) for arm in comparison.arms],
        "test": asdict(comparison.test) if comparison.test else None,
    }


def _arm_tree(arm: ArmSummary, comparison: Comparison) -> dict[str, Any]:
    difference = arm.difference
    return {
        "label": arm.label,
        "shown_as": arm_name(arm.arm),
        "params": dict(arm.arm.params),
        "is_baseline": arm.arm.is_baseline,
        "is_control": arm.arm.is_control,
        "is_best": arm is comparison.best,
        "seeds": arm.num_seeds,
        "standing": arm.standing,
        "objective": asdict(arm.estimate) if arm.estimate else None,
        "objectives": _seed_keys(arm.objectives),
        "difference": asdict(difference.estimate) if difference else None,
        "differences": _seed_keys(difference.by_seed) if difference else None,
        "p": difference.p if difference else None,
        "adjusted_p": difference.adjusted_p if difference else None,
        "trials": {status: arm.count(status) for status in STATUSES},
        "seconds": arm.seconds,
        "num_labels": arm.num_labels,
        "causes": {
            reading.name: without_folders(reading.trial.cause)
            for reading in arm.readings
            if reading.trial.cause
        },
    }


def _seed_keys(by_seed: Any) -> dict[str, float]:
    return {str(seed): value for seed, value in by_seed.items()}
