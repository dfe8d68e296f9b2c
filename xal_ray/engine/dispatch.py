"""Says who does which shard: actors that are up pull the next one, and what keeps killing them is found.

An actor may die for its own sake (a spot node that is taken back, the kernel's choice of a victim), or
because of an image (a decoder that crashes, a file that needs more memory than there is). The first costs a
second try, the second would cost every try: so deaths are counted, and a shard that has caused too many is
searched for the images that kill an actor all by themselves.
"""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from xal_ray.engine.work import Receipt, from_bytes, poison_shard_error, to_bytes
from xal_ray.errors import XalRayError

CRASHED = "crashed"  # the error code of an image that kills whatever process works on it
_TRIES_ALONE = 2  # of an image before it is accused: one death may be chance
_MOST_DEATHS = 60  # of a search; an image among a million is found with half as many
_VERDICT_S = 30.0  # an actor that is not back by then has died on its own, if its node lives
_PAUSE_S = 0.5


@dataclass(eq=False)
class ActorSlot:
    """An actor, and where it was when it last answered: node and process id; None while it is away."""

    actor: Any
    home: tuple[str, int] | None = None


class Dispatcher:
    """Gives every shard to an actor that is up and free. Its calls wait; it computes nothing.

    An actor takes part from its first answer on, wherever and whenever Ray places it, and again after each
    restart.

    Args:
        actors: Handles; Ray restarts the actors for ever and repeats no call.
    """

    def __init__(self, actors: Sequence[Any]) -> None:
        self.slots = [ActorSlot(actor) for actor in actors]
        self.idle: list[ActorSlot] = []
        self.changed = asyncio.Condition()
        self.is_open = False
        self.in_work: dict[str, asyncio.Task[Receipt]] = {}
        self.arrivals: set[asyncio.Task[None]] = set()
        self.pulse = 0
        self.trouble: str | None = None

    async def state(self) -> dict[str, Any]:
        """For the watchdog: `up` actors, a `pulse` that grows with all that gets done, the last `trouble`."""
        self._open()
        up = sum(slot.home is not None for slot in self.slots)
        return {"up": up, "pulse": self.pulse, "trouble": self.trouble}

    async def run(self, setup: bytes, path: str, payload: bytes, attempts: int) -> Receipt:
        """Have a shard done; returns its receipt.

        Asked twice (a task of Ray Data that was lost with its node is repeated), a shard is done once.

        Args:
            setup: The pickled work and its arguments.
            path: The shard's file.
            payload: Its rows, from `to_bytes`.
            attempts: A shard that has killed so many actors is searched.
        """
        self._open()
        if path not in self.in_work:
            self.in_work[path] = asyncio.create_task(self._do(setup, path, payload, attempts))
            self.in_work[path].add_done_callback(lambda _: self.in_work.pop(path))
        return await asyncio.shield(self.in_work[path])

    async def _do(self, setup: bytes, path: str, payload: bytes, attempts: int) -> Receipt:
        deaths: list[str] = []
        while len(deaths) < attempts:
            receipt = await self._ask(deaths, "run", setup, path, payload)
            if receipt is not None:
                return receipt
            # A node that went down takes its processes first: what looked like a crash was not one.
            deaths[:] = [node for node in deaths if await _is_alive(node)]
        rows = from_bytes(payload)
        try:
            refused = dict.fromkeys(await self._killers(setup, path, rows), CRASHED)
            return await self._do_without(setup, path, payload, refused)
        except XalRayError as error:
            found = {"shard": path, "rows": rows.num_rows, "busy_s": 0.0, "note": None}
            return {**found, "error": pickle.dumps(error)}

    async def _killers(self, setup: bytes, path: str, rows: pa.Table) -> list[str]:
        """Return the ids of the rows that kill an actor by themselves, found by halving what kills one."""
        suspects, killers, total = _halves(rows), [], 0
        while suspects:
            piece = suspects.pop(0)
            deaths: list[str] = []
            if await self._kills(setup, path, piece, deaths):
                if piece.num_rows > 1:
                    suspects += _halves(piece)
                else:
                    killers.append(piece["image_id"][0].as_py())
            total += len(deaths)
            if total > _MOST_DEATHS:
                raise poison_shard_error(path, f"{total} more deaths in the search for them")
        return killers

    async def _kills(self, setup: bytes, path: str, rows: pa.Table, deaths: list[str]) -> bool:
        """Return whether rows kill an actor; an image alone is given a second chance."""
        tries = _TRIES_ALONE if rows.num_rows == 1 else 1
        while len(deaths) < tries:
            receipt = await self._ask(deaths, "probe", setup, path, to_bytes(rows))
            if receipt is not None:
                if receipt["error"] is not None:
                    raise pickle.loads(receipt["error"])  # noqa: S301 - made by our own actor a moment ago
                return False
        return True

    async def _do_without(self, setup: bytes, path: str, payload: bytes, refused: dict[str, str]) -> Receipt:
        """Do the whole shard once more: without the killers, or, where there is none, as it is."""
        deaths: list[str] = []
        while not deaths:
            receipt = await self._ask(deaths, "run", setup, path, payload, refused)
            if receipt is not None:
                if refused:
                    receipt["note"] = (
                        f"{path.rpartition('/')[2]}: {len(refused)} of {receipt['rows']} images kill the "
                        f"process that works on them: left out with error_code {CRASHED}"
                    )
                return receipt
        raise poison_shard_error(
            path, f"{len(refused)} images do so by themselves; without them it still dies"
        )

    async def _ask(self, deaths: list[str], method: str, *arguments: Any) -> Receipt | None:
        """Return an actor's receipt, or None where it has died.

        Args:
            deaths: Nodes of earlier deaths: others are asked first, since it may be the node that is sick. A
                death that nothing else explains is added.
            method: What the actor shall do.
            *arguments: With what.
        """
        from ray.exceptions import RayTaskError

        slot = await self._take(set(deaths))
        node = slot.home[0] if slot.home else ""
        try:
            receipt: Receipt = await getattr(slot.actor, method).remote(*arguments)
        except RayTaskError as error:
            await self._return_slot(slot)
            if not isinstance(error, MemoryError):
                raise
            deaths.append(node)
        except _losses() as error:
            self.trouble = _first_line(error)
            if not await self._died_alone(slot):
                return None
            deaths.append(node)
        else:
            await self._return_slot(slot)
            self.pulse += 1
            return receipt
        self.pulse += 1
        return None

    async def _take(self, sick: set[str]) -> ActorSlot:
        """Wait for a free actor that answers, off the sick nodes as long as there are others."""

        def choices() -> list[ActorSlot]:
            elsewhere = any(slot.home and slot.home[0] not in sick for slot in self.slots)
            return [slot for slot in self.idle if not elsewhere or (slot.home and slot.home[0] not in sick)]

        while True:
            async with self.changed:
                slot = (await self.changed.wait_for(choices))[0]
                self.idle.remove(slot)
            try:  # it may have died since it became idle: that is no shard's fault
                slot.home = await slot.actor.ready.remote()
                return slot
            except _losses():
                slot.home = None
                self._expect(slot)

    async def _return_slot(self, slot: ActorSlot) -> None:
        async with self.changed:
            self.idle.append(slot)
            self.changed.notify_all()

    def _open(self) -> None:
        """Expect everyone; in the first call, since tasks need the loop that runs."""
        if not self.is_open:
            self.is_open = True
            for slot in self.slots:
                self._expect(slot)

    def _expect(self, slot: ActorSlot) -> asyncio.Task[None]:
        task = asyncio.create_task(self._await_actor(slot))
        self.arrivals.add(task)
        task.add_done_callback(self.arrivals.discard)
        return task

    async def _await_actor(self, slot: ActorSlot) -> None:
        """Wait until an actor is up, for the first time or again."""
        from ray.exceptions import RayError

        while slot.home is None:
            try:
                slot.home = await slot.actor.ready.remote()
            except RayError as error:
                self.trouble = _first_line(error)
                await asyncio.sleep(_PAUSE_S)
        await self._return_slot(slot)

    async def _died_alone(self, slot: ActorSlot) -> bool:
        """Return whether an actor that was lost in a call has died while its node lives on."""
        home, slot.home = slot.home, None
        node = home[0] if home else ""
        back = self._expect(slot)
        async with self.changed:
            self.changed.notify_all()  # who waits for a better node may have to take another
        end = time.monotonic() + _VERDICT_S
        while not back.done() and time.monotonic() < end and await _is_alive(node):
            await asyncio.sleep(_PAUSE_S)
        return slot.home != home and await _is_alive(node)


def _losses() -> tuple[type[Exception], ...]:
    """Return what a call ends with when its actor is gone."""
    from ray import exceptions

    return (
        exceptions.RayActorError,
        exceptions.OutOfMemoryError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.ObjectLostError,
    )


async def _is_alive(node: str) -> bool:
    import ray

    nodes = await asyncio.to_thread(ray.nodes)
    return any(one["NodeID"] == node and one["Alive"] for one in nodes)


def _halves(rows: pa.Table) -> list[pa.Table]:
    middle = rows.num_rows // 2
    return [part for part in (rows.slice(0, middle), rows.slice(middle)) if part.num_rows]


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
