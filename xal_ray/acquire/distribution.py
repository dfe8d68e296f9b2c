"""Scales that are learnt chunk by chunk: as it is, from 0 to 1, or by rank.

What is learnt depends on the set of values, never on their order or on where the chunks are cut.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

EXACT_LIMIT = 1 << 21  # values that a distribution keeps one by one: 16 MiB
STEP = 1 << 16  # values that go into a histogram at once

# Bins of a histogram: the leading bits of float32 numbers from FLOOR to .5, and the same mirrored at .5.
DROPPED_BITS = 11  # of the 23 of a fraction
FLOOR = np.float32(2.0**-64)  # what is nearer to 0, but not 0, shares one bin

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


class Unchanged:
    """The scale that leaves values as they are."""

    def add(self, values: FloatArray) -> None:
        """Nothing to learn."""

    def scaled(self, values: FloatArray) -> FloatArray:
        """Return the values."""
        return values


class Range:
    """`(x - min) / (max - min)`; 0 where all values are equal."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def add(self, values: FloatArray) -> None:
        """Learn from (n,) values."""
        if len(values):
            self.low, self.high = min(self.low, values.min()), max(self.high, values.max())

    def scaled(self, values: FloatArray) -> FloatArray:
        """(n,) in [0, 1]; values that were not added and lie beyond the ends are at the ends."""
        if not self.low < self.high:
            return np.zeros_like(values)
        scaled: FloatArray = np.clip((values - self.low) / (self.high - self.low), 0.0, 1.0)
        return scaled


class Distribution:
    """Says where a value stands among all that were added: ranks and quantiles.

    Exact for up to `exact_limit` values, which are then kept. Beyond that a histogram of fixed size takes
    their place. Its bins are the leading bits of float32 numbers, of x below .5 and of 1 - x above: a bin is
    at most `d / 4096` wide, where d is its values' distance from the nearer end of [0, 1]; 0 and 1 have bins
    of their own, and all between 0 and 2^-64 share one.

    With c of n values in the bin of x, the scaled rank of x is off by at most `(c - 1) / (n - 1)`. It is
    exact where those c are equal: so for 0, for float32 values above `1 - 2^-11`, and for values on a grid of
    at least 2^-14. A quantile is off by at most the width of a bin and the rounding to float32. Values
    outside [0, 1] count as the nearer end.

    Add all values before the first question.
    """

    def __init__(self, exact_limit: int = EXACT_LIMIT) -> None:
        self.count = 0
        self._exact_limit = exact_limit
        self._kept: _Sorted | _Histogram = _Sorted(exact_limit)

    def add(self, values: FloatArray) -> None:
        """Learn from (n,) finite values."""
        self.count += len(values)
        if isinstance(self._kept, _Sorted) and self.count > self._exact_limit:
            histogram = _Histogram()
            histogram.add(self._kept.values)
            self._kept = histogram
        self._kept.add(values)

    def scaled(self, values: FloatArray) -> FloatArray:
        """Ranks from 0 (smallest) to 1 (largest) among the values that were added.

        Args:
            values: (n,), added or not.

        Returns:
            (n,), which never falls where values rise: ties share their mean rank, .5 where all are equal. A
            value that was not added is halfway between its neighbours, and at 0 or 1 beyond the ends.
        """
        if self.count < 2:
            return np.full(len(values), 0.5)
        scaled: FloatArray = np.clip(self._kept.mean_ranks(values) / (self.count - 1), 0.0, 1.0)
        return scaled

    def quantiles(self, places: FloatArray) -> FloatArray:
        """Return the values at places from 0 (smallest) to 1 (largest), linear in between.

        Args:
            places: (n,) in [0, 1].

        Returns:
            (n,).
        """
        return np.interp(places, *self._quantile_line)

    @cached_property
    def _quantile_line(self) -> tuple[FloatArray, FloatArray]:
        return self._kept.quantile_line()


