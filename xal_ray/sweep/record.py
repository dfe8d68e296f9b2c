"""A sweep's folder belongs to one base configuration and one pool; arms and seeds may be added.

sweep.json   `base` and `pool`, which bind the folder; what the calls so far have added: `arms`
             (`name`, `params`, `seeds`), `searches`, `schedulers`; `left_out`, seeds that no arm uses, each
             with the class that its initial set lacks; and `twins`, arms that are another one in effect
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xal_ray.config import Config, flatten
from xal_ray.errors import InputError, RunError
from xal_ray.places import place
from xal_ray.pool.schema import PoolReader
from xal_ray.record.ledger import is_lock
from xal_ray.storage import names_in, read_json, sha256_file, write_json
from xal_ray.sweep.arms import Value
from xal_ray.sweep.layout import RECORD_NAME


@dataclass(frozen=True)
class RecordedArm:
    """An arm that a call has added, and with which seeds."""

    name: str
    params: Mapping[str, Value]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class SweepRecord:
    """Holds what the calls so far have added to a folder."""

    arms: tuple[RecordedArm, ...] = ()
    searches: tuple[str, ...] = ()
    schedulers: tuple[str, ...] = ()
    left_out: Mapping[int, str] = field(default_factory=dict)
    twins: tuple[str, ...] = ()


def read_record(folder: Path) -> SweepRecord:
    """Return what the calls so far have added; nothing in a folder that is new."""
    path = folder / RECORD_NAME
    found = read_json(path) if path.exists() else {}
    return SweepRecord(
        tuple(
            RecordedArm(entry["name"], entry["params"], tuple(entry["seeds"]))
            for entry in found.get("arms", ())
        ),
        tuple(found.get("searches", ())),
        tuple(found.get("schedulers", ())),
        {int(seed): lacking for seed, lacking in found.get("left_out", {}).items()},
        tuple(found.get("twins", ())),
    )


def add_to_record(
    folder: Path,
    arms: Sequence[RecordedArm],
    settings: Config,
    left_out: Mapping[int, str] | None = None,
    twins: Sequence[str] = (),
) -> None:
    """Add arms, or seeds to arms that are there, and how this call tries them. The folder has been bound."""
    before = read_record(folder)
    known = {entry.name: entry for entry in before.arms}
    for arm in arms:
        seeds = {*arm.seeds, *(known[arm.name].seeds if arm.name in known else ())}
        params = known.get(arm.name, arm).params
        known[arm.name] = RecordedArm(arm.name, params, tuple(sorted(seeds)))
    tree = read_json(folder / RECORD_NAME)
    tree["arms"] = [
        {"name": each.name, "params": dict(each.params), "seeds": list(each.seeds)} for each in known.values()
    ]
    tree["searches"] = list(dict.fromkeys([*before.searches, settings.sweep.search]))
    tree["schedulers"] = list(dict.fromkeys([*before.schedulers, settings.sweep.scheduler]))
    merged = {**before.left_out, **(left_out or {})}
    tree["left_out"] = {str(seed): merged[seed] for seed in sorted(merged)}
    tree["twins"] = list(dict.fromkeys([*before.twins, *twins]))
    write_json(folder / RECORD_NAME, tree)


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Refuse a folder with something else in it, and leave nothing in a new one where the input is wrong."""
    is_new = not (folder / RECORD_NAME).exists()
    refuse_strangers(folder)
    try:
        yield
    except InputError:
        if is_new and not (folder / "trials").exists():
            (folder / RECORD_NAME).unlink(missing_ok=True)
        raise


def refuse_strangers(folder: Path) -> None:
    """Refuse a folder with something else in it.

    Raises:
        RunError: It is one.
    """
    strangers = [name for name in names_in(folder) if not is_lock(name)]
    if strangers and RECORD_NAME not in strangers:
        raise RunError(
            "the output folder holds something else than a sweep",
            found=min(strangers),
            where=str(folder),
            next_step="give another --out",
        )


def bind(settings: Config, pool: PoolReader, folder: Path, *, only_check: bool = False) -> None:
    """Bind a folder to a sweep's base, or refuse it where it belongs to another.

    Args:
        settings: The base.
        pool: Its pool.
        folder: The sweep's.
        only_check: Write nothing.

    Raises:
        RunError: It does.
    """
    # A run may go on for longer; a sweep compares curves of one length.
    identity = settings.identity() | {"num_rounds": settings.num_rounds}
    del identity["seed"]
    weights = place(settings.model.weights)
    if settings.model.weights not in ("none", "imagenet") and weights.is_file():
        identity["model"]["weights"] = sha256_file(weights)
    record: dict[str, Any] = {"base": flatten(identity), "pool": pool.content_hash}
    path = folder / RECORD_NAME
    if not path.exists():
        if not only_check:
            write_json(path, record)
        return
    before = read_json(path)
    if all(before.get(part) == record[part] for part in record):
        return
    differing = [key for key, value in record["base"].items() if before["base"].get(key) != value]
    key = differing[0] if differing else None
    raise RunError(
        "the output folder belongs to a sweep of another base configuration",
        expected=f"{key}: {before['base'].get(key)}"
        if key
        else f"a pool with content hash {before['pool'][:12]}",
        found=f"{key}: {record['base'][key]}" if key else f"one with {pool.content_hash[:12]}",
        where=str(folder),
        next_step="give another --out for this configuration, or undo the change to add to that sweep",
    )
