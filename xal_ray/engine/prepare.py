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

from xal_ray import config
from xal_ray.engine.context import StageContext, open_context
from xal_ray.engine.readiness import fitted
from xal_ray.engine.session import decoding_shape, start
from xal_ray.engine.shards import Shard, cut, run_shards
from xal_ray.engine.shared import sharing
from xal_ray.errors import InputError, StageError, StorageError
from xal_ray.places import is_remote
from xal_ray.pool.assemble import assemble, check_errors
from xal_ray.pool.card import open_prepared, refused_of, warnings_of
from xal_ray.pool.layout import PoolLayout
from xal_ray.pool.packing import PackShard
from xal_ray.pool.reading import makes_many
from xal_ray.pool.schema import PoolReader, open_pool
from xal_ray.pool.unfinished import (
    PoolPlan,
    clear_away,
    clear_other_plan,
    is_whole,
    make_plan,
    open_growing,
    refuse_other_plan,
    refuse_strangers,
)
from xal_ray.progress import Reporter
from xal_ray.pseudonyms import load_pseudonyms
from xal_ray.storage import disk_errors, remove_tree
from xal_ray.storage.lock import CheckLock, locked_place

# A case of a volume becomes about so many images: a part holds so many fewer of them.
_IMAGES_OF_A_CASE = 64


def prepare(settings: config.Pool, out: Path, context: StageContext | None = None) -> PoolReader:
    """Make a packed pool, or open the one that is there if it was made with the same settings.

    Args:
        settings: Source, size, splits and limits.
        out: The pool's folder.
        context: Actors and CPUs, and who hears about progress; None: what the machine has, for this call
            alone, and lines or bars on standard error.

    Raises:
        SourceError: The manifest, its images, masks or boxes are wrong.
        PoolError: `out` holds something else.
        StorageError: The disk refused.
    """
    if context is None:
        with open_context(config.Ray(), Reporter()) as context:
            return prepare(settings, out, context)
    if is_whole(out):
        return open_prepared(settings, out, pseudonym_key_id=_key_id(settings))
    if not is_remote(out) and out.is_symlink():
        out = out.resolve()  # beside what it points to it is made and locked, whatever it is called
    refuse_strangers(out)
    plan = make_plan(settings, context.reporter.line)
    check_errors(refused_of(plan.listing), plan)
    for path in settings.compare_with:
        open_pool(path)  # what it will be held against is known to be there before an image is decoded
    say_once = cache(
        partial(context.reporter.line, f"another process prepares the pool {out}: waiting for it")
    )

    def while_others_prepare() -> None:
        refuse_other_plan(plan, out)
        say_once()

    with locked_place(out, what="pool", wait_s=math.inf, on_wait=while_others_prepare) as check_lock:
        if PoolLayout(out).card.exists():
            if not is_whole(out):
                clear_away(PoolLayout(out))  # a call was killed when all but this was done
            return open_prepared(settings, out, pseudonym_key_id=_key_id(settings))
        refuse_strangers(out)
        clear_other_plan(plan, out)
        _make(plan, out, context, check_lock)
    return open_pool(out)


def _make(plan: PoolPlan, out: Path, context: StageContext, check_lock: CheckLock) -> None:
    """Make the pool, while its place is this process's alone."""
    context = context.with_resources(fitted(context.resources, context.reporter, decodes=True))
    start(context.resources, verbose=context.verbose)  # before anything is written
    layout = open_growing(plan, out)
    folder = layout.path
    try:
        shards, unit = _shards(plan, layout)
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
        _assemble(plan, shards, layout, context)
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


def _shards(plan: PoolPlan, layout: PoolLayout) -> tuple[list[Shard], str]:
    """Return the parts of the pool, and what a row of their manifests is."""
    rows_per_part, unit = plan.settings.rows_per_part, "images"
    if all(makes_many(name) for name in plan.manifest["reader"].unique().to_pylist()):
        rows_per_part, unit = max(1, rows_per_part // _IMAGES_OF_A_CASE), "files or cases"
    return cut(plan.manifest, layout.rows_of_parts, rows_per_part), unit


def _assemble(plan: PoolPlan, shards: Sequence[Shard], layout: PoolLayout, context: StageContext) -> None:
    """Merge the parts; where these are not those of the plan, the same command begins anew."""
    try:
        card = assemble(plan, {shard.path.name for shard in shards}, layout)
    except StageError:
        _discard(layout.path)
        raise
    for warning in warnings_of(card):
        context.reporter.line(f"warning: {warning}")


def _discard(folder: Path) -> None:
    """Remove the growing pool; an actor that is being ended may still finish a file in it."""
    for _ in range(10):
        with suppress(StorageError):
            remove_tree(folder, last=PoolLayout(folder).plan.name)
        time.sleep(0.1)
        if not folder.exists():
            return


def _key_id(settings: config.Pool) -> str | None:
    """Return the id of the key that such a pool would be made with now, if it asks headers whose they are."""
    return load_pseudonyms().key_id if settings.group_by == "header" else None
