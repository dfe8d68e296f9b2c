"""Shared folders: on a cluster, every machine must see the same files under the same path.

Object stores are shared by their nature. Of a local path nobody can tell: it may be a shared file system,
NFS or Lustre, or a disk that each machine has for itself. There, shards would be written where no one else
reads them. So the driver leaves a mark in each folder, and every process that is handed work looks for it
first, on whatever machine it is, and whenever that machine has come.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from xal_ray import config
from xal_ray.engine.code_check import Check, SameCode
from xal_ray.engine.session import is_joined
from xal_ray.errors import RunError
from xal_ray.places import is_remote
from xal_ray.storage import write_bytes

MARK_PREFIX = ".shared-"


@dataclass(frozen=True)
class Mark:
    """An empty file that the driver left in a folder.

    Attributes:
        path: The file; no other driver uses its name.
        driver: The host name of the machine that left it.
    """

    path: Path
    driver: str

    def check(self) -> None:
        """Look for the mark from this machine.

        Raises:
            RunError: It is not there: this machine has another folder under that path.
        """
        if not self.path.exists():
            raise RunError(
                "the machines of this cluster do not share a folder",
                expected="s3://, gs://, or a shared file system under the same path on every machine",
                found=f"{socket.gethostname()} does not see what {self.driver} wrote",
                where=str(self.path.parent),
                next_step="put pool.path and --out on s3://, gs:// or a mount that all machines have",
            )


_marks: list[Mark] = []


@contextmanager
def sharing(folders: Iterable[Path], resources: config.Ray) -> Iterator[None]:
    """Have every process of a cluster make sure that it sees these folders, before it works.

    Args:
        folders: Folders of the pool and of the run. A pool that the driver may only read gets no mark: a
            machine without it says so when it reads.
        resources: Says whether the Ray is a cluster that was joined; a machine of one's own shares nothing.

    Raises:
        StorageError: The disk refused.
    """
    local = [folder for folder in folders if is_joined(resources) and not is_remote(folder)]
    left: list[Mark] = []
    try:
        for folder in local:
            if folder.exists() and not os.access(folder, os.W_OK):
                continue
            mark = Mark(folder / f"{MARK_PREFIX}{uuid.uuid4().hex[:8]}", socket.gethostname())
            write_bytes(mark.path, b"")
            left.append(mark)
            _marks.append(mark)
        yield
    finally:
        for mark in left:
            mark.path.unlink(missing_ok=True)
            _marks.remove(mark)


def remove_marks(folder: Path) -> None:
    """Remove what a killed driver left in a folder that is this driver's alone now."""
    if not is_remote(folder):
        for path in folder.glob(f"{MARK_PREFIX}*"):
            path.unlink(missing_ok=True)


def marks() -> tuple[Mark, ...]:
    """Return what a process looks for before it works."""
    return tuple(_marks)


def checks() -> tuple[Check, ...]:
    """All that a process makes sure of before it works: that it runs this code, and sees the folders."""
    return (SameCode(), *marks())
