"""The state of a training between two steps: with it, an interrupted training ends with the same bytes.

A folder holds `training.safetensors`, the same for all workers, and `worker-RRR.safetensors` of each of them.
What is no tensor stands in a file's header, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from xal_ray.errors import StorageError
from xal_ray.storage import disk_errors

COMMON_FILE = "training.safetensors"


@dataclass(frozen=True)
class Part:
    """Tensors and plain values of something that has a state.

    Attributes:
        tensors: By name; they may still be in use: who keeps a part writes it at once.
        values: What JSON can hold.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the part as a safetensors file."""
        header = {"values": json.dumps(dict(self.values), sort_keys=True, allow_nan=False)}
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.tensors.items()}
        data: bytes = safetensors.torch.save(tensors, header)
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Part:
        """Return the inverse of `to_bytes`, on the CPU.

        Raises:
            ValueError: The bytes are not of such a file.
        """
        # The format: 8 bytes with the header's length, the header as JSON, the tensors.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return cls(safetensors.torch.load(data), json.loads(header["__metadata__"]["values"]))

    @classmethod
    def joined(cls, parts: Mapping[str, Part], **values: Any) -> Part:
        """Return several parts as one, and values beside them."""
        tensors = {
            f"{name}/{key}": value for name, part in parts.items() for key, value in part.tensors.items()
        }
        return cls(tensors, {**{name: dict(part.values) for name, part in parts.items()}, **values})

    def part(self, name: str) -> Part:
        """Return one of those that were joined."""
        start = f"{name}/"
        tensors = {
            key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)
        }
        return Part(tensors, self.values[name])


@dataclass(frozen=True)
class TrainingState:
    """Holds what a worker needs to go on.

    Attributes:
        step: The last step that was done.
        common: Of the training as a whole: weights, optimiser, early stopping, history.
        own: Of this worker: its random streams and its place among its images. None: they are of a group of
            another size, and begin anew.
    """

    step: int
    common: Part
    own: Part | None


def write_state(folder: Path, state: TrainingState, rank: int, world_size: int) -> None:
    """Write one worker's part of a checkpoint; that of worker 0 holds what is common too.

    Not atomically: the folder is one of this process alone, and counts once all workers have sent theirs.

    Raises:
        StorageError: The disk refused.
    """
    if state.own is not None:
        _write(folder / _own_file(rank), state.own)
    if rank == 0:
        common = Part.joined({"common": state.common}, step=state.step, world_size=world_size)
        _write(folder / COMMON_FILE, common)


def read_state(folder: Path, rank: int, world_size: int) -> TrainingState:
    """Read what the workers of a group, of this size or of another, have written.

    Raises:
        StorageError: A file is missing or damaged.
    """
    whole = _read(folder / COMMON_FILE)
    same_group = whole.values["world_size"] == world_size
    own = _read(folder / _own_file(rank)) if same_group else None
    return TrainingState(whole.values["step"], whole.part("common"), own)


def _own_file(rank: int) -> str:
    return f"worker-{rank:03d}.safetensors"


def _write(path: Path, part: Part) -> None:
    with disk_errors(path):
        path.write_bytes(part.to_bytes())


def _read(path: Path) -> Part:
    try:
        return Part.from_bytes(path.read_bytes())
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise StorageError(
            "a checkpoint of a training can't be read", found=str(error), where=str(path)
        ) from error
