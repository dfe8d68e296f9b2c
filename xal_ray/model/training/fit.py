"""Training of a round's model: plain torch, one loop for one process or for many.

With several workers each holds its own part of the training images; gradients are averaged by what
`Sync.wrap` puts around the network, and the first worker's validation loss decides for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
from xal_ray.model.training.workers import Alone, Checkpoints, Sync
from xal_ray.seeds import derive_seed


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
    given = _Given(spec, settings, seed, device, sync or Alone())
    val = val if val is not None and len(val) else None
    check_images_and_labels(train, spec, at_least=2)
    if val is not None:
        check_images_and_labels(val, spec, at_least=1)
    start = _Start.at(checkpoints.last() if checkpoints is not None else None, train, given.sync.rank)
    with (
        reproducible(derive_seed(seed, "torch", *start.stream), device, settings.num_threads),
        dropout_before_classifier(network, head_dropout),
    ):
        training = _set_up(network, train, val, class_counts, given, start)
        training.run(start, on_progress or (lambda steps: None), checkpoints)
    training.progress.early_stopping.restore_best(network)
    network.eval()
    return training.progress.history


@dataclass(frozen=True)
class _Given:
    """Holds what a training is given beside its network and its images; see `fit`."""

    spec: ModelSpec
    settings: Train
    seed: int
    device: torch.device
    sync: Sync

    def seed_of(self, name: str, start: _Start) -> int:
        """Return the seed of one of this worker's random streams."""
        return derive_seed(self.seed, name, *start.stream)


@dataclass(frozen=True)
class _Start:
    """Says where a worker begins.

    Attributes:
        kept: The state that it goes on from; None: the training is new.
        own: This worker's streams in it; None: they begin anew.
        stream: What this worker's seeds are derived from, beside the training's.
    """

    kept: TrainingState | None
    own: Part | None
    stream: tuple[int, ...]

    @classmethod
    def at(cls, kept: TrainingState | None, train: LabelledImages, rank: int) -> _Start:
        """Return where a worker goes on; its streams only where it has as many images as they are of."""
        own = kept.own if kept is not None else None
        if own is not None and own.values["minibatches"]["num_images"] != len(train):
            own = None
        return cls(kept, own, (rank,) if kept is None or own is not None else (rank, kept.step))

    @property
    def step(self) -> int:
        """Return the last step that was done."""
        return self.kept.step if self.kept is not None else 0


def _set_up(
    network: Network,
    train: LabelledImages,
    val: LabelledImages | None,
    class_counts: npt.NDArray[np.int64] | None,
    given: _Given,
    start: _Start,
) -> _Training:
    """Return the training before its first step, with the network on its device."""
    settings, device, world_size = given.settings, given.device, given.sync.world_size
    early_stopping = EarlyStopping(settings.patience, val_given=val is not None)
    num_images = int(class_counts.sum()) if class_counts is not None else len(train) * world_size
    whole = min(settings.minibatch_size, num_images)
    if class_counts is None:
        class_counts = np.bincount(train.labels, minlength=len(given.spec.classes))
    trainable: nn.Module = network.to(device)
    if network.frozen and settings.augment == "none":
        # What the last layer sees of an image never changes: ask once, and train that layer on it.
        trainable = network.classifier
        train = _embedded(network, given.spec, train, settings, device)
        val = _embedded(network, given.spec, val, settings, device) if val is not None else None
    trained = given.sync.wrap(trainable)
    size = part_of(whole, given.sync.rank, world_size)
    minibatches = Minibatches(train, size, given.seed_of("minibatches", start))
    weights = class_weights(class_counts, settings)
    share = minibatches.size * world_size / whole
    step_once = Optimiser(trained, given.spec, settings, weights, device, share=share)
    chance = np.random.default_rng(given.seed_of("augment", start))
    progress = TrainingProgress(network, step_once, early_stopping, minibatches, chance, device, world_size)
    return _Training(given, trainable, trained, val, progress)


@dataclass(frozen=True)
class _Training:
    """A training, ready to run.

    Attributes:
        given: What it was given.
        trainable: What learns: the network, or the last layer of a frozen one.
        trained: The same, as the workers share it.
        val: The validation images, or what the last layer sees of them; None: no validation.
        progress: What moves from step to step.
    """

    given: _Given
    trainable: nn.Module
    trained: nn.Module
    val: LabelledImages | None
    progress: TrainingProgress

    def run(self, start: _Start, on_progress: Callable[[int], None], checkpoints: Checkpoints | None) -> None:
        """Do all steps that are left, or as many as early stopping lets it."""
        settings, progress = self.given.settings, self.progress
        if start.kept is not None:
            progress.take_up(start.kept, start.own)
            on_progress(start.step)
        self.trained.train()
        for step in range(start.step + 1, settings.max_steps + 1):
            minibatch = next(progress.minibatches)
            progress.losses.append(progress.step_once(minibatch, progress.chance, step))
            on_progress(1)
            last = step == settings.max_steps
            if (last or _is_due(step, settings.eval_every_steps)) and self._is_enough(step):
                break
            if checkpoints is not None and not last and _is_due(step, checkpoints.every_steps):
                checkpoints.keep(progress.state(step))

    def _is_enough(self, step: int) -> bool:
        """Add a row to the history; True: stop here."""
        given, progress = self.given, self.progress
        row = progress.row(step, given.settings.num_workers)
        if self.val is not None:
            row |= _validate(self.trainable, given.spec, self.val, given.settings, given.device, given.sync)
            self.trained.train()
        _check_finite(row)
        progress.history.append(row)
        return progress.early_stopping.is_enough(progress.network, row)


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
