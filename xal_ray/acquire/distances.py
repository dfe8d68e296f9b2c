"""Euclidean distances between embeddings, block by block, so that memory does not grow with their number."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ROWS_AT_ONCE = 2048
# A square this small beside the vectors' own is what rounding left of none.
_ROUNDING = 1e-13

Vectors = npt.NDArray[np.floating]
Squares = npt.NDArray[np.float32]


def nearest_squared(points: Vectors, centres: Vectors) -> Squares:
    """Return the squared distance of each point to the centre that is nearest to it.

    The number of threads changes no digit, so it moves no pick: products of matrices, which are spread over
    threads, are summed in float64 and rounded to float32 at the end.

    Args:
        points: (n, d), finite.
        centres: (c, d), finite.

    Returns:
        (n,) float32, at least 0; of points that equal a centre exactly 0; infinite where there is no centre.
    """
    found = np.full(len(points), np.inf, dtype=np.float32)
    for start in range(0, len(points), ROWS_AT_ONCE):
        block = points[start : start + ROWS_AT_ONCE]
        if len(centres) == 1:
            found[start : start + len(block)] = _squared(block, centres[0])
        elif len(centres):
            found[start : start + len(block)] = _nearest(block, centres)
    return found


def _squared(block: Vectors, centre: Vectors) -> Squares:
    """Return squared distances to one centre, by differences: four times as fast as by products."""
    apart = block.astype(np.float32) - centre.astype(np.float32)
    squares: Squares = np.einsum("ij,ij->i", apart, apart)
    return squares


def _nearest(block: Vectors, centres: Vectors) -> npt.NDArray[np.float64]:
    """Return squared distances to the nearest of many centres, by `|x|^2 + |c|^2 - 2 x c`."""
    rows = block.astype(np.float64)
    lengths = np.einsum("ij,ij->i", rows, rows)[:, None]
    nearest = np.full(len(rows), np.inf)
    for start in range(0, len(centres), ROWS_AT_ONCE):
        some = centres[start : start + ROWS_AT_ONCE].astype(np.float64)
        sums = lengths + np.einsum("ij,ij->i", some, some)
        squares = sums - 2.0 * (rows @ some.T)
        np.minimum(nearest, np.where(squares > _ROUNDING * sums, squares, 0.0).min(axis=1), out=nearest)
    return nearest
