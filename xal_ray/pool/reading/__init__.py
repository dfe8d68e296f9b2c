"""Reading: a row of the manifest becomes images at training size, with their ROI; each file opened once."""

from __future__ import annotations

import importlib

from xal_ray.config import Pool
from xal_ray.pool.manifest import Row
from xal_ray.pool.reading.read import ReadImage

__all__ = ["CASE_READERS", "READ_ROW", "ReadImage", "read_row"]

CASE_READERS = frozenset({"brats"})  # these make many images of a row
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
    """
    # Each reader is a module of its name here; a file that is an image needs none.
    reader = importlib.import_module(f"{__name__}.{row['reader'] or 'files'}")
    images: list[ReadImage] = reader.read(row, pool)
    return images
