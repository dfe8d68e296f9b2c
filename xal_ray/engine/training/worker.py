"""Does the work of a Ray Train worker: read its labels, train, report checkpoints and the model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from xal_ray.engine.code_check import Check
from xal_ray.engine.training.request import TrainRequest, fit_and_save, unpacked
from xal_ray.model.files import CARD_FILE
from xal_ray.model.training.checkpoint import TrainingState, read_state, write_state
from xal_ray.model.training.minibatches import LabelledImages
from xal_ray.pool.schema import PoolReader


@dataclass(frozen=True)
class WorkerTask:
    """Holds what a worker is told.

    Attributes:
        request: What to train on.
        weights: A reference to the packed network that the training begins with.
        every_steps: Steps from one checkpoint to the next; 0: none.
        checks: What a worker makes sure of first: its code, and that it sees the folders of pool and run.
    """

    request: TrainRequest
    weights: Any
    every_steps: int
    checks: tuple[Check, ...] = ()


def work(arguments: dict[str, WorkerTask]) -> None:
    """Train, and report the model: with rank 0's weights, last of all checkpoints.

    Ray Train starts it anew, in fresh processes, after the loss of a worker, and where the run's name was
    used before. It then goes on from the last checkpoint; where that is the model, nothing is left to do.
    """
    import ray
    import ray.train

    task, context = arguments["task"], ray.train.get_context()
    for each in task.checks:
        each.check()
    sync = Distributed(context.get_world_rank(), context.get_world_size())
    checkpoints = ReportedCheckpoints(task.every_steps, sync.rank, sync.world_size)
    if checkpoints.model_is_done:
        return
    request = task.request
    network = unpacked(request, ray.get(task.weights))
    batches = ray.train.get_dataset_shard("train").iter_batches(batch_size=256, batch_format="pyarrow")
    images = gather(list(batches), request.pool)
    with tempfile.TemporaryDirectory() as folder:
        fit_and_save(request, network, images, Path(folder), sync=sync, checkpoints=checkpoints)
        model = ray.train.Checkpoint.from_directory(folder) if sync.rank == 0 else None
        ray.train.report({"begun_after": checkpoints.begun_after, "workers": sync.world_size}, model)


class ReportedCheckpoints:
    """The training's checkpoints, as Ray Train keeps them: each worker adds its file to a common folder.

    Attributes:
        every_steps: Steps from one to the next; 0: none.
        model_is_done: The last one is the model itself: its driver ended before it could take it.
        begun_after: The step after which this group of workers began.
    """

    def __init__(self, every_steps: int, rank: int, world_size: int) -> None:
        import ray.train

        self.every_steps = every_steps
        self.model_is_done = False
        self._rank, self._world_size = rank, world_size
        self._last: TrainingState | None = None
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                self.model_is_done = (Path(folder) / CARD_FILE).exists()
                if not self.model_is_done:
                    self._last = read_state(Path(folder), rank, world_size)
        self.begun_after = self._last.step if self._last is not None else 0

    def last(self) -> TrainingState | None:
        """The state that was reported last, by a group of workers of this size or another; given once."""
        state, self._last = self._last, None
        return state

    def keep(self, state: TrainingState) -> None:
        """Report a state, and wait until it is on the shared storage."""
        import ray.train

        with tempfile.TemporaryDirectory() as folder:
            write_state(Path(folder), state, self._rank, self._world_size)
            ray.train.report({"step": state.step}, ray.train.Checkpoint.from_directory(folder))


def gather(batches: Sequence[pa.Table], pool: PoolReader) -> LabelledImages:
    """A worker's shard in memory, by image_id: Ray Data promises no order that a model could rely on."""
    rows = pa.concat_tables(batches).combine_chunks().sort_by("image_id")
    shape = (rows.num_rows, pool.image_size, pool.image_size, pool.channels)
    pixels = np.frombuffer(b"".join(rows["pixels"].to_pylist()), dtype=np.uint8).reshape(shape)
    return LabelledImages(pixels, rows["label"].to_numpy())


class Distributed:
    """Data-parallel training among Ray Train's workers (a training's `Sync`)."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size

    def wrap(self, module: torch.nn.Module) -> torch.nn.Module:
        """Return the module whose gradients are averaged over the workers."""
        if self.world_size == 1:
            return module
        return torch.nn.parallel.DistributedDataParallel(module)

    def broadcast(self, value: float) -> float:
        """Return the value of rank 0."""
        if self.world_size == 1:
            return value
        import torch.distributed

        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        cell = torch.tensor([value], dtype=torch.float64, device=device)
        torch.distributed.broadcast(cell, src=0)
        return float(cell.item())
