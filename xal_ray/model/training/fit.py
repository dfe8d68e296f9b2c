"""Training of a round's model: plain torch, one loop for one process or for many.

With several workers each holds its own part of the training images; gradients are averaged by what
`Sync.wrap` puts around the network, and the first worker's validation loss decides for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from xal_ray.config import Train
from xal_ray.errors import StageError
from xal_ray.model.network import ModelSpec, Network, dropout_before_classifier, images_to_tensor
from xal_ray.model.training.checkpoint import Part, TrainingState
from xal_ray.model.training.minibatches import LabelledImages, Minibatches, check_images_and_labels, part_of
from xal_ray.model.training.optimiser import Optimiser, class_weights, weighted_loss
from xal_ray.model.training.progress import EarlyStopping, TrainingProgress
from xal_ray.model.training.randomness import reproducible
from xal_ray.seeds import derive_seed


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
    checkpoints: Checkpoints | None = None,
    head_dropout: float = 0.0,
) -> list[dict[str, Any]]:
    """Train a network in place, for a budget of optimiser steps.

    The same arguments give the same weights, bit for bit, on the same kind of machine. The network is left
    on `device`, in eval mode, with the weights of the lowest validation loss; with the last weights where
    there is no validation set or `settings.patience` is 0 (which also means: never stop early). BatchNorm
    statistics are each worker's own: the weights of worker 0 are the result.

    A training that is interrupted and goes on from its last checkpoint, with as many workers and the same
    images for each, ends as if nothing had happened. With another number of workers it does not: gradients
    are then averaged over another partition, and each worker's random streams begin anew, derived from its
    rank and the step.

    Args:
        network: What is trained; see `freeze_backbone` for training the last layer only.
        spec: Its specification.
        train: The labelled images (this worker's part of them), or embeddings for a frozen network.
        val: The validation images likewise, the same for all workers; None or empty: no validation.
        settings: Budget, optimiser, augmentation. `minibatch_size` counts over all workers: each has its part
            of every minibatch, and gradients are averaged over the images, not over the workers.
        seed: Of minibatches, augmentation and dropout; the global random state stays as it is.
        device: Where to train.
        sync: The other workers; None: there are none.
        class_counts: (C,) labelled images of each class over all workers; None: counted from `train`.
        on_progress: Called after each step with the number of steps that it adds, 1; at first with those that
            were done before an interruption.
        checkpoints: Where the state is kept and taken up; None: nowhere.
        head_dropout: Of the last layer's input, so that dropout samples of that layer mean something.

    Returns:
        A row for each evaluation: `step`, `train_loss` (the mean since the row before) and, with a validation
        set, `val_loss` and `val_balanced_accuracy`. Where some of the steps since the row before were done by
        another number of workers than `settings.num_workers`, also `workers`: the smallest.

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
    kept = checkpoints.last() if checkpoints is not None else None
    begun = kept.step if kept is not None else 0
    own = _own_streams(kept, train)
    stream = (sync.rank,) if kept is None or own is not None else (sync.rank, begun)
    early_stopping = EarlyStopping(settings.patience, val_given=val is not None)
    num_images = int(class_counts.sum()) if class_counts is not None else len(train) * sync.world_size
    whole = min(settings.minibatch_size, num_images)
    if class_counts is None:
        class_counts = np.bincount(train.labels, minlength=len(spec.classes))
    with (
        reproducible(derive_seed(seed, "torch", *stream), device, settings.num_threads),
        dropout_before_classifier(network, head_dropout),
    ):
        trainable: nn.Module = network.to(device)
        if network.frozen and settings.augment == "none":
            # What the last layer sees of an image never changes: ask once, and train that layer on it.
            trainable = network.classifier
            train = _embedded(network, spec, train, settings, device)
            val = _embedded(network, spec, val, settings, device) if val is not None else None
        trained = sync.wrap(trainable)
        minibatches = Minibatches(
            train, part_of(whole, sync.rank, sync.world_size), derive_seed(seed, "minibatches", *stream)
        )
        step_once = Optimiser(
            trained,
            spec,
            settings,
            class_weights(class_counts, settings),
            device,
            share=minibatches.size * sync.world_size / whole,
        )
        chance = np.random.default_rng(derive_seed(seed, "augment", *stream))
        progress = TrainingProgress(
            network, step_once, early_stopping, minibatches, chance, device, sync.world_size
        )
        if kept is not None:
            progress.take_up(kept, own)
            if on_progress is not None:
                on_progress(begun)
        trained.train()
        for step in range(begun + 1, settings.max_steps + 1):
            progress.losses.append(step_once(next(minibatches), chance, step))
            if on_progress is not None:
                on_progress(1)
            last = step == settings.max_steps
            if last or step % settings.eval_every_steps == 0:
                row = progress.row(step, settings.num_workers)
                if val is not None:
                    row |= _validate(trainable, spec, val, settings, device, sync)
                    trained.train()
                _check_finite(row)
                progress.history.append(row)
                if early_stopping.is_enough(network, row):
                    break
            if checkpoints is not None and not last and _is_due(step, checkpoints.every_steps):
                checkpoints.keep(progress.state(step))
    early_stopping.restore_best(network)
    network.eval()
    return progress.history


def _own_streams(kept: TrainingState | None, train: LabelledImages) -> Part | None:
    """This worker's streams, where it has as many images as the worker that they are of."""
    if kept is None or kept.own is None:
        return None
    return kept.own if kept.own.values["minibatches"]["num_images"] == len(train) else None


def _is_due(step: int, every_steps: int) -> bool:
    return every_steps > 0 and step % every_steps == 0


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
    """Return what the last layer sees, (n, d) float32, in the place of the pixels."""
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
        loss = float(weighted_loss(logits, torch.tensor(val.labels), class_weights(counts, settings)))
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
    """Return what a function makes of images (uint8) or embeddings (float32), by minibatches, on the CPU."""
    parts = []
    for start in range(0, len(pixels), settings.minibatch_size):
        batch = pixels[start : start + settings.minibatch_size]
        is_image = batch.dtype == np.uint8
        inputs = images_to_tensor(batch, spec, device) if is_image else torch.tensor(batch, device=device)
        parts.append(function(inputs).cpu())
    return torch.cat(parts)
