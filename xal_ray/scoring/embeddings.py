"""The column `embedding` of score shards: of some images, or of all in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.errors import StorageError
from xal_ray.storage import names_in, read_table

Halves = npt.NDArray[np.float16]


def embeddings_of(folder: Path, image_ids: Sequence[str]) -> Halves:
    """Return the embeddings of some scored images, (m, d) float16, in the order of the ids.

    One shard's are in memory at a time, beside those that are returned.

    Args:
        folder: Shards with the column `embedding`.
        image_ids: Unique; each has a score.

    Raises:
        StorageError: A file is damaged, or lacks the column or an image.
    """
    wanted = pa.array(image_ids, pa.string())
    found: Halves | None = None
    num_found = 0
    for name in names_in(folder, ".parquet"):
        positions = pc.index_in(read_table(folder / name, ["image_id"])["image_id"], value_set=wanted)
        if positions.null_count == len(positions):
            continue
        table = read_table(folder / name, ["embedding"]).append_column("place", positions)
        table = table.filter(pc.and_(pc.is_valid(positions), pc.is_valid(table["embedding"])))
        part = _matrix(table)
        if found is None:
            found = np.empty((len(image_ids), part.shape[1]), dtype=np.float16)
        found[table["place"].to_numpy()] = part
        num_found += len(part)
    if num_found != len(image_ids):
        raise StorageError(
            "the scores lack an embedding",
            expected=f"one for each of {len(image_ids)} images",
            found=str(num_found),
            where=str(folder),
            next_step="remove the folder and run the same command again",
        )
    return np.empty((0, 0), dtype=np.float16) if found is None else found


def all_embeddings(folder: Path) -> tuple[list[str], Halves]:
    """Return the ids of all images of a folder that have an embedding, and these, (n, d) float16.

    Raises:
        StorageError: A file is damaged, or lacks the column.
    """
    tables = [read_table(folder / name, ["image_id", "embedding"]) for name in names_in(folder, ".parquet")]
    if not tables:
        return [], np.empty((0, 0), dtype=np.float16)
    table = pa.concat_tables(tables)
    table = table.filter(pc.is_valid(table["embedding"]))
    return table["image_id"].to_pylist(), _matrix(table)


def _matrix(table: pa.Table) -> Halves:
    """Return the column as (n, d); no row of it is null."""
    column = table["embedding"]
    flat: Halves = pc.list_flatten(column).to_numpy().astype(np.float16, copy=False)
    return flat.reshape(table.num_rows, column.type.list_size)
