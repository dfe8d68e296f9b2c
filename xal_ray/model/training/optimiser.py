"""One step of a training: loss, gradient, AdamW."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xal_ray.config import Train
from xal_ray.model.network import ModelSpec, normalise_images
from xal_ray.model.training.checkpoint import Part
from xal_ray.model.training.minibatches import LabelledImages, augment


class Optimiser:
    """One step of AdamW with a cosine schedule, augmentation and, on a GPU, mixed precision.

    Args:
        module: What is trained.
        spec: What it is for.
        settings: Learning rate, weight decay, augmentation, precision.
        class_weights: (C,) of the loss.
        device: Where it is trained.
        share: What a worker's gradient counts for in the mean over workers: its part of the minibatch, in
            units of an equal part. So the step is that of the whole minibatch, however it was shared out.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: ModelSpec,
        settings: Train,
        class_weights: Tensor,
        device: torch.device,
        *,
        share: float = 1.0,
    ) -> None:
        self._module, self._spec, self._settings, self._device = module, spec, settings, device
        self._class_weights = class_weights.to(device)
        self._share = share
        self._amp = settings.amp and device.type == "cuda"
        half_range = self._amp and not torch.cuda.is_bf16_supported(including_emulation=False)
        self._dtype = torch.float16 if half_range else torch.bfloat16
        self._scaler = torch.amp.GradScaler(device.type, enabled=half_range)  # bfloat16 needs none
        self._adamw = torch.optim.AdamW(
            [parameter for parameter in module.parameters() if parameter.requires_grad],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )

    def __call__(self, minibatch: LabelledImages, chance: np.random.Generator, step: int) -> Tensor:
        """Learn from a minibatch and return its loss, on the device."""
        self._set_learning_rate(step)
        inputs = torch.tensor(minibatch.pixels, device=self._device)
        if inputs.dtype == torch.uint8:  # else they are embeddings
            inputs = normalise_images(augment(inputs, self._settings, chance), self._spec)
        labels = torch.tensor(minibatch.labels, device=self._device)
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._amp):
            loss = weighted_loss(self._module(inputs), labels, self._class_weights)
        self._adamw.zero_grad(set_to_none=True)
        self._scaler.scale(loss * self._share).backward()  # type: ignore[no-untyped-call]  # torch
        self._scaler.step(self._adamw)
        self._scaler.update()
        return loss.detach()

    def state(self) -> Part:
        """AdamW's moments by the number of their parameter, and the loss's scale."""
        entries = self._adamw.state_dict()["state"]
        tensors = {f"{number}/{name}": entry[name] for number, entry in entries.items() for name in entry}
        return Part(tensors, {"scaler": self._scaler.state_dict()})

    def take_up(self, state: Part) -> None:
        """Go on where `state` was called; moments lie in memory as their parameters do."""
        whole = self._adamw.state_dict()
        parameters = self._adamw.param_groups[0]["params"]
        for key, value in state.tensors.items():
            number, name = key.split("/")
            moment = value if name == "step" else torch.empty_like(parameters[int(number)]).copy_(value)
            whole["state"].setdefault(int(number), {})[name] = moment
        self._adamw.load_state_dict(whole)
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state.values["scaler"])

    def _set_learning_rate(self, step: int) -> None:
        """From `learning_rate` at the first step along half a cosine towards 0 after the last."""
        done = (step - 1) / self._settings.max_steps
        for group in self._adamw.param_groups:
            group["lr"] = self._settings.learning_rate * (1 + math.cos(math.pi * done)) / 2


def class_weights(counts: npt.NDArray[np.int64], settings: Train) -> Tensor:
    """(C,) weights with mean 1 over the counted images; balanced: each class present has the same sum."""
    if settings.class_weights == "none":
        return torch.ones(len(counts))
    present = counts > 0
    weights = np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 0.0)
    return torch.tensor(weights, dtype=torch.float32)


def weighted_loss(logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """Return the mean over images of `weight[label] * cross_entropy`.

    Not divided by the minibatch's sum of weights: so the mean over minibatches, and over workers, is the mean
    over images.
    """
    return (F.cross_entropy(logits.float(), labels, reduction="none") * class_weights[labels]).mean()
