"""Builds SWEEP/sweep.html: one file without scripts or links, the same bytes for the same trials.

Like a run's report it shows of paths the last part alone, and warns of a split with few groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from xal_ray.config import Config
from xal_ray.pool.breakdown import MIN_GROUPS
from xal_ray.report.numbers import format_number, p_words
from xal_ray.report.page import public_config
from xal_ray.storage import write_bytes
from xal_ray.sweep.arms import Value
from xal_ray.sweep.layout import PAGE_NAME
from xal_ray.sweep.page import figures
from xal_ray.sweep.page.canvas import short_keys
from xal_ray.sweep.page.parallel_figure import parallel_figure
from xal_ray.sweep.page.parameter_figures import parameter_figure
from xal_ray.sweep.page.parameters import swept_axes
from xal_ray.sweep.results.comparison import ArmSummary, Comparison
from xal_ray.sweep.results.wording import (
    PATH_KEYS,
    Verdict,
    arm_name,
    last_part,
    without_folders,
)

SEARCH_WORDS = {
    "grid": "grid: every combination",
    "random": "random draws",
    "optuna": "Optuna: later arms are proposed from the results of earlier ones",
}
SCHEDULER_WORDS = {
    "none": "none: every trial may run to its end",
    "asha": "ASHA: trials that look poor after a few rounds are stopped",
}


def build_page(folder: Path, base: Config, verdict: Verdict, warnings: Sequence[str]) -> Path:
    """Write a sweep's page, replacing an older one.

    Args:
        folder: The sweep's folder.
        base: Its configuration.
        verdict: What it found.
        warnings: Sentences to show.

    Raises:
        StorageError: The disk refused.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("xal_ray", "sweep/page"), jinja2.PackageLoader("xal_ray", "report")]
        ),
        autoescape=True,  # names, values and causes are somebody else's text
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    keys = short_keys([key for arm in verdict.comparison.arms for key in arm.arm.params])
    environment.filters |= {
        "num": format_number,
        "arm": lambda summary: arm_name(summary.arm, keys),
        "p": lambda value: p_words(value).removeprefix("p ").removeprefix("= "),
        "duration": _duration,
    }
    html = environment.get_template("template.html.j2").render(_context(base, verdict, warnings))
    path = folder / PAGE_NAME
    write_bytes(path, html.encode("utf-8"))
    return path


def _context(base: Config, verdict: Verdict, warnings: Sequence[str]) -> dict[str, Any]:
    comparison = verdict.comparison
    return {
        "config": base,
        "sweep": base.sweep,
        "verdict": verdict,
        "comparison": comparison,
        "metric": base.sweep.metric.replace("_", " "),
        "arms": _by_mean(comparison),
        "num_trials": sum(len(arm.readings) for arm in comparison.arms),
        "num_finished": sum(len(arm.finished) for arm in comparison.arms),
        "seed_words": _seed_words(comparison.seeds),
        "same_seeds": len({tuple(r.trial.seed for r in arm.readings) for arm in comparison.arms}) == 1,
        "asked": _asked(base, comparison),
        "ended_early": [
            (reading, arm, without_folders(reading.trial.cause or ""))
            for arm in comparison.arms
            for reading in arm.readings
            if reading.trial.status != "finished"
        ],
        "warnings": [*_about_groups(comparison), *(without_folders(warning) for warning in warnings)],
        "max_rows": figures.MAX_ROWS,
        "max_coloured": figures.MAX_COLOURED,
        "difference_figure": figures.difference_figure(comparison),
        "parameter_figure": _parameter_figure(base, comparison),
        "parallel_figure": parallel_figure(comparison),
        "validation_figure": figures.validation_curves(comparison),
        "test_figure": figures.curves_on_test(comparison),
        "config_yaml": yaml.safe_dump(_public_tree(base), sort_keys=False, allow_unicode=True),
    }


def _asked(base: Config, comparison: Comparison) -> list[tuple[str, str]]:
    """Return what was tried by all calls together, as (term, words); how, by the last."""
    sweep = base.sweep
    values: dict[str, list[Value]] = {}
    for arm in comparison.arms:
        for key, value in ({} if arm.arm.is_baseline else arm.arm.params).items():
            values.setdefault(key, []).append(value)
    params = [(key, _values_words(key, list(dict.fromkeys(found)))) for key, found in values.items()]
    samples = "" if sweep.search == "grid" else f", {sweep.num_samples} arms"
    return [
        *params,
        (
            "Baseline",
            ", ".join(f"{key}={_values_words(key, value)}" for key, value in sweep.baseline.items()),
        ),
        ("Search", SEARCH_WORDS[sweep.search] + samples),
        ("Scheduler", SCHEDULER_WORDS[sweep.scheduler]),
    ]


def _values_words(key: str, values: Any) -> str:
    listed = values if isinstance(values, (tuple, list)) else [values]
    return ", ".join(_public_value(key, str(value)) for value in listed)


def _public_value(key: str, value: str) -> str:
    return last_part(value) if key in PATH_KEYS else value


def _public_tree(base: Config) -> dict[str, Any]:
    """`public_config` and the section `sweep`, without the paths and the address that this can hold."""
    tree = public_config(base)
    sweep = tree["sweep"] = base.sweep.model_dump(mode="json")
    for part in ("params", "baseline"):
        for key in PATH_KEYS & set(sweep[part]):
            value = sweep[part][key]
            sweep[part][key] = (
                [_public_value(key, str(entry)) for entry in value]
                if isinstance(value, (tuple, list))
                else _public_value(key, str(value))
            )
    if sweep["mlflow"] is not None:
        sweep["mlflow"] = "(set)"  # an address can hold a password
    return tree


def _parameter_figure(base: Config, comparison: Comparison) -> str | None:
    numbers = [axis for axis in swept_axes(comparison) if axis.numeric]
    connect = base.sweep.search == "grid" or len(numbers) < 2
    return parameter_figure(comparison, connect=connect)


def _by_mean(comparison: Comparison) -> list[ArmSummary]:
    """Largest mean first, arms that are not compared last; equals stay in their order."""
    return sorted(
        comparison.arms,
        key=lambda arm: (not arm.is_complete, -(arm.estimate.mean if arm.estimate else float("-inf"))),
    )


def _about_groups(comparison: Comparison) -> list[str]:
    """Return a warning for each split whose images are of few groups."""
    sentences = []
    for split, name in (("val", "validation"), ("test", "test")):
        counts = [
            a_round.num_groups[split]
            for arm in comparison.arms
            for reading in arm.readings
            for a_round in reading.rounds
            if split in a_round.num_groups
        ]
        if counts and (least := min(counts)) < MIN_GROUPS:
            sentences.append(
                f"The {name} split has {least} {'group' if least == 1 else 'groups'} (patients) only: what "
                "holds there may not hold for others, however many seeds agree."
            )
    return sentences


def _seed_words(seeds: Sequence[int]) -> str:
    """`0 to 9`, or all of them where some between are left out."""
    if not seeds:
        return "none"
    is_range = len(seeds) == seeds[-1] - seeds[0] + 1
    return f"{seeds[0]} to {seeds[-1]}" if is_range and len(seeds) > 1 else ", ".join(map(str, seeds))


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"  # noqa: RUF001
    return f"{seconds:.1f} s" if seconds < 100.0 else f"{seconds / 60.0:.1f} min"
