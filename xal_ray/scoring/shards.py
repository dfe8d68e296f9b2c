"""Score shards as the chunks that strategies rank."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.acquire import fullsize
from xal_ray.acquire.donors import Donors, draw_donors
from xal_ray.acquire.streaming import NO_DONOR, NO_MAP, Candidates, GroupsOf, Replay
from xal_ray.config import Select
from xal_ray.seeds import derive_seed
from xal_ray.storage import iter_row_groups, names_in, read_table

BoolArray = npt.NDArray[np.bool_]


def ranked_chunks(
    folder: Path,
    settings: Select,
    *,
    seed: int,
    groups: GroupsOf,
    image_size: int,
    kept: BoolArray | None = None,
) -> Replay:
    """Return what `strategies.select` ranks: the scored rows of a folder, with all that the strategy reads.

    `shuffled_roi` reads `shuffled_misalignment`, which is made here, anew each time: the misalignment of each
    map with the ROI of an image of another group, out of the donors of the whole folder. It costs a pass that
    draws them, and the ids and maps of all rows in each further one; memory stays bounded.

    Args:
        folder: Score shards.
        settings: The `select` section.
        seed: Of this round: who lends to whom depends on it and on the ids alone.
        groups: The groups of image_ids.
        image_size: Height and width of the images, pixels.
        kept: As in `score_chunks`.

    Returns:
        As `score_chunks`.
    """
    columns = settings.columns
    if not settings.spec.needs_roi:
        return score_chunks(folder, columns, kept)
    if "shuffled_misalignment" not in columns:
        return score_chunks(folder, [*columns, "error_code"], kept)
    lent = _lend(folder, groups, derive_seed(seed, "shuffled_roi"), image_size)
    names = ["entropy", settings.uncertainty, "misalignment", "saliency", "error_code"]

    def replay() -> Iterator[Candidates]:
        for table, load_ids in _scored_rows(folder, names, kept):
            ids = load_ids()
            yield Candidates.of(ids, _columns(table) | lent.shuffled(table, ids))

    return replay


def score_chunks(folder: Path, columns: Sequence[str], kept: BoolArray | None = None) -> Replay:
    """Return the scored rows of a folder of shards, a row group at a time; rows without a score are left out.

    Args:
        folder: Shards with `image_id`, `entropy` and the columns.
        columns: What to read, as `Select.columns` says; `entropy` is read in any case. Of
            `error_code`, `no_map` becomes of it: 1 where the map is undefined, else 0.
        kept: (n,) which of the shards' rows are gone over, in their order, so that no id is read for it;
            None: all.

    Returns:
        What goes over the shards, in the order of their names, each time it is called; null becomes NaN. It
        raises StorageError where a file is damaged or lacks a column.
    """
    names = ["entropy", *columns]

    def replay() -> Iterator[Candidates]:
        for table, load_ids in _scored_rows(folder, names, kept):
            yield Candidates(table.num_rows, _columns(table), load_ids)

    return replay


def rows_of(folder: Path, image_ids: Sequence[str], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Some columns of some scored images, by id; shard by shard, since the whole may be larger than memory.

    Raises:
        StorageError: A file is damaged, or lacks a column.
    """
    wanted = pa.array(image_ids, pa.string())
    found: dict[str, dict[str, Any]] = {}
    for name in names_in(folder, ".parquet"):
        is_wanted = pc.is_in(read_table(folder / name, ["image_id"])["image_id"], value_set=wanted)
        if pc.any(is_wanted).as_py():
            rows = read_table(folder / name, ["image_id", *columns]).filter(is_wanted).to_pylist()
            found.update({row["image_id"]: row for row in rows})
    return found


