"""Training of a round's model: plain torch, one loop for one process or for many.

With several workers each holds its own part of the training images; gradients are averaged by what
`Sync.wrap` puts around the network, and the first worker's validation loss decides for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xal_ray.config import Train
from xal_ray.errors import StageError
from xal_ray.model.minibatches import LabelledImages, augment, check_images_and_labels, endless_minibatches
from xal_ray.model.network import ModelSpec, Network, images_to_tensor, normalise_images
from xal_ray.seeds import derive_seed


class Sync(Protocol):
    """How the workers of one training stay together."""

    @property
    def rank(self) -> int:
        """This worker's number, from 0."""

    @property
    def world_size(self) -> int:
        """The number of workers."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, made to average gradients over workers (DistributedDataParallel)."""

    def broadcast(self, value: float) -> float:
        """The value that worker 0 gave; all workers call it at the same points."""


@dataclass(frozen=True)
class Alone:
    """A single worker."""

    rank: int = 0
    world_size: int = 1

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module itself."""
        return module

    def broadcast(self, value: float) -> float:
        """The value itself."""
        return value


def fit(
    network: Network,
    spec: ModelSpec,
    train: LabelledImages,
    val: LabelledImages | None,
    settings: Train,
    *,
    seed: int,
    device: torch.device,
    sync: Sync | None = None,
    class_counts: npt.NDArray[np.int64] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Train a network in place, for a budget of optimiser steps.

    The same arguments give the same weights, bit for bit, on the same kind of machine. The network is left
    on `device`, in eval mode, with the weights of the lowest validation loss; with the last weights where
    there is no validation set or `settings.patience` is 0 (which also means: never stop early). BatchNorm
    statistics are each worker's own: the weights of worker 0 are the result.

    Args:
        network: What is trained; see `freeze_backbone` for training the last layer only.
        spec: Its specification.
        train: The labelled images (this worker's part of them), or embeddings for a frozen network.
        val: The validation images likewise, the same for all workers; None or empty: no validation.
        settings: Budget, optimiser, augmentation. `minibatch_size` counts over all workers.
        seed: Of minibatches, augmentation and dropout; the global random state stays as it is.
        device: Where to train.
        sync: The other workers; None: there are none.
        class_counts: (C,) labelled images of each class over all workers; None: counted from `train`.
        on_progress: Called after each step with the number of steps that it adds, 1.

    Returns:
        A row for each evaluation: `step`, `train_loss` (the mean since the row before) and, with a validation
        set, `val_loss` and `val_balanced_accuracy`.

    Raises:
        LabelError: Fewer than two training images, or a label that is no class index.
        ModelError: The images do not fit the network.
        StageError: The loss is no longer finite.
    """
    sync = sync or Alone()
    val = val if val is not None and len(val) else None
    check_images_and_labels(train, spec, at_least=2)
    if val is not None:
        check_images_and_labels(val, spec, at_least=1)
    if class_counts is None:
        class_counts = np.bincount(train.labels, minlength=len(spec.classes))
    judge = _Judge(settings.patience, val_given=val is not None)
    history: list[dict[str, Any]] = []
    losses: list[Tensor] = []
    with _reproducible(derive_seed(seed, "torch", sync.rank), device, settings.num_threads):
        trainable: nn.Module = network.to(device)
        if network.frozen and settings.augment == "none":
            # What the last layer sees of an image never changes: ask once, and train that layer on it.
            trainable = network.classifier
            train = _embedded(network, spec, train, settings, device)
            val = _embedded(network, spec, val, settings, device) if val is not None else None
        trained = sync.wrap(trainable)
        step_once = _Optimiser(trained, spec, settings, _class_weights(class_counts, settings), device)
        minibatches = endless_minibatches(
            train, settings.minibatch_size // sync.world_size, derive_seed(seed, "minibatches", sync.rank)
        )
        chance = np.random.default_rng(derive_seed(seed, "augment", sync.rank))
        trained.train()
        for step in range(1, settings.max_steps + 1):
            losses.append(step_once(next(minibatches), chance, step))
            if on_progress is not None:
                on_progress(1)
            if step % settings.eval_every_steps and step != settings.max_steps:
                continue
            row: dict[str, Any] = {"step": step, "train_loss": float(torch.stack(losses).mean())}
            losses.clear()
            if val is not None:
                row |= _validate(trainable, spec, val, settings, device, sync)
                trained.train()
            _check_finite(row)
            history.append(row)
            if judge.is_enough(network, row):
                break
    judge.restore_best(network)
    network.eval()
    return history


