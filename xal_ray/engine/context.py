"""Holds what all stages of one command share: resources, a listener, and the actors that stay warm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from xal_ray import config
from xal_ray.engine.actors import WarmActors
from xal_ray.progress import Reporter


@dataclass(frozen=True)
class StageContext:
    """Holds what a stage is given beside its work; nothing in it changes a result.

    Attributes:
        resources: Actors, CPUs and GPUs; how long a stage may stand still; whose the cluster is.
        reporter: Hears about progress.
        verbose: Let Ray speak.
        actors: Those of all stages that are given this context, or one that was made from it. They are
            ended by who made them: see `open_context`.
    """

    resources: config.Ray
    reporter: Reporter
    verbose: bool = False
    actors: WarmActors = field(default_factory=WarmActors)

    def with_resources(self, resources: config.Ray) -> StageContext:
        """Return a context with other resources and the same actors."""
        return replace(self, resources=resources)


@contextmanager
def open_context(
    resources: config.Ray, reporter: Reporter, *, verbose: bool = False, actors: WarmActors | None = None
) -> Iterator[StageContext]:
    """Give the stages of a command their context, and end its actors when the command ends, however it ends.

    Args:
        resources: Actors, CPUs and GPUs.
        reporter: Hears about progress.
        verbose: Let Ray speak.
        actors: Actors that the caller owns, and that stay when the command ends; None: the command's own.
    """
    context = StageContext(resources, reporter, verbose, WarmActors() if actors is None else actors)
    try:
        yield context
    finally:
        if actors is None:
            context.actors.release()  # left to Ray's own end, a dispatcher was once seen to outlive it
