"""Says what the figures of a sweep's page share: style, colours, names, and a legend that wraps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from xal_ray.report.figures import STYLE, WIDTH_IN, grid, legend_entries, to_data_uri
from xal_ray.sweep.arms import Arm
from xal_ray.sweep.results.wording import arm_name

BASELINE_COLOUR = "#4b5563"
BEST_COLOUR = "#1d4e89"
FADED = "#c3cad4"
PALETTE = (
    BEST_COLOUR, "#b45309", "#0f766e", "#9d174d", "#6d28d9", "#4d7c0f", "#0e7490", "#a16207",
)  # fmt: skip

MAX_CHARACTERS = 56  # of a name in a figure
CHARACTER_IN, HANDLE_IN, LEGEND_ROW_IN, LEGEND_GAP_IN = 0.068, 0.55, 0.17, 0.1


@contextmanager
def style() -> Iterator[None]:
    """Give the report's style. A dollar sign in somebody's value is a dollar sign."""
    with matplotlib.rc_context({**STYLE, "text.parse_math": False}):
        yield


def canvas(
    names: Sequence[str], num_rows: int, columns: int, panel_height_in: float, *, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """Empty axes with room above for a legend of these names."""
    legend_in = -(-len(names) // legend_columns(names)) * LEGEND_ROW_IN + LEGEND_GAP_IN if names else 0.0
    return grid(num_rows, columns, panel_height_in, share_y, legend_in)


def finish(figure: Figure, cells: Sequence[Axes]) -> str:
    """Add the legend; the figure as a data URI."""
    handles, names = legend_entries(cells)
    if names:
        figure.legend(
            handles, names, loc="upper left", ncols=legend_columns(names), handlelength=2.6, borderaxespad=0,
            labelspacing=0.35,
        )  # fmt: skip
    return to_data_uri(figure)


def legend_columns(names: Sequence[str]) -> int:
    """Return how many names of such length stand side by side."""
    longest = max((len(name) for name in names), default=0) * CHARACTER_IN + HANDLE_IN
    return max(1, min(len(names), int(WIDTH_IN / longest)))


def names_of(arms: Sequence[Arm]) -> list[str]:
    """Short names for figures: of a key its last part alone, where that tells the keys apart."""
    keys = short_keys([key for arm in arms for key in arm.params])
    return [fitted(arm_name(arm, keys)) for arm in arms]


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Key to its last part, or to itself where two keys share that."""
    count = Counter(key.rpartition(".")[2] for key in set(keys))
    return {key: last if count[last := key.rpartition(".")[2]] == 1 else key for key in keys}


def fitted(text: str) -> str:
    """Text that the figures' font can draw and a figure has room for."""
    drawn = "".join(
        character if ord(character) in _glyphs() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
    return drawn if len(drawn) <= MAX_CHARACTERS else drawn[: MAX_CHARACTERS - 1] + "…"


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap())
