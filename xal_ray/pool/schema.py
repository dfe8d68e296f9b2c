"""The packed pool on disk: the schemas of its files, and the reader of what the loop may see.

POOL/
  card.json              counts, classes, exclusions, hashes, how it was made; written last
  index.parquet          a row an image, without pixels
  parts/00000.parquet    pixels and ROIs, `rows_per_part` images each
  origins.parquet        where each image came from; apart, since a folder's name may be a label
  hidden_labels.parquet  labels of the unlabelled rows, where known; only `labels/oracle.py` opens it
  quarantine.parquet     rows left out, each with a reason
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xal_ray.errors import PoolError
from xal_ray.storage import read_json, read_table

SCHEMA_VERSION = 1
ROW_GROUP_SIZE = 64

SPLITS = ("pool", "labeled", "val", "test")
ROI_STATES = ("present", "absent_confirmed", "not_annotated")

INDEX_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string()),  # null where split is "pool", whatever is known
        pa.field("roi_state", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),  # of the original, pixels
        pa.field("height", pa.int32(), nullable=False),
        pa.field("content_sha256", pa.string(), nullable=False),  # of pixels and ROI as packed
        pa.field("part", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),  # within the part
    ]
)
ORIGIN_SCHEMA = pa.schema(
    [pa.field("image_id", pa.string(), nullable=False), pa.field("uri", pa.string(), nullable=False)]
)
PART_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("pixels", pa.binary(), nullable=False),  # uint8, image_size x image_size x channels
        pa.field("roi", pa.binary()),  # uint8 coverage 0..255, image_size x image_size; null without an ROI
    ]
)
LABEL_SCHEMA = pa.schema(
    [pa.field("image_id", pa.string(), nullable=False), pa.field("label", pa.string(), nullable=False)]
)
QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error_code", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class PixelRows:
    """Images in memory, aligned by row.

    Attributes:
        image_ids: n ids.
        pixels: (n, image_size, image_size, channels) uint8.
        rois: (n, image_size, image_size) float32 in [0, 1]; all zero where `has_roi` is false.
        has_roi: (n,) bool.
    """

    image_ids: list[str]
    pixels: npt.NDArray[np.uint8]
    rois: npt.NDArray[np.float32]
    has_roi: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PoolReader:
    """A packed pool, open for reading; it can be sent to other processes.

    Attributes:
        path: The pool's folder.
        card: The content of `card.json`.
    """

    path: Path
    card: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; a class's position is its index in probabilities."""
        return tuple(self.card["classes"])

    @property
    def image_size(self) -> int:
        """Height and width of the packed images, pixels."""
        return int(self.card["image_size"])

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return int(self.card["channels"])

    @property
    def content_hash(self) -> str:
        """A hash of all ids, groups, splits, labels, pixels and ROIs, independent of their order."""
        return str(self.card["content_hash"])

    def index(self) -> pa.Table:
        """All rows without pixels, sorted by image_id (`INDEX_SCHEMA`)."""
        return read_table(self.path / "index.parquet")

    def read_rows(self, references: pa.Table) -> PixelRows:
        """Read the pixels and ROIs of some rows.

        Args:
            references: A table with at least `image_id`, `part` and `row`.

        Returns:
            The rows in the order of `references`.

        Raises:
            PoolError: The pool does not hold what its index says.
        """
        size, channels = self.image_size, self.channels
        count = references.num_rows
        image_ids = references["image_id"].to_pylist()
        parts = references["part"].to_numpy()
        rows = references["row"].to_numpy()
        pixels = np.zeros((count, size, size, channels), dtype=np.uint8)
        rois = np.zeros((count, size, size), dtype=np.float32)
        has_roi = np.zeros(count, dtype=bool)
        for part in np.unique(parts):
            wanted = np.flatnonzero(parts == part)
            for position, found_id, image, roi in self._read_part(int(part), rows, wanted):
                if found_id != image_ids[position]:
                    raise self._damaged(int(part), f"{found_id} where {image_ids[position]} should be")
                pixels[position] = np.frombuffer(image, dtype=np.uint8).reshape(size, size, channels)
                if roi is not None:
                    rois[position] = np.frombuffer(roi, dtype=np.uint8).reshape(size, size) / np.float32(255)
                    has_roi[position] = True
        return PixelRows(image_ids, pixels, rois, has_roi)

    def _read_part(self, part: int, rows: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> Any:
        """Yield (position, image_id, pixels, roi), reading only the row groups that hold a wanted row."""
        path = self.path / "parts" / f"{part:05d}.parquet"
        groups = rows[wanted] // ROW_GROUP_SIZE
        try:
            with pq.ParquetFile(path) as stream:
                for group in np.unique(groups):
                    table = stream.read_row_group(int(group), use_threads=False)
                    for position in wanted[groups == group]:
                        row = int(rows[position]) - int(group) * ROW_GROUP_SIZE
                        yield (
                            position,
                            table["image_id"][row].as_py(),
                            table["pixels"][row].as_buffer(),
                            table["roi"][row].as_buffer() if table["roi"][row].is_valid else None,
                        )
        except (OSError, pa.ArrowException, IndexError) as error:
            raise self._damaged(part, str(error).split("\n")[0]) from error

    def _damaged(self, part: int, found: str) -> PoolError:
        return PoolError(
            "a part of the pool is damaged",
            found=found,
            where=str(self.path / "parts" / f"{part:05d}.parquet"),
            next_step="remove the pool's folder and prepare it again",
        )


def open_pool(path: Path) -> PoolReader:
    """Open a packed pool.

    Raises:
        PoolError: There is none, or it has another schema version.
    """
    card_path = path / "card.json"
    if not card_path.is_file():
        raise PoolError(
            "there is no packed pool here",
            where=str(path),
            expected="a folder with a card.json, made by `xal-ray prepare`",
            next_step=f"xal-ray prepare SOURCE --out {path}",
        )
    card = read_json(card_path)
    version = card.get("schema_version")
    if version != SCHEMA_VERSION:
        raise PoolError(
            "the pool has another schema version",
            expected=str(SCHEMA_VERSION),
            found=str(version),
            where=str(card_path),
            next_step="prepare the pool again with this version of xal-ray",
        )
    return PoolReader(path, card)


def rows_of_splits(index: pa.Table, *splits: str) -> pa.Table:
    """The rows of an index that stand in one of the named splits, in the index's order."""
    return index.filter(pc.is_in(index["split"], value_set=pa.array(splits)))
