"""Sources: each lists its images as manifest rows, without reading a pixel."""

from __future__ import annotations

import pyarrow as pa

from xal_ray.config import Pool
from xal_ray.pool.manifest import MANIFEST_SCHEMA, check_manifest
from xal_ray.pool.sources import folder, phantom, table

__all__ = ["read_source"]


def read_source(pool: Pool) -> pa.Table:
    """List the images of a pool's source.

    Returns:
        A checked manifest (`MANIFEST_SCHEMA`); splits may be null. With `group_by: image` every image is a
        group of its own.

    Raises:
        SourceError: The source can't be read, or a row is wrong.
    """
    kind = pool.source.resolved_kind()
    if kind == "table":
        return table.read(pool.source, pool.group_by, pool.classes)
    if kind == "folder":
        return folder.read(pool.source, pool.group_by, pool.classes)
    rows = phantom.rows(pool.source.phantom)
    if pool.group_by == "image":
        position = MANIFEST_SCHEMA.get_field_index("group_id")
        rows = rows.set_column(position, MANIFEST_SCHEMA.field("group_id"), rows["image_id"])
    check_manifest(rows, pool.classes, where="pool.source.phantom")
    return rows
