"""Scoring a part of the pool only: which part, and what that does to the selection."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

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


def expected_overlap(drawn: BoolArray, *, num_pool: int, num_scored: int, num_runners_up: int) -> float:
    """Return how much of the picks a pass over the whole pool would be expected to have picked too.

    The scored rows but the runners-up are a draw without replacement. So the d-th best of them is among the
    first t of all that could be drawn as often as a draw that large has d of those t (hypergeometric). A
    runner-up stands for itself: it is taken to come right behind the drawn row before it. Of k picks, those
    are expected whose place among all is at most k. It says nothing of a single draw.

    Args:
        drawn: (k,) in the order of their utility: false for a pick that was a runner-up of the last round
            and so scored in any case, drawn or not.
        num_pool: The candidates, scored or not.
        num_scored: Those that were scored.
        num_runners_up: Those among the scored that were runners-up.

    Returns:
        In [0, 1]; 1 for no picks. Without runners-up, the part of the pool that was scored.
    """
    count = len(drawn)
    if not count:
        return 1.0
    num_drawn = np.cumsum(drawn)  # up to and with each pick
    num_known = np.arange(1, count + 1) - num_drawn
    chances = np.empty(count)
    for known in np.unique(num_known).tolist():  # one distribution for each
        rows = num_known == known
        drawn_from, num_others = num_pool - num_runners_up, num_scored - num_runners_up
        chances[rows] = _chances_of_hits(count - known, drawn_from, num_others)[num_drawn[rows]]
    return float(chances.mean())


def _chances_of_hits(first: int, size: int, num_drawn: int) -> npt.NDArray[np.float64]:
    """Return the probabilities that at least 0, 1, ... of the first so many rows are drawn.

    Args:
        first: How many rows come first.
        size: Of how many.
        num_drawn: How many of these are drawn.

    Returns:
        (first + 1,), descending from 1.
    """
    marked = min(first, size)
    least, most = max(0, num_drawn - (size - marked)), min(marked, num_drawn)
    hits = np.arange(least, most + 1)
    logs = _log_choose(marked, hits) + _log_choose(size - marked, num_drawn - hits)
    exactly = np.exp(logs - _log_choose(size, np.array(num_drawn)))
    at_least = np.zeros(first + 1)
    at_least[: least + 1] = 1.0
    at_least[least + 1 : most + 1] = np.minimum(np.cumsum(exactly[:0:-1])[::-1], 1.0)
    return at_least


def _log_choose(size: int, hits: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    logs: npt.NDArray[np.float64] = gammaln(size + 1.0) - gammaln(hits + 1.0) - gammaln(size - hits + 1.0)
    return logs
