"""Says what moves from one step of a training to the next, and how it is kept and taken up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xal_ray.model.network import Network
from xal_ray.model.training.checkpoint import Part, TrainingState
from xal_ray.model.training.minibatches import Minibatches
from xal_ray.model.training.optimiser import Optimiser
from xal_ray.model.training.randomness import restore_torch_streams, torch_streams


@dataclass
class TrainingProgress:
    """All that moves from one step to the next."""

    network: Network
    step_once: Optimiser
    early_stopping: EarlyStopping
    minibatches: Minibatches
    chance: np.random.Generator
    device: torch.device
    world_size: int
    history: list[dict[str, Any]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)  # since the last evaluation
    fewest_workers: int | None = None  # likewise, before this interruption

    def row(self, step: int, declared_workers: int) -> dict[str, Any]:
        """Return a row of the history, without the validation's part; the next one starts here."""
        row: dict[str, Any] = {"step": step, "train_loss": float(torch.stack(self.losses).mean())}
        fewest = self._fewest()
        if fewest != max(declared_workers, 1):
            row["workers"] = fewest
        self.losses.clear()
        self.fewest_workers = None
        return row

    def state(self, step: int) -> TrainingState:
        """Return what a worker needs to go on after a step."""
        common = Part.joined(
            {
                "network": Part(learned(self.network)),
                "optimiser": self.step_once.state(),
                "judge": self.early_stopping.state(),
            },
            history=self.history,
            fewest_workers=self._fewest() if self.losses else None,
        )
        losses = {"losses": torch.stack(self.losses)} if self.losses else {}
        own = Part.joined(
            {
                "torch": torch_streams(self.device),
                "minibatches": self.minibatches.state(),
                "course": Part(losses),
            },
            augment=self.chance.bit_generator.state,
        )
        return TrainingState(step, common, own)

    def take_up(self, kept: TrainingState, own: Part | None) -> None:
        """Go on where `state` was called; without `own` this worker's streams stay as they are."""
        self.network.load_state_dict(dict(kept.common.part("network").tensors), strict=False)
        self.step_once.take_up(kept.common.part("optimiser"))
        self.early_stopping.take_up(kept.common.part("judge"))
        self.history.extend(kept.common.values["history"])
        self.fewest_workers = kept.common.values["fewest_workers"]
        if own is not None:
            restore_torch_streams(own.part("torch"), self.device)
            self.minibatches.take_up(own.part("minibatches"))
            self.chance.bit_generator.state = own.values["augment"]
            self.losses.extend(own.tensors.get("course/losses", torch.empty(0)).to(self.device))

    def _fewest(self) -> int:
        return min(self.world_size, self.fewest_workers or self.world_size)


def learned(network: Network) -> dict[str, Tensor]:
    """Return what training changes; of a frozen network the last layer alone."""
    state: dict[str, Tensor] = network.state_dict()
    if not network.frozen:
        return state
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in state.items() if name in trained}


class EarlyStopping:
    """Keeps the weights of the lowest validation loss, and says when to stop waiting for a lower one."""

    def __init__(self, patience: int, *, val_given: bool) -> None:
        self._patience = patience
        self._active = val_given and patience > 0
        self._lowest = math.inf
        self._waited = 0
        self._weights: dict[str, Tensor] | None = None

    def is_enough(self, network: Network, row: dict[str, Any]) -> bool:
        """Look at a row of the history; True: stop here."""
        if not self._active:
            return False
        if row["val_loss"] < self._lowest:
            self._lowest, self._waited = row["val_loss"], 0
            self._weights = {name: value.cpu().clone() for name, value in learned(network).items()}
        else:
            self._waited += 1
        return self._waited >= self._patience

    def restore_best(self, network: Network) -> None:
        """Give a network the best weights, where any were kept."""
        if self._weights is not None:
            network.load_state_dict(self._weights, strict=False)

    def state(self) -> Part:
        """Return the best weights, their loss, and how long none was lower."""
        lowest = self._lowest if self._weights is not None else None
        return Part(self._weights or {}, {"lowest": lowest, "waited": self._waited})

    def take_up(self, state: Part) -> None:
        """Go on where `state` was called."""
        self._waited = state.values["waited"]
        if state.values["lowest"] is not None:
            self._lowest, self._weights = state.values["lowest"], dict(state.tensors)
