"""The page's figure of the objective against each swept parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from xal_ray.report.figures import MUTED
from xal_ray.sweep.page.canvas import (
    BASELINE_COLOUR,
    BEST_COLOUR,
    FADED,
    PALETTE,
    canvas,
    finish,
    fitted,
    names_of,
    style,
)
from xal_ray.sweep.page.figures import objective_words
from xal_ray.sweep.page.parameters import Axis, swept_axes
from xal_ray.sweep.results.comparison import ArmSummary, Comparison, Estimate, estimate_mean

PANEL_IN = 3.1
JITTER = 0.11  # of a column's width, to either side


def parameter_figure(comparison: Comparison, *, connect: bool) -> str | None:
    """Return the objective against each swept parameter: every seed, and the mean with its interval.

    Numbers make lines, one for each combination of the other, non-numeric parameters; over other numbers the
    objective is averaged, seed by seed. Other values make columns.

    Args:
        comparison: The sweep.
        connect: Join the means of numbers by lines, as a grid's; a random search with several parameters has
            no lines to draw.

    Returns:
        A data URI; None where no arm but the baseline has an objective.
    """
    axes = [axis for axis in swept_axes(comparison) if any(_has(arm, axis) for arm in comparison.arms)]
    if not axes:
        return None
    words = [axis for axis in axes if not axis.numeric]
    colours = _colours(comparison, axes, words)
    baseline = comparison.baseline if comparison.baseline and comparison.baseline.estimate else None
    names = [f"baseline: {names_of([baseline.arm])[0]}"] if baseline else []
    columns = min(2, len(axes))
    sentence = objective_words(comparison).capitalize()
    with style():
        figure, cells = canvas(
            [*names, *filter(None, colours)], -(-len(axes) // columns), columns, PANEL_IN, share_y=True
        )
        for cell, axis in zip(cells, axes, strict=False):
            if baseline and baseline.estimate:
                _draw_baseline(cell, baseline.estimate, names[0])
            if axis.numeric:
                _draw_numbers(cell, comparison, axis, words, colours, connect)
            else:
                _draw_columns(cell, comparison, axis)
            cell.set_title(f"{sentence} by {fitted(axis.title)}")
            cell.set_xlabel(fitted(axis.key))
            cell.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        for cell in cells[len(axes) :]:
            cell.set_axis_off()
        return finish(figure, cells)


def _colours(comparison: Comparison, axes: Sequence[Axis], words: Sequence[Axis]) -> dict[str, str]:
    """Return each combination that has a line in some panel, with the colour that it has in all of them."""
    numbers = [axis for axis in axes if axis.numeric]
    arms = [arm for arm in comparison.arms if any(_has(arm, axis) for axis in numbers)]
    found = dict.fromkeys(_combination(arm, words) for arm in arms)
    return {name: PALETTE[place] if place < len(PALETTE) else FADED for place, name in enumerate(found)}


def _has(arm: ArmSummary, axis: Axis) -> bool:
    return axis.key in arm.arm.params and bool(arm.objectives)


def _combination(arm: ArmSummary, words: Sequence[Axis]) -> str:
    """Return an arm's values of the parameters that are no numbers, in words."""
    shown = [axis for axis in words if axis.key in arm.arm.params]
    return fitted(", ".join(f"{axis.title}={axis.text(arm.arm.params[axis.key])}" for axis in shown))


def _draw_baseline(cell: Axes, estimate: Estimate, name: str) -> None:
    if estimate.low is not None and estimate.high is not None:
        cell.axhspan(estimate.low, estimate.high, color=BASELINE_COLOUR, alpha=0.1, linewidth=0, zorder=0)
    cell.axhline(
        estimate.mean, color=BASELINE_COLOUR, linewidth=1.2, linestyle=(0, (4, 2)), label=name, zorder=1
    )


def _draw_numbers(
    cell: Axes,
    comparison: Comparison,
    axis: Axis,
    words: Sequence[Axis],
    colours: Mapping[str, str],
    connect: bool,
) -> None:
    arms = [arm for arm in comparison.arms if _has(arm, axis)]
    for combination, colour in colours.items():
        points = []
        for value in axis.values:
            here = [
                arm
                for arm in arms
                if arm.arm.params[axis.key] == value and _combination(arm, words) == combination
            ]
            _draw_seeds(cell, here, float(value), colour)
            if estimate := _average(here):
                points.append((float(value), estimate))
        _draw_means(cell, points, colour, combination, connect)
    if axis.logarithmic:
        cell.set_xscale("log")
        cell.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        cell.xaxis.set_minor_formatter(NullFormatter())
    else:
        cell.margins(x=0.05)
        if all(isinstance(value, int) for value in axis.values):
            cell.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _draw_means(
    cell: Axes, points: Sequence[tuple[float, Estimate]], colour: str, name: str, connect: bool
) -> None:
    if not points:
        return
    x, mean = [place for place, _ in points], [estimate.mean for _, estimate in points]
    known = [(place, found.low, found.high) for place, found in points if found.low is not None]
    at, low, high = zip(*known, strict=True) if known else ((), (), ())
    if known and connect:
        cell.fill_between(at, low, high, color=colour, alpha=0.13, linewidth=0)
    elif known:
        cell.vlines(at, low, high, color=colour, linewidth=1.6)
    line = "-" if connect else ""
    cell.plot(
        x, mean, line, marker="o", markersize=4.6, color=colour, linewidth=1.5, label=name or None, zorder=3
    )


def _draw_columns(cell: Axes, comparison: Comparison, axis: Axis) -> None:
    for x, value in enumerate(axis.values):
        here = [arm for arm in comparison.arms if _has(arm, axis) and arm.arm.params[axis.key] == value]
        _draw_seeds(cell, here, float(x), BEST_COLOUR, JITTER)
        if estimate := _average(here):
            if estimate.low is not None and estimate.high is not None:
                cell.vlines(x, estimate.low, estimate.high, color=BEST_COLOUR, linewidth=2.2, zorder=3)
            cell.plot(
                [x],
                [estimate.mean],
                "o",
                color=BEST_COLOUR,
                markersize=6.5,
                markeredgecolor="white",
                zorder=4,
            )
    cell.set_xticks(range(len(axis.values)), labels=[axis.text(value) for value in axis.values])
    cell.set_xlim(-0.6, len(axis.values) - 0.4)


def _draw_seeds(cell: Axes, arms: Sequence[ArmSummary], x: float, colour: str, jitter: float = 0.0) -> None:
    """A point for each seed; hollow for an arm that misses some. Equal seeds stand at equal offsets."""
    for arm in arms:
        seeds = sorted(reading.trial.seed for reading in arm.readings)
        offsets = dict(zip(seeds, np.linspace(-jitter, jitter, len(seeds)), strict=True))
        cell.scatter(
            [x + offsets[seed] for seed in arm.objectives],
            list(arm.objectives.values()),
            s=13,
            facecolor=colour if arm.is_complete else "none",
            edgecolor="none" if arm.is_complete else MUTED,
            linewidths=0.7,
            alpha=0.3 if arm.is_complete else 0.6,
            zorder=2,
        )


def _average(arms: Sequence[ArmSummary]) -> Estimate | None:
    """Mean over complete arms within each seed, then over seeds: arms that share seeds are no sample."""
    complete = [arm for arm in arms if arm.is_complete]
    if not complete:
        return None
    seeds = [seed for seed in complete[0].objectives if all(seed in arm.objectives for arm in complete)]
    if not seeds:
        return None
    by_seed = [fmean(arm.objectives[seed] for arm in complete) for seed in seeds]
    return estimate_mean(by_seed)
