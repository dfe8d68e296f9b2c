"""The swept parameters as axes of a figure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xal_ray.sweep.arms import Arm, Value
from xal_ray.sweep.page.canvas import fitted, short_keys
from xal_ray.sweep.results.comparison import Comparison
from xal_ray.sweep.results.readings import is_numeric, swept_keys
from xal_ray.sweep.results.wording import PATH_KEYS, last_part

LOG_FROM = 50.0  # largest over smallest value, from which an axis is logarithmic
UNSET_AT = -0.13  # below all values


@dataclass(frozen=True)
class Axis:
    """A swept parameter.

    Attributes:
        values: What the arms set, each once: numbers in their order, others as they come.
    """

    key: str
    title: str
    values: tuple[Value, ...]
    numeric: bool

    @property
    def logarithmic(self) -> bool:
        """Return whether the values span so much that they are told apart on a log scale alone."""
        return self.numeric and 0.0 < float(self.values[0]) <= float(self.values[-1]) / LOG_FROM

    def place(self, value: Value | None) -> float:
        """Return where a value stands, 0 to 1; `UNSET_AT` for an arm that does not set it."""
        if value is None:
            return UNSET_AT
        if not self.numeric:
            return (self.values.index(value) + 0.5) / len(self.values)
        scale = np.log if self.logarithmic else float
        low, here, high = (float(scale(float(entry))) for entry in (self.values[0], value, self.values[-1]))
        return 0.5 if high == low else (here - low) / (high - low)

    def text(self, value: Value) -> str:
        """Return how a value is written."""
        return fitted(last_part(str(value)) if self.key in PATH_KEYS else Arm({"": value}).label[1:])


def swept_axes(comparison: Comparison) -> list[Axis]:
    """Return the parameters that arms other than the baseline set."""
    tried = [arm.arm for arm in comparison.arms if not arm.arm.is_baseline]
    titles = short_keys(swept_keys(tried))
    axes = []
    for key, title in titles.items():
        values = list(dict.fromkeys(arm.arm.params[key] for arm in comparison.arms if key in arm.arm.params))
        numeric = is_numeric(values)
        axes.append(Axis(key, title, tuple(sorted(values, key=float) if numeric else values), numeric))
    return axes
