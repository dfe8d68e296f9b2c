"""The ledger: what a run did, append-only and hash-chained. Resuming a run is replaying it.

A record is one line of JSON: `seq, time_utc, event, round, data, prev_hash, hash`, where `hash` covers all
the others. The line is the unit of atomicity: a line that a crash cut short has no effect and is dropped.

Events: `run_started` (identity, pool, versions), `stage_finished` (seconds), `labels_imported` (file hash),
`round_committed` (hashes of its files, the selection with what led to it, the labels), `run_finished`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from xal_ray.errors import RunError
from xal_ray.places import is_remote
from xal_ray.storage import append_line, digest, disk_errors, make_folder, write_bytes
from xal_ray.storage.lease import in_use, leased

GENESIS = "0" * 64
LOCK_NAME = ".lock"  # on an object store, what the names of the lease's objects begin with
_LOCK_POLL_S = 0.05

CheckLock = Callable[[], None]


def is_lock(name: str) -> bool:
    """Whether a file of that name in a run folder belongs to its lock."""
    return name == LOCK_NAME or name.startswith(f"{LOCK_NAME}-")


@dataclass(frozen=True)
class Record:
    """One line of the ledger."""

    seq: int
    time_utc: str
    event: str
    round: int | None
    data: dict[str, Any]
    prev_hash: str
    hash: str


class Ledger:
    """The open ledger of a run.

    Args:
        path: `ledger.jsonl`; it need not exist yet.
        check_lock: What `locked` gave; it raises where the folder is no longer this process's.

    Raises:
        RunError: A line was changed, removed, or is not a record.
    """

    def __init__(self, path: Path, check_lock: CheckLock = lambda: None) -> None:
        self.path = path
        self.check_lock = check_lock
        self.records: list[Record] = _read(path)

    def append(self, event: str, *, round_number: int | None = None, **data: Any) -> Record:
        """Append a record and wait until the disk has it.

        Raises:
            RunError: Another process has taken the folder over.
            StorageError: The disk refused.
        """
        body: dict[str, Any] = {
            "seq": len(self.records),
            "time_utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event,
            "round": round_number,
            "data": data,
            "prev_hash": self.records[-1].hash if self.records else GENESIS,
        }
        record = Record(**body, hash=digest(body))
        self.check_lock()
        append_line(self.path, json.dumps(asdict(record), sort_keys=True, allow_nan=False))
        self.records.append(record)
        return record

    def find(self, event: str, round_number: int | None = None) -> Record | None:
        """The first record of an event, in a round where one is named."""
        for record in self.records:
            if record.event == event and (round_number is None or record.round == round_number):
                return record
        return None

    def labels(self) -> dict[str, str]:
        """The label state: image_id to label, folded over the committed rounds."""
        known: dict[str, str] = {}
        for record in self.records:
            if record.event == "round_committed":
                known.update(record.data["labels"])
        return known


@contextmanager
def locked(folder: Path, *, what: str = "run", wait_s: float = 0.0) -> Iterator[CheckLock]:
    """Hold a run folder for this process alone; the lock goes with the process, however it ends.

    On an object store it is a lease (`storage/lease.py`): it goes some seconds after the process.

    Args:
        folder: It is made where it is not there.
        what: What a person calls it.
        wait_s: How long to wait for another process to let it go.

    Yields:
        What raises RunError where another process has taken the folder over.

    Raises:
        RunError: Another process works on it, and still does after `wait_s`.
    """
    if is_remote(folder):
        with leased(folder, LOCK_NAME, what=what, wait_s=wait_s) as lease:
            yield lease.check
        return
    make_folder(folder)
    with disk_errors(folder):
        stream = (folder / LOCK_NAME).open("w")
    deadline = time.monotonic() + wait_s
    with stream:
        while not _is_taken(stream):
            if time.monotonic() >= deadline:
                raise in_use(folder, what)
            time.sleep(_LOCK_POLL_S)
        yield lambda: None


def _is_taken(stream: IO[str]) -> bool:
    """Take the lock if nobody else has it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> list[Record]:
    if not path.exists():
        return []
    content = path.read_bytes()
    whole, newline, torn = content.rpartition(b"\n")
    if torn:
        # The process died while it wrote this line, so nothing that follows from it has happened.
        if is_remote(path):
            write_bytes(path, whole + newline)
        else:
            with disk_errors(path):
                os.truncate(path, len(whole) + len(newline))
    records: list[Record] = []
    for number, line in enumerate(whole.splitlines(), start=1):
        records.append(_parse(line, records[-1].hash if records else GENESIS, f"{path}, line {number}"))
    return records


def _parse(line: bytes, prev_hash: str, where: str) -> Record:
    try:
        record = Record(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise _broken("a line of the ledger is not a record", where) from error
    body = asdict(record)
    del body["hash"]
    if record.prev_hash != prev_hash or record.hash != digest(body):
        raise _broken("the ledger's hash chain is broken: a line was changed, removed or inserted", where)
    return record


def _broken(what: str, where: str) -> RunError:
    return RunError(
        what,
        where=where,
        next_step="restore the ledger from a backup, or start a new run with another --out",
    )
