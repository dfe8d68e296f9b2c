"""Sources: each lists its images as manifest rows, without reading a pixel."""

from __future__ import annotations

from dataclasses import replace

import pyarrow.compute as pc

from xal_ray.config import Pool
from xal_ray.errors import ConfigError, SourceError
from xal_ray.pool.manifest import check_manifest
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.pool.sources.common.paths import check_some_exist
from xal_ray.pool.sources.from_plugin import list_images
from xal_ray.pool.spellings import class_warnings, group_warnings, is_group_an_image
from xal_ray.registry.sources import OPTIONS, SOURCES, SourceSpec

__all__ = ["Listing", "read_source"]

_NUM_PATHS_TRIED = 20


def read_source(pool: Pool) -> Listing:
    """List the images of a pool's source.

    Returns:
        A checked manifest and what the source knows; splits may be null. With `group_by: image` every image
        is a group of its own; with `group_by: header` the group is null until the file is read.

    Raises:
        SourceError: The source can't be read, or a row is wrong.
        PluginError: The source is a plug-in that fails, or breaks what a source owes.
        ConfigError: There are options that the source does not read.
    """
    spec = SOURCES[pool.source.resolved_kind()]
    _check_options(pool, spec)
    listing: Listing = spec.load()(pool) if spec.origin is None else list_images(spec, pool)
    where = str(pool.source.path or f"pool.source.{spec.name}")
    if spec.origin is not None:
        where = f"the source {spec.title}"
    rows = listing.manifest
    if not rows.num_rows and listing.refused:
        raise SourceError(
            "no image can be used",
            found=f"images that are left out: {len(listing.refused)}; the first: {listing.refused[0].detail}",
            where=where,
            next_step="correct the annotations: boxes are corners or sizes in pixels of the images, as the "
            "source's kind has them, and numbers are written with points",
        )
    check_manifest(rows, pool.classes or listing.classes, where=where, rows=listing.row_numbers)
    if spec.needs_path:
        check_some_exist(rows["uri"].slice(0, _NUM_PATHS_TRIED).to_pylist(), where)
    return replace(listing, notes=(*listing.notes, *_oddities(pool, spec, listing)))


def _check_options(pool: Pool, spec: SourceSpec) -> None:
    if pool.source.options and OPTIONS not in spec.settings:
        raise ConfigError(
            f"the source {spec.name} reads no options",
            expected="pool.source.options beside a source of another package alone",
            found=", ".join(pool.source.options),
            where="pool.source.options",
            next_step=f"remove them; it reads {', '.join(spec.settings) or 'no settings of its own'}",
        )


def _oddities(pool: Pool, spec: SourceSpec, listing: Listing) -> list[str]:
    """Say what may be meant otherwise: names that are one but for their spelling, odd groups."""
    rows = listing.manifest
    labels = pc.value_counts(pc.drop_null(rows["label"])).to_pylist()
    counts = {entry["values"]: entry["counts"] for entry in labels}
    classes = pool.classes or listing.classes or sorted(counts)
    found = [f"warning: {text}" for text in class_warnings(classes, counts)]
    if pool.group_by == "group_id" and not rows["group_id"].null_count:
        numbers = listing.row_numbers or range(1, rows.num_rows + 1)
        found += [f"warning: {text}" for text in group_warnings(rows["group_id"], numbers)]
        if spec.is_told_groups and is_group_an_image(rows["group_id"]):
            found.append(
                "every image is a group of its own: that is right only if no two images show the same patient"
            )
    return found
