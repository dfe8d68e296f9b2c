"""Gives training what it sees: labelled images, checked, in minibatches for ever, augmented."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xal_ray.config import Train
from xal_ray.errors import LabelError
from xal_ray.model.network import ModelSpec, check_images
from xal_ray.model.training.checkpoint import Part

MAX_SHIFT = 1 / 16  # of the image size


@dataclass(frozen=True)
class LabelledImages:
    """Images with their classes.

    Attributes:
        pixels: (n, s, s, channels) uint8; for a frozen network also (n, d) float32: what its last layer sees.
        labels: (n,) int64 class indices.
    """

    pixels: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)


def check_images_and_labels(images: LabelledImages, spec: ModelSpec, *, at_least: int) -> None:
    """Refuse what can't be trained on.

    Args:
        images: This worker's images.
        spec: The network's specification.
        at_least: How many images there must be.

    Raises:
        LabelError: There are fewer, or a label is no class index.
        ModelError: The images do not fit the network.
    """
    check_number(len(images), at_least=at_least)
    if images.pixels.dtype == np.uint8:
        check_images(images.pixels, spec)
    low, high = images.labels.min(), images.labels.max()
    if low < 0 or high >= len(spec.classes):
        raise LabelError(
            "a label is not among the model's classes",
            expected=f"class indices from 0 to {len(spec.classes) - 1}",
            found=f"{low} to {high}",
            next_step="check the pool's classes against the labels",
        )


def check_number(found: int, *, at_least: int) -> None:
    """Refuse a training with fewer images than this.

    Raises:
        LabelError: There are fewer.
    """
    if found < at_least:
        raise LabelError(
            "there are too few labelled images to train on",
            expected=f"at least {at_least}: 2 for each worker",
            found=str(found),
            next_step="label more images, or train with fewer workers (train.num_workers)",
        )


class Minibatches(Iterator[LabelledImages]):
    """Minibatches for ever: every epoch in a new order, and what is left of one begins the next's first.

    All have the same size: at least 2, which BatchNorm needs, and at most the number of images.

    Attributes:
        size: That size.
    """

    def __init__(self, images: LabelledImages, size: int, seed: int) -> None:
        self._images = images
        self.size = min(max(size, 2), len(images))
        self._generator = np.random.default_rng(seed)
        self._waiting: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def __next__(self) -> LabelledImages:
        """Return the next minibatch."""
        if len(self._waiting) < self.size:
            order = self._generator.permutation(len(self._images))
            self._waiting = np.concatenate([self._waiting, order])
        rows, self._waiting = self._waiting[: self.size], self._waiting[self.size :]
        return LabelledImages(self._images.pixels[rows], self._images.labels[rows])

    def state(self) -> Part:
        """The place in the stream: who is still to come in this epoch, and the generator of the next one."""
        waiting = torch.tensor(self._waiting, dtype=torch.int64)
        values = {"generator": self._generator.bit_generator.state, "num_images": len(self._images)}
        return Part({"waiting": waiting}, values)

    def take_up(self, state: Part) -> None:
        """Go on where `state` was called, with the same images."""
        self._waiting = state.tensors["waiting"].numpy()
        self._generator.bit_generator.state = state.values["generator"]


def part_of(count: int, rank: int, world_size: int) -> int:
    """Count the images of `count` that are this worker's: the first have one more where it is uneven."""
    return count // world_size + (rank < count % world_size)


def augment(pixels: Tensor, settings: Train, chance: np.random.Generator) -> Tensor:
    """Flip half of the images horizontally; shift each by up to `MAX_SHIFT`, repeating the border's pixels.

    Args:
        pixels: (n, s, s, channels).
        settings: Says which of the two.
        chance: Draws for each image.

    Returns:
        (n, s, s, channels).
    """
    if settings.augment == "none":
        return pixels
    count, size = pixels.shape[:2]
    reach = int(size * MAX_SHIFT) if settings.augment == "flip_shift" else 0
    shifts = torch.tensor(chance.integers(-reach, reach + 1, size=(2, count, 1)), device=pixels.device)
    flips = torch.tensor(chance.random((count, 1)) < 0.5, device=pixels.device)
    positions = torch.arange(size, device=pixels.device)
    rows = (positions + shifts[0]).clamp(0, size - 1)
    columns = (torch.where(flips, size - 1 - positions, positions) + shifts[1]).clamp(0, size - 1)
    each = torch.arange(count, device=pixels.device)[:, None, None]
    return pixels[each, rows[:, :, None], columns[:, None, :]]
