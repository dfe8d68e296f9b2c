"""Warm actors: processes that stay from stage to stage, with their imports done.

A fresh actor takes seconds before it does anything, a warm one milliseconds, and a run passes its pool
through actors in every round. So the actors belong to the session, not to a stage: they are handed the work
(a class and its arguments) together with a shard, and set it up anew only when it has changed.
"""

from __future__ import annotations

import asyncio
import pickle
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from xal_ray.errors import XalRayError

_THOUSANDS_WAITING = 10_000  # calls that the dispatcher may hold; Ray Data allows far fewer
_ANYWHERE = "DEFAULT"  # beside a sweep's trial, too, whose own reservation has no room for actors


@dataclass(frozen=True)
class Shape:
    """How many actors, and what each declares to Ray."""

    num_actors: int
    cpus_per_actor: float
    gpus_per_actor: float = 0.0


@dataclass(frozen=True)
class Crew:
    """Actors of one shape, and the dispatcher that gives each the next shard."""

    shape: Shape
    dispatcher: Any
    actors: list[Any]


_crew: Crew | None = None


def warm_crew(shape: Shape) -> Crew:
    """The session's actors; those of another shape are ended, so that no resource is held twice."""
    global _crew
    if _crew is not None and _crew.shape != shape:
        release()
    if _crew is None:
        import ray

        actor = ray.remote(
            num_cpus=shape.cpus_per_actor,
            num_gpus=shape.gpus_per_actor or None,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy=_ANYWHERE,
        )(_Actor)
        actors = [actor.remote() for _ in range(shape.num_actors)]
        dispatcher = ray.remote(
            num_cpus=0,
            max_concurrency=_THOUSANDS_WAITING,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy=_ANYWHERE,
        )(_Dispatcher).remote(actors)
        _crew = Crew(shape, dispatcher, actors)
    return _crew


def release() -> None:
    """End the actors, whatever they do."""
    global _crew
    if _crew is None:
        return
    import ray

    for actor in (_crew.dispatcher, *_crew.actors):
        ray.kill(actor)
    _crew = None


def held() -> Shape:
    """What the session's actors hold now."""
    return _crew.shape if _crew is not None else Shape(0, 0.0)


def forget() -> None:
    """Drop the handles of actors whose Ray has ended."""
    global _crew
    _crew = None


class _Dispatcher:
    """Gives every shard to the actor that is free first. Its calls wait; it computes nothing."""

    def __init__(self, actors: list[Any]) -> None:
        self.actors = actors
        self.idle: asyncio.Queue[Any] | None = None

    async def run(self, setup: bytes, path: str, rows: bytes) -> dict[str, Any]:
        """Have a shard done; returns its receipt."""
        if self.idle is None:  # a queue belongs to the loop that it is made in
            self.idle = asyncio.Queue()
            for actor in self.actors:
                self.idle.put_nowait(actor)
        actor = await self.idle.get()
        try:
            receipt: dict[str, Any] = await actor.run.remote(setup, path, rows)
            return receipt
        finally:
            self.idle.put_nowait(actor)


class _Actor:
    """Does shards of whatever work it is handed."""

    def __init__(self) -> None:
        self.setup = b""
        self.work: Any = None

    def run(self, setup: bytes, path: str, payload: bytes) -> dict[str, Any]:
        """Do a shard; what goes wrong for a reason of ours comes back in the receipt.

        Raised here, Ray would try again and again what can't succeed.
        """
        rows = pa.ipc.open_stream(payload).read_all()
        receipt = {"shard": path, "rows": rows.num_rows, "busy_s": 0.0, "error": None}
        try:
            if setup != self.setup:
                self.setup, self.work = b"", None  # the old work's memory goes first
                work, arguments = pickle.loads(setup)  # noqa: S301 - made by our own driver
                self.work, self.setup = work(**arguments), setup
            begin = time.monotonic()
            self.work(Path(path), rows)
            receipt["busy_s"] = time.monotonic() - begin
        except XalRayError as error:
            receipt["error"] = pickle.dumps(error)
        return receipt
