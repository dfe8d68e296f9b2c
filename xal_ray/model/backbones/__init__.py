"""Backbones: what makes each of them, and where it is cut in two for saliency maps.

A cut is a pair of functions: `features(model, images)` gives the target layer's activation, `head(model,
activation)` the logits. The models are those of torchvision and efficientnet-lite, untouched, or a plug-in's.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, cast

from torch import Tensor, nn

from xal_ray.errors import ModelError
from xal_ray.model.backbones.from_plugin import FromPlugin, PooledCut
from xal_ray.registry.backbones import BACKBONES, BackboneSpec

MIN_IMAGE_SIZE = 32  # below it, some backbones have no pixel left at the target layer


class Maker(Protocol):
    """Holds what makes the models of some names: a module here, or a plug-in."""

    def create(self, name: str, num_classes: int, image_size: int) -> nn.Module:
        """Return a model with random weights, drawn from torch's global random state."""

    def is_at_hand(self, name: str) -> bool:
        """Return whether `imagenet` asks no other machine."""

    def imagenet(self, name: str) -> Mapping[str, Tensor]:
        """Return the state dict that `model.weights=imagenet` means."""


class Cut(Protocol):
    """Cuts a model in two: `head(model, features(model, images))` are the logits."""

    def features(self, model: Any, images: Tensor) -> Tensor:
        """Return the target layer's output: (n, k, h, w), or tokens (n, 2 + h w, k), for (n, 3, s, s)."""

    def head(self, model: Any, activation: Tensor) -> Tensor:
        """Return the logits, (n, C)."""


def maker_of(spec: BackboneSpec) -> Maker:
    """Return what makes a backbone."""
    if spec.origin is not None:
        return FromPlugin(spec)
    return cast(Maker, importlib.import_module(spec.path.partition(":")[0]))


def cut_of(spec: BackboneSpec, classifier: str) -> Cut | None:
    """Return where a backbone is cut; None: nowhere, the whole of it has to run.

    Args:
        spec: The backbone.
        classifier: The name of its last linear layer.
    """
    if spec.cut is not None:
        return cast(Cut, importlib.import_module(spec.cut))
    return PooledCut(spec.target_layer, classifier) if spec.pooled_linear else None


def check_image_size(backbone: str, image_size: int) -> None:
    """Refuse a size of images that a backbone can't take.

    Raises:
        ModelError: It is one.
    """
    multiple = BACKBONES[backbone].size_multiple
    if image_size < MIN_IMAGE_SIZE or image_size % multiple:
        raise ModelError(
            "the image size does not suit the backbone",
            expected=f"at least {MIN_IMAGE_SIZE}"
            + (f" and a multiple of {multiple}" if multiple > 1 else ""),
            found=f"{image_size} with {backbone}",
            next_step="prepare the pool with another pool.image_size, or choose another model.backbone",
        )


def create_model(backbone: str, num_classes: int, image_size: int) -> nn.Module:
    """Return a backbone with random weights, drawn from torch's global random state.

    Args:
        backbone: Which.
        num_classes: The number of logits.
        image_size: Height and width of the images, pixels.

    Raises:
        ModelError: The image size does not suit the backbone, its package is missing, or it is a plug-in that
            fails.
    """
    check_image_size(backbone, image_size)
    return maker_of(BACKBONES[backbone]).create(backbone, num_classes, image_size)
