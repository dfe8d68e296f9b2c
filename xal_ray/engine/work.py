"""Defines what an actor is, and what it is handed: work, set up once, and shards of it."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from xal_ray.errors import StageError, XalRayError
from xal_ray.places import place

Receipt = dict[str, Any]


class Work(Protocol):
    """Holds what an actor does: set up once, then called for each shard, whose file it writes atomically.

    Work that can do without an image also has `probe(rows)`, which computes the same and writes nothing, and
    takes `refused` (image_id to error code): rows that it must not touch, and must account for. Without these
    an image that kills the process ends the stage.
    """

    def __call__(self, path: Path, rows: pa.Table) -> None:
        """Do the work of one shard."""


class Actor:
    """Does shards of whatever work it is handed."""

    def __init__(self) -> None:
        self.setup = b""
        self.work: Any = None

    def ready(self) -> tuple[str, int]:
        """Return where this process is: node and process id."""
        import ray

        return ray.get_runtime_context().get_node_id(), os.getpid()

    def run(self, setup: bytes, path: str, payload: bytes, refused: dict[str, str] | None = None) -> Receipt:
        """Do a shard, without the rows that are refused (image_id to error code)."""
        options = {"refused": refused} if refused else {}
        return self._receipt(setup, path, payload, lambda rows: self.work(place(path), rows, **options))

    def probe(self, setup: bytes, path: str, payload: bytes) -> Receipt:
        """Do what the shard's rows ask for, and write nothing."""

        def do(rows: pa.Table) -> None:
            if not hasattr(self.work, "probe"):
                raise poison_shard_error(path, "work that can't do without an image")
            self.work.probe(rows)

        return self._receipt(setup, path, payload, do)

    def _receipt(self, setup: bytes, path: str, payload: bytes, do: Callable[[pa.Table], None]) -> Receipt:
        """Work, and return the receipt; what goes wrong for a reason of ours comes back in it, as it is."""
        rows = from_bytes(payload)
        receipt = {"shard": path, "rows": rows.num_rows, "busy_s": 0.0, "error": None, "note": None}
        try:
            if setup != self.setup:
                self.setup, self.work = b"", None  # the old work's memory goes first
                checks, packed = pickle.loads(setup)  # noqa: S301 - made by our own driver
                for each in checks:
                    each.check()
                work, arguments = pickle.loads(packed)  # noqa: S301
                self.work, self.setup = work(**arguments), setup
            begin = time.monotonic()
            do(rows)
            receipt["busy_s"] = time.monotonic() - begin
        except XalRayError as error:
            receipt["error"] = pickle.dumps(error)
        return receipt


def to_bytes(rows: pa.Table) -> bytes:
    """Return a table as it travels."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return bytes(sink.getvalue().to_pybytes())


def from_bytes(payload: bytes) -> pa.Table:
    """Return what `to_bytes` was given."""
    return pa.ipc.open_stream(payload).read_all()


def poison_shard_error(path: str, found: str) -> StageError:
    """Return the error for a shard that can't be done, whoever does it."""
    return StageError(
        "a shard kills every process that works on it",
        expected="one or a few images that kill a process by themselves, which would be left out",
        found=found,
        where=path,
        next_step=(
            "the usual cause is a lack of memory: use fewer actors on a node, a smaller score.batch_size, "
            "score.rows_per_shard or pool.rows_per_part; or a device that is broken; the same command goes on"
        ),
    )
