"""The cut of torchvision's ConvNeXts."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def features(model: Any, images: Tensor) -> Tensor:
    """Return the target layer's output."""
    activation: Tensor = model.features(images)
    return activation


def head(model: Any, activation: Tensor) -> Tensor:
    """Return the logits."""
    logits: Tensor = model.classifier(model.avgpool(activation))  # LayerNorm, flatten, linear
    return logits
