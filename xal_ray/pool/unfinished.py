"""A pool while it grows: what it is made with, what its parts are bound to, and who may make it.

One process makes a pool. Another one that is told to make the same waits for it; one with other settings is
refused. A killed one is succeeded: by its own kind with the parts that it has finished, by others anew.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from xal_ray import config
from xal_ray.errors import PoolError, StorageError
from xal_ray.places import is_remote
from xal_ray.pool.card import plan_of, readers_of
from xal_ray.pool.layout import PoolLayout
from xal_ray.pool.manifest import classes_of, fingerprint
from xal_ray.pool.packing import Binding
from xal_ray.pool.sources import Listing, read_source
from xal_ray.pseudonyms import Pseudonyms, load_pseudonyms
from xal_ray.storage import digest, is_empty, names_in, read_json, remove_tree, write_json
from xal_ray.storage.lock import is_lock


@dataclass(frozen=True)
class PoolPlan:
    """Holds what a pool is made with, once its source is read.

    Attributes:
        settings: Source, size, splits and limits.
        listing: What the source knows.
        manifest: Its rows, by image_id.
        classes: The class names.
        pseudonyms: Where headers tell whose an image is; else None.
    """

    settings: config.Pool
    listing: Listing
    manifest: pa.Table
    classes: tuple[str, ...]
    pseudonyms: Pseudonyms | None

    @cached_property
    def record(self) -> dict[str, Any]:
        """Return what a growing pool is bound to: its parts are of no use to another plan."""
        return {
            "settings": plan_of(self.settings),
            "manifest": fingerprint(self.manifest),
            "key": self.key_id,
            "version": version("xal-ray"),  # another one may read the same files in another way
            **({"readers": readers} if (readers := readers_of(self.manifest)) else {}),
        }

    @property
    def key_id(self) -> str | None:
        """Which key makes the pseudonyms; None where there are none."""
        return None if self.pseudonyms is None else self.pseudonyms.key_id

    def binding(self, out: Path) -> Binding:
        """Return what an actor makes sure of before it writes a part."""
        return Binding(growing(out).plan, digest(self.record), uuid.uuid4().hex)


def make_plan(settings: config.Pool, say: Callable[[str], None]) -> PoolPlan:
    """Read a pool's source.

    Args:
        settings: What the pool is to be.
        say: Hears what was found and what is missing.

    Raises:
        SourceError: The source is wrong.
    """
    listing = read_source(settings)
    for note in listing.notes:
        say(note)
    manifest = listing.manifest.sort_by("image_id")
    classes = classes_of(manifest, settings.classes or listing.classes)
    asks_headers = bool(manifest["group_id"].null_count)
    return PoolPlan(settings, listing, manifest, classes, load_pseudonyms() if asks_headers else None)


def growing(out: Path) -> PoolLayout:
    """Return the folder in which a pool grows."""
    return PoolLayout(out if is_remote(out) else out.parent / f".{out.name}.partial")


def open_growing(plan: PoolPlan, out: Path) -> PoolLayout:
    """Return the folder in which a pool grows, bound to its plan."""
    layout = growing(out)
    if not layout.plan.exists():
        write_json(layout.plan, plan.record)
    return layout


def clear_other_plan(plan: PoolPlan, out: Path) -> None:
    """Throw away what a killed process began under another plan; nobody shall take it for what grows now.

    Raises:
        StorageError: The disk or the object store refused.
    """
    layout = growing(out)
    if layout.plan.exists() and read_json(layout.plan) == plan.record:
        return
    if not is_remote(out):  # there an object that says that something is there goes last
        layout.plan.unlink(missing_ok=True)
    remove_tree(layout.path, last=layout.plan.name)


def is_whole(out: Path) -> bool:
    """Return whether a pool lies here, with nothing left to do to it."""
    layout = PoolLayout(out)
    return layout.card.exists() and not (is_remote(out) and layout.plan.exists())


def clear_away(layout: PoolLayout) -> None:
    """Remove what a whole pool needs no longer; the plan goes last, as the sign that there is something."""
    for folder in (
        layout.rows_of_parts,
        layout.attributes_of_parts,
        layout.origins_of_parts,
        layout.refused_of_parts,
    ):
        remove_tree(folder)
    layout.plan.unlink()


def refuse_strangers(out: Path) -> None:
    """Refuse a place where something else lies, or that can't be taken.

    Raises:
        PoolError: It does, or can't.
    """
    if not is_remote(out) and out.exists() and (out.is_mount() or out.samefile(Path.cwd())):
        raise PoolError(
            "a pool can't be put in this folder's place: it is made beside it, and renamed when it is whole",
            expected="a folder that is neither a mount point nor the current one",
            where=str(out),
            next_step=f"give a folder in it (--out or pool.path), {out / 'pool'} say",
        )
    everything = names_in(out)
    names = [name for name in everything if not is_lock(name)]
    own = {PoolLayout(out).plan.name, PoolLayout(out).card.name}
    grows_here = is_remote(out) and (not names or not own.isdisjoint(names))
    if is_empty(out) or (everything and grows_here):
        return
    raise PoolError(
        "the pool's folder holds something else",
        found=names[0] if names else "a file",
        where=str(out),
        next_step="give another --out (or pool.path), or remove the folder",
    )


def refuse_other_plan(plan: PoolPlan, out: Path) -> None:
    """Refuse to wait for a pool that would not be the one that is asked for.

    Raises:
        PoolError: It would not.
    """
    try:
        theirs = read_json(growing(out).plan)
    except StorageError:
        return  # they have only just begun, or are done
    if theirs == plan.record:
        return
    settings, other = plan.record["settings"], theirs.get("settings", {})
    key = next((key for key in settings if other.get(key) != settings[key]), None)
    what = "with other settings" if key else "from another manifest, or with another key or version"
    raise PoolError(
        f"another process prepares this pool, {what}",
        expected=key and f"pool.{key}: {settings[key]}",
        found=key and f"pool.{key}: {other.get(key)}",
        where=str(out),
        next_step="give another pool.path (or --out); or wait for that process, and use its settings",
    )
