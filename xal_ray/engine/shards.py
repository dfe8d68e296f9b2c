"""One way to spread work: shards, each a row of references in and a finished file out.

A shard is the unit of work, of retry and of resumption. What travels through Ray is its references and, back,
a receipt; pixels and results go from and to the disk. A shard's content depends on the shard alone, so the
number of actors, their order and their deaths change nothing in the result.
"""

from __future__ import annotations

import pickle
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from xal_ray.engine.session import check_capacity
from xal_ray.errors import StageError, XalRayError
from xal_ray.progress import Reporter

RECEIPT_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("error", pa.binary()),  # a pickled XalRayError of ours
    ]
)


@dataclass(frozen=True)
class Shard:
    """A unit of work.

    Attributes:
        path: The file that it ends in.
        rows: References: what the work needs to find its input.
    """

    path: Path
    rows: pa.Table


@dataclass(frozen=True)
class Resources:
    """What a stage declares to Ray."""

    num_actors: int
    cpus_per_actor: float
    gpus_per_actor: float = 0.0
    stall_timeout_s: float = 600.0


class Work(Protocol):
    """What an actor does: set up once, then called for each shard, whose file it writes atomically."""

    def __call__(self, path: Path, rows: pa.Table) -> None:
        """Do the work of one shard."""


def cut(rows: pa.Table, folder: Path, rows_per_shard: int) -> list[Shard]:
    """Cut rows into shards by their order alone, so that the same request gives the same shards."""
    return [
        Shard(folder / f"{number:05d}.parquet", rows.slice(start, rows_per_shard))
        for number, start in enumerate(range(0, rows.num_rows, rows_per_shard))
    ]


def run_shards(
    stage: str,
    shards: Sequence[Shard],
    work: Callable[..., Work],
    arguments: Mapping[str, Any],
    resources: Resources,
    reporter: Reporter,
) -> None:
    """Run the shards whose file does not exist yet, on a pool of actors.

    Args:
        stage: What a person calls it.
        shards: The shards; each names its target file.
        work: Builds the work in an actor, once.
        arguments: What `work` is built with.
        resources: What the actors need.
        reporter: Hears about progress.

    Raises:
        XalRayError: What the work raised, as it raised it.
        StageError: The stage stood still for `stall_timeout_s`, or Ray failed.
    """
    missing = [shard for shard in shards if not shard.path.exists()]
    if not missing:
        return
    check_capacity(
        stage, min(resources.num_actors, len(missing)), resources.cpus_per_actor, resources.gpus_per_actor
    )
    total = sum(shard.rows.num_rows for shard in shards)
    with reporter.bar(stage, total, "images") as advance:
        advance(total - sum(shard.rows.num_rows for shard in missing))
        for rows in _receipts(stage, missing, work, arguments, resources):
            advance(rows)


def _receipts(
    stage: str,
    shards: Sequence[Shard],
    work: Callable[..., Work],
    arguments: Mapping[str, Any],
    resources: Resources,
) -> Iterator[int]:
    """Yield the number of rows of each finished shard, watching over the time between two."""
    answers: queue.Queue[pa.Table | BaseException | None] = queue.Queue()
    given_up = threading.Event()

    def consume() -> None:
        try:
            batches = _dataset(shards, work, arguments, resources).iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )
            for batch in batches:
                answers.put(batch)
                if given_up.is_set():
                    break  # which ends the actors
            answers.put(None)
        except BaseException as error:
            answers.put(error)  # the caller's thread raises it

    consumer = threading.Thread(target=consume, name=f"xal-ray {stage}", daemon=True)
    consumer.start()
    while True:
        try:
            answer = answers.get(timeout=resources.stall_timeout_s)
        except queue.Empty:
            raise _stalled(stage, resources) from None
        if answer is None:
            return
        if isinstance(answer, BaseException):
            raise _ray_failed(stage, answer) from answer
        for rows, error in zip(answer["rows"].to_pylist(), answer["error"].to_pylist(), strict=True):
            if error is not None:
                given_up.set()
                consumer.join(resources.stall_timeout_s)
                raise pickle.loads(error)  # noqa: S301 - made by our own actor a moment ago
            yield rows


def _dataset(
    shards: Sequence[Shard], work: Callable[..., Work], arguments: Mapping[str, Any], resources: Resources
) -> Any:
    import ray.data

    # One block a shard: a block is what Ray Data schedules and retries.
    return ray.data.from_arrow([_to_block(shard) for shard in shards]).map_batches(
        _Actor,
        fn_constructor_kwargs={"work": work, "arguments": dict(arguments)},
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(resources.num_actors, len(shards))),
        num_cpus=resources.cpus_per_actor,
        num_gpus=resources.gpus_per_actor or None,
    )


class _Actor:
    """Runs shards in an actor of Ray Data's pool: blocks of `_to_block` in, receipts out."""

    def __init__(self, work: Callable[..., Work], arguments: Mapping[str, Any]) -> None:
        self.failure: XalRayError | None = None
        try:
            self.work = work(**arguments)
        except XalRayError as error:
            # Raised here, Ray would start the actor again and again; as a receipt it reaches the user.
            self.failure = error

    def __call__(self, block: pa.Table) -> pa.Table:
        receipts = [self._run(row["path"], row["rows"]) for row in block.to_pylist()]
        return pa.Table.from_pylist(receipts, schema=RECEIPT_SCHEMA)

    def _run(self, path: str, payload: bytes) -> dict[str, Any]:
        rows = pa.ipc.open_stream(payload).read_all()
        try:
            if self.failure is not None:
                raise self.failure
            self.work(Path(path), rows)
        except XalRayError as error:
            return {"shard": path, "rows": rows.num_rows, "error": pickle.dumps(error)}
        return {"shard": path, "rows": rows.num_rows, "error": None}


def _to_block(shard: Shard) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, shard.rows.schema) as stream:
        stream.write_table(shard.rows)
    payload = sink.getvalue().to_pybytes()
    return pa.table({"path": [str(shard.path)], "rows": pa.array([payload], pa.binary())})


def _stalled(stage: str, resources: Resources) -> StageError:
    return StageError(
        f"{stage} stood still for {resources.stall_timeout_s:g} s",
        expected=f"a finished shard from one of {resources.num_actors} actors",
        next_step=(
            "the usual cause is a lack of logical CPUs or of memory: raise ray.num_cpus, "
            "lower ray.num_actors, or, if a shard truly takes that long, raise ray.stall_timeout_s; "
            "the same command goes on"
        ),
    )


def _ray_failed(stage: str, error: BaseException) -> StageError:
    return StageError(
        f"{stage} failed inside Ray",
        found=f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}",
        next_step="run the same command again: finished shards are kept; --verbose and --debug show more",
    )