class _Optimiser:
    """One step of AdamW with a cosine schedule, augmentation and, on a GPU, mixed precision."""

    def __init__(
        self, module: nn.Module, spec: ModelSpec, settings: Train, class_weights: Tensor, device: torch.device
    ) -> None:
        self._module, self._spec, self._settings, self._device = module, spec, settings, device
        self._class_weights = class_weights.to(device)
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
            loss = _weighted_loss(self._module(inputs), labels, self._class_weights)
        self._adamw.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch
        self._scaler.step(self._adamw)
        self._scaler.update()
        return loss.detach()

    def _set_learning_rate(self, step: int) -> None:
        """From `learning_rate` at the first step along half a cosine towards 0 after the last."""
        done = (step - 1) / self._settings.max_steps
        for group in self._adamw.param_groups:
            group["lr"] = self._settings.learning_rate * (1 + math.cos(math.pi * done)) / 2


class _Judge:
    """Keeps the weights of the lowest validation loss, and says when to stop waiting for a lower one."""

    def __init__(self, patience: int, *, val_given: bool) -> None:
        self._patience = patience
        self._active = val_given and patience > 0
        self._lowest = math.inf
        self._waited = 0
        self._weights: dict[str, Tensor] | None = None

    def is_enough(self, network: Network, row: dict[str, Any]) -> bool:
        if not self._active:
            return False
        if row["val_loss"] < self._lowest:
            self._lowest, self._waited = row["val_loss"], 0
            self._weights = {name: value.cpu().clone() for name, value in network.state_dict().items()}
        else:
            self._waited += 1
        return self._waited >= self._patience

    def restore_best(self, network: Network) -> None:
        if self._weights is not None:
            network.load_state_dict(self._weights)


def _class_weights(counts: npt.NDArray[np.int64], settings: Train) -> Tensor:
    """(C,) weights with mean 1 over the counted images; balanced: each class present has the same sum."""
    if settings.class_weights == "none":
        return torch.ones(len(counts))
    present = counts > 0
    weights = np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 0.0)
    return torch.tensor(weights, dtype=torch.float32)


def _weighted_loss(logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """The mean over images of `weight[label] * cross_entropy`.

    Not divided by the minibatch's sum of weights: so the mean over minibatches, and over workers, is the mean
    over images.
    """
    return (F.cross_entropy(logits.float(), labels, reduction="none") * class_weights[labels]).mean()


def _check_finite(row: dict[str, Any]) -> None:
    if not all(math.isfinite(value) for value in row.values()):
        raise StageError(
            "the training diverged",
            expected="finite losses",
            found=", ".join(f"{name} {value:g}" for name, value in row.items() if name != "step"),
            where=f"at or shortly before step {row['step']}",
            next_step="lower train.learning_rate, or set train.amp=false",
        )


def _embedded(
    network: Network, spec: ModelSpec, images: LabelledImages, settings: Train, device: torch.device
) -> LabelledImages:
    """What the last layer sees, (n, d) float32, in the place of the pixels."""
    if images.pixels.dtype != np.uint8:
        return images
    embeddings = _predict(lambda inputs: network.embed(inputs)[1], spec, images.pixels, settings, device)
    return LabelledImages(embeddings.numpy(), images.labels)


def _validate(
    module: nn.Module, spec: ModelSpec, val: LabelledImages, settings: Train, device: torch.device, sync: Sync
) -> dict[str, float]:
    """Worker 0's loss (each class weighted as in training, by its count in `val`) and balanced accuracy."""
    loss, accuracy = 0.0, 0.0
    if sync.rank == 0:
        logits = _predict(module.eval(), spec, val.pixels, settings, device)
        counts = np.bincount(val.labels, minlength=len(spec.classes))
        loss = float(_weighted_loss(logits, torch.tensor(val.labels), _class_weights(counts, settings)))
        right = logits.argmax(dim=1).numpy() == val.labels
        accuracy = float(np.mean([right[val.labels == c].mean() for c in np.flatnonzero(counts)]))
    return {"val_loss": sync.broadcast(loss), "val_balanced_accuracy": sync.broadcast(accuracy)}


@torch.no_grad()
def _predict(
    function: Callable[[Tensor], Tensor],
    spec: ModelSpec,
    pixels: npt.NDArray[Any],
    settings: Train,
    device: torch.device,
) -> Tensor:
    """What a function makes of images (uint8) or embeddings (float32), by minibatches, on the CPU."""
    parts = []
    for start in range(0, len(pixels), settings.minibatch_size):
        batch = pixels[start : start + settings.minibatch_size]
        is_image = batch.dtype == np.uint8
        inputs = images_to_tensor(batch, spec, device) if is_image else torch.tensor(batch, device=device)
        parts.append(function(inputs).cpu())
    return torch.cat(parts)


@contextmanager
def _reproducible(seed: int, device: torch.device, threads: int) -> Iterator[None]:
    """Seed torch's own draws (dropout), fix threads and kernels, and put everything back afterwards."""
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.deterministic, cudnn.benchmark
    gpus = []
    if device.type == "cuda":
        gpus = [torch.cuda.current_device() if device.index is None else device.index]
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark = True, False
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            cudnn.deterministic, cudnn.benchmark = before[1], before[2]
