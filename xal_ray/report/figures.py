"""The page's figures as SVG data URIs.

Without pyplot, so that nothing global changes; without dates and random ids, so that equal values give equal
bytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xal_ray.report.overlay import COLOUR_MAP
from xal_ray.report.reader import SPLIT_NAMES, Round, SplitMetrics

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType  # from 3.11 on

WIDTH_IN = 10.0
LEGEND_IN, TITLE_IN, LABELS_IN, TICKS_IN, RIGHT_IN = 0.25, 0.25, 0.45, 0.48, 0.08

INK = "#1f2a37"
MUTED = "#6b7280"
HAIRLINE = "#e5e7eb"
TEST_COLOUR = "#1d4e89"
VAL_COLOUR = "#b45309"
SHUFFLED_COLOUR = "#7a8699"

STYLE: dict[RcKeyType, Any] = {
    "svg.hashsalt": "xal-ray",
    "svg.fonttype": "path",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same shapes on every machine
    "font.size": 8,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": HAIRLINE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Line:
    """One line of a panel.

    Attributes:
        points: (x, y) of each.
        band: (x, low, high) of each; empty without an interval.
        filled: Draw the band as an area, else as bars: two areas in one panel would hide each other.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    marker: str = "o"
    dashed: bool = False
    band: Sequence[tuple[float, float, float]] = ()
    filled: bool = True


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        chance: Where to draw a dotted horizontal line.
        y_covers: Values that the y axis shows at least, so that noise near nought does not look like a trend.
    """

    title: str
    x_label: str
    lines: Sequence[Line]
    chance: float | None = None
    y_covers: tuple[float, float] | None = None


def learning_curve(rounds: Sequence[Round], num_classes: int) -> str | None:
    """Balanced accuracy and accuracy, with 95 % intervals over groups, against number of labels.

    Returns:
        A data URI; None where no split was evaluated.
    """
    panels = [
        Panel(
            title=title,
            x_label="number of labels",
            lines=[_metric_line(rounds, split, key) for split in reversed(SPLIT_NAMES)],
            chance=1 / num_classes if key == "balanced_accuracy" else None,
        )
        for key, title in (("balanced_accuracy", "Balanced accuracy"), ("accuracy", "Accuracy"))
    ]
    return draw(panels, columns=2, panel_height_in=2.9)


def alignment_curve(rounds: Sequence[Round], split: str) -> str | None:
    """Four measures of agreement between saliency and ROI, each with its shuffled twin, for one split.

    Returns:
        A data URI; None where no round has an alignment.
    """
    titles = {
        "soft_dice": "Soft Dice",
        "pointing_game": "Pointing game",
        "energy_in_roi": "Energy in ROI",
        "lift": "Lift",
    }
    panels = [
        Panel(title, "number of labels", _alignment_lines(rounds, split, key), y_covers=(0.0, 0.25))
        for key, title in titles.items()
    ]
    return draw(panels, columns=4, panel_height_in=2.3)


def training_history(rounds: Sequence[Round]) -> str | None:
    """Loss against optimiser step, a small panel a round, all on one scale; None without a history."""
    panels = []
    for a_round in rounds:
        history = a_round.model.get("history") or []
        lines = [
            Line(
                name,
                [(entry["step"], entry[key]) for entry in history if entry.get(key) is not None],
                colour,
                marker="",
                dashed=dashed,
            )
            for name, key, colour, dashed in (
                ("training loss", "train_loss", TEST_COLOUR, False),
                ("validation loss", "val_loss", VAL_COLOUR, True),
            )
        ]
        panels.append(Panel(f"Round {a_round.index}", "step", lines))
    return draw(panels, columns=5, panel_height_in=1.6, share_y=True)


def colour_bar() -> str:
    """Return the one scale of all saliency overlays: 0 to 1 in the colours of `COLOUR_MAP`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.2, 0.36))
        axes = figure.add_axes((0.04, 0.52, 0.92, 0.42))
        axes.imshow(np.linspace(0.0, 1.0, 256)[None, :], aspect="auto", cmap=COLOUR_MAP, extent=(0, 1, 0, 1))
        axes.set_yticks([])
        axes.set_xticks([0, 0.5, 1], labels=["0", "0.5", "1"], fontsize=7)
        axes.tick_params(length=2, pad=1.5)
        axes.grid(visible=False)
        return to_data_uri(figure)


