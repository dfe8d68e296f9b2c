"""Polygons of one frame as covered area fractions on a grid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xal_ray.roi.grids import FloatArray

LINES_PER_CELL = 64
MAX_CROSSINGS = 50_000_000  # of edges and lines: a drawing of a person has thousands

_CROSSINGS_AT_ONCE = 1_000_000

_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]


def polygons_to_grid(
    polygons: Sequence[Sequence[float]], frame: tuple[int, int], grid: tuple[int, int]
) -> FloatArray:
    """Return the area fraction of every grid cell that the union of some polygons covers.

    The frame is cut into strips, `LINES_PER_CELL` a cell and more where a vertex lies, and in each strip the
    width that the polygons cover along its middle line is measured exactly. So shapes with upright and level
    edges are exact, as are those whose slanting edges stay within a cell; an edge that is nearly level is
    wrong by at most 1 / (2 * `LINES_PER_CELL`) of a cell, which is .008.

    Args:
        polygons: Each x0, y0, x1, y1, ...: pixel corners in the frame, closed by itself. Where a polygon
            crosses itself, what it encloses twice is outside (even-odd). What lies outside the frame is cut.
        frame: Height and width of the image that they were drawn on, pixels.
        grid: Rows and columns of the result.

    Returns:
        (rows, columns) float32 in [0, 1].

    Raises:
        ValueError: A polygon has fewer than three points or a number that is not finite, or together they
            cross more lines than `MAX_CROSSINGS`; see `sound_polygons`.
    """
    for polygon in polygons:
        fault = _fault(polygon)
        if fault:
            raise ValueError(f"a polygon {fault}; run sound_polygons first")
    rows, columns = grid
    edges = _edges(polygons, columns / frame[1], rows / frame[0])
    middles, heights = _strips(edges, rows)
    # An edge crosses the lines from its upper end to before its lower one.
    first = np.searchsorted(middles, edges.top)
    numbers = np.searchsorted(middles, edges.bottom) - first
    if numbers.sum() > MAX_CROSSINGS:
        raise ValueError(f"the polygons cross more than {MAX_CROSSINGS} lines")

    changes = np.zeros((rows, columns + 2))
    for start, stop in _pieces(first, numbers, len(middles)):
        stretches = _inside(*_crossings(edges, middles, first, numbers, start, stop))
        line, left, right = _union(*stretches)
        row, weight = np.floor(middles[line]).astype(np.int64), heights[line]
        _add_from(changes, row, np.clip(left, 0.0, columns), weight)
        _add_from(changes, row, np.clip(right, 0.0, columns), -weight)
    # Rounded, since sums and differences leave traces where nothing is: "none" is told from "nearly".
    coverage = np.round(np.cumsum(changes, axis=1)[:, :columns], 9)
    clipped: FloatArray = np.clip(coverage, 0.0, 1.0).astype(np.float32)
    return clipped


def _fault(polygon: Sequence[float]) -> str | None:
    if len(polygon) < 6 or len(polygon) % 2:
        return "is not a list of three or more pairs x, y"
    return (
        None
        if np.isfinite(np.asarray(polygon, dtype=np.float64)).all()
        else "has a number that is not finite"
    )


class _Edges:
    """The edges that are not level, in units of cells; `top` < `bottom`."""

    def __init__(self, polygon: _Integers, starts: _Floats, ends: _Floats) -> None:
        slanting = starts[:, 1] != ends[:, 1]
        self.polygon, starts, ends = polygon[slanting], starts[slanting], ends[slanting]
        down = (starts[:, 1] < ends[:, 1])[:, None]
        upper, lower = np.where(down, starts, ends), np.where(down, ends, starts)
        self.x, self.top, self.bottom = upper[:, 0], upper[:, 1], lower[:, 1]
        self.slope = (lower[:, 0] - upper[:, 0]) / (self.bottom - self.top)


def _edges(polygons: Sequence[Sequence[float]], per_x: float, per_y: float) -> _Edges:
    points = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) * (per_x, per_y) for polygon in polygons]
    numbers = np.repeat(np.arange(len(points)), [len(each) for each in points])
    starts = np.concatenate([np.zeros((0, 2)), *points])
    ends = np.concatenate([np.zeros((0, 2)), *(np.roll(each, -1, axis=0) for each in points)])
    return _Edges(numbers, starts, ends)


def _strips(edges: _Edges, rows: int) -> tuple[_Floats, _Floats]:
    """Middle and height of every strip, in cells, from the first row that a polygon touches to the last."""
    if not len(edges.top):
        return np.zeros(0), np.zeros(0)
    first, last = np.clip([np.floor(edges.top.min()), np.ceil(edges.bottom.max())], 0, rows).astype(int)
    even = np.arange((last - first) * LINES_PER_CELL + 1) / LINES_PER_CELL + first
    borders = np.unique(np.clip(np.concatenate([even, edges.top, edges.bottom]), first, last))
    return (borders[1:] + borders[:-1]) / 2, np.diff(borders)


def _pieces(first: _Integers, numbers: _Integers, num_lines: int) -> list[tuple[int, int]]:
    """Ranges of lines with about `_CROSSINGS_AT_ONCE` crossings each, which bounds the memory."""
    steps = np.bincount(first, minlength=num_lines + 1) - np.bincount(
        first + numbers, minlength=num_lines + 1
    )
    total = np.cumsum(np.cumsum(steps))[:num_lines]  # crossings up to a line
    cuts = np.flatnonzero(np.diff(total // _CROSSINGS_AT_ONCE)) + 1
    borders = np.unique([0, *cuts, num_lines]).tolist()
    return list(itertools.pairwise(borders))


def _crossings(
    edges: _Edges, middles: _Floats, first: _Integers, numbers: _Integers, start: int, stop: int
) -> tuple[_Integers, _Integers, _Floats]:
    """Line, polygon and x of every crossing of an edge and one of the lines `start` to `stop`."""
    low, high = np.clip(first, start, stop), np.clip(first + numbers, start, stop)
    count = high - low
    edge = np.repeat(np.arange(len(count)), count)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + low[edge]
    x = edges.x[edge] + (middles[line] - edges.top[edge]) * edges.slope[edge]
    return line, edges.polygon[edge], x


def _inside(line: _Integers, polygon: _Integers, x: _Floats) -> tuple[_Integers, _Floats, _Floats]:
    """Line, left and right of every stretch inside a polygon: a closed one is entered and left in turn."""
    order = np.lexsort((x, polygon, line))
    return line[order][::2], x[order][::2], x[order][1::2]


def _union(line: _Integers, left: _Floats, right: _Floats) -> tuple[_Integers, _Floats, _Floats]:
    """Return the same without overlaps."""
    lines, x = np.concatenate([line, line]), np.concatenate([left, right])
    step = np.repeat([1, -1], len(line))
    order = np.lexsort((-step, x, lines))
    depth = np.cumsum(step[order])
    opens, closes = (step[order] == 1) & (depth == 1), depth == 0
    return lines[order][opens], x[order][opens], x[order][closes]


def _add_from(changes: _Floats, row: _Integers, x: _Floats, weight: _Floats) -> None:
    """Add, as changes from cell to cell, a strip that is covered from x on."""
    cell = np.floor(x).astype(np.int64)
    flat, width = changes.reshape(-1), changes.shape[1]
    for offset, part in ((0, cell + 1 - x), (1, x - cell)):
        flat += np.bincount(row * width + cell + offset, weights=weight * part, minlength=flat.size)
