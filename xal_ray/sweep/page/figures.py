"""The page's figures of arms: differences to the baseline, and curves."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from xal_ray.report.figures import HAIRLINE, INK, WIDTH_IN, to_data_uri
from xal_ray.sweep.page.canvas import (
    BASELINE_COLOUR,
    BEST_COLOUR,
    CHARACTER_IN,
    FADED,
    PALETTE,
    canvas,
    finish,
    names_of,
    style,
)
from xal_ray.sweep.results.comparison import ArmSummary, Comparison, estimate_mean

MAX_ROWS = 30  # arms in the figure of differences
OTHER_COLOURS = tuple(colour for colour in PALETTE if colour != BEST_COLOUR)
MAX_COLOURED = len(PALETTE)  # curves that are told apart by colour
STANDING_COLOURS = {"better": "#0f766e", "not shown": "#6b7280", "worse": "#a12b2b"}
ROW_IN, AXIS_IN, TOP_IN, RIGHT_IN = 0.27, 0.5, 0.1, 0.25
MAX_TICKS = 12  # numbers of labels that are all written
CURVE_IN = 3.6
SPLIT_WORDS = {"val": "validation split", "test": "test split"}

# (number of labels, mean, low, high) of a round
CurvePoint = tuple[float, float, float | None, float | None]


def difference_figure(comparison: Comparison) -> str | None:
    """Return each compared arm's difference to the baseline: every pair of seeds, the mean and its interval.

    Returns:
        A data URI, the largest mean on top; None where no arm is compared.
    """
    arms = sorted(comparison.compared, key=_mean_difference, reverse=True)[:MAX_ROWS]
    if not arms:
        return None
    names = names_of([arm.arm for arm in arms])
    left = max(len(name) for name in names) * CHARACTER_IN + 0.2
    height = len(arms) * ROW_IN + AXIS_IN + TOP_IN
    with style():
        figure = Figure(figsize=(WIDTH_IN, height))
        axes = figure.add_axes(
            (left / WIDTH_IN, AXIS_IN / height, 1 - (left + RIGHT_IN) / WIDTH_IN, len(arms) * ROW_IN / height)
        )
        for row, arm in enumerate(arms):
            _draw_difference(axes, len(arms) - 1 - row, arm)
        axes.axvline(0.0, color=INK, linewidth=0.9, zorder=1)
        axes.set_yticks(range(len(arms) - 1, -1, -1), labels=names, color=INK)
        axes.set_ylim(-0.6, len(arms) - 0.4)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x", color=HAIRLINE)
        axes.set_xlabel(f"{objective_words(comparison)}, arm less baseline, same seed")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=9, steps=[1, 2, 2.5, 5, 10]))
        return to_data_uri(figure)


def validation_curves(comparison: Comparison) -> str | None:
    """Validation curves, the mean over seeds of each arm that finished all of them.

    Returns:
        A data URI, with bands for the baseline and the chosen arm alone; None without such an arm.
    """
    return _draw_curves(comparison, [arm for arm in comparison.arms if arm.is_complete], "val")


def curves_on_test(comparison: Comparison) -> str | None:
    """Test curves of the baseline and the chosen arm, with bands; None without either."""
    return _draw_curves(comparison, [arm for arm in comparison.on_test if arm.finished], "test")


def curve(arm: ArmSummary, split: str, metric: str) -> list[CurvePoint]:
    """Mean over the finished seeds, round by round; a round where a seed has no value is left out."""
    points: list[CurvePoint] = []
    for rounds in zip(*(reading.rounds for reading in arm.finished), strict=False):
        values = [a_round.values[f"{split}_{metric}"] for a_round in rounds]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            estimate = estimate_mean(known)
            num_labels = fmean(a_round.num_labels for a_round in rounds)
            points.append((num_labels, estimate.mean, estimate.low, estimate.high))
    return points


def objective_words(comparison: Comparison) -> str:
    """`area under validation balanced accuracy`."""
    return f"area under validation {comparison.metric.replace('_', ' ')}"


def _mean_difference(arm: ArmSummary) -> float:
    return arm.difference.estimate.mean if arm.difference else 0.0


def _draw_difference(axes: Axes, y: int, arm: ArmSummary) -> None:
    if arm.difference is None:
        return
    colour = STANDING_COLOURS[arm.standing]
    values, estimate = list(arm.difference.by_seed.values()), arm.difference.estimate
    axes.scatter(values, [y] * len(values), s=14, color=colour, alpha=0.5, linewidths=0, zorder=3)
    if estimate.low is not None and estimate.high is not None:
        axes.plot(
            [estimate.low, estimate.high],
            [y, y],
            color=colour,
            linewidth=3.2,
            alpha=0.4,
            solid_capstyle="butt",
            zorder=2,
        )
    axes.plot([estimate.mean], [y], "o", color=colour, markersize=6, markeredgecolor="white", zorder=4)


def _draw_curves(comparison: Comparison, arms: Sequence[ArmSummary], split: str) -> str | None:
    curves = [(arm, points) for arm in arms if (points := curve(arm, split, comparison.metric))]
    if not curves:
        return None
    names = names_of([arm.arm for arm, _ in curves])
    looks = [_look(comparison, arm, names, number) for number, (arm, _) in enumerate(curves)]
    entries = list(dict.fromkeys(look["label"] for look in looks))
    with style():
        figure, cells = canvas(entries, 1, 1, CURVE_IN)
        axes = cells[0]
        for (arm, points), look in zip(curves, looks, strict=True):
            x, mean, low, high = zip(*points, strict=True)
            if None not in low and (arm.arm.is_baseline or arm is comparison.best):
                axes.fill_between(
                    x, low, high, color=look["color"], alpha=0.14, linewidth=0, zorder=look["zorder"]
                )
            axes.plot(x, mean, **look)
        axes.set_title(f"{comparison.metric.replace('_', ' ').capitalize()}, {SPLIT_WORDS[split]}")
        axes.set_xlabel("number of labels")
        axes.margins(x=0.03, y=0.1)
        ticks = sorted({point[0] for _, points in curves for point in points})
        fixed = len(ticks) <= MAX_TICKS
        axes.xaxis.set_major_locator(FixedLocator(ticks) if fixed else MaxNLocator(integer=True, nbins=8))
        return finish(figure, cells)


def _look(comparison: Comparison, arm: ArmSummary, names: Sequence[str], number: int) -> dict[str, Any]:
    """Style a curve: the baseline dashed, the chosen arm thick, too many others as hairlines."""
    name = names[number]
    look: dict[str, Any] = {"label": name, "linewidth": 1.3, "marker": "o", "markersize": 3.2, "zorder": 3}
    if arm.arm.is_baseline:
        look |= {
            "color": BASELINE_COLOUR,
            "linestyle": (0, (4, 2)),
            "label": f"baseline: {name}",
            "zorder": 4,
        }
    elif len(names) > MAX_COLOURED and arm is not comparison.best:
        look |= {"color": FADED, "linewidth": 0.6, "marker": "", "label": "other arms", "zorder": 2}
    else:
        look |= {"color": OTHER_COLOURS[number % len(OTHER_COLOURS)]}
    if arm is comparison.best:
        look |= {"linewidth": 2.2, "zorder": 5, "label": f"chosen: {look['label']}"}
        if not arm.arm.is_baseline:
            look |= {"color": BEST_COLOUR}
    return look
