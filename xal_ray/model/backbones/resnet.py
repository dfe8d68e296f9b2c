"""The cut of torchvision's residual networks."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def features(model: Any, images: Tensor) -> Tensor:
    """Return the target layer's output."""
    stem = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    activation: Tensor = model.layer4(model.layer3(model.layer2(model.layer1(stem))))
    return activation


def head(model: Any, activation: Tensor) -> Tensor:
    """Return the logits."""
    logits: Tensor = model.fc(model.avgpool(activation).flatten(1))
    return logits
