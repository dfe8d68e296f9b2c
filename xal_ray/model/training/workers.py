"""Says what a training asks of its surroundings: how workers stay together, where its state is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import nn

from xal_ray.model.training.checkpoint import TrainingState


class Sync(Protocol):
    """Says how the workers of one training stay together."""

    @property
    def rank(self) -> int:
        """This worker's number, from 0."""

    @property
    def world_size(self) -> int:
        """Return the number of workers."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module, made to average gradients over workers (DistributedDataParallel)."""

    def broadcast(self, value: float) -> float:
        """Return the value that worker 0 gave; all workers call it at the same points."""


class Checkpoints(Protocol):
    """Says where a training's state is kept while it goes on."""

    @property
    def every_steps(self) -> int:
        """Steps from one checkpoint to the next; 0: none."""

    def last(self) -> TrainingState | None:
        """Return where an interrupted training goes on; None: there is nothing to go on from."""

    def keep(self, state: TrainingState) -> None:
        """Take a state; all workers call it after the same steps. Its tensors change with the next one."""


@dataclass(frozen=True)
class Alone:
    """A single worker."""

    rank: int = 0
    world_size: int = 1

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module itself."""
        return module

    def broadcast(self, value: float) -> float:
        """Return the value itself."""
        return value
