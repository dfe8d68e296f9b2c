"""A training that is interrupted goes on from its last checkpoint, and ends with the same bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from xal_ray.config import Train
from xal_ray.errors import StorageError
from xal_ray.model.network import ModelSpec, Network, freeze_backbone
from xal_ray.model.training.checkpoint import Part, TrainingState, read_state, write_state
from xal_ray.model.training.fit import fit
from xal_ray.model.training.minibatches import LabelledImages, Minibatches
from xal_ray.model.weights import build_network

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
CLASSES = ("dark", "bright")
SETTINGS = Train(max_steps=9, eval_every_steps=3, minibatch_size=4, learning_rate=1e-3, num_threads=1)


class PlugPulledError(Exception):
    """Someone pulled the plug."""


@dataclass
class Folder:
    """Checkpoints on the disk."""

    path: Path
    every_steps: int = 2
    rank: int = 0
    world_size: int = 1
    steps: list[int] = field(default_factory=list)

    def last(self) -> TrainingState | None:
        return read_state(self.path, self.rank, self.world_size) if self.steps else None

    def keep(self, state: TrainingState) -> None:
        write_state(self.path, state, self.rank, self.world_size)
        self.steps.append(state.step)


@dataclass(frozen=True)
class Member:
    """A worker whose colleagues only exist by their number."""

    rank: int
    world_size: int

    def wrap(self, module: nn.Module) -> nn.Module:
        return module

    def broadcast(self, value: float) -> float:
        return value


def images(count: int, seed: int) -> LabelledImages:
    generator = np.random.default_rng(seed)
    labels = (np.arange(count) % 2).astype(np.int64)
    pixels = generator.integers(0, 156, (count, 32, 32, 1)) + 100 * labels[:, None, None, None]
    return LabelledImages(pixels.astype(np.uint8), labels)


def embeddings(count: int, seed: int, width: int) -> LabelledImages:
    values = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return LabelledImages(values, (np.arange(count) % 2).astype(np.int64))


def train(backbone, frozen, settings, data, *, checkpoints=None, stop_after=None, sync=None):
    """One attempt: the network, the history, and how many steps this attempt did itself."""
    spec = ModelSpec(backbone, CLASSES, 32, 1)
    network: Network = build_network(spec, "none", seed=1)
    if frozen:
        freeze_backbone(network)
    done: list[int] = []

    def note(steps: int) -> None:
        done.append(steps)
        if sum(done) == stop_after:
            raise PlugPulledError

    history = fit(
        network,
        spec,
        *data,
        settings,
        seed=3,
        device=CPU,
        on_progress=note,
        checkpoints=checkpoints,
        sync=sync,
    )
    return network.state_dict(), history, done


CASES = {
    # Dropout, BatchNorm, shifts, and early stopping that waits and may end it.
    "dropout": ("efficientnet_b0", False, {"patience": 2}, False),
    # The schedule is followed to its end, and the last weights are the result.
    "plain": ("efficientnet_b0", False, {"patience": 0, "augment": "flip"}, False),
    "frozen": ("resnet18", True, {"learning_rate": 0.05}, False),
    # What the last layer sees is asked for once more, and its draws don't count.
    "embedded": ("resnet18", True, {"augment": "none", "patience": 1, "learning_rate": 0.5}, False),
    "given embeddings": ("resnet18", True, {"augment": "none"}, True),
}


@pytest.mark.parametrize("case", CASES)
def test_interrupted_three_times_it_ends_with_the_same_bits(case: str, tmp_path: Path) -> None:
    backbone, frozen, changes, embedded = CASES[case]
    settings = SETTINGS.model_copy(update=changes)
    data = (
        (embeddings(7, 0, 512), embeddings(4, 1, 512)) if embedded else (images(7, seed=0), images(4, seed=1))
    )
    whole, whole_history, _ = train(backbone, frozen, settings, data)
    folder = Folder(tmp_path)
    last_step = whole_history[-1]["step"]
    stops = [step for step in (1, 3, 6, 8) if step <= last_step]
    for stop in stops:
        with pytest.raises(PlugPulledError):
            train(backbone, frozen, settings, data, checkpoints=folder, stop_after=stop)
    kept_at = folder.steps[-1]
    weights, history, done = train(backbone, frozen, settings, data, checkpoints=folder)
    assert done == [kept_at] + [1] * (last_step - kept_at)
    assert kept_at >= 2
    assert history == whole_history
    for name, value in whole.items():
        assert torch.equal(weights[name], value), name
    start = build_network(ModelSpec(backbone, CLASSES, 32, 1), "none", seed=1).state_dict()
    assert any(not torch.equal(start[name], value) for name, value in whole.items())


def test_without_a_part_of_the_state_the_bits_differ(tmp_path: Path) -> None:
    """The comparison above can fail: each stream matters."""
    data = (images(7, seed=0), images(4, seed=1))
    settings = SETTINGS.model_copy(update={"patience": 0})
    whole, _, _ = train("efficientnet_b0", False, settings, data)
    folder = Folder(tmp_path)
    with pytest.raises(PlugPulledError):
        train("efficientnet_b0", False, settings, data, checkpoints=folder, stop_after=5)
    state = folder.last()
    fresh = Minibatches(data[0], 4, seed=99).state()
    changed = {
        "torch": {"torch/0": torch.Generator().manual_seed(7).get_state()},
        "minibatches": {"minibatches/waiting": fresh.tensors["waiting"]},
        "moments": {"optimiser/0/exp_avg": state.common.tensors["optimiser/0/exp_avg"] + 1.0},
    }
    for tensors in changed.values():
        own = Part({**state.own.tensors, **tensors}, state.own.values)
        common = Part({**state.common.tensors, **tensors}, state.common.values)
        folder.keep(TrainingState(state.step, common, own))
        weights, _, _ = train("efficientnet_b0", False, settings, data, checkpoints=folder)
        assert any(not torch.equal(weights[name], value) for name, value in whole.items())


def test_a_smaller_group_goes_on_with_streams_of_its_own(tmp_path: Path) -> None:
    """Two workers leave a checkpoint, one goes on: from its step, weights and history, and it says so."""
    data = (images(8, seed=0), images(4, seed=1))
    settings = SETTINGS.model_copy(update={"num_workers": 2, "augment": "none"})
    folders = [Folder(tmp_path, rank=rank, world_size=2) for rank in (1, 0)]
    for folder in folders:
        member = Member(folder.rank, 2)
        with pytest.raises(PlugPulledError):
            train("efficientnet_b0", False, settings, data, checkpoints=folder, stop_after=5, sync=member)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "training.safetensors",
        "worker-000.safetensors",
        "worker-001.safetensors",
    ]
    both = [folder.last() for folder in folders]
    assert not torch.equal(*(state.own.tensors["torch/0"] for state in both))  # each has its own
    alone = Folder(tmp_path, rank=0, world_size=1, steps=[4])
    assert alone.last().own is None
    _, history, done = train("efficientnet_b0", False, settings, data, checkpoints=alone)
    assert done == [4] + [1] * 5
    assert [row["step"] for row in history] == [3, 6, 9]
    assert [row.get("workers") for row in history] == [None, 1, 1]
    assert history[0] == both[1].common.values["history"][0]
    # A larger group can take it up as well.
    assert read_state(tmp_path, 2, 3).own is None


def test_other_images_begin_a_new_order(tmp_path: Path) -> None:
    data = (images(8, seed=0), images(4, seed=1))
    folder = Folder(tmp_path)
    with pytest.raises(PlugPulledError):
        train("efficientnet_b0", False, SETTINGS, data, checkpoints=folder, stop_after=5)
    _, history, _ = train(
        "efficientnet_b0", False, SETTINGS, (images(5, seed=0), data[1]), checkpoints=folder
    )
    assert [row["step"] for row in history] == [3, 6, 9]


def test_no_checkpoints_where_none_are_asked_for(tmp_path: Path) -> None:
    data = (images(8, seed=0), None)
    folder = Folder(tmp_path, every_steps=0)
    train("efficientnet_b0", False, SETTINGS.model_copy(update={"max_steps": 3}), data, checkpoints=folder)
    assert folder.steps == []


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    part = Part({"a": torch.arange(6).reshape(2, 3), "none": torch.empty(0)}, {"big": 2**100, "text": "x"})
    again = Part.from_bytes(part.to_bytes())
    assert again.values == part.values
    assert torch.equal(again.tensors["a"], part.tensors["a"])
    assert again.tensors["none"].shape == (0,)
    with pytest.raises(StorageError, match="can't be read"):
        read_state(tmp_path, 0, 1)
    (tmp_path / "training.safetensors").write_bytes(part.to_bytes()[:-3])
    with pytest.raises(StorageError, match="can't be read"):
        read_state(tmp_path, 0, 1)
