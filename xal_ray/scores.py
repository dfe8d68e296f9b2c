"""Score shards as the chunks that strategies rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.acquire.streaming import Candidates, Replay
from xal_ray.storage import iter_row_groups, names_in, read_table


def score_chunks(folder: Path, columns: Sequence[str]) -> Replay:
    """The scored rows of a folder of shards, a row group at a time; rows without a score are left out.

    Args:
        folder: Shards with `image_id`, `entropy` and the columns.
        columns: What to read, as `strategies.needed_columns` says; `entropy` is read in any case.

    Returns:
        What goes over the shards, in the order of their names, each time it is called; null becomes NaN. It
        raises StorageError where a file is damaged or lacks a column.
    """
    names = list(dict.fromkeys(["entropy", *columns]))

    def replay() -> Iterator[Candidates]:
        for table, load_ids in iter_row_groups(folder, names):
            yield _candidates(table, load_ids)

    return replay


def rows_of(folder: Path, image_ids: Sequence[str], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Some columns of some scored images, by id; shard by shard, since the whole may be larger than memory.

    Raises:
        StorageError: A file is damaged, or lacks a column.
    """
    wanted = pa.array(image_ids, pa.string())
    found: dict[str, dict[str, Any]] = {}
    for name in names_in(folder, ".parquet"):
        shard = read_table(folder / name, ["image_id", *columns])
        rows = shard.filter(pc.is_in(shard["image_id"], value_set=wanted)).to_pylist()
        found.update({row["image_id"]: row for row in rows})
    return found


def groups_of(index: pa.Table) -> Callable[[list[str]], list[str]]:
    """A function that looks up the groups of image_ids in a pool's index."""
    names = index["image_id"].combine_chunks()

    def groups(image_ids: list[str]) -> list[str]:
        rows = pc.index_in(pa.array(image_ids, pa.string()), names)
        found: list[str] = index["group_id"].take(rows).to_pylist()
        return found

    return groups


def _candidates(table: pa.Table, load_ids: Callable[[], pa.ChunkedArray]) -> Candidates:
    if not table["entropy"].null_count:
        return Candidates(table.num_rows, _floats(table), lambda: load_ids().to_pylist())
    scored = pc.is_valid(table["entropy"])
    kept = table.filter(scored)
    return Candidates(kept.num_rows, _floats(kept), lambda: load_ids().filter(scored).to_pylist())


def _floats(table: pa.Table) -> dict[str, npt.NDArray[np.float64]]:
    return {name: table[name].to_numpy().astype(np.float64) for name in table.column_names}
