"""Assembles a pool from its parts: merges them, deals the splits, checks the whole, and writes the card."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray import config
from xal_ray.errors import SourceError
from xal_ray.pool.card import build_card, count_values, find_warned, refused_of
from xal_ray.pool.card_content import PoolCard
from xal_ray.pool.completeness import check_complete, incomplete
from xal_ray.pool.layout import PoolLayout
from xal_ray.pool.leakage import check_groups, overlap_between
from xal_ray.pool.packing import ROW_SCHEMA
from xal_ray.pool.schema import (
    ATTRIBUTE_SCHEMA,
    INDEX_SCHEMA,
    LABEL_SCHEMA,
    ORIGIN_SCHEMA,
    QUARANTINE_SCHEMA,
    open_pool,
)
from xal_ray.pool.splits import assign_splits
from xal_ray.pool.unfinished import PoolPlan, clear_away
from xal_ray.storage import names_in, read_shards, read_table, write_json, write_table


def assemble(plan: PoolPlan, names: Collection[str], layout: PoolLayout) -> PoolCard:
    """Make a whole pool of finished parts; its card is written last.

    Args:
        plan: What the pool is made with.
        names: The file names of the parts that there should be.
        layout: The growing pool.

    Returns:
        The card.

    Raises:
        SourceError: Too many images can't be used, none is left, or a group or a label does not fit.
        StageError: The parts are not those of the plan.
        StorageError: The disk refused.
    """
    settings, listing = plan.settings, plan.listing
    rows, quarantine = _check_parts(plan, names, layout)
    quarantine = pa.concat_tables([refused_of(listing), quarantine])
    check_errors(quarantine, plan)
    _check_read(rows, plan.classes)
    index = assign_splits(rows, settings.splits).cast(INDEX_SCHEMA)
    check_groups(index)
    attributes = read_shards(layout.attributes_of_parts, ATTRIBUTE_SCHEMA).sort_by("image_id")
    hidden = index.filter(pc.and_(pc.equal(index["split"], "pool"), pc.is_valid(index["label"])))
    write_table(layout.hidden_labels, hidden.select(LABEL_SCHEMA.names).cast(LABEL_SCHEMA))
    write_table(layout.origins, read_shards(layout.origins_of_parts, ORIGIN_SCHEMA))
    write_table(layout.attributes, attributes)
    write_table(layout.quarantine, quarantine)
    warned = find_warned(listing, index, attributes)
    write_table(layout.warnings, warned)
    write_table(layout.index, _without_hidden_labels(index))
    card = build_card(settings, index, quarantine, plan.classes, listing, attributes, plan.key_id, warned)
    card["overlaps"] += _overlaps(settings, index, attributes)
    write_json(layout.card, card)
    clear_away(layout)
    return card


def check_errors(quarantine: pa.Table, plan: PoolPlan) -> None:
    """Refuse a pool of which too much was left out.

    Args:
        quarantine: What was left out so far.
        plan: Says how much may be, and of how many rows.

    Raises:
        SourceError: It was.
    """
    limits = plan.settings.limits
    total = plan.listing.manifest.num_rows + len(plan.listing.refused)
    if quarantine.num_rows > limits.max_error_fraction * total:
        first = quarantine.slice(0, 3).to_pylist()
        raise SourceError(
            "too many images can't be used",
            expected=f"at most {limits.max_error_fraction:.1%} of {total} (pool.limits.max_error_fraction)",
            found=f"{quarantine.num_rows}: {count_values(quarantine['error_code'])}",
            where="; ".join(f"{row['uri']} ({row['error_code']}: {row['detail']})" for row in first),
            next_step="repair or remove these files, masks or boxes, or raise pool.limits.max_error_fraction",
        )


def _check_parts(plan: PoolPlan, names: Collection[str], layout: PoolLayout) -> tuple[pa.Table, pa.Table]:
    """Return the rows and the quarantine of all parts, held against the manifest."""
    wanted, where = set(names), str(layout.path)
    for folder in (
        layout.parts,
        layout.rows_of_parts,
        layout.attributes_of_parts,
        layout.origins_of_parts,
        layout.refused_of_parts,
    ):
        there = set(names_in(folder, ".parquet"))
        if there != wanted:
            raise incomplete(
                expected=f"{len(wanted)} parts",
                found=f"{len(there & wanted)} of them in {folder.name}, and {len(there - wanted)} others",
                where=where,
            )
    quarantine = read_shards(layout.refused_of_parts, QUARANTINE_SCHEMA)
    rows = read_shards(layout.rows_of_parts, ROW_SCHEMA).sort_by("image_id")
    check_complete(plan.manifest, rows, quarantine, where=where)
    return rows, quarantine


def _check_read(rows: pa.Table, classes: tuple[str, ...]) -> None:
    """Check what only reading could tell."""
    if rows.num_rows == 0:
        raise SourceError(
            "no image is left",
            expected="at least one that can be read and that the source's settings choose",
            where="pool.source",
            next_step="loosen what chooses them (pool.source.slices, say), or look at the files",
        )
    unknown = sorted(set(pc.unique(rows["label"]).to_pylist()) - {None, *classes})
    if unknown:
        raise SourceError(
            "a label that reading found is not among the classes",
            expected="one of " + ", ".join(classes),
            found=unknown[0],
            where="pool.classes",
            next_step="name it there, or leave pool.classes out",
        )


def _without_hidden_labels(index: pa.Table) -> pa.Table:
    """Return the index as the loop may see it: without the labels of the unlabelled rows."""
    visible = pc.if_else(pc.equal(index["split"], "pool"), pa.scalar(None, pa.string()), index["label"])
    return index.set_column(index.schema.get_field_index("label"), INDEX_SCHEMA.field("label"), visible)


def _overlaps(settings: config.Pool, index: pa.Table, attributes: pa.Table) -> list[str]:
    """Return what this pool shares with each of those that it shall be compared with."""
    found = []
    for path in settings.compare_with:
        other = open_pool(path)
        theirs = (path.name, other.index(), read_table(other.layout.attributes))
        found += overlap_between([("this pool", index, attributes), theirs])
    return found
