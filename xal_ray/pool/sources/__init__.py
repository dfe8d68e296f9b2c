"""Sources: each lists its images as manifest rows, without reading a pixel."""

from __future__ import annotations

import importlib

from xal_ray.config import Pool
from xal_ray.pool.manifest import check_manifest
from xal_ray.pool.sources.listing import Listing
from xal_ray.pool.sources.paths import check_some_exist

__all__ = ["Listing", "read_source"]

_NUM_PATHS_TRIED = 20


def read_source(pool: Pool) -> Listing:
    """List the images of a pool's source.

    Returns:
        A checked manifest and what the source knows; splits may be null. With `group_by: image` every image
        is a group of its own; with `group_by: header` the group is null until the file is read.

    Raises:
        SourceError: The source can't be read, or a row is wrong.
    """
    kind = pool.source.resolved_kind()
    # Each kind is a module of its name here, with `read(pool)`.
    listing: Listing = importlib.import_module(f"{__name__}.{kind}").read(pool)
    where = str(pool.source.path or f"pool.source.{kind}")
    rows = listing.manifest
    check_manifest(rows, pool.classes or listing.classes, where=where, rows=listing.row_numbers)
    if kind != "phantom":
        check_some_exist(rows["uri"].slice(0, _NUM_PATHS_TRIED).to_pylist(), where)
    return listing
