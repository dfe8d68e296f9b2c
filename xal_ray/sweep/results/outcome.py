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
from xal_ray.storage import write_json, write_table
from xal_ray.sweep.arms import Trial
from xal_ray.sweep.page.page import build_page
from xal_ray.sweep.results.best import write_best
from xal_ray.sweep.results.comparison import ArmSummary, Comparison, compare
from xal_ray.sweep.results.readings import read_trials, trials_table
from xal_ray.sweep.results.wording import Verdict, arm_name, give_verdict, without_folders

TABLE_NAME = "sweep.parquet"
VERDICT_NAME = "verdict.json"
STATUSES = ("finished", "stopped", "failed", "unfinished")


def write_results(folder: Path, base: Config, trials: Sequence[Trial], warnings: Sequence[str]) -> Verdict:
    """Write all that a sweep leaves behind, replacing what an earlier call wrote.

    The same trials give the same bytes.

    Args:
        folder: The sweep's folder.
        base: Its configuration.
        trials: All of them, arms in the order in which they are to be shown; unfinished ones too.
        warnings: Sentences for the page.

    Returns:
        The verdict.

    Raises:
        ConfigError: The configuration of the chosen arm's first trial can't be read.
        StorageError: The disk refused.
    """
    readings = read_trials(folder, trials, base.sweep.metric)
    write_table(folder / TABLE_NAME, trials_table(readings))
    verdict = give_verdict(compare(base, readings))
    write_json(folder / VERDICT_NAME, verdict_tree(verdict, warnings))
    write_best(folder, base, verdict.comparison)
    build_page(folder, base, verdict, warnings)
    return verdict


def verdict_tree(verdict: Verdict, warnings: Sequence[str]) -> dict[str, Any]:
    """The verdict as plain values."""
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
        "is_best": arm is comparison.best,
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
