"""A lock for object stores: a lease, renewed as long as its holder lives.

FOLDER/.lock-000007   who holds it, and how often it was renewed

The object with the highest number holds. It is taken over by making the next number, which a conditional
write lets one process do. A holder puts its object again every few seconds with a higher count; who waits
watches the content by its own clock, and takes over what has not changed for `LEASE_S`. So no two machines'
clocks are ever compared. Who was taken over finds another number or another owner, and must write no more.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from xal_ray.errors import RunError, StorageError
from xal_ray.storage.files import exclusive_create, names_in, write_bytes

LEASE_S = 30.0  # without a renewal, until somebody else may take over
RENEW_S = 5.0
POLL_S = 1.0


@contextmanager
def leased(
    folder: Path,
    name: str,
    *,
    what: str,
    wait_s: float,
    on_wait: Callable[[], None] = lambda: None,
    leave_nothing: bool = False,
) -> Iterator[Lease]:
    """Hold a folder for this process.

    Args:
        folder: In an object store.
        name: What the names of the lease's objects begin with.
        what: What a person calls the folder.
        wait_s: How long to wait for a process that lives; one that is dead is waited for in any case, as
            nobody can tell the two apart before.
        on_wait: Called again and again while it waits for a process that lives; it may raise.
        leave_nothing: Remove the lease's object at the end; else it stays, marked as let go.

    Raises:
        RunError: Another process holds it.
        StorageError: The object store refused.
    """
    lease = _take(folder, name, what, wait_s, on_wait)
    lease.leave_nothing = leave_nothing
    lease.begin()
    try:
        yield lease
    finally:
        lease.release()


class Holder(TypedDict, total=False):
    """Holds what the object of a lease says of its holder; of one that is cut short nothing.

    Attributes:
        owner: A random name, one a lease.
        host: The machine.
        pid: The process.
        renewed: How often it was renewed; that it grows says that the holder lives.
        released: The holder has let go.
    """

    owner: str
    host: str
    pid: int
    renewed: int
    released: bool


class Lease:
    """A lease that is held.

    Args:
        objects: Where its objects lie.
        number: Of its own.
        holder: Who holds it.
        what: What a person calls the folder.
    """

    def __init__(self, objects: _Objects, number: int, holder: Holder, what: str) -> None:
        self.objects = objects
        self.number = number
        self.holder = holder
        self.what = what
        self.leave_nothing = False
        self._ended = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="xal-ray lease", daemon=True)

    def begin(self) -> None:
        """Renew it from now on."""
        self._renewer.start()

    def check(self) -> None:
        """Make sure that it is still held.

        Raises:
            RunError: It was taken over.
        """
        if not self._is_mine():
            raise RunError(
                f"another process has taken this {self.what} over",
                expected=f"a renewal every {RENEW_S:g} s, and at the latest after {LEASE_S:g} s",
                where=str(self.objects.folder),
                next_step="let the other process go on; this one was suspended or cut off from the store",
            )

    def release(self) -> None:
        """Let it go, unless it was taken over. Where the store refuses, it ends by itself."""
        self._ended.set()
        self._renewer.join()
        with suppress(StorageError):
            if not self._is_mine():
                return
            if self.leave_nothing:
                self.objects.path(self.number).unlink(missing_ok=True)
            else:
                self._put(released=True)

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            with suppress(StorageError):
                if not self._is_mine():
                    return
                self._put(released=False)

    def _is_mine(self) -> bool:
        """Return whether the highest number is this one, and its object this holder's.

        Who took over may have ended and left nothing, so that numbers begin anew: then none is there, or
        this very number is somebody else's.
        """
        if self.objects.highest() != self.number:
            return False
        holder = self.objects.read(self.number)
        return holder is not None and holder.get("owner") == self.holder["owner"]

    def _put(self, *, released: bool) -> None:
        self.holder = {**self.holder, "renewed": self.holder["renewed"] + 1, "released": released}
        write_bytes(self.objects.path(self.number), _serialised(self.holder))


@dataclass(frozen=True)
class _Objects:
    """The numbered objects of a lease."""

    folder: Path
    name: str

    def path(self, number: int) -> Path:
        return self.folder / f"{self.name}-{number:06d}"

    def numbers(self) -> list[int]:
        texts = [name.removeprefix(f"{self.name}-") for name in names_in(self.folder)]
        return sorted(int(text) for text in texts if text.isdecimal())

    def highest(self) -> int:
        """Return the number that holds; 0 where there is none."""
        return max(self.numbers(), default=0)

    def read(self, number: int) -> Holder | None:
        """Return who holds a number; None where it is gone."""
        try:
            found: Holder = json.loads(self.path(number).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return found


@dataclass
class _Watch:
    """Holds what a waiting process has seen of the holder."""

    seen: tuple[int, Holder] | None = None
    since: float = field(default_factory=time.monotonic)
    lives: bool = False

    def look(self, number: int, holder: Holder) -> None:
        if self.seen != (number, holder):
            self.lives = self.seen is not None
            self.seen, self.since = (number, holder), time.monotonic()

    def is_over(self) -> bool:
        return time.monotonic() - self.since >= LEASE_S


def _take(folder: Path, name: str, what: str, wait_s: float, on_wait: Callable[[], None]) -> Lease:
    objects, watch = _Objects(folder, name), _Watch()
    me: Holder = {
        "owner": uuid.uuid4().hex,
        "host": _host(),
        "pid": os.getpid(),
        "renewed": 0,
        "released": False,
    }
    deadline = time.monotonic() + wait_s
    while True:
        number = objects.highest()
        holder = objects.read(number) if number else {}
        if holder is not None:
            watch.look(number, holder)
            if not number or holder.get("released") or _is_dead(holder) or watch.is_over():
                if _claim(objects, number + 1, me):
                    return Lease(objects, number + 1, me, what)
                continue
            if watch.lives:
                if time.monotonic() >= deadline:
                    raise in_use(folder, what)
                on_wait()
        time.sleep(POLL_S)


def _claim(objects: _Objects, number: int, me: Holder) -> bool:
    """Make a number, which only one process can; numbers below are then history."""
    path = objects.path(number)
    if not exclusive_create(path, _serialised(me)):
        holder = objects.read(number)  # it may be our own, if the store's answer was lost
        if holder is None or holder.get("owner") != me["owner"]:
            return False
    numbers = objects.numbers()
    if max(numbers, default=0) > number:
        # Others went on while this process slept between its look and its write, and cleared the number away.
        path.unlink(missing_ok=True)
        return False
    for old in numbers:
        if old < number:
            objects.path(old).unlink(missing_ok=True)
    return True


def in_use(folder: Path, what: str) -> RunError:
    """Return the error of a folder that another process works on."""
    return RunError(
        f"another process is working on this {what}",
        where=str(folder),
        next_step="wait for it, or give another --out",
    )


def _serialised(holder: Holder) -> bytes:
    return json.dumps(holder, sort_keys=True).encode()


def _is_dead(holder: Holder) -> bool:
    """Return whether the holder was a process of this machine that has ended."""
    if holder.get("host") != _host() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _host() -> str:
    """This machine since its start, and the room that process numbers count in: containers share names."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115
    return " ".join(parts)