class _Sorted:
    """All values, in order."""

    def __init__(self, limit: int) -> None:
        self._space = np.empty(limit)  # the system hands out memory as it is written
        self._count = 0

    def add(self, values: FloatArray) -> None:
        self._space[self._count : self._count + len(values)] = values
        self._count += len(values)

    @property
    def values(self) -> FloatArray:
        return self._space[: self._count]

    @cached_property
    def _levels(self) -> FloatArray:
        self.values.sort()
        return self.values

    def mean_ranks(self, values: FloatArray) -> FloatArray:
        """Counted from 0; a value that is not among them has the mean of its neighbours' ranks."""
        # Looked up in their order, values are found many times faster.
        distinct, inverse = np.unique(values, return_inverse=True)
        first = np.searchsorted(self._levels, distinct, "left")
        after = np.searchsorted(self._levels, distinct, "right")
        ranks: FloatArray = ((first + after - 1) / 2.0)[inverse]
        return ranks

    def quantile_line(self) -> tuple[FloatArray, FloatArray]:
        return np.linspace(0.0, 1.0, self._count), self._levels


class _Histogram:
    """Counts the values in each bin, with the smallest and the largest; ranks are linear in between."""

    def __init__(self) -> None:
        num_bins = int(_bins_of(np.ones(1, np.float32))[0]) + 1
        self._counts = np.zeros(num_bins, np.int64)
        self._low = np.full(num_bins, np.inf, np.float32)
        self._high = np.full(num_bins, -np.inf, np.float32)

    def add(self, values: FloatArray) -> None:
        for start in range(0, len(values), STEP):
            self._add_step(values[start : start + STEP])

    def _add_step(self, values: FloatArray) -> None:
        ordered = np.sort(_unit_float32(values))
        bins = _bins_of(ordered)
        first = np.flatnonzero(np.diff(bins, prepend=-1))
        last = np.append(first[1:], len(bins)) - 1
        bins = bins[first]
        self._counts[bins] += last - first + 1
        self._low[bins] = np.minimum(self._low[bins], ordered[first])
        self._high[bins] = np.maximum(self._high[bins], ordered[last])

    def mean_ranks(self, values: FloatArray) -> FloatArray:
        """Counted from 0: from the bin's first rank at its smallest value to its last rank at its largest.

        A value beyond these has half a rank less, or more.
        """
        numbers = _unit_float32(values)
        bins = _bins_of(numbers)
        low, high = self._low[bins].astype(np.float64), self._high[bins].astype(np.float64)
        # An empty bin's low is infinite: all of its values are below it.
        below, above = numbers < low, numbers > high
        low[below], high[below] = 0.0, 1.0
        width = np.maximum(high - low, np.finfo(np.float64).tiny)
        ranks: FloatArray = self._start[bins] + (self._counts[bins] - 1) * ((numbers - low) / width)
        ranks[above] = self._before[bins[above]] + self._counts[bins[above]] - 0.5
        ranks[below] = self._before[bins[below]] - 0.5
        return ranks

    def quantile_line(self) -> tuple[FloatArray, FloatArray]:
        bins = np.flatnonzero(self._counts)
        counts = self._counts[bins]
        after = np.cumsum(counts)
        ranks = np.stack([after - counts, after - 1], axis=1).ravel()
        levels = np.stack([self._low[bins], self._high[bins]], axis=1).ravel().astype(np.float64)
        distinct = np.diff(ranks, prepend=-1) > 0  # one value in a bin gives the same point twice
        return ranks[distinct] / max(after[-1] - 1, 1), levels[distinct]

    @cached_property
    def _before(self) -> FloatArray:
        """Return how many values there are in the bins before."""
        return (np.cumsum(self._counts) - self._counts).astype(np.float64)

    @cached_property
    def _start(self) -> FloatArray:
        """Return the rank of a bin's smallest value; of all its values, where they are equal."""
        start = self._before.copy()
        equal = self._low == self._high
        start[equal] += (self._counts[equal] - 1) / 2.0
        return start


def _bins_of(numbers: npt.NDArray[np.float32]) -> IntArray:
    """Bins from 0, in the order of the numbers, which lie in [0, 1]; 0 and 1 have one each."""
    distance = np.minimum(numbers, np.float32(1.0) - numbers)  # above .5, 1 - x is exact
    steps = (np.maximum(distance, FLOOR).view(np.int32) >> DROPPED_BITS).astype(np.intp)
    first, middle = (int(end.view(np.int32)) >> DROPPED_BITS for end in (FLOOR, np.float32(0.5)))
    steps[distance == 0.0] = first - 1
    bins: IntArray = np.where(numbers < 0.5, steps, 2 * middle - steps) - (first - 1)
    return bins


def _unit_float32(values: FloatArray) -> npt.NDArray[np.float32]:
    return np.clip(values, 0.0, 1.0).astype(np.float32)
