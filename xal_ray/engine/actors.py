"""Warm actors: processes that stay from stage to stage, with their imports done.

A fresh actor takes seconds before it does anything, a warm one milliseconds, and a run passes its pool
through actors in every round. So the actors belong to the context that a command's stages share, not to a
stage: they are handed the work (a class and its arguments) together with a shard, and set it up anew only
when it has changed.
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


class WarmActors:
    """Actors of one shape at a time, started when a stage first needs them and kept for the next one.

    Whoever makes one ends its actors, by `release`. Until it has started some, it may be sent to another
    process.
    """

    def __init__(self) -> None:
        self._actor_pool: ActorPool | None = None

    @property
    def held(self) -> ActorShape:
        """Return the shape of the actors that are up or coming up; of none at all where there are none."""
        return self._actor_pool.shape if self._actor_pool is not None else ActorShape(0, 0.0)

    def of_shape(self, shape: ActorShape) -> ActorPool:
        """Return actors of a shape; those of another shape are ended, so that no resource is held twice."""
        if self._actor_pool is not None and self._actor_pool.shape != shape:
            self.release()
        if self._actor_pool is None:
            self._actor_pool = _started(shape)
        return self._actor_pool

    def release(self) -> None:
        """End the actors, whatever they do."""
        if self._actor_pool is None:
            return
        import ray

        if ray.is_initialized():  # else they ended with it
            for actor in (self._actor_pool.dispatcher, *self._actor_pool.actors):
                ray.kill(actor)
        self._actor_pool = None


def _started(shape: ActorShape) -> ActorPool:
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
    return ActorPool(shape, dispatcher, actors)


def beside_driver() -> Any:
    """Return where no other node's end reaches an actor: beside the process that drives the stage."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
