"""Warm actors: processes that stay from stage to stage, with their imports done.

A fresh actor takes seconds before it does anything, a warm one milliseconds, and a run passes its pool
through actors in every round. So the actors belong to the session, not to a stage: they are handed the work
(a class and its arguments) together with a shard, and set it up anew only when it has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xal_ray.engine.dispatch import Dispatcher
from xal_ray.engine.work import Actor

_THOUSANDS_WAITING = 10_000  # calls that the dispatcher may hold; Ray Data allows far fewer
_ANYWHERE = "DEFAULT"  # beside a sweep's trial, too, whose own reservation has no room for actors


@dataclass(frozen=True)
class ActorShape:
    """Says how many actors, and what each declares to Ray; `resources` are custom ones, by name."""

    num_actors: int
    cpus_per_actor: float
    gpus_per_actor: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ActorPool:
    """Actors of one shape, and the dispatcher that gives each the next shard."""

    shape: ActorShape
    dispatcher: Any
    actors: list[Any]


_actor_pool: ActorPool | None = None


def warm_actors(shape: ActorShape) -> ActorPool:
    """Return the session's actors; those of another shape are ended, so that no resource is held twice."""
    global _actor_pool
    if _actor_pool is not None and _actor_pool.shape != shape:
        release()
    if _actor_pool is None:
        import ray

        actor = ray.remote(
            num_cpus=shape.cpus_per_actor,
            num_gpus=shape.gpus_per_actor or None,
            resources=dict(shape.resources) or None,
            max_restarts=-1,
            max_task_retries=0,  # the dispatcher counts what Ray would repeat for ever
            scheduling_strategy=_ANYWHERE,
        )(Actor)
        actors = [actor.remote() for _ in range(shape.num_actors)]
        dispatcher = ray.remote(
            num_cpus=0,
            max_concurrency=_THOUSANDS_WAITING,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy=beside_driver(),
        )(Dispatcher).remote(actors)
        _actor_pool = ActorPool(shape, dispatcher, actors)
    return _actor_pool


def beside_driver() -> Any:
    """Return where no other node's end reaches: the node of the process that drives the stage."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)


def release() -> None:
    """End the actors, whatever they do."""
    global _actor_pool
    if _actor_pool is None:
        return
    import ray

    for actor in (_actor_pool.dispatcher, *_actor_pool.actors):
        ray.kill(actor)
    _actor_pool = None


def held() -> ActorShape:
    """Return what the session's actors hold now."""
    return _actor_pool.shape if _actor_pool is not None else ActorShape(0, 0.0)


def forget() -> None:
    """Drop the handles of actors whose Ray has ended."""
    global _actor_pool
    _actor_pool = None
