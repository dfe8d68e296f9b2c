"""Sizes of the originals that resized copies were made from: boxes are given in the originals' pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xal_ray.errors import SourceError
from xal_ray.pool.sources.common.csvs import Csv, read_csv
from xal_ray.pool.sources.common.layouts import has_file
from xal_ray.pool.sources.common.paths import SourceRoot

_LARGEST_SIDE = 100_000  # pixels

Sizes = dict[str, tuple[int, int]]  # height and width, by image


def read_sizes(root: SourceRoot, names: Sequence[str]) -> tuple[Sizes, list[str]]:
    """Read the sizes that resized copies come with.

    Args:
        root: The set's folder.
        names: CSV files with `image_id,dim0,dim1` (height, width) or `image_id,width,height`, where there.

    Returns:
        The sizes, and the names of the files that were found.

    Raises:
        SourceError: A file lacks the columns, or a size is malformed.
    """
    sizes: Sizes = {}
    found = [name for name in names if has_file(root, name)]
    for name in found:
        columns = read_csv(root, name, ["image_id"], ["dim0", "dim1", "width", "height"])
        sizes |= sizes_of(columns, columns.ids("image_id"), required=True)
    return sizes, found


def sizes_of(columns: Csv, ids: Sequence[str], *, required: bool = False) -> Sizes:
    """Return the sizes in a CSV file that holds them among other things.

    Args:
        columns: With `dim0` and `dim1` (height, width), or `width` and `height`.
        ids: The image of each row.
        required: Whether it is an error that they are not there.
    """
    if {"dim0", "dim1"} <= columns.names:
        heights, widths = columns.numbers("dim0"), columns.numbers("dim1")
    elif {"width", "height"} <= columns.names:
        heights, widths = columns.numbers("height"), columns.numbers("width")
    elif required:
        raise SourceError(
            "the file of the originals' sizes lacks them",
            expected="the columns image_id, dim0 (height), dim1 (width), or image_id, width, height",
            where=columns.where,
        )
    else:
        return {}
    known = np.isfinite(heights) & np.isfinite(widths)
    sound = (np.minimum(heights, widths) >= 1) & (np.maximum(heights, widths) <= _LARGEST_SIDE)
    wrong = np.flatnonzero(known & ~sound)
    if len(wrong):
        raise columns.fault("a size is malformed", int(wrong[0]), expected=f"1 to {_LARGEST_SIDE} pixels")
    return {ids[row]: (int(heights[row]), int(widths[row])) for row in np.flatnonzero(known).tolist()}


def no_sizes(root: SourceRoot, name: str) -> SourceError:
    """Return the error where copies have boxes and no sizes."""
    return SourceError(
        "the images are copies in another format, and the size of their originals is not known",
        expected=f"{name} with the columns image_id, dim0 (height), dim1 (width) of each original",
        found="boxes in pixels of the originals",
        where=str(root.path),
        next_step=f"put {name} there (sets of resized copies come with it), or use the DICOM files",
    )
