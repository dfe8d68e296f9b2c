"""One process at a time: the lock of a folder, and of a place where something is being made.

On a disk it is `flock` on a small file, which ends with the process, however that ends, and holds across the
machines that share the file system. In an object store it is a lease (`storage/lease.py`).

A lock file may be removed, and then two processes could each hold one of the same name: one the file that is
gone, the other its successor. So a lock counts only if its file still stands at its place once it is taken;
who waited for a file that is gone waits for the next one. Only the holder removes it, as its last act.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from xal_ray.errors import RunError, StorageError
from xal_ray.places import is_remote
from xal_ray.storage.files import disk_errors, names_in
from xal_ray.storage.lease import in_use, leased

LOCK_NAME = ".lock"  # on an object store, what the names of the lease's objects begin with
_POLL_S = 0.05

CheckLock = Callable[[], None]
OnWait = Callable[[], None]


def is_lock(name: str) -> bool:
    """Tell whether a file of that name belongs to a lock: of its folder, or of a place there."""
    return name.startswith(".") and (name.endswith(LOCK_NAME) or f"{LOCK_NAME}-" in name)


@contextmanager
def locked(
    folder: Path, *, what: str = "run", wait_s: float = 0.0, on_wait: OnWait = lambda: None
) -> Iterator[CheckLock]:
    """Hold a folder for this process alone; the lock goes with the process, however it ends.

    On an object store it goes some seconds after the process. A folder in which nothing but its lock is left
    goes when it is let go.

    Args:
        folder: It is made where it is not there.
        what: What a person calls it.
        wait_s: How long to wait for another process to let it go.
        on_wait: Called again and again while this process waits for one that lives; it may raise.

    Yields:
        What raises RunError where the folder is no longer this process's.

    Raises:
        RunError: Another process works on it, and still does after `wait_s`.
        StorageError: The disk or the object store refused.
    """
    if is_remote(folder):
        with leased(folder, LOCK_NAME, what=what, wait_s=wait_s, on_wait=on_wait) as lease:
            yield lease.check
        return
    with _held(folder / LOCK_NAME, folder, what, wait_s, on_wait) as check:
        yield check


@contextmanager
def locked_place(
    place: Path, *, what: str, wait_s: float = 0.0, on_wait: OnWait = lambda: None
) -> Iterator[CheckLock]:
    """Hold a place at which something is made, whether it is there yet or not: as `locked`.

    The lock is the file `.NAME.lock` beside the place (or, in an object store, a lease of that name), which
    goes when it is let go.
    """
    path = place.parent / f".{place.name}{LOCK_NAME}"
    if is_remote(place):
        with leased(
            path.parent, path.name, what=what, wait_s=wait_s, on_wait=on_wait, leave_nothing=True
        ) as lease:
            yield lease.check
        return
    with _held(path, place, what, wait_s, on_wait) as check:
        yield check


@contextmanager
def _held(path: Path, place: Path, what: str, wait_s: float, on_wait: OnWait) -> Iterator[CheckLock]:
    """Hold a lock file of a disk."""

    def check() -> None:
        if not _stands_at(stream, path):
            raise RunError(
                f"the lock of this {what} is gone: another process may be working on it",
                expected=f"the file {path.name}, which only the process that holds it may remove",
                where=str(place),
                next_step="run the same command again: it goes on, unless another process holds it now",
            )

    deadline = time.monotonic() + wait_s
    while (taken := _taken(path)) is None:
        if time.monotonic() >= deadline:
            raise in_use(place, what)
        on_wait()
        time.sleep(_POLL_S)
    with taken as stream:
        try:
            yield check
        finally:
            if _stands_at(stream, path):
                _leave(path, place)


def _leave(path: Path, place: Path) -> None:
    """Remove a held lock file that nothing needs any more, and its folder where nothing else is in it."""
    is_inside = path.parent == place
    if is_inside and names_in(place) != [path.name]:
        return
    with suppress(OSError):  # what stays harms nobody; and somebody may begin in the folder right now
        path.unlink()
        if is_inside:
            place.rmdir()


def _taken(path: Path) -> IO[str] | None:
    """Return the lock file, held by this process; None where another holds it."""
    while True:
        with disk_errors(path):
            stream = _opened(path)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            return None
        except OSError as error:
            stream.close()
            raise _no_locks(path, error) from error
        if _stands_at(stream, path):
            return stream
        stream.close()  # who held it removed it, and others hold its successor


def _opened(path: Path) -> IO[str]:
    """Return the lock file, made where it is not there, however often its folder goes in between."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("a")
        except FileNotFoundError:
            continue
        except FileExistsError:
            if os.path.lexists(path.parent):
                raise


def _stands_at(stream: IO[str], path: Path) -> bool:
    """Return whether an open file is the one that lies at a place now."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _no_locks(path: Path, error: OSError) -> StorageError:
    return StorageError(
        "the file system knows no locks, which keep two processes apart",
        expected="flock, as of local disks, NFS with its lock service, and Lustre mounted with -o flock",
        found=error.strerror or str(error),
        where=str(path),
        next_step="put it on another file system, or have this one mounted with locks",
    )
