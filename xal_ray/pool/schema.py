"""Holds the schemas of a packed pool's files (`pool/layout.py`) and the reader of what the loop may see."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.acquire.fullsize import Regions, reduce_rois
from xal_ray.errors import PoolError, StorageError
from xal_ray.places import is_remote
from xal_ray.pool.card_content import PoolCard
from xal_ray.pool.layout import PoolLayout
from xal_ray.storage import Footer, digest, open_parquet, read_footer, read_json, read_table

SCHEMA_VERSION = 2
ROW_GROUP_SIZE = 64
FOOTERS_AT_HAND = 2048  # of some kilobytes each

REFERENCE_COLUMNS = ("image_id", "part", "row")  # of the index: what finds an image's pixels
SPLITS = ("pool", "labeled", "val", "test")
ROI_STATES = ("present", "absent_confirmed", "not_annotated")
ATTRIBUTES = ("study_id", "site", "device", "sex", "age_band")

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
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("frame", pa.int32()),  # of a file that holds several
        pa.field("is_part", pa.bool_(), nullable=False),  # made by a reader out of several files, or drawn
    ]
)
ATTRIBUTE_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        *(pa.field(name, pa.string()) for name in ATTRIBUTES),
        pa.field("likeness", pa.binary(32), nullable=False),  # `pool/perceptual_hash.py`
        pa.field("burned_in", pa.bool_(), nullable=False),  # the header says that the pixels hold text
        pa.field("remarks", pa.list_(pa.string()), nullable=False),  # what reading noticed: `pool/remarks.py`
    ]
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
        rois: (n, image_size, image_size) uint8 coverage, 0 to 255; all zero where `has_roi` is false.
        has_roi: (n,) bool.
    """

    image_ids: list[str]
    pixels: npt.NDArray[np.uint8]
    rois: npt.NDArray[np.uint8]
    has_roi: npt.NDArray[np.bool_]

    @property
    def inputs(self) -> npt.NDArray[np.uint8]:
        """Return what a network is given."""
        return self.pixels

    def regions(self, rows: npt.NDArray[np.intp], grid: tuple[int, int]) -> Regions:
        """Return the ROIs of some rows, reduced for saliency maps of a grid."""
        return reduce_rois(self.rois[rows], grid)

    def cut(self, rows_at_once: int) -> Iterator[PixelRows]:
        """Yield the same rows in pieces, none copied."""
        for start in range(0, len(self.image_ids), rows_at_once):
            piece = slice(start, start + rows_at_once)
            yield PixelRows(self.image_ids[piece], self.pixels[piece], self.rois[piece], self.has_roi[piece])


