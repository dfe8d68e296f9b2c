"""BatchNorm folded into the convolutions before it: the same function with fewer passes over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


@torch.no_grad()
def fold_batch_norms(model: nn.Module, images: Tensor) -> int:
    """Fold, in place, every BatchNorm that reads a convolution's output and nothing else.

    Which those are is found by running the model, not by its names, and so holds for any architecture whose
    convolution outputs have one reader. The model is of no use for training afterwards.

    Args:
        model: In eval mode.
        images: (n, 3, s, s) to run it on, n >= 1; the smaller the cheaper.

    Returns:
        How many were folded.
    """
    pairs = _pairs(model, images)
    folded = {}
    for norm, convolution in pairs.items():
        assert norm.running_mean is not None and norm.running_var is not None  # noqa: S101,PT018  see _pairs
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        folded[norm] = convolution
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in folded:
                setattr(parent, name, nn.Identity())
    return len(folded)


def _pairs(model: nn.Module, images: Tensor) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    """Return each BatchNorm with the convolution whose output it reads."""
    # The outputs are kept, so that no other tensor takes their identity.
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def after_convolution(module: Any, _: Any, output: Tensor) -> None:
        outputs[id(output)] = (module, output)

    def before_norm(module: Any, arguments: tuple[Tensor, ...]) -> None:
        source = outputs.get(id(arguments[0]))
        if source is not None and module.track_running_stats:
            pairs[module] = source[0]

    hooks = [
        *(
            module.register_forward_hook(after_convolution)
            for module in model.modules()
            if isinstance(module, nn.Conv2d)
        ),
        *(
            module.register_forward_pre_hook(before_norm)
            for module in model.modules()
            if isinstance(module, nn.BatchNorm2d)
        ),
    ]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs
