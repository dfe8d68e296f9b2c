"""One way to spread work: shards, each a row of references in and a finished file out.

A shard is the unit of work, of retry and of resumption. What travels through Ray is its references and, back,
a receipt; pixels and results go from and to the disk. A shard's content depends on the shard alone, so the
number of actors, their order and their deaths change nothing in the result.

Ray Data streams the shards, a block each, with its back-pressure and its retries; its tasks hand them to the
warm actors of the stage's context and wait.
"""

from __future__ import annotations

import pickle
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from xal_ray.engine.actors import ActorPool, ActorShape
from xal_ray.engine.context import StageContext
from xal_ray.engine.session import check_capacity, is_joined, keeps_actors
from xal_ray.engine.shared import checks
from xal_ray.engine.watchdog import Watchdog
from xal_ray.engine.work import Work, to_bytes
from xal_ray.errors import StageError
from xal_ray.storage import existing_files

RECEIPT_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("busy_s", pa.float64(), nullable=False),  # of the actor, in the work itself
        pa.field("error", pa.binary()),  # a pickled XalRayError of ours
        pa.field("note", pa.string()),  # what a person should know
    ]
)
# A task of Ray Data that waits for an actor computes nothing: no CPU, so that it finds a place beside actors
# that hold all of them, and on a head that declares none. One more than there are actors keeps a shard ready
# for whichever is free next.
_CPUS_PER_WAITING_TASK = 0
_SHARDS_IN_WAITING = 1
_PIPELINES = 4  # of Ray Data that a stage may use up, as long as each gets something done


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
class Pace:
    """Says how long a stage took; what it costs to begin apart from how fast it then is.

    Attributes:
        num_rows: Rows done now; those of finished shards are not counted.
        seconds: From the call to the last receipt.
        startup_s: Until the first actor began its first shard.
    """

    num_rows: int
    seconds: float
    startup_s: float

    @property
    def rows_per_s(self) -> float:
        """Return the steady rate."""
        return self.num_rows / max(self.seconds - self.startup_s, 1e-9)


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
    shape: ActorShape,
    context: StageContext,
    *,
    unit: str = "images",
) -> Pace:
    """Run the shards whose file does not exist yet, on the context's actors or, without any, in this process.

    A shard's file is the same either way.

    Args:
        stage: What a person calls it.
        shards: The shards; each names its target file.
        work: Builds the work in an actor, once.
        arguments: What `work` is built with.
        shape: The actors; none leave the work to this process, and Ray alone.
        context: Has the actors; its resources say how long no shard may finish (`stall_timeout_s`), how many
            actors a shard may kill (`shard_attempts`), whether the actors stay (`keep_actors`), and whose
            the cluster is.
        unit: What a row is.

    Raises:
        XalRayError: What the work raised, as it raised it.
        StageError: The stage stood still, a shard kills whatever works on it, or Ray failed.
    """
    there = existing_files(shard.path for shard in shards)
    missing = [shard for shard in shards if shard.path not in there]
    if not missing:
        return Pace(0, 0.0, 0.0)
    total = sum(shard.rows.num_rows for shard in shards)
    num_rows = sum(shard.rows.num_rows for shard in missing)
    begin, startup_s = time.monotonic(), None
    with context.reporter.bar(stage, total, unit) as advance:
        advance(total - num_rows)
        for receipt in _work_off(stage, missing, work, arguments, shape, context):
            if startup_s is None:
                startup_s = time.monotonic() - begin - receipt["busy_s"]
            if receipt["note"]:
                context.reporter.line(f"{stage}: {receipt['note']}")
            advance(receipt["rows"])
    pace = Pace(num_rows, time.monotonic() - begin, startup_s or 0.0)
    context.reporter.line(
        f"{stage}: {num_rows} {unit} in {pace.seconds:.1f} s: {pace.startup_s:.1f} s to start, "
        f"then {pace.rows_per_s:.{0 if pace.rows_per_s >= 10 else 2}f} {unit}/s"
    )
    return pace


def _work_off(
    stage: str,
    shards: Sequence[Shard],
    work: Callable[..., Work],
    arguments: Mapping[str, Any],
    shape: ActorShape,
    context: StageContext,
) -> Iterator[dict[str, Any]]:
    """Yield the receipt of each finished shard."""
    if shape.num_actors:
        check_capacity(
            stage,
            shape.num_actors,
            shape.cpus_per_actor,
            shape.gpus_per_actor,
            custom=shape.resources,
            warn=context.reporter.line if is_joined(context.resources) else None,
        )
        yield from _pipelines(stage, shards, _setup(work, arguments), shape, context)
        if not keeps_actors(context.resources):
            context.actors.release()
        return
    do = work(**arguments)
    for shard in shards:
        begin = time.monotonic()
        do(shard.path, shard.rows)
        yield _receipt(shard, time.monotonic() - begin)


