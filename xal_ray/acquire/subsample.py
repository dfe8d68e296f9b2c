"""Scoring a part of the pool only: which part, and what that does to the selection."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]


def draw(candidates: BoolArray, fraction: float, *, at_least: int, seed: int) -> BoolArray:
    """Draw a part of some rows, uniformly and without replacement.

    Every row of the pool has a number of its own, whoever else is a candidate; the least are taken.

    Args:
        candidates: (n,) which rows of the pool may be drawn.
        fraction: Of the candidates, in (0, 1]; rounded up.
        at_least: How many are drawn in any case, as far as there are candidates.
        seed: Of the draw.

    Returns:
        (n,) which are drawn.
    """
    numbers = np.random.default_rng(seed).random(len(candidates))
    rows = np.flatnonzero(candidates)
    count = min(len(rows), max(math.ceil(fraction * len(rows)), at_least))
    chosen = np.zeros(len(candidates), dtype=bool)
    chosen[rows[np.argsort(numbers[rows], kind="stable")[:count]]] = True
    return chosen


def expected_overlap(drawn: BoolArray, fraction: float) -> float:
    """How much of the picks a pass over the whole pool would be expected to have picked too.

    A scored row that was drawn stands for `1 / fraction` rows of the pool, a runner-up for itself. So pick i
    is expected at the place `1 + sum_j<i (1 / fraction or 1)` in the ranking of the whole pool; picks whose
    place is within their number are counted. It is an expectation and says nothing of a single draw.

    Args:
        drawn: (k,) in the order of their utility: false for a pick that was a runner-up of the last round
            and so scored in any case, drawn or not.
        fraction: Of the candidates that was drawn, in (0, 1].

    Returns:
        In [0, 1]; 1 for no picks.
    """
    if not len(drawn):
        return 1.0
    # The i-th pick itself counts once; only the rows before it are multiplied.
    weights = np.where(drawn, 1.0 / fraction, 1.0)
    places = np.cumsum(weights) - weights + 1.0
    return float((places <= len(drawn)).mean())
