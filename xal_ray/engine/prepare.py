"""Prepare: source files, decoded once, become a packed pool.

On a disk the pool grows in a hidden folder beside its place and is renamed into it when it is whole, so that
there is never half a pool. An object store can't rename: there it grows in its place, and is a pool from the
moment its card is written, last. Either way a killed prepare goes on from its finished parts.

One process makes a pool. Another one that is told to make the same waits for it; one with other settings is
refused.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray import config
from xal_ray.engine.context import StageContext
from xal_ray.engine.packing import ATTRIBUTES, ORIGINS, REFUSED, ROW_SCHEMA, ROWS, PackShard
from xal_ray.engine.readiness import fitted
from xal_ray.engine.session import decoding_shape, start
from xal_ray.engine.shards import Shard, cut, run_shards
from xal_ray.engine.shared import sharing
from xal_ray.engine.unfinished_pool import (
    PLAN,
    PoolPlan,
    clear_other_plan,
    is_whole,
    make_plan,
    open_growing,
    refuse_other_plan,
    refuse_strangers,
)
from xal_ray.errors import InputError, SourceError, StageError, StorageError
from xal_ray.places import is_remote
from xal_ray.pool.card import build_card, count_values, find_warned, open_prepared, refused_of, warnings_of
from xal_ray.pool.completeness import check_complete, incomplete
from xal_ray.pool.leakage import check_groups, overlap_between
from xal_ray.pool.reading import makes_many
from xal_ray.pool.schema import (
    ATTRIBUTE_SCHEMA,
    INDEX_SCHEMA,
    LABEL_SCHEMA,
    ORIGIN_SCHEMA,
    QUARANTINE_SCHEMA,
    PoolReader,
    open_pool,
)
from xal_ray.pool.sources import Listing
from xal_ray.pool.splits import assign_splits
from xal_ray.pool.warnings_table import FILE as WARNINGS
from xal_ray.progress import Reporter
from xal_ray.pseudonyms import load_pseudonyms
from xal_ray.storage import (
    disk_errors,
    names_in,
    read_shards,
    read_table,
    remove_tree,
    write_json,
    write_table,
)
from xal_ray.storage.lock import CheckLock, locked_place

# A case of a volume becomes about so many images: a part holds so many fewer of them.
_IMAGES_OF_A_CASE = 64


def prepare(
    settings: config.Pool,
    out: Path,
    context: StageContext,
) -> PoolReader:
    """Make a packed pool, or open the one that is there if it was made with the same settings.

    Args:
        settings: Source, size, splits and limits.
        out: The pool's folder.
        context: Actors and CPUs, and who hears about progress.

    Raises:
        SourceError: The manifest, its images, masks or boxes are wrong.
        PoolError: `out` holds something else.
        StorageError: The disk refused.
    """
    if is_whole(out):
        return open_prepared(settings, out, pseudonym_key_id=_key_id(settings))
    if not is_remote(out) and out.is_symlink():
        out = out.resolve()  # beside what it points to it is made and locked, whatever it is called
    refuse_strangers(out)
    plan = make_plan(settings, context.reporter.line)
    _check_errors(refused_of(plan.listing), _num_listed(plan.listing), settings.limits)
    for path in settings.compare_with:
        open_pool(path)  # what it will be held against is known to be there before an image is decoded
    say_once = cache(
        partial(context.reporter.line, f"another process prepares the pool {out}: waiting for it")
    )

    def while_others_prepare() -> None:
        refuse_other_plan(plan, out)
        say_once()

    with locked_place(out, what="pool", wait_s=math.inf, on_wait=while_others_prepare) as check_lock:
        if (out / "card.json").exists():
            if not is_whole(out):
                _clear_away(out)  # a call was killed when all but this was done
            return open_prepared(settings, out, pseudonym_key_id=_key_id(settings))
        refuse_strangers(out)
        clear_other_plan(plan, out)
        _make(plan, out, context, check_lock)
    return open_pool(out)


def _make(
    plan: PoolPlan,
    out: Path,
    context: StageContext,
    check_lock: CheckLock,
) -> None:
    """Make the pool, while its place is this process's alone."""
    context = context.with_resources(fitted(context.resources, context.reporter, decodes=True))
    start(context.resources, verbose=context.verbose)  # before anything is written
    folder = open_growing(plan, out)
    try:
        shards, unit = _shards(plan, folder)
        with sharing([folder], context.resources):
            run_shards(
                "decoding",
                shards,
                PackShard,
                {
                    "settings": plan.settings,
                    "folder": folder,
                    "pseudonyms": plan.pseudonyms,
                    "binding": plan.binding(out),
                },
                decoding_shape(context.resources),
                context,
                unit=unit,
            )
        check_lock()
        _finish(plan, shards, folder, context.reporter)
    except StorageError:
        raise  # the finished parts are good: the same command goes on with them
    except InputError:
        check_lock()  # what lies there may be another process's by now
        _discard(folder)
        raise
    if not is_remote(out):
        with disk_errors(out):
            if out.exists():
                out.rmdir()
            folder.rename(out)