def _pipelines(
    stage: str,
    shards: Sequence[Shard],
    setup: bytes,
    shape: ActorShape,
    context: StageContext,
) -> Iterator[dict[str, Any]]:
    """Yield the receipt of each finished shard, with a new pipeline of Ray Data where one was lost.

    The loss of a node was seen to take Ray Data's own actors along, and the pipeline with them. What is
    finished stays so.
    """
    waiting = {str(shard.path): shard for shard in shards}
    for pipeline in range(_PIPELINES):
        before = len(waiting)
        try:
            for receipt in _receipts(stage, list(waiting.values()), setup, shape, context):
                del waiting[receipt["shard"]]
                yield receipt
            return
        except StageError as error:
            there = existing_files(shard.path for shard in waiting.values())
            for shard in [shard for shard in waiting.values() if shard.path in there]:
                del waiting[str(shard.path)]
                yield _receipt(shard)
            if not _is_rays_own(error.__cause__) or len(waiting) == before or pipeline + 1 == _PIPELINES:
                raise
            context.reporter.line(
                f"{stage}: Ray lost its pipeline ({error.details['found']}); it goes on with another"
            )


def _receipt(shard: Shard, busy_s: float = 0.0) -> dict[str, Any]:
    return {"shard": str(shard.path), "rows": shard.rows.num_rows, "busy_s": busy_s, "note": None}


def _receipts(
    stage: str, shards: Sequence[Shard], setup: bytes, shape: ActorShape, context: StageContext
) -> Iterator[dict[str, Any]]:
    """Yield the receipt of each finished shard, watching over the time between two."""
    answers: queue.Queue[pa.Table | BaseException | None] = queue.Queue()
    actor_pool = context.actors.of_shape(shape)

    def consume() -> None:
        try:
            for batch in _batches(shards, setup, actor_pool, context.resources.shard_attempts):
                answers.put(batch)
            answers.put(None)
        except BaseException as error:
            answers.put(error)  # the caller's thread raises it

    consumer = threading.Thread(target=consume, name=f"xal-ray {stage}", daemon=True)
    consumer.start()
    watchdog = Watchdog(stage, actor_pool, context)
    try:
        while True:
            try:
                answer = answers.get(timeout=watchdog.look_every_s)
            except queue.Empty:
                watchdog.look()
                continue
            watchdog.heard()
            if answer is None:
                return
            if isinstance(answer, BaseException):
                raise _ray_failed(stage, answer) from answer
            for receipt in answer.to_pylist():
                if receipt["error"] is not None:
                    raise pickle.loads(receipt["error"])  # noqa: S301 - made by our own actor a moment ago
                yield receipt
    except BaseException:
        # No actor shall go on writing into a folder that somebody may clear away.
        context.actors.release()
        consumer.join(context.resources.stall_timeout_s)
        raise


def _batches(
    shards: Sequence[Shard], setup: bytes, actor_pool: ActorPool, attempts: int
) -> Iterator[pa.Table]:
    import ray.data

    # One block a shard: a block is what Ray Data schedules and retries. `from_arrow` would look at each in a
    # task that wants a whole CPU, and wait for ever where actors hold them all or where there is no node yet.
    receipts = ray.data.from_blocks([_to_block(shard) for shard in shards]).map_batches(
        _hand_over,
        fn_kwargs={"dispatcher": actor_pool.dispatcher, "setup": setup, "attempts": attempts},
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.TaskPoolStrategy(
            size=min(actor_pool.shape.num_actors + _SHARDS_IN_WAITING, len(shards))
        ),
        num_cpus=_CPUS_PER_WAITING_TASK,
    )
    yield from receipts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _hand_over(block: pa.Table, dispatcher: Any, setup: bytes, attempts: int) -> pa.Table:
    """Runs in a task of Ray Data: a block of `_to_block` in, receipts out."""
    import ray

    receipts = [
        ray.get(dispatcher.run.remote(setup, row["path"], row["rows"], attempts)) for row in block.to_pylist()
    ]
    return pa.Table.from_pylist(receipts, schema=RECEIPT_SCHEMA)


def _setup(work: Callable[..., Work], arguments: Mapping[str, Any]) -> bytes:
    from ray import cloudpickle  # takes local classes along by value

    # In two layers: what is made sure of comes before anything of the work is imported.
    setup: bytes = cloudpickle.dumps((checks(), cloudpickle.dumps((work, dict(arguments)))))
    return setup


def _to_block(shard: Shard) -> pa.Table:
    return pa.table({"path": [str(shard.path)], "rows": pa.array([to_bytes(shard.rows)], pa.binary())})


def _is_rays_own(error: BaseException | None) -> bool:
    """Tell whether Ray failed for what happened to its processes and nodes, not for what a task raised."""
    from ray import exceptions

    lost = (
        exceptions.RayActorError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.ObjectLostError,
        exceptions.OutOfMemoryError,
        exceptions.LocalRayletDiedError,
    )
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, lost):
            return True
        seen.append(error)
        error = error.__cause__ or getattr(error, "cause", None)
    return False


def _ray_failed(stage: str, error: BaseException) -> StageError:
    return StageError(
        f"{stage} failed inside Ray",
        found=f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}",
        next_step="run the same command again: finished shards are kept; --verbose and --debug show more",
    )