def groups_of(index: pa.Table) -> Callable[[list[str]], list[str]]:
    """Return a function that looks up the groups of image_ids in a pool's index, which is sorted by them."""
    names, all_groups = index["image_id"].combine_chunks(), index["group_id"]

    def at(row: int) -> str:
        return str(names[row].as_py())

    def groups(image_ids: list[str]) -> list[str]:
        if not image_ids:
            return []
        # Ids of one shard lie close together: what is hashed is their part of the index, not all of it.
        first = bisect_left(range(len(names)), min(image_ids), key=at)
        after = bisect_right(range(len(names)), max(image_ids), key=at)
        rows = pc.index_in(pa.array(image_ids, pa.string()), names[first:after])
        found: list[str] = all_groups[first:after].take(rows).to_pylist()
        return found

    return groups


@dataclass(frozen=True)
class _Lent:
    """The ROIs that are lent to images of other groups."""

    donors: Donors
    adjoint: npt.NDArray[np.float32]  # (k, g, g), see `fullsize.Regions`
    groups: GroupsOf
    frame: tuple[int, int]

    def shuffled(self, table: pa.Table, image_ids: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
        """Misalignment with a lent ROI, for the rows that have one with their own."""
        misses = np.full(table.num_rows, np.nan)
        lacks = np.zeros(table.num_rows)
        positions = np.flatnonzero(pc.is_valid(table["misalignment"]).to_numpy())
        donors = np.empty(0, dtype=np.int64)
        if len(positions):
            ids = [image_ids[position] for position in positions.tolist()]
            donors = self.donors.of(ids, self.groups(ids))
            lacks[positions[donors < 0]] = 1.0
            positions, donors = positions[donors >= 0], donors[donors >= 0]
        if len(positions):
            cams = pc.list_flatten(table["saliency"].take(pa.array(positions))).to_numpy()
            cams = cams.reshape(len(positions), *self.adjoint.shape[1:])
            missed = fullsize.misalignment(cams, self.adjoint[donors], self.frame)
            misses[positions] = missed.astype(np.float32)  # as the scores' own columns are
        return {"shuffled_misalignment": misses, NO_DONOR: lacks}


def _lend(folder: Path, groups: GroupsOf, seed: int, image_size: int) -> _Lent:
    ids = list(draw_donors(score_chunks(folder, ["roi_area"]), groups, seed=seed))
    rows = rows_of(folder, ids, ["roi_adjoint"])
    cells = np.array([rows[image_id]["roi_adjoint"] for image_id in ids], dtype=np.float32)
    side = math.isqrt(cells.shape[1]) if len(ids) else 0
    frame = (image_size, image_size)
    return _Lent(Donors(ids, groups(ids), seed=seed), cells.reshape(-1, side, side), groups, frame)


def _scored_rows(
    folder: Path, names: Sequence[str], kept: BoolArray | None
) -> Iterator[tuple[pa.Table, Callable[[], list[str]]]]:
    """Yield the row groups of all shards without the rows that have no score, and what reads their ids."""
    start = 0
    for table, load_ids in iter_row_groups(folder, list(dict.fromkeys(names))):
        stop = start + table.num_rows
        yield _chosen(table, load_ids, None if kept is None else pa.array(kept[start:stop]))
        start = stop


def _chosen(
    table: pa.Table, load_ids: Callable[[], pa.ChunkedArray], kept: pa.Array | None
) -> tuple[pa.Table, Callable[[], list[str]]]:
    if kept is None and not table["entropy"].null_count:
        return table, lambda: load_ids().to_pylist()
    scored = pc.is_valid(table["entropy"])
    rows = scored if kept is None else pc.and_(scored, kept)
    return table.filter(rows), lambda: load_ids().filter(rows).to_pylist()


def _columns(table: pa.Table) -> dict[str, npt.NDArray[np.float64]]:
    """Return the columns of numbers; lists are left out."""
    columns = {
        name: table[name].to_numpy().astype(np.float64)
        for name in table.column_names
        if pa.types.is_floating(table.schema.field(name).type)
    }
    if "error_code" in table.column_names:
        undefined = pc.fill_null(pc.equal(table["error_code"], "undefined_map"), False)
        columns[NO_MAP] = undefined.to_numpy().astype(np.float64)
    return columns
