"""Works out how much a trial takes of Ray's resources, and how many fit side by side.

A trial is a task that may start actors and training workers beside itself. Ray would start trials until its
resources are gone, and their actors would then wait for ever; so what a trial needs in all is counted here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xal_ray import config
from xal_ray.config import Config
from xal_ray.errors import ConfigError

_CPUS_TO_DRIVE = 0.01  # of a trial whose actors and workers do the work
_CPUS_FOR_READS = 1.0  # Ray Data's own tasks, and room that `check_capacity` asks for
_FINEST = 10_000  # Ray counts in ten-thousandths


@dataclass(frozen=True)
class Share:
    """Holds what each trial gets.

    Attributes:
        cpus: That the trial itself declares.
        gpus: Likewise.
        trials_at_once: How many run side by side.
        resources: The section `ray` of each trial, with nothing left to `auto` that depends on the cluster.
    """

    cpus: float
    gpus: float
    trials_at_once: int
    resources: config.Ray


def share_out(
    configs: Sequence[Config],
    resources: config.Ray,
    request: int | str,
    num_trials: int,
    *,
    have: tuple[float, float],
    cores: int,
) -> Share:
    """Say how many trials run at once, and what each gets.

    Args:
        configs: Of all arms; the largest decides for all.
        resources: The section `ray`. In a trial, `num_actors: auto` means none: it scores by itself.
        request: `sweep.trials_at_once`.
        num_trials: More than these are never at work.
        have: Logical CPUs and GPUs of the cluster.
        cores: Of this machine: trials that compute by themselves are no more than these, unless wished for.

    Raises:
        ConfigError: Not even one trial fits, or not as many as wished for.
    """
    actors = 0 if resources.num_actors == "auto" else resources.num_actors
    workers = max((each.train.num_workers for each in configs), default=0)
    computes = not actors or any(not each.train.num_workers for each in configs)
    cpus = resources.cpus_per_trial if computes else _CPUS_TO_DRIVE
    nested = actors * resources.cpus_per_actor + workers * resources.cpus_per_worker
    needed = cpus + (nested + _CPUS_FOR_READS if nested else 0.0)
    gpus_needed = _fixed_gpus(resources, actors, workers, computes)
    fitting = min(_times(have[0], needed), _times(have[1], gpus_needed))
    _check(fitting, request, needed, gpus_needed, have)
    most = min(fitting, cores) if computes else fitting
    at_once = max(1, int(min(most, num_trials))) if request == "auto" else int(request)
    part = have[1] / at_once - gpus_needed
    on_gpu = computes and not all(each.model.cache_activations for each in configs)
    settled, rest = _share_gpus(resources, part, actors, workers, on_gpu=on_gpu)
    own = resources.gpus_per_trial
    return Share(cpus, (rest if on_gpu else 0.0) if own == "auto" else own * computes, at_once, settled)


def _fixed_gpus(resources: config.Ray, actors: int, workers: int, computes: bool) -> float:
    """GPUs of a trial as far as they are given by number; `auto` shares out what is left."""
    requests = (
        (resources.gpus_per_trial, int(computes)),
        (resources.gpus_per_actor, actors),
        (resources.gpus_per_worker, workers),
    )
    return sum(float(each) * count for each, count in requests if each != "auto")


def _share_gpus(
    resources: config.Ray, part: float, actors: int, workers: int, *, on_gpu: bool
) -> tuple[config.Ray, float]:
    """The section `ray` with the GPUs of actors and workers in numbers, and what the trial itself may have.

    Workers get a whole GPU or none, since they can't share one; the trial and its actors get equal parts of
    what is left, at most one each.
    """
    worker = resources.gpus_per_worker
    if worker == "auto":
        worker = float(workers > 0 and part >= workers)
        part -= worker * workers
    sharing = actors * (resources.gpus_per_actor == "auto")
    sharing += on_gpu and resources.gpus_per_trial == "auto"
    each = max(0.0, min(1.0, part / sharing)) if sharing else 0.0
    each = math.floor(each * _FINEST + 1e-6) / _FINEST
    actor = each if resources.gpus_per_actor == "auto" else resources.gpus_per_actor
    update = {"num_actors": actors, "gpus_per_actor": actor, "gpus_per_worker": worker}
    return resources.model_copy(update=update), each


def _times(have: float, needed: float) -> float:
    return math.inf if not needed else math.floor(have / needed + 1e-9)


def _check(
    fitting: float, request: int | str, needed: float, gpus_needed: float, have: tuple[float, float]
) -> None:
    wanted = 1 if request == "auto" else int(request)
    if wanted <= fitting:
        return
    each = f"{needed:g} logical CPUs" + (f" and {gpus_needed:g} GPUs" if gpus_needed else "")
    raise ConfigError(
        f"{wanted} trials at once do not fit: they would wait for each other for ever"
        if wanted > 1
        else "not even one trial fits: it would wait for ever",
        expected=f"{wanted} x {each}",
        found=f"{have[0]:g} logical CPUs" + (f" and {have[1]:g} GPUs" if gpus_needed else ""),
        where="sweep.trials_at_once, ray",
        next_step=(
            "raise ray.num_cpus (it may exceed the cores), or lower trials at once, ray.num_actors, "
            "ray.cpus_per_actor or train.num_workers"
        ),
    )
