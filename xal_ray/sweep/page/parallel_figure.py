"""The page's figure of all parameters side by side: parallel coordinates."""

from __future__ import annotations

from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xal_ray.report.figures import INK, MUTED, WIDTH_IN, to_data_uri
from xal_ray.sweep.arms import Value
from xal_ray.sweep.page.canvas import BASELINE_COLOUR, fitted, style
from xal_ray.sweep.page.parameters import UNSET_AT, Axis, swept_axes
from xal_ray.sweep.results.comparison import Comparison

HEIGHT_IN = 3.9
MAX_TICKS = 7  # values of a parameter that are written at its axis
COLOUR_MAP, LIGHTEST = "viridis", 0.92  # the yellow end can't be seen on white
NUM_SHADES, STRIP = 64, 0.018  # of the objective's axis, and its width in distances of two axes
TITLE_AT = 1.09


def parallel_figure(comparison: Comparison) -> str | None:
    """Parallel coordinates: a line for each complete arm, coloured by its mean objective.

    Returns:
        A data URI; None with fewer than two parameters or two such arms.
    """
    axes = swept_axes(comparison)
    means = [(arm.estimate.mean, arm) for arm in comparison.arms if arm.is_complete and arm.estimate]
    if len(axes) < 2 or len(means) < 2:
        return None
    low, high = min(mean for mean, _ in means), max(mean for mean, _ in means)
    with style():
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN))
        cell = figure.add_axes((0.06, 0.03, 0.86, 0.85))
        cell.set_axis_off()
        for mean, arm in sorted(means, key=lambda pair: pair[0]):
            height = (mean - low) / (high - low) if high > low else 0.5
            places = [*(axis.place(arm.arm.params.get(axis.key)) for axis in axes), height]
            look: dict[str, Any] = {"color": _colour(height), "linewidth": 1.2, "alpha": 0.75}
            if arm is comparison.best:
                look |= {"linewidth": 3.0, "alpha": 1.0}
            if arm.arm.is_baseline:
                look |= {"color": BASELINE_COLOUR, "linestyle": (0, (3, 1.5)), "zorder": 4}
                _name_baseline(cell, len(axes), height, places[-2])
            cell.plot(places, **look)
        for x, axis in enumerate(axes):
            values: list[Value | None] = [*axis.values]
            if any(axis.key not in arm.arm.params for _, arm in means):
                values.append(None)
            _draw_axis(cell, x, axis, values)
        _draw_objective_axis(cell, len(axes), low, high)
        cell.set_xlim(-0.02, len(axes) + STRIP)
        cell.set_ylim(UNSET_AT - 0.07, 1.03)
        return to_data_uri(figure)


def _draw_axis(cell: Axes, x: int, axis: Axis, values: list[Value | None]) -> None:
    cell.plot([x, x], [0.0, 1.0], color="#9ca3af", linewidth=0.8, zorder=1)
    cell.text(x, TITLE_AT, fitted(axis.title), ha="center", va="bottom", fontsize=9, color=INK)
    known = [value for value in values if value is not None]
    step = max(1, -(-len(known) // MAX_TICKS))
    for value in [*known[::step], *values[len(known) :]]:
        words = "not set" if value is None else axis.text(value)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
        colour = MUTED if value is None else INK
        place = axis.place(value)
        cell.text(x, place, words, ha="center", va="center", fontsize=7.5, color=colour, bbox=box, zorder=5)


def _draw_objective_axis(cell: Axes, x: int, low: float, high: float) -> None:
    """The last axis is the scale of the lines' colours."""
    for shade in range(NUM_SHADES):
        bottom, top = shade / NUM_SHADES, (shade + 1) / NUM_SHADES
        cell.fill_between(
            [x, x + STRIP], bottom, top, color=_colour((bottom + top) / 2), linewidth=0, zorder=2
        )
    cell.text(x, TITLE_AT, "mean objective", ha="center", va="bottom", fontsize=9, color=INK)
    if high == low:
        cell.text(x + 2 * STRIP, 0.5, f"{low:.3f}", va="center", fontsize=7.5, color=MUTED)
        return
    for height in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = f"{low + height * (high - low):.3f}"
        cell.text(x + 2 * STRIP, height, value, va="center", fontsize=7.5, color=MUTED)


def _name_baseline(cell: Axes, x: int, height: float, before: float) -> None:
    """On the baseline's line, shortly before the objective's axis."""
    place = height + 0.12 * (before - height)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.9}
    cell.text(
        x - 0.12,
        place,
        "baseline",
        ha="center",
        va="center",
        fontsize=7.5,
        color=BASELINE_COLOUR,
        bbox=box,
        zorder=5,
    )


def _colour(height: float) -> tuple[float, float, float, float]:
    return matplotlib.colormaps[COLOUR_MAP](LIGHTEST * height)
