"""Tells a stage that waits for machines from one that works and from one that stands still."""

from __future__ import annotations

import time
from typing import Any

from xal_ray.engine.actors import ActorPool, ActorShape
from xal_ray.engine.context import StageContext
from xal_ray.engine.session import is_joined
from xal_ray.errors import StageError

GROWTH_TIMEOUT_S = 1800.0  # for a cluster that others own to bring the first node
TELL_EVERY_S = 30.0
_LOOK_EVERY_S = 5.0
_ANSWER_S = 5.0  # the dispatcher has nothing to compute; it may not be up yet


class Watchdog:
    """Watches over the time between two receipts.

    While no actor is up, a cluster that was joined is given `GROWTH_TIMEOUT_S`, or `ray.stall_timeout_s` if
    that is longer: nodes take minutes to come. A Ray of our own has all it will ever have, and gets
    `ray.stall_timeout_s`, as does a stage of which an actor is up.

    Args:
        stage: What a person calls it.
        actor_pool: Its actors.
        context: Has the limit and says whose the cluster is; its reporter hears what is waited for.

    Attributes:
        look_every_s: How often `look` should be called while nothing comes.
    """

    def __init__(self, stage: str, actor_pool: ActorPool, context: StageContext) -> None:
        self.stage, self.actor_pool, self.reporter = stage, actor_pool, context.reporter
        self.joined = is_joined(context.resources)
        self.stall_timeout_s = context.resources.stall_timeout_s
        self.growth_timeout_s = max(self.stall_timeout_s, GROWTH_TIMEOUT_S if self.joined else 0.0)
        self.look_every_s = min(_LOOK_EVERY_S, self.stall_timeout_s / 4)
        self.told = self.life = time.monotonic()
        self.up = 0
        self.pulse = 0

    def heard(self) -> None:
        """A receipt came."""
        self.life = time.monotonic()

    def look(self) -> None:
        """Ask the dispatcher how things stand.

        Raises:
            StageError: Nothing has happened for too long.
        """
        state, now = self._state(), time.monotonic()
        if state["pulse"] > self.pulse or bool(state["up"]) != bool(self.up):
            self.life = now  # something was done, or the first actor came, or the last one went
        self.pulse = max(self.pulse, state["pulse"])
        self.up = state["up"]
        if now - self.life > (self.stall_timeout_s if self.up else self.growth_timeout_s):
            raise self._stalled(state["trouble"])
        if self.joined and self.up < self.actor_pool.shape.num_actors and now - self.told >= TELL_EVERY_S:
            self.told = now
            self.reporter.line(self._awaited())

    def _state(self) -> dict[str, Any]:
        import ray
        from ray.exceptions import RayError

        try:
            state: dict[str, Any] = ray.get(self.actor_pool.dispatcher.state.remote(), timeout=_ANSWER_S)
        except RayError:  # not up yet, or ended: then the stage's own calls say why
            state = {"up": self.up, "pulse": self.pulse, "trouble": None}
        return state

    def _awaited(self) -> str:
        shape = self.actor_pool.shape
        if self.up:
            return f"{self.stage}: {self.up} of {shape.num_actors} actors are up; it goes on with these"
        return (
            f"{self.stage}: waiting for {asked_for(shape)}: the cluster is growing, or busy; "
            f"it has {declared_now(shape)}"
        )

    def _stalled(self, trouble: str | None) -> StageError:
        shape, limit = self.actor_pool.shape, self.stall_timeout_s if self.up else self.growth_timeout_s
        if self.up:
            what = f"{self.stage} stood still for {limit:g} s"
            expected = f"a finished shard from one of {shape.num_actors} actors, of which {self.up} are up"
        else:
            what = f"{self.stage} stood still for {limit:g} s: none of its actors is up"
            expected = asked_for(shape)
        return StageError(
            what,
            expected=expected,
            found=f"a cluster of {declared_now(shape)}"
            + (f"; the last trouble: {trouble}" if trouble else ""),
            next_step=self._next_step(),
        )

    def _next_step(self) -> str:
        if self.joined and not self.up:
            return (
                "look whether the cluster can bring such nodes at all (xal-ray's cluster file, quotas, spot "
                "capacity), or ask for less: ray.num_actors, ray.gpus_per_actor, ray.actor_resources; "
                "the same command goes on"
            )
        return (
            "the usual cause is a lack of logical CPUs or of memory: raise ray.num_cpus, "
            "lower ray.num_actors, or, if a shard truly takes that long, raise ray.stall_timeout_s; "
            "the same command goes on"
        )


def asked_for(shape: ActorShape) -> str:
    """Return what a shape asks a cluster for, in words."""
    gpus = f", {shape.gpus_per_actor:g} GPU" if shape.gpus_per_actor else ""
    custom = "".join(f", {number:g} {name}" for name, number in shape.resources.items())
    return f"{shape.num_actors} actors, each with {shape.cpus_per_actor:g} CPU{gpus}{custom}"


def declared_now(shape: ActorShape) -> str:
    """Return what the cluster declares now of what a shape asks for."""
    import ray

    have = ray.cluster_resources()
    names = ["CPU", *(["GPU"] if shape.gpus_per_actor else []), *shape.resources]
    nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    return ", ".join(
        [f"{nodes} node{'s' * (nodes != 1)}", *(f"{have.get(name, 0.0):g} {name}" for name in names)]
    )
