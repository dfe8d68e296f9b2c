"""Euclidean distances between embeddings, block by block, so that memory does not grow with their number."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ROWS_AT_ONCE = 2048
# A distance this small beside the vectors' own lengths is what rounding left of none, in squares.
_ROUNDING = 1e-13

Vectors = npt.NDArray[np.floating]


def nearest_squared(points: Vectors, centres: Vectors) -> npt.NDArray[np.float32]:
    """The squared distance of each point to the centre that is nearest to it.

    Products are summed in float64 and rounded to float32 at the end: what a sum of float32 loses depends on
    the number of threads, and ranks of near ties would with it.

    Args:
        points: (n, d), finite.
        centres: (c, d), finite.

    Returns:
        (n,) float32, at least 0; of points that equal a centre exactly 0; infinite where there is no centre.
    """
    found = np.full(len(points), np.inf, dtype=np.float32)
    for start in range(0, len(points), ROWS_AT_ONCE):
        block = points[start : start + ROWS_AT_ONCE].astype(np.float64)
        lengths = np.einsum("ij,ij->i", block, block)[:, None]
        nearest = np.full(len(block), np.inf)
        for first in range(0, len(centres), ROWS_AT_ONCE):
            some = centres[first : first + ROWS_AT_ONCE].astype(np.float64)
            sums = lengths + np.einsum("ij,ij->i", some, some)
            # A single centre is the usual case, and a matrix of one column is slower.
            products = block @ some.T if len(some) > 1 else (block @ some[0])[:, None]
            squares = sums - 2.0 * products
            np.minimum(nearest, np.where(squares > _ROUNDING * sums, squares, 0.0).min(axis=1), out=nearest)
        found[start : start + len(block)] = nearest
    return found