def _shards(plan: PoolPlan, folder: Path) -> tuple[list[Shard], str]:
    """Return the parts of the pool, and what a row of their manifests is."""
    rows_per_part, unit = plan.settings.rows_per_part, "images"
    if all(makes_many(name) for name in plan.manifest["reader"].unique().to_pylist()):
        rows_per_part, unit = max(1, rows_per_part // _IMAGES_OF_A_CASE), "files or cases"
    return cut(plan.manifest, folder / ROWS, rows_per_part), unit


def _num_listed(listing: Listing) -> int:
    return int(listing.manifest.num_rows) + len(listing.refused)


def _discard(folder: Path) -> None:
    """Remove the growing pool; an actor that is being ended may still finish a file in it."""
    for _ in range(10):
        with suppress(StorageError):
            remove_tree(folder, last=PLAN)
        time.sleep(0.1)
        if not folder.exists():
            return


def _finish(plan: PoolPlan, shards: Sequence[Shard], folder: Path, reporter: Reporter) -> None:
    """Merge what the parts left, deal the splits, check the whole, and write the card last."""
    settings, listing = plan.settings, plan.listing
    rows, quarantine = _check_parts(plan, shards, folder)
    quarantine = pa.concat_tables([refused_of(listing), quarantine])
    _check_errors(quarantine, _num_listed(listing), settings.limits)
    _check_read(rows, plan.classes)
    index = assign_splits(rows, settings.splits).cast(INDEX_SCHEMA)
    check_groups(index)
    attributes = read_shards(folder / ATTRIBUTES, ATTRIBUTE_SCHEMA).sort_by("image_id")
    hidden = index.filter(pc.and_(pc.equal(index["split"], "pool"), pc.is_valid(index["label"])))
    write_table(folder / "hidden_labels.parquet", hidden.select(LABEL_SCHEMA.names).cast(LABEL_SCHEMA))
    write_table(folder / "origins.parquet", read_shards(folder / ORIGINS, ORIGIN_SCHEMA))
    write_table(folder / "attributes.parquet", attributes)
    write_table(folder / "quarantine.parquet", quarantine)
    warned = find_warned(listing, index, attributes)
    write_table(folder / WARNINGS, warned)
    write_table(folder / "index.parquet", _without_hidden_labels(index))
    card = build_card(settings, index, quarantine, plan.classes, listing, attributes, plan.key_id, warned)
    card["overlaps"] += _overlaps(settings, index, attributes)
    write_json(folder / "card.json", card)
    _clear_away(folder)
    for warning in warnings_of(card):
        reporter.line(f"warning: {warning}")


def _key_id(settings: config.Pool) -> str | None:
    """Return the id of the key that such a pool would be made with now, if it asks headers whose they are."""
    return load_pseudonyms().key_id if settings.group_by == "header" else None


def _overlaps(settings: config.Pool, index: pa.Table, attributes: pa.Table) -> list[str]:
    """Return what this pool shares with each of those that it shall be compared with."""
    found = []
    for path in settings.compare_with:
        other = open_pool(path)
        theirs = (path.name, other.index(), read_table(other.path / "attributes.parquet"))
        found += overlap_between([("this pool", index, attributes), theirs])
    return found


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


def _clear_away(pool: Path) -> None:
    """Remove what a whole pool needs no longer; the plan goes last, as the sign that there is something."""
    for folder in (ROWS, ATTRIBUTES, ORIGINS, REFUSED):
        remove_tree(pool / folder)
    (pool / PLAN).unlink()


def _without_hidden_labels(index: pa.Table) -> pa.Table:
    """Return the index as the loop may see it: without the labels of the unlabelled rows."""
    visible = pc.if_else(pc.equal(index["split"], "pool"), pa.scalar(None, pa.string()), index["label"])
    return index.set_column(index.schema.get_field_index("label"), INDEX_SCHEMA.field("label"), visible)


def _check_errors(quarantine: pa.Table, total: int, limits: config.Limits) -> None:
    if quarantine.num_rows > limits.max_error_fraction * total:
        first = quarantine.slice(0, 3).to_pylist()
        raise SourceError(
            "too many images can't be used",
            expected=f"at most {limits.max_error_fraction:.1%} of {total} (pool.limits.max_error_fraction)",
            found=f"{quarantine.num_rows}: {count_values(quarantine['error_code'])}",
            where="; ".join(f"{row['uri']} ({row['error_code']}: {row['detail']})" for row in first),
            next_step="repair or remove these files, masks or boxes, or raise pool.limits.max_error_fraction",
        )


def _check_parts(plan: PoolPlan, shards: Sequence[Shard], folder: Path) -> tuple[pa.Table, pa.Table]:
    """Return the rows and the quarantine of all parts, held against the manifest."""
    wanted = {shard.path.name for shard in shards}
    try:
        for kind in ("parts", ROWS, ATTRIBUTES, ORIGINS, REFUSED):
            there = set(names_in(folder / kind, ".parquet"))
            if there != wanted:
                raise incomplete(
                    expected=f"{len(wanted)} parts",
                    found=f"{len(there & wanted)} of them in {kind}, and {len(there - wanted)} others",
                    where=str(folder),
                )
        quarantine = read_shards(folder / REFUSED, QUARANTINE_SCHEMA)
        rows = read_shards(folder / ROWS, ROW_SCHEMA).sort_by("image_id")
        check_complete(plan.manifest, rows, quarantine, where=str(folder))
    except StageError:
        _discard(folder)
        raise
    return rows, quarantine
