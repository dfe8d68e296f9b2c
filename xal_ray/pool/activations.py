"""Activations of a frozen backbone, kept beside the pool: the network runs once, not once a round.

POOL/activations/<key>/
  card.json            what they are of (pool, backbone, its weights, sizes); written last
  backbone/            the weights that made them, for models that keep their last layer only
  parts/00000.arrow    a row for each row of the pool's part, in its order; mapped into memory, never copied

An image takes about five times as much as its pixels (1,280 x 5 x 5 floats against 160 x 160 bytes): meant
for many runs on a pool that fits the disk and, best, the memory, not for one pass over ten million images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from xal_ray.acquire.fullsize import Regions, fine_cells
from xal_ray.errors import ConfigError, PoolError
from xal_ray.model.saliency import Kept
from xal_ray.places import is_remote
from xal_ray.storage import write_bytes

Floats = npt.NDArray[np.float32]

PARTS_AT_HAND = 4096  # mapped files: what is mapped costs addresses, not memory


@dataclass(frozen=True)
class Shapes:
    """Holds the shapes of what is kept for one image.

    Attributes:
        activation: (k, h, w), or (2 + h w, k) for tokens.
        width: d of the embedding, the last linear layer's input.
        grid: Rows and columns of its saliency map.
        frame: Height and width of the packed images, pixels.
    """

    activation: tuple[int, ...]
    width: int
    grid: tuple[int, int]
    frame: tuple[int, int]

    @property
    def fine(self) -> tuple[int, int]:
        """Return rows and columns of an ROI's finer grid."""
        return fine_cells(self.grid[0]), fine_cells(self.grid[1])

    @property
    def bytes_per_image(self) -> int:
        """Return what an image takes on the disk, nearly."""
        return 4 * (int(np.prod(self.activation)) + self.width + int(np.prod(self.grid))) + int(
            np.prod(self.fine)
        )

    def schema(self) -> pa.Schema:
        """Return the schema of a part."""
        value = pa.float32()
        return pa.schema(
            [
                pa.field("image_id", pa.string(), nullable=False),
                pa.field("activation", pa.list_(value, int(np.prod(self.activation))), nullable=False),
                pa.field("embedding", pa.list_(value, self.width), nullable=False),
                pa.field("has_roi", pa.bool_(), nullable=False),
                pa.field("roi_adjoint", pa.list_(value, int(np.prod(self.grid))), nullable=False),
                pa.field("roi_fine", pa.list_(pa.uint8(), int(np.prod(self.fine))), nullable=False),
            ]
        )


@dataclass(frozen=True)
class ActivationRows:
    """Images in memory as a frozen backbone sees them, aligned by row.

    Attributes:
        image_ids: n ids.
        inputs: What a network goes on from.
        has_roi: (n,) bool.
        rois: Reduced regions of all n; those without an ROI are empty.
    """

    image_ids: list[str]
    inputs: Kept
    has_roi: npt.NDArray[np.bool_]
    rois: Regions

    def regions(self, rows: npt.NDArray[np.intp], grid: tuple[int, int]) -> Regions:
        """Return the reduced ROIs of some rows, for maps of the grid that they were made for."""
        assert grid == self.rois.adjoint.shape[1:]  # noqa: S101  the same network drew both
        return self.rois.take(rows)


