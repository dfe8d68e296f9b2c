"""Reading: a row of the manifest becomes images at training size, with their ROI; each file opened once."""

from __future__ import annotations

from xal_ray.config import Pool
from xal_ray.pool.manifest import Row
from xal_ray.pool.reading import from_plugin
from xal_ray.pool.reading.read import ReadImage
from xal_ray.registry.row_readers import FILES, ROW_READERS

__all__ = ["READ_ROW", "ReadImage", "makes_many", "read_row"]

READ_ROW = f"{__name__}:read_row"  # as a child process is told


def read_row(row: Row, pool: Pool) -> list[ReadImage]:
    """Read the images of a manifest row.

    Args:
        row: A row of `MANIFEST_SCHEMA`.
        pool: Size, channels, limits, and how values become grey.

    Returns:
        One image, or those that the row's `reader` makes of it, in the order of their ids.

    Raises:
        ImageError: A file can't be used.
        SourceError: A mask or box does not fit its image.
        PluginError: The reader is another package's and fails, or breaks what a reader owes.
    """
    spec = ROW_READERS[row["reader"] or FILES]
    if spec.origin is not None:
        return from_plugin.read(spec, row, pool)
    images: list[ReadImage] = spec.load()(row, pool)
    return images


def makes_many(reader: str | None) -> bool:
    """Return whether a manifest row is a case, of which any number of images may come."""
    return ROW_READERS[reader or FILES].makes_many
