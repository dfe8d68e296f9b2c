"""Prepare: source files, decoded once, become a packed pool.

On a disk the pool grows in a hidden folder beside its place and is renamed into it when it is whole, so that
there is never half a pool. An object store can't rename: there it grows in its place, and is a pool from the
moment its card is written, last. Either way a killed prepare goes on from its finished parts.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray import config
from xal_ray.engine.packing import ATTRIBUTES, ORIGINS, REFUSED, ROW_SCHEMA, ROWS, PackShard
from xal_ray.engine.session import decoding_shape, start
from xal_ray.engine.shards import cut, run_shards
from xal_ray.engine.shared import sharing
from xal_ray.errors import InputError, PoolError, SourceError, StorageError
from xal_ray.places import is_remote
from xal_ray.pool.card import build_card, count_values, open_prepared, plan_of, warnings_of
from xal_ray.pool.leakage import check_groups, overlap_between
from xal_ray.pool.manifest import classes_of, fingerprint
from xal_ray.pool.reading import CASE_READERS
from xal_ray.pool.schema import (
    ATTRIBUTE_SCHEMA,
    INDEX_SCHEMA,
    LABEL_SCHEMA,
    ORIGIN_SCHEMA,
    QUARANTINE_SCHEMA,
    PoolReader,
    open_pool,
)
from xal_ray.pool.sources import Listing, read_source
from xal_ray.pool.splits import assign_splits
from xal_ray.pool.warned import FILE as WARNINGS
from xal_ray.pool.warned import warned_of_reading, warned_table
from xal_ray.progress import Reporter
from xal_ray.pseudonyms import Pseudonyms, load_pseudonyms
from xal_ray.storage import (
    disk_errors,
    is_empty,
    read_json,
    read_shards,
    read_table,
    remove_tree,
    write_json,
    write_table,
)

# What the folder of a growing pool is bound to: a part made under other settings must not be reused.
_PLAN = "plan.json"
# A case of a volume becomes about so many images: a part holds so many fewer of them.
_IMAGES_OF_A_CASE = 64


def prepare(
    settings: config.Pool,
    out: Path,
    resources: config.Ray,
    reporter: Reporter,
    *,
    verbose: bool = False,
) -> PoolReader:
    """Make a packed pool, or open the one that is there if it was made with the same settings.

    Args:
        settings: Source, size, splits and limits.
        out: The pool's folder.
        resources: Actors and CPUs.
        reporter: Hears about progress.
        verbose: Let Ray speak.

    Raises:
        SourceError: The manifest, its images, masks or boxes are wrong.
        PoolError: `out` holds something else.
        StorageError: The disk refused.
    """
    if (out / "card.json").exists():
        if is_remote(out) and (out / _PLAN).exists():
            _clear_away(out)  # a call was killed when all but this was done
        return open_prepared(settings, out, pseudonym_key_id=_key_id(settings))
    if not is_empty(out) and not (is_remote(out) and (out / _PLAN).exists()):
        raise PoolError(
            "the pool's folder holds something else",
            where=str(out),
            next_step="give another --out (or pool.path), or remove the folder",
        )
    listing = read_source(settings)
    for note in listing.notes:
        reporter.line(note)
    manifest = listing.manifest.sort_by("image_id")
    classes = classes_of(manifest, settings.classes or listing.classes)
    pseudonyms = load_pseudonyms() if _asks_headers(manifest) else None
    partial = _open_partial(settings, manifest, out, pseudonyms)
    try:
        start(resources, verbose=verbose)
        rows_per_part, unit = settings.rows_per_part, "images"
        if set(manifest["reader"].unique().to_pylist()) <= CASE_READERS:
            rows_per_part, unit = max(1, rows_per_part // _IMAGES_OF_A_CASE), "files or cases"
        shards = cut(manifest, partial / ROWS, rows_per_part)
        with sharing([partial], resources):
            run_shards(
                "decoding",
                shards,
                PackShard,
                {"settings": settings, "folder": partial, "pseudonyms": pseudonyms},
                decoding_shape(resources),
                reporter,
                resources,
                unit=unit,
            )
        _finish(settings, listing, classes, pseudonyms, partial, reporter)
    except StorageError:
        raise  # the finished parts are good: the same command goes on with them
    except InputError:
        _discard(partial)
        raise
    if not is_remote(out):
        with disk_errors(out):
            if out.exists():
                out.rmdir()
            partial.rename(out)
    return open_pool(out)


def _discard(partial: Path) -> None:
    """Remove the growing pool; an actor that is being ended may still finish a file in it."""
    for _ in range(10):
        with suppress(StorageError):
            remove_tree(partial, last=_PLAN)
        time.sleep(0.1)
        if not partial.exists():
            return


def _asks_headers(manifest: pa.Table) -> bool:
    """Whether reading makes group ids of what a file says of its patient."""
    return bool(manifest["group_id"].null_count)


def _finish(
    settings: config.Pool,
    listing: Listing,
    classes: tuple[str, ...],
    pseudonyms: Pseudonyms | None,
    partial: Path,
    reporter: Reporter,
) -> None:
    """Merge what the parts left, deal the splits, check the whole, and write the card last."""
    quarantine = read_shards(partial / REFUSED, QUARANTINE_SCHEMA)
    _check_errors(quarantine, listing.manifest.num_rows, settings.limits)
    rows = read_shards(partial / ROWS, ROW_SCHEMA).sort_by("image_id")
    _check_read(rows, classes)
    index = assign_splits(rows, settings.splits).cast(INDEX_SCHEMA)
    check_groups(index)
    attributes = read_shards(partial / ATTRIBUTES, ATTRIBUTE_SCHEMA).sort_by("image_id")
    hidden = index.filter(pc.and_(pc.equal(index["split"], "pool"), pc.is_valid(index["label"])))
    write_table(partial / "hidden_labels.parquet", hidden.select(LABEL_SCHEMA.names).cast(LABEL_SCHEMA))
    write_table(partial / "origins.parquet", read_shards(partial / ORIGINS, ORIGIN_SCHEMA))
    write_table(partial / "attributes.parquet", attributes)
    write_table(partial / "quarantine.parquet", quarantine)
    warned = warned_table([*listing.warned, *warned_of_reading(attributes)])
    write_table(partial / WARNINGS, warned)
    write_table(partial / "index.parquet", _without_hidden_labels(index))
    key_id = None if pseudonyms is None else pseudonyms.key_id
    card = build_card(settings, index, quarantine, classes, listing, attributes, key_id, warned)
    card["overlaps"] += _overlaps(settings, index, attributes)
    write_json(partial / "card.json", card)
    _clear_away(partial)
    for warning in warnings_of(card):
        reporter.line(f"warning: {warning}")


def _key_id(settings: config.Pool) -> str | None:
    """Of the key that such a pool would be made with now, if it asks headers whose they are."""
    return load_pseudonyms().key_id if settings.group_by == "header" else None


def _overlaps(settings: config.Pool, index: pa.Table, attributes: pa.Table) -> list[str]:
    """What this pool shares with each of those that it shall be compared with."""
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
    (pool / _PLAN).unlink()


def _without_hidden_labels(index: pa.Table) -> pa.Table:
    """The index as the loop may see it: without the labels of the unlabelled rows."""
    visible = pc.if_else(pc.equal(index["split"], "pool"), pa.scalar(None, pa.string()), index["label"])
    return index.set_column(index.schema.get_field_index("label"), INDEX_SCHEMA.field("label"), visible)


def _check_errors(quarantine: pa.Table, total: int, limits: config.Limits) -> None:
    if quarantine.num_rows > limits.max_error_fraction * total:
        first = quarantine.slice(0, 3).to_pylist()
        raise SourceError(
            "too many images can't be decoded",
            expected=f"at most {limits.max_error_fraction:.1%} of {total} (pool.limits.max_error_fraction)",
            found=f"{quarantine.num_rows}: {count_values(quarantine['error_code'])}",
            where="; ".join(f"{row['uri']} ({row['error_code']}: {row['detail']})" for row in first),
            next_step="repair or remove these files, or raise pool.limits.max_error_fraction",
        )


def _open_partial(
    settings: config.Pool, manifest: pa.Table, out: Path, pseudonyms: Pseudonyms | None
) -> Path:
    """The folder in which the pool grows; what was begun under another plan is thrown away."""
    partial = out if is_remote(out) else out.parent / f".{out.name}.partial"
    rows = fingerprint(manifest)
    plan = {"settings": plan_of(settings), "manifest": rows, "key": pseudonyms and pseudonyms.key_id}
    known = (partial / _PLAN).exists() and read_json(partial / _PLAN) == plan
    if not known:
        remove_tree(partial, last=_PLAN)
        write_json(partial / _PLAN, plan)
    return partial
