"""Score tables larger than memory: chunks of rows, and the best rows of all chunks.

Nothing here depends on the order of rows or on where the chunks are cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from xal_ray.acquire.distribution import FloatArray, IntArray
from xal_ray.acquire.draws import Digest, digests
from xal_ray.registry.strategies import ROI_COLUMNS

GROUPED_BUFFER = 1 << 16  # rows that wait for one look-up of their groups

# Why a row has none of these, beside having no ROI: flags, 1 where it is so.
NO_MAP, NO_DONOR = "no_map", "no_donor"

GroupsOf = Callable[[list[str]], list[str]]


@dataclass(frozen=True)
class Candidates:
    """A chunk of scored unlabelled images, aligned by row. Rows without a score are left out before.

    Attributes:
        num_rows: n.
        columns: (n,) float64 by name, in [0, 1]: `entropy`, `margin`, `least_confidence`, `bald`, and
            `ROI_COLUMNS`, which are NaN where there is no ROI or none that can be compared; `no_map` and
            `no_donor` say why. Those that the strategy does not use may be absent.
        load_ids: Reads the n ids. Called when an id matters, since ids cost more than all else.
    """

    num_rows: int
    columns: Mapping[str, FloatArray]
    load_ids: Callable[[], Sequence[str]]

    def __post_init__(self) -> None:
        for name, column in self.columns.items():
            if column.shape != (self.num_rows,):
                raise ValueError(f"{self.num_rows} rows, but {name} has shape {column.shape}")

    @classmethod
    def of(cls, image_ids: Sequence[str], columns: Mapping[str, FloatArray]) -> Candidates:
        """Return a chunk that is in memory; `lambda: iter([chunk])` is then the whole table."""
        return cls(len(image_ids), columns, lambda: image_ids)

    @cached_property
    def image_ids(self) -> Sequence[str]:
        """Return the n ids."""
        image_ids = self.load_ids()
        if len(image_ids) != self.num_rows:
            raise ValueError(f"{self.num_rows} rows, but {len(image_ids)} image_ids")
        return image_ids

    def take(self, rows: IntArray) -> Candidates:
        """Return some of the rows, in memory."""
        ids = self.image_ids
        return Candidates.of([ids[row] for row in rows], {name: c[rows] for name, c in self.columns.items()})

    def column(self, name: str) -> FloatArray:
        """Return a column that a strategy uses.

        Raises:
            ValueError: It is absent, or holds what can't be ranked.
        """
        if name not in self.columns:
            raise ValueError(f"the score table has no column {name}")
        column = self.columns[name]
        if np.isinf(column).any() or (name not in ROI_COLUMNS and np.isnan(column).any()):
            raise ValueError(f"{name} is not finite in some row; rows with an error_code are left out before")
        return column


Replay = Callable[[], Iterator[Candidates]]  # each call goes over all chunks again


class TopRows:
    """The best rows by (utility descending, second utility descending, seeded hash), of any number of chunks.

    Ids are loaded only for chunks with a row at or above the last one that is still in. With a cap, a row is
    out as soon as `cap` rows of its group are better; what is left then are the picks of a walk down the
    whole order that passes over full groups, and memory is still bounded by `limit`.

    Args:
        limit: The rows to keep, at least 1.
        seed: Of the hash of image_ids that decides between rows with equal utilities. Ids themselves often
            begin with the patient, and would give one patient all that is tied.
        cap: Rows of one group; 0 = any number.
        groups: The groups of image_ids; needed for a cap.
    """

    def __init__(self, limit: int, *, seed: int = 0, cap: int = 0, groups: GroupsOf | None = None) -> None:
        self.num_seen = 0
        self._limit, self._cap, self._groups = limit, cap, groups
        self._digest = digests("tie", seed)
        self._buffer_size = max(2 * limit, GROUPED_BUFFER if cap else 0)
        self._pieces: list[_Held] = []
        self._num_held = 0
        self._last: tuple[float, float, bytes] | None = None  # to be beaten, once `limit` rows are in

    def add(self, chunk: Candidates, utilities: FloatArray, second: FloatArray | None = None) -> None:
        """Take in a chunk with its (n,) utilities, and what decides where they are equal."""
        self.num_seen += len(utilities)
        if second is None:
            second = np.zeros(len(utilities))
        rows = self._hopeful(chunk, utilities, second)
        if not len(rows):
            return
        self._pieces.append(_Held(chunk.take(rows), utilities[rows], second[rows]))
        self._num_held += len(rows)
        if self._num_held > self._buffer_size:
            self._compact()

    def best(self) -> Candidates:
        """Return the kept rows in their order.

        Raises:
            ValueError: Some ids are repeated.
        """
        self._compact()
        return self._pieces[0].chunk if self._pieces else Candidates.of([], {})

    def _hopeful(self, chunk: Candidates, utilities: FloatArray, second: FloatArray) -> IntArray:
        """Return rows that may be among the best."""
        hopeful = np.ones(len(utilities), dtype=bool)
        if self._last is not None:
            utility, other, digest = self._last
            level = utilities == utility
            hopeful = (utilities > utility) | (level & (second > other))
            tied = np.flatnonzero(level & (second == other))
            if len(tied):
                ids = chunk.image_ids
                hopeful[tied] = [self._digest(ids[row]) <= digest for row in tied.tolist()]
        rows = np.flatnonzero(hopeful)
        if not self._cap and len(rows) > self._limit:
            rows = rows[_may_be_first(utilities[rows], second[rows], self._limit)]
        return rows

    def _compact(self) -> None:
        """Keep the best `limit` rows of those held."""
        if not self._pieces:
            return
        held = _joined(self._pieces)
        ids = held.chunk.image_ids
        if len(set(ids)) < len(ids):
            raise ValueError("image_ids must be unique")
        order = _order(held, self._digest)
        if self._cap and self._groups:
            order = order[within_cap([ids[row] for row in order], self._groups, self._cap)]
        order = order[: self._limit]
        held = held.take(order)
        self._pieces = [held]
        self._num_held = len(order)
        if len(order) == self._limit:
            last_id = held.chunk.image_ids[-1]
            self._last = float(held.utilities[-1]), float(held.second[-1]), self._digest(last_id)


@dataclass(frozen=True)
class _Held:
    """Rows with what they are ordered by."""

    chunk: Candidates
    utilities: FloatArray
    second: FloatArray

    def take(self, rows: IntArray) -> _Held:
        return _Held(self.chunk.take(rows), self.utilities[rows], self.second[rows])


def within_cap(image_ids: Sequence[str], groups: GroupsOf, cap: int) -> IntArray:
    """Return the positions of ids that are among the first `cap` of their group.

    Raises:
        ValueError: There is not one group for each id.
    """
    seen: Counter[str] = Counter()
    positions = []
    for position, (_, group) in enumerate(zip(image_ids, groups(list(image_ids)), strict=True)):
        seen[group] += 1
        if seen[group] <= cap:
            positions.append(position)
    return np.array(positions, dtype=np.intp)


def _may_be_first(utilities: FloatArray, second: FloatArray, count: int) -> npt.NDArray[np.bool_]:
    """Which rows may be among the first `count` of them, whatever the hashes of those that are tied."""
    level = np.partition(utilities, -count)[-count]
    may: npt.NDArray[np.bool_] = utilities > level
    tied = np.flatnonzero(utilities == level)
    room = count - int(may.sum())
    least = np.partition(second[tied], -room)[-room]
    may[tied] = second[tied] >= least
    return may


def _order(held: _Held, digest: Digest) -> IntArray:
    """Return rows in their order; only rows that are tied with another are hashed."""
    utilities, second, ids = held.utilities, held.second, held.chunk.image_ids
    order = np.lexsort((-second, -utilities))
    same = (np.diff(utilities[order]) == 0.0) & (np.diff(second[order]) == 0.0)
    tied = order[np.append(same, False) | np.append(False, same)]
    if not len(tied):
        return order
    place = np.zeros(len(order), dtype=np.intp)
    place[sorted(tied.tolist(), key=lambda row: digest(ids[row]))] = np.arange(len(tied))
    return np.lexsort((place, -second, -utilities))


def _joined(pieces: Sequence[_Held]) -> _Held:
    chunks = [piece.chunk for piece in pieces]
    columns = {name: np.concatenate([chunk.columns[name] for chunk in chunks]) for name in chunks[0].columns}
    ids = [image_id for chunk in chunks for image_id in chunk.image_ids]
    utilities = np.concatenate([piece.utilities for piece in pieces])
    return _Held(Candidates.of(ids, columns), utilities, np.concatenate([piece.second for piece in pieces]))