@dataclass(frozen=True)
class PoolReader:
    """A packed pool, open for reading; it can be sent to other processes.

    Attributes:
        path: The pool's folder.
        card: The content of `card.json`.
    """

    path: Path
    card: PoolCard

    @property
    def layout(self) -> PoolLayout:
        """Return where the pool's files lie."""
        return PoolLayout(self.path)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names; a class's position is its index in probabilities."""
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
        """Return a hash of all ids, groups, splits, labels, pixels and ROIs, independent of their order."""
        return str(self.card["content_hash"])

    @property
    def identity(self) -> str:
        """Return a hash of all that the card says: of the content, and of how it lies in parts and rows."""
        return digest(self.card)

    def index(self) -> pa.Table:
        """Return all rows without pixels, sorted by image_id (`INDEX_SCHEMA`)."""
        return read_table(self.layout.index)

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
        image_ids = references["image_id"].combine_chunks()
        parts = references["part"].to_numpy()
        rows = references["row"].to_numpy()
        pixels = np.zeros((count, size, size, channels), dtype=np.uint8)
        rois = np.zeros((count, size, size), dtype=np.uint8)
        has_roi = np.zeros(count, dtype=bool)
        for part in np.unique(parts):
            wanted = np.flatnonzero(parts == part)
            for positions, table in self._read_part(int(part), rows, wanted):
                if not table["image_id"].equals(image_ids.take(pa.array(positions))):
                    raise self._damaged(int(part), "it holds other images than the index says")
                pixels[positions] = _stacked(table["pixels"], (size, size, channels))
                present = table["roi"].is_valid().to_numpy(zero_copy_only=False)
                has_roi[positions] = present
                rois[positions[present]] = _stacked(table["roi"].drop_null(), (size, size))
        return PixelRows(image_ids.to_pylist(), pixels, rois, has_roi)

    def stream_rows(self, references: pa.Table, rows_at_once: int) -> Iterator[PixelRows]:
        """`read_rows` piece by piece, the next piece being read while the caller works on this one.

        Args:
            references: As for `read_rows`.
            rows_at_once: Rows in a piece.

        Raises:
            PoolError: As for `read_rows`.
        """
        pieces = [
            references.slice(start, rows_at_once) for start in range(0, references.num_rows, rows_at_once)
        ]
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = [reader.submit(self.read_rows, piece) for piece in pieces[:1]]
            for following in [*pieces[1:], None]:
                piece = ahead.pop().result()
                if following is not None:
                    ahead.append(reader.submit(self.read_rows, following))
                yield piece

    def _read_part(
        self, part: int, rows: npt.NDArray[Any], wanted: npt.NDArray[np.intp]
    ) -> Iterator[tuple[npt.NDArray[np.intp], pa.RecordBatch]]:
        """Yield the positions of some wanted rows and their columns, from the row groups that hold any."""
        path = self.layout.part(part)
        groups = rows[wanted] // ROW_GROUP_SIZE
        try:
            with open_parquet(path, self._footer(path)) as stream:
                for group in np.unique(groups):
                    table = stream.read_row_group(int(group), use_threads=False).combine_chunks()
                    positions = wanted[groups == group]
                    (batch,) = table.to_batches()
                    local = rows[positions] - int(group) * ROW_GROUP_SIZE
                    if np.array_equal(local, np.arange(local[0], local[0] + len(local))):
                        yield positions, batch.slice(int(local[0]), len(local))  # not a copy
                    else:
                        yield positions, batch.take(pa.array(local))
        except StorageError as error:
            if is_remote(path) and path.exists():
                raise  # the store's refusal says more than that the part is damaged
            raise self._damaged(part, str(error.details["found"])) from error
        except (OSError, pa.ArrowException, IndexError, ValueError) as error:
            raise self._damaged(part, str(error).split("\n")[0]) from error

    def _footer(self, path: Path) -> Footer | None:
        """Read the footer of a part in an object store; it is kept, as parts are opened for a few rows."""
        return _kept_footer(path, self.identity) if is_remote(path) else None

    def _damaged(self, part: int, found: str) -> PoolError:
        return PoolError(
            "a part of the pool is damaged",
            found=found,
            where=str(self.layout.part(part)),
            next_step="remove the pool's folder and prepare it again",
        )


@lru_cache(maxsize=FOOTERS_AT_HAND)
def _kept_footer(path: Path, identity: str) -> Footer:
    """Keep the footer of a part of that pool; another may have lain here before, in other parts, too."""
    return read_footer(path)


def _stacked(column: pa.Array, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Binary values of one length as (n, *shape) uint8, without a copy.

    Raises:
        ValueError: A value has another length.
    """
    length = math.prod(shape)
    _, offsets, values = column.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[column.offset : column.offset + len(column) + 1]
    if not np.array_equal(np.diff(ends), np.full(len(column), length)):
        raise ValueError(f"an image that is not of {length} bytes")
    if not len(column):
        return np.zeros((0, *shape), dtype=np.uint8)
    flat = np.frombuffer(values, dtype=np.uint8)[ends[0] : ends[-1]]
    return flat.reshape(len(column), *shape)


def open_pool(path: Path) -> PoolReader:
    """Open a packed pool.

    Raises:
        PoolError: There is none, or it has another schema version.
    """
    card_path = PoolLayout(path).card
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
    """Return the rows of an index that stand in one of the named splits, in the index's order."""
    return index.filter(pc.is_in(index["split"], value_set=pa.array(splits)))
