"""Writes best.yaml: the chosen arm as a configuration that `xal-ray run` takes from anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from xal_ray.config import Config, build_config, read_yaml
from xal_ray.places import place
from xal_ray.record.layout import RunLayout
from xal_ray.report.numbers import p_words
from xal_ray.storage import write_bytes
from xal_ray.sweep.layout import BEST_NAME
from xal_ray.sweep.results.comparison import ArmSummary, Comparison
from xal_ray.sweep.results.wording import arm_name, estimate_words, one_line

MAX_NAME = 64  # characters, as `Config.name` allows
SUFFIX = "-best"


def write_best(folder: Path, base: Config, comparison: Comparison) -> Path | None:
    """Write the chosen arm's configuration, or remove an older one where none is chosen.

    It starts from what the arm's first trial really ran with, not from the sweep's base, so that what the
    sweep set besides the arm's keys is kept. Resources are the base's: a trial has a share of them only.

    Returns:
        The file; None where no arm is chosen.

    Raises:
        ConfigError: The trial's configuration can't be read.
        StorageError: The disk refused.
    """
    path = folder / BEST_NAME
    best = comparison.best
    if best is None or best.estimate is None:
        path.unlink(missing_ok=True)
        return None
    source = RunLayout(best.readings[0].trial.folder).config
    tree = build_config(read_yaml(source), where=str(source)).model_dump(mode="json")
    tree["name"] = base.name[: MAX_NAME - len(SUFFIX)] + SUFFIX
    tree["seed"] = base.seed
    tree["ray"] = base.ray.model_dump(mode="json")
    del tree["sweep"]
    tree["pool"]["path"] = str(
        (place(tree["pool"]["path"]) if tree["pool"]["path"] else base.pool_path()).resolve()
    )
    _make_absolute(tree["pool"]["source"], "path")
    if tree["model"]["weights"] not in ("none", "imagenet"):
        _make_absolute(tree["model"], "weights")
    text = _header(base, comparison, best) + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    write_bytes(path, text.encode("utf-8"))
    return path


def _make_absolute(section: dict[str, Any], key: str) -> None:
    if section[key] is not None and "://" not in section[key]:
        section[key] = str(Path(section[key]).resolve())


def _header(base: Config, comparison: Comparison, best: ArmSummary) -> str:
    baseline, difference = comparison.baseline, best.difference
    lines = [f"The best arm of the sweep {base.name}: {arm_name(best.arm)}"]
    if best.estimate is not None:
        area = f"Area under the validation {comparison.metric.replace('_', ' ')}"
        lines.append(
            f"{area}: {estimate_words(best.estimate)}, mean of {len(best.objectives)} seeds, 95 % interval"
        )
    if baseline is not None and difference is not None:
        value = estimate_words(difference.estimate, with_sign=True)
        evidence = f"Holm-adjusted {p_words(difference.adjusted_p)}, {len(difference.by_seed)} paired seeds"
        reference = f"the baseline ({arm_name(baseline.arm)})"
        lines.append(f"Difference to {reference}: {value}, {evidence}: {difference.standing}")
    elif best.arm.is_baseline:
        lines.append("It is the baseline itself.")
    lines.append("Chosen on the validation split, where its mean is optimistic: the best of several.")
    return "".join(f"# {one_line(line)}\n" for line in lines)
