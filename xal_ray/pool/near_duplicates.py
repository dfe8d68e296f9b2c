"""Near duplicates: the same picture on two sides of the splits, though its bytes and its patient's id differ.

Two pictures whose perceptual hashes differ in few bits are a pair. Pairs are searched for in sorted lists: of
millions, all cannot be compared with all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.pool.manifest import side_of
from xal_ray.pool.perceptual_hash import NUM_BYTES, Codes, codes_of
from xal_ray.pool.schema import SPLITS

# Measured on 3,064 slices of brains (see docs/safety.md): most copies differ in 24 bits or fewer, pictures of
# different patients in 30 or more.
MAX_DISTANCE = 24


_NUM_LISTS = 32
_NEIGHBOURS = 3  # on either side of a place in a list
_ROWS_AT_ONCE = 1 << 16

_ONES = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)

Numbers = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Near:
    """Rows that have a near duplicate.

    Attributes:
        rows: (m,) rows, ascending.
        partners: (m,) the nearest one of each, the first of several.
        distances: (m,) bits that differ, 0 to `MAX_DISTANCE`.
    """

    rows: npt.NDArray[np.int64]
    partners: npt.NDArray[np.int64]
    distances: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)


def near_pairs(hashes: pa.ChunkedArray, groups: pa.ChunkedArray, splits: pa.ChunkedArray) -> Near:
    """Find images of `val` and `test` that look like an image of another side and another group.

    Args:
        hashes: (n,) the perceptual hash of each image.
        groups: (n,) group ids.
        splits: (n,) split names; the sides are train (pool and labeled), val and test.

    Returns:
        Rows of `test`, whose partners are of train or val, and rows of `val`, whose partners are of train.
    """
    codes = codes_of(hashes)
    names = np.array([*dict.fromkeys(side_of(split) for split in SPLITS)])
    sides = np.array([int(np.flatnonzero(names == side_of(split))[0]) for split in SPLITS])
    side = sides[pc.index_in(splits, value_set=pa.array(SPLITS)).to_numpy()]
    encoded = groups.combine_chunks().dictionary_encode()
    group = encoded.indices.to_numpy()
    found = []
    for number in range(1, len(names)):
        asking, known = np.flatnonzero(side == number), np.flatnonzero(side < number)
        near = near_rows(codes[asking], codes[known], group[asking], group[known])
        found.append(Near(asking[near.rows], known[near.partners], near.distances))
    order = np.argsort(np.concatenate([near.rows for near in found]))
    return Near(
        *(
            np.concatenate([getattr(near, name) for near in found])[order]
            for name in ("rows", "partners", "distances")
        )
    )


def near_rows(
    asking: Codes,
    known: Codes,
    asking_groups: Numbers | None = None,
    known_groups: Numbers | None = None,
) -> Near:
    """Return the nearest of the known pictures for each that asks, where one is near enough.

    Codes that differ in few bits agree in their first ones under many orders of the bytes. So the known ones
    are sorted under 32 orders; in each list, those that ask are compared with 3 neighbours on either side of
    their place. Time is O(n log n), memory about a hundred bytes a row, and the result depends on nothing but
    the codes; a pair that never meets as neighbours is missed (see docs/safety.md for how many).

    Args:
        asking: (m, 32) codes; all zero = flat, near nothing.
        known: (n, 32) codes.
        asking_groups: (m,) or (m, k) numbers of groups: a pair that shares one of its k does not count; None:
            all count.
        known_groups: (n,) or (n, k) the same of the known ones.

    Returns:
        Rows of `asking`, with rows of `known` as their partners.
    """
    nearest = _Nearest(asking, known, asking_groups, known_groups)
    asking_rows, known_rows = (np.flatnonzero(codes.any(axis=1)) for codes in (asking, known))
    rng = np.random.default_rng(0)
    for _ in range(_NUM_LISTS if len(known_rows) else 0):
        leading = rng.permutation(NUM_BYTES)[:8]
        keys = _keys(known, known_rows, leading)
        order = np.argsort(keys, kind="stable")
        keys, listed = keys[order], known_rows[order]
        for start in range(0, len(asking_rows), _ROWS_AT_ONCE):
            rows = asking_rows[start : start + _ROWS_AT_ONCE]
            positions = np.searchsorted(keys, _keys(asking, rows, leading))
            for offset in range(-_NEIGHBOURS, _NEIGHBOURS):
                nearest.offer(rows, listed[np.clip(positions + offset, 0, len(listed) - 1)])
    return nearest.found()


class _Nearest:
    """The nearest known code of each that asks, among those that were offered."""

    def __init__(
        self, asking: Codes, known: Codes, asking_groups: Numbers | None, known_groups: Numbers | None
    ):
        self.asking, self.known = asking, known
        self.asking_groups, self.known_groups = asking_groups, known_groups
        self.distance = np.full(len(asking), MAX_DISTANCE + 1, dtype=np.int64)
        self.partner = np.full(len(asking), -1, dtype=np.int64)

    def offer(self, rows: npt.NDArray[np.int64], others: npt.NDArray[np.int64]) -> None:
        distance = _distances(self.asking[rows], self.known[others])
        if self.asking_groups is not None and self.known_groups is not None:
            shared = self.asking_groups[rows] == self.known_groups[others]
            distance[shared.any(axis=1) if shared.ndim == 2 else shared] = MAX_DISTANCE + 1
        before = self.distance[rows]
        nearer = (distance < before) | ((distance == before) & (others < self.partner[rows]))
        self.distance[rows[nearer]] = distance[nearer]
        self.partner[rows[nearer]] = others[nearer]

    def found(self) -> Near:
        rows = np.flatnonzero(self.partner >= 0)
        return Near(rows, self.partner[rows], self.distance[rows])


def _keys(
    codes: Codes, rows: npt.NDArray[np.int64], leading: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """Eight bytes of each code as a number whose order is theirs."""
    chosen = np.empty((len(rows), len(leading)), dtype=np.uint8)
    for position, byte in enumerate(leading):
        chosen[:, position] = codes[rows, byte]
    keys: npt.NDArray[np.uint64] = chosen.view(">u8")[:, 0].astype(np.uint64)
    return keys


def _distances(one: Codes, other: Codes) -> npt.NDArray[np.int64]:
    """(n,) how many bits differ."""
    differing = np.bitwise_xor(one, other)
    is_numpy_2 = hasattr(np, "bitwise_count")
    ones = np.bitwise_count(differing.view(np.uint64)) if is_numpy_2 else _ONES[differing]
    return np.asarray(ones.sum(axis=1, dtype=np.int64))