def draw(
    panels: Sequence[Panel], *, columns: int, panel_height_in: float, share_y: bool = False
) -> str | None:
    """Draw panels in rows below a common legend.

    Args:
        panels: Panels without a point are drawn empty, so that the order is kept.
        columns: In a row; a figure with fewer panels keeps their width.
        panel_height_in: Inches, with title and labels.
        share_y: One y axis for all.

    Returns:
        A data URI; None where no panel has a point.
    """
    if not any(line.points for panel in panels for line in panel.lines):
        return None
    num_rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure, cells = grid(num_rows, columns, panel_height_in, share_y)
        for axes, panel in zip(cells, panels, strict=False):
            _draw_panel(axes, panel)
        for axes in cells[len(panels) :]:
            axes.set_axis_off()
        handles, names = legend_entries(cells)
        figure.legend(handles, names, loc="upper left", ncols=len(names), handlelength=2.6, borderaxespad=0)
        return to_data_uri(figure)


def grid(
    num_rows: int, columns: int, panel_height_in: float, share_y: bool, legend_in: float = LEGEND_IN
) -> tuple[Figure, list[Axes]]:
    """Empty axes with fixed margins in inches: matplotlib's own layout would double the time of a page."""
    height = num_rows * panel_height_in + legend_in
    inner_height = panel_height_in - TITLE_IN - LABELS_IN
    inner_width = (WIDTH_IN - RIGHT_IN) / columns - TICKS_IN
    figure = Figure(figsize=(WIDTH_IN, height))
    axes = figure.subplots(
        num_rows,
        columns,
        squeeze=False,
        sharey=share_y,
        gridspec_kw={
            "left": TICKS_IN / WIDTH_IN,
            "right": 1 - RIGHT_IN / WIDTH_IN,
            "top": 1 - (legend_in + TITLE_IN) / height,
            "bottom": LABELS_IN / height,
            "wspace": TICKS_IN / inner_width,
            "hspace": (TITLE_IN + LABELS_IN) / inner_height,
        },
    )
    return figure, list(axes.flat)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x_label)
    for line in panel.lines:
        if not line.points:
            continue
        x, y = zip(*line.points, strict=True)
        if line.band:
            band_x, low, high = zip(*line.band, strict=True)
            if line.filled:
                axes.fill_between(band_x, low, high, color=line.colour, alpha=0.15, linewidth=0)
            else:
                axes.vlines(band_x, low, high, color=line.colour, alpha=0.5, linewidth=1)
        axes.plot(
            x,
            y,
            color=line.colour,
            marker=line.marker,
            markersize=3.6,
            linewidth=1.4,
            linestyle=(0, (4, 2)) if line.dashed else "-",
            label=line.name,
        )
    if panel.chance is not None:
        axes.axhline(panel.chance, color=MUTED, linewidth=1, linestyle=":", label="chance")
    axes.margins(x=0.05, y=0.12)
    if panel.y_covers is not None:
        bottom, top = axes.get_ylim()
        axes.set_ylim(min(bottom, panel.y_covers[0]), max(top, panel.y_covers[1]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))


def legend_entries(cells: Sequence[Axes]) -> tuple[list[Artist], list[str]]:
    """Return each name once, in the order of first use."""
    entries: dict[str, Artist] = {}
    for axes in cells:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    return list(entries.values()), list(entries)


def _metric_line(rounds: Sequence[Round], split: str, key: str) -> Line:
    points, band = [], []
    for num_labels, metrics in _shown(rounds, split):
        value = getattr(metrics, key)
        if value is None:
            continue
        points.append((num_labels, value))
        if key in metrics.ci95:
            band.append((num_labels, *metrics.ci95[key]))
    if split == "test":
        return Line("test (band: 95 % over groups)", points, TEST_COLOUR, band=band)
    return Line("val (bars: 95 % over groups)", points, VAL_COLOUR, "s", band=band, filled=False)


def _alignment_lines(rounds: Sequence[Round], split: str, key: str) -> list[Line]:
    true, shuffled = [], []
    for num_labels, metrics in _shown(rounds, split):
        if metrics.alignment is None:
            continue
        if (value := metrics.alignment.values[key]) is not None:
            true.append((num_labels, value))
        if (value := metrics.alignment.shuffled[key]) is not None:
            shuffled.append((num_labels, value))
    return [
        Line("true ROI", true, TEST_COLOUR),
        Line("shuffled ROI (control)", shuffled, SHUFFLED_COLOUR, marker="D", dashed=True),
    ]


def _shown(rounds: Sequence[Round], split: str) -> list[tuple[int, SplitMetrics]]:
    """Return number of labels and metrics of the rounds in which a split was evaluated."""
    return [
        (a_round.num_labels, metrics)
        for a_round in rounds
        if a_round.num_labels is not None and (metrics := a_round.splits.get(split)) is not None
    ]


def to_data_uri(figure: Figure) -> str:
    """Return a figure as SVG in a data URI; to be called with `STYLE` in force."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
