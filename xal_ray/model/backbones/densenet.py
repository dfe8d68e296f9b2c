"""The cut of torchvision's densely connected networks."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F


def features(model: Any, images: Tensor) -> Tensor:
    """Return the target layer's output: up to, not including, norm5."""
    activation: Tensor = model.features[:-1](images)
    return activation


def head(model: Any, activation: Tensor) -> Tensor:
    """Return the logits."""
    # Not in place as in torchvision: an in-place ReLU overwrites what a hook on norm5 has kept.
    normed = F.relu(model.features[-1](activation))
    logits: Tensor = model.classifier(F.adaptive_avg_pool2d(normed, 1).flatten(1))
    return logits
