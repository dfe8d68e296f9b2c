"""Says what a Ray of our own needs of this machine, looked at before anything is trained or written."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from xal_ray import config
from xal_ray.errors import ConfigError

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Ray's object store lives
_FOR_READS = 1.0  # logical CPUs that stay free


def fit_to_cpus(
    resources: config.Ray, *, num_workers: int = 0, decodes: bool = False
) -> tuple[config.Ray, list[str]]:
    """Plan no more actors than the logical CPUs bear: their number changes no result.

    Args:
        resources: As asked for, of a Ray of our own.
        num_workers: Of training, whose number does change the result.
        decodes: Whether images will be decoded.

    Returns:
        The resources as they can be had, and a sentence for each number that is smaller than asked for.

    Raises:
        ConfigError: Not even one actor fits, or not all training workers.
    """
    free = resources.num_cpus - _FOR_READS
    changed: dict[str, int] = {}
    remarks = []
    for key, cpus, needed in (
        ("num_actors", resources.cpus_per_actor, True),
        ("num_decoders", resources.cpus_per_decoder, decodes),
    ):
        request, fitting = getattr(resources, key), int(free / cpus + 1e-9)
        if not needed or request == 0 or fitting >= (1 if request == "auto" else request):
            continue
        if fitting < 1 and (request != "auto" or key == "num_decoders"):
            raise _too_few(f"ray.{key}={request}", _FOR_READS + cpus, resources)
        changed[key] = fitting
        place = "this process scores by itself" if fitting < 1 else f"{fitting} fit"
        remarks.append(f"ray.num_cpus={resources.num_cpus} has no room for ray.{key}={request}: {place}")
    workers = num_workers * resources.cpus_per_worker
    if workers > free + 1e-9:
        raise _too_few(f"train.num_workers={num_workers}", _FOR_READS + workers, resources)
    return (resources.model_copy(update=changed) if changed else resources), remarks


def _too_few(asked_for: str, needed: float, resources: config.Ray) -> ConfigError:
    return ConfigError(
        f"{asked_for} would starve: reads need a logical CPU beside it and would wait for ever",
        expected=f"ray.num_cpus of at least {math.ceil(needed)}",
        found=f"{resources.num_cpus}",
        where="ray",
        next_step=f"set ray.num_cpus={math.ceil(needed)} (it may exceed the cores), or ask for less",
    )


def check_room(resources: config.Ray, folder: Path) -> None:
    """Refuse an object store that there is no memory for: Ray's own processes would die one by one.

    Args:
        resources: Say its size.
        folder: Where Ray puts it when shared memory is too small.

    Raises:
        ConfigError: Neither has room.
    """
    wanted = resources.object_store_mb * 1024**2
    free = {place: shutil.disk_usage(place).free for place in (_SHARED_MEMORY, folder) if place.is_dir()}
    if all(room < wanted for room in free.values()):
        raise ConfigError(
            "there is no room for Ray's object store",
            expected=f"{resources.object_store_mb} MB free, in shared memory or in the temporary folder",
            found="; ".join(f"{room // 1024**2} MB at {place}" for place, room in free.items()),
            where="ray.object_store_mb",
            next_step="lower it (80 at least), give the container more (--shm-size), or set TMPDIR to a "
            "short path with room",
        )
