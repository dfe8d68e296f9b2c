"""Who does which shard: actors that are up pull the next one, and what keeps killing them is found.

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

from xal_ray.engine.work import Receipt, from_bytes, hopeless, to_bytes
from xal_ray.errors import XalRayError

CRASHED = "crashed"  # the error code of an image that kills whatever process works on it
_TRIES_ALONE = 2  # of an image before it is accused: one death may be chance
_MOST_DEATHS = 60  # of a search; an image among a million is found with half as many
_VERDICT_S = 30.0  # an actor that is not back by then has died on its own, if its node lives
_PAUSE_S = 0.5


@dataclass(eq=False)
class _Seat:
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
        self.seats = [_Seat(actor) for actor in actors]
        self.idle: list[_Seat] = []
        self.changed = asyncio.Condition()
        self.is_open = False
        self.in_work: dict[str, asyncio.Task[Receipt]] = {}
        self.arrivals: set[asyncio.Task[None]] = set()
        self.pulse = 0
        self.trouble: str | None = None

    async def state(self) -> dict[str, Any]:
        """For the watchdog: `up` actors, a `pulse` that grows with all that gets done, the last `trouble`."""
        self._open()
        up = sum(seat.home is not None for seat in self.seats)
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
        """The ids of the rows that kill an actor by themselves, found by halving what kills one."""
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
                raise hopeless(path, f"{total} more deaths in the search for them")
        return killers

    async def _kills(self, setup: bytes, path: str, rows: pa.Table, deaths: list[str]) -> bool:
        """Whether rows kill an actor; an image alone is given a second chance."""
        tries = _TRIES_ALONE if rows.num_rows == 1 else 1
        while len(deaths) < tries:
            receipt = await self._ask(deaths, "probe", setup, path, to_bytes(rows))
            if receipt is not None:
                if receipt["error"] is not None:
                    raise pickle.loads(receipt["error"])  # noqa: S301 - made by our own actor a moment ago
                return False
        return True

    async def _do_without(self, setup: bytes, path: str, payload: bytes, refused: dict[str, str]) -> Receipt:
        """The whole shard once more: without the killers, or, where there is none, as it is."""
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
        raise hopeless(path, f"{len(refused)} images do so by themselves; without them it still dies")

    async def _ask(self, deaths: list[str], method: str, *arguments: Any) -> Receipt | None:
        """An actor's receipt, or None where it has died.

        Args:
            deaths: Nodes of earlier deaths: others are asked first, since it may be the node that is sick. A
                death that nothing else explains is added.
            method: What the actor shall do.
            *arguments: With what.
        """
        from ray.exceptions import RayTaskError

        seat = await self._take(set(deaths))
        node = seat.home[0] if seat.home else ""
        try:
            receipt: Receipt = await getattr(seat.actor, method).remote(*arguments)
        except RayTaskError as error:
            await self._seat_down(seat)
            if not isinstance(error, MemoryError):
                raise
            deaths.append(node)
        except _losses() as error:
            self.trouble = _first_line(error)
            if not await self._died_alone(seat):
                return None
            deaths.append(node)
        else:
            await self._seat_down(seat)
            self.pulse += 1
            return receipt
        self.pulse += 1
        return None

    async def _take(self, sick: set[str]) -> _Seat:
        """Wait for a free actor that answers, off the sick nodes as long as there are others."""

        def choices() -> list[_Seat]:
            elsewhere = any(seat.home and seat.home[0] not in sick for seat in self.seats)
            return [seat for seat in self.idle if not elsewhere or (seat.home and seat.home[0] not in sick)]

        while True:
            async with self.changed:
                seat = (await self.changed.wait_for(choices))[0]
                self.idle.remove(seat)
            try:  # it may have died since it became idle: that is no shard's fault
                seat.home = await seat.actor.ready.remote()
                return seat
            except _losses():
                seat.home = None
                self._expect(seat)

    async def _seat_down(self, seat: _Seat) -> None:
        async with self.changed:
            self.idle.append(seat)
            self.changed.notify_all()

    def _open(self) -> None:
        """Expect everyone; in the first call, since tasks need the loop that runs."""
        if not self.is_open:
            self.is_open = True
            for seat in self.seats:
                self._expect(seat)

    def _expect(self, seat: _Seat) -> asyncio.Task[None]:
        task = asyncio.create_task(self._welcome(seat))
        self.arrivals.add(task)
        task.add_done_callback(self.arrivals.discard)
        return task

    async def _welcome(self, seat: _Seat) -> None:
        """Wait until an actor is up, for the first time or again."""
        from ray.exceptions import RayError

        while seat.home is None:
            try:
                seat.home = await seat.actor.ready.remote()
            except RayError as error:
                self.trouble = _first_line(error)
                await asyncio.sleep(_PAUSE_S)
        await self._seat_down(seat)

    async def _died_alone(self, seat: _Seat) -> bool:
        """Whether an actor that was lost in a call has died while its node lives on."""
        home, seat.home = seat.home, None
        node = home[0] if home else ""
        back = self._expect(seat)
        async with self.changed:
            self.changed.notify_all()  # who waits for a better node may have to take another
        end = time.monotonic() + _VERDICT_S
        while not back.done() and time.monotonic() < end and await _is_alive(node):
            await asyncio.sleep(_PAUSE_S)
        return seat.home != home and await _is_alive(node)


def _losses() -> tuple[type[Exception], ...]:
    """What a call ends with when its actor is gone."""
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