@dataclass(frozen=True)
class ActivationReader:
    """Kept activations, open for reading; it can be sent to other processes.

    Attributes:
        path: Their folder.
        shapes: Of what is kept for one image.
    """

    path: Path
    shapes: Shapes

    @property
    def backbone(self) -> Path:
        """Return the folder of the weights that made them."""
        return self.path / "backbone"

    def read_embeddings(self, references: pa.Table) -> Floats:
        """Return the last layer's input of some rows, (n, d), in the order of `references`.

        Raises:
            PoolError: A part is damaged.
        """
        embeddings = np.empty((references.num_rows, self.shapes.width), dtype=np.float32)
        for positions, part, rows in self._by_part(references):
            embeddings[positions] = _matrix(part, "embedding", (self.shapes.width,))[rows]
        return embeddings

    def read_rows(self, references: pa.Table) -> ActivationRows:
        """Return what is kept of some rows, in the order of `references`.

        Args:
            references: A table with at least `image_id`, `part` and `row`.

        Raises:
            PoolError: A part is damaged.
        """
        count, shapes = references.num_rows, self.shapes
        embeddings = np.empty((count, shapes.width), dtype=np.float32)
        activations: list[Any] = [None] * count
        has_roi = np.zeros(count, dtype=bool)
        adjoint = np.empty((count, *shapes.grid), dtype=np.float32)
        fine = np.empty((count, *shapes.fine), dtype=np.uint8)
        for positions, part, rows in self._by_part(references):
            embeddings[positions] = _matrix(part, "embedding", (shapes.width,))[rows]
            mapped = _matrix(part, "activation", shapes.activation)
            for position, row in zip(positions.tolist(), rows.tolist(), strict=True):
                activations[position] = mapped[row]
            has_roi[positions] = part["has_roi"].to_numpy(zero_copy_only=False)[rows]
            adjoint[positions] = _matrix(part, "roi_adjoint", shapes.grid)[rows]
            fine[positions] = _matrix(part, "roi_fine", shapes.fine)[rows]
        image_ids = references["image_id"].to_pylist()
        rois = Regions(adjoint, fine, shapes.frame)
        return ActivationRows(image_ids, Kept(embeddings, activations), has_roi, rois)

    def stream_rows(self, references: pa.Table, rows_at_once: int) -> Iterator[ActivationRows]:
        """`read_rows` piece by piece.

        Raises:
            PoolError: A part is damaged.
        """
        for start in range(0, references.num_rows, rows_at_once):
            yield self.read_rows(references.slice(start, rows_at_once))

    def _by_part(
        self, references: pa.Table
    ) -> Iterator[tuple[npt.NDArray[np.intp], pa.RecordBatch, npt.NDArray[np.number]]]:
        """For each part: the positions of its rows among the references, its columns, and the rows in it."""
        numbers, rows = references["part"].to_numpy(), references["row"].to_numpy()
        image_ids = references["image_id"].combine_chunks()
        for number in np.unique(numbers):
            positions = np.flatnonzero(numbers == number)
            path = part_path(self.path, int(number))
            part = _open_part(path)
            try:
                same = (
                    part["image_id"]
                    .take(pa.array(rows[positions]))
                    .equals(image_ids.take(pa.array(positions)))
                )
            except pa.ArrowIndexError:
                same = False
            if not same:
                raise _damaged(path, "it holds other images than the pool's index says")
            yield positions, part, rows[positions]


def refuse_remote(pool: Path) -> None:
    """Refuse a pool in an object store: what is kept is mapped into memory, which takes a file.

    Raises:
        ConfigError: It is one.
    """
    if is_remote(pool):
        raise ConfigError(
            "kept activations need a pool on a disk: they are mapped into memory",
            found=str(pool),
            where="model.cache_activations",
            next_step="copy the pool to a local or shared (NFS) folder, or set model.cache_activations=false",
        )


def part_path(folder: Path, number: int) -> Path:
    """Return the file that belongs to a part of the pool."""
    return folder / "parts" / f"{number:05d}.arrow"


def write_part(
    path: Path,
    shapes: Shapes,
    image_ids: list[str],
    activations: Floats,
    embeddings: Floats,
    has_roi: npt.NDArray[np.bool_],
    rois: Regions,
) -> None:
    """Write a part atomically; arguments are aligned by row.

    Raises:
        StorageError: The disk refused.
    """
    schema = shapes.schema()
    columns = {"image_id": pa.array(image_ids, pa.string()), "has_roi": pa.array(has_roi)}
    lists: dict[str, npt.NDArray[np.number]] = {
        "activation": activations,
        "embedding": embeddings,
        "roi_adjoint": rois.adjoint,
        "roi_fine": rois.fine,
    }
    for name, values in lists.items():
        columns[name] = pa.FixedSizeListArray.from_arrays(
            pa.array(values.reshape(-1)), type=schema.field(name).type
        )
    batch = pa.record_batch([columns[name] for name in schema.names], schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as file:
        file.write_batch(batch)
    write_bytes(path, sink.getvalue())


def _open_part(path: Path) -> pa.RecordBatch:
    """Return a part, mapped."""
    try:
        about = path.stat()
        return _mapped(path, (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns))
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, str(error).split("\n")[0]) from error


@lru_cache(maxsize=PARTS_AT_HAND)
def _mapped(path: Path, file: tuple[int, int, int, int]) -> pa.RecordBatch:
    """Return a part, kept by the file that it is: another pool may have lain at its path before."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def _matrix(part: pa.RecordBatch, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.number]:
    """Return a column of lists as (rows, *shape), not copied."""
    values = part[name].flatten().to_numpy(zero_copy_only=True)
    matrix: npt.NDArray[np.number] = values.reshape(part.num_rows, *shape)
    return matrix


def _damaged(path: Path, found: str) -> PoolError:
    return PoolError(
        "kept activations are damaged",
        found=found,
        where=str(path),
        next_step=f"remove {path.parent.parent} and run the same command again: they are made again",
    )
