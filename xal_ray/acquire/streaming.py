"""Score tables larger than memory: chunks of rows, and the best rows of all chunks.

Nothing here depends on the order of rows or on where the chunks are cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from xal_ray.acquire.distribution import FloatArray, IntArray

GROUPED_BUFFER = 1 << 16  # rows that wait for one look-up of their groups

ROI_COLUMNS = frozenset({"misalignment", "shuffled_misalignment", "roi_area"})

GroupsOf = Callable[[list[str]], list[str]]


@dataclass(frozen=True)
class Candidates:
    """A chunk of scored unlabelled images, aligned by row. Rows without a score are left out before.

    Attributes:
        num_rows: n.
        columns: (n,) float64 by name, in [0, 1]: `entropy`, `margin`, `least_confidence`, `bald`, and
            `ROI_COLUMNS`, which are NaN where there is no ROI or none that can be compared. Those that the
            strategy does not use may be absent.
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
        """A chunk that is in memory; `lambda: iter([chunk])` is then the whole table."""
        return cls(len(image_ids), columns, lambda: image_ids)

    @cached_property
    def image_ids(self) -> Sequence[str]:
        """The n ids."""
        image_ids = self.load_ids()
        if len(image_ids) != self.num_rows:
            raise ValueError(f"{self.num_rows} rows, but {len(image_ids)} image_ids")
        return image_ids

    def take(self, rows: IntArray) -> Candidates:
        """Some of the rows, in memory."""
        ids = self.image_ids
        return Candidates.of([ids[row] for row in rows], {name: c[rows] for name, c in self.columns.items()})

    def column(self, name: str) -> FloatArray:
        """A column that a strategy uses.

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
    """The best rows by (utility descending, image_id ascending), of any number of chunks.

    Ids are loaded only for chunks with a row at or above the last utility that is still in. With a cap, a row
    is out as soon as `cap` rows of its group are better; what is left then are the picks of a walk down the
    whole order that passes over full groups, and memory is still bounded by `limit`.

    Args:
        limit: The rows to keep, at least 1.
        cap: Rows of one group; 0 = any number.
        groups: The groups of image_ids; needed for a cap.
    """

    def __init__(self, limit: int, *, cap: int = 0, groups: GroupsOf | None = None) -> None:
        self.num_seen = 0
        self._limit, self._cap, self._groups = limit, cap, groups
        self._buffer_size = max(2 * limit, GROUPED_BUFFER if cap else 0)
        self._pieces: list[tuple[Candidates, FloatArray]] = []
        self._num_held = 0
        self._last: tuple[float, str] | None = None  # what a row must beat, once `limit` rows are in

    def add(self, chunk: Candidates, utilities: FloatArray) -> None:
        """Take in a chunk with its (n,) utilities."""
        self.num_seen += len(utilities)
        rows = self._hopeful(chunk, utilities)
        if not len(rows):
            return
        self._pieces.append((chunk.take(rows), utilities[rows]))
        self._num_held += len(rows)
        if self._num_held > self._buffer_size:
            self._compact()

    def best(self) -> Candidates:
        """The kept rows in their order.

        Raises:
            ValueError: Some ids are repeated.
        """
        self._compact()
        return self._pieces[0][0] if self._pieces else Candidates.of([], {})

    def _hopeful(self, chunk: Candidates, utilities: FloatArray) -> IntArray:
        """Rows that may be among the best."""
        if self._last is not None:
            utility, image_id = self._last
            rows = np.flatnonzero(utilities >= utility)
            tied = utilities[rows] == utility
            if tied.any():
                ids = chunk.image_ids
                tied[tied] = [ids[row] > image_id for row in rows[tied]]  # from here on: those that lose
            rows = rows[~tied]
        else:
            rows = np.arange(len(utilities))
        if not self._cap and len(rows) > self._limit:
            level = np.partition(utilities[rows], -self._limit)[-self._limit]
            rows = rows[utilities[rows] >= level]
        return rows

    def _compact(self) -> None:
        """Keep the best `limit` rows of those held."""
        if not self._pieces:
            return
        chunk, utilities = _joined(self._pieces)
        if len(set(chunk.image_ids)) < chunk.num_rows:
            raise ValueError("image_ids must be unique")
        order = _order(utilities, chunk.image_ids)
        if self._cap and self._groups:
            ordered = [chunk.image_ids[row] for row in order]
            order = order[within_cap(ordered, self._groups, self._cap)]
        order = order[: self._limit]
        self._pieces = [(chunk.take(order), utilities[order])]
        self._num_held = len(order)
        if len(order) == self._limit:
            self._last = float(utilities[order[-1]]), chunk.image_ids[order[-1]]


def within_cap(image_ids: Sequence[str], groups: GroupsOf, cap: int) -> IntArray:
    """The positions of ids that are among the first `cap` of their group.

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


def _order(utilities: FloatArray, image_ids: Sequence[str]) -> IntArray:
    """Rows by utility descending, image_id ascending."""
    by_id = np.array(sorted(range(len(image_ids)), key=image_ids.__getitem__), dtype=np.intp)
    return by_id[np.argsort(-utilities[by_id], kind="stable")]


def _joined(pieces: Sequence[tuple[Candidates, FloatArray]]) -> tuple[Candidates, FloatArray]:
    chunks = [chunk for chunk, _ in pieces]
    columns = {name: np.concatenate([chunk.columns[name] for chunk in chunks]) for name in chunks[0].columns}
    ids = [image_id for chunk in chunks for image_id in chunk.image_ids]
    return Candidates.of(ids, columns), np.concatenate([utilities for _, utilities in pieces])
