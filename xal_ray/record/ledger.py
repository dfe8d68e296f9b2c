"""The ledger: what a run did, append-only and hash-chained. Resuming a run is replaying it.

A record is one line of JSON: `seq, time_utc, event, round, data, prev_hash, hash`, where `hash` covers all
the others. The line is the unit of atomicity: a line that a crash cut short has no effect. Who holds the
run's lock cuts it off; who only reads leaves it, since it may be a line that the holder is just writing.

Events: `run_started` (identity, pool, versions), `plug_in_changed` (the identity since),
`stage_finished` (seconds), `labels_imported` (file hash),
`labels_closed` (how many picks were passed over),
`round_committed` (hashes of its files, the selection with what led to it, the labels), `run_finished`.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Unpack

from xal_ray.errors import RunError
from xal_ray.places import is_remote
from xal_ray.record.events import RecordData
from xal_ray.record.layout import SELECTION_FILE
from xal_ray.storage import append_line, digest, disk_errors, write_bytes
from xal_ray.storage.lock import LOCK_NAME, CheckLock, is_lock, locked

__all__ = ["GENESIS", "LOCK_NAME", "CheckLock", "Ledger", "Record", "is_lock", "locked"]

GENESIS = "0" * 64


@dataclass(frozen=True)
class Record:
    """One line of the ledger."""

    seq: int
    time_utc: str
    event: str
    round: int | None
    data: RecordData
    prev_hash: str
    hash: str


class Ledger:
    """The open ledger of a run.

    Args:
        path: `ledger.jsonl`; it need not exist yet.
        check_lock: What `locked` gave; it raises where the folder is no longer this process's. None: the
            ledger is only read, and its file is left as it is.

    Raises:
        RunError: A line was changed, removed, or is not a record.
    """

    def __init__(self, path: Path, check_lock: CheckLock | None = None) -> None:
        self.path = path
        self.check_lock = check_lock
        if check_lock is not None:
            check_lock()
            _cut_torn_line(path)
        self.records: list[Record] = _read(path)

    def append(self, event: str, *, round_number: int | None = None, **data: Unpack[RecordData]) -> Record:
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
        if self.check_lock is not None:
            self.check_lock()
        _cut_torn_line(self.path)  # of a write that the disk refused half way
        append_line(self.path, json.dumps(asdict(record), sort_keys=True, allow_nan=False))
        self.records.append(record)
        return record

    def commit(self, round_number: int) -> Record | None:
        """Return the last commit of a round: one that only trained is committed again once it has chosen."""
        for record in reversed(self.records):
            if record.event == "round_committed" and record.round == round_number:
                return record
        return None

    def has_chosen(self, round_number: int) -> bool:
        """Return whether a round is committed with a selection, be it an empty one."""
        record = self.commit(round_number)
        if record is None:
            return False
        return bool(record.data["labels"]) or SELECTION_FILE in record.data["files"]

    def chosen(self) -> set[str]:
        """Return the images that committed rounds have chosen, with a label or passed over."""
        found: set[str] = set()
        for record in self.records:
            if record.event == "round_committed":
                found.update(record.data["labels"])
                found.update(image["image_id"] for image in record.data["selected"].get("images", ()))
        return found

    def labels(self) -> dict[str, str]:
        """Return the label state: image_id to label, folded over the committed rounds."""
        known: dict[str, str] = {}
        for record in self.records:
            if record.event == "round_committed":
                known.update(record.data["labels"])
        return known


def _read(path: Path) -> list[Record]:
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    records: list[Record] = []
    for number, line in enumerate(whole.splitlines(), start=1):
        records.append(_parse(line, records[-1].hash if records else GENESIS, f"{path}, line {number}"))
    return records


def _cut_torn_line(path: Path) -> None:
    """Cut off a last line without its end: its writer died, so nothing that follows from it has happened."""
    if not path.exists():
        return
    if is_remote(path):
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):  # a copy of one of a disk: an object is never half there
            write_bytes(path, whole)
        return
    with disk_errors(path), path.open("rb+") as stream:
        end = stream.seek(0, os.SEEK_END)
        if end and stream.seek(end - 1) and stream.read(1) == b"\n":
            return
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)


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
