"""Makes each backbone, and cuts it in two for saliency maps.

A cut is a pair of functions: `features(model, images)` gives the target layer's activation, `head(model,
activation)` the logits. The models are those of torchvision and efficientnet-lite, untouched.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xal_ray.config import Backbone
from xal_ray.errors import ModelError

MIN_IMAGE_SIZE = 32  # below it, some backbones have no pixel left at the target layer
VIT_PATCH = 16


@dataclass(frozen=True)
class Architecture:
    """Says where a model is cut, and how its last linear layer is called.

    Attributes:
        target_layer: The layer whose output is the activation, for the model card.
        classifier: The last linear layer.
        features: (model, images) → activation.
        head: (model, activation) → logits.
        pooled_linear: The head is a global average pool and a linear layer, nothing else (in eval mode).
        bf16_keeps_ranks: Scores in bf16 rank images as those in fp32 do; measured, see docs/performance.md.
        own_dropout: The dropout right before the last linear layer, where the model has one.
    """

    target_layer: str
    classifier: str
    features: Callable[[Any, Tensor], Tensor]
    head: Callable[[Any, Tensor], Tensor]
    pooled_linear: bool
    bf16_keeps_ranks: bool = False
    own_dropout: str | None = None


def check_image_size(backbone: Backbone, image_size: int) -> None:
    """Refuse a size of images that a backbone can't take.

    Raises:
        ModelError: It is one.
    """
    multiple = VIT_PATCH if backbone == "vit_b_16" else 1
    if image_size < MIN_IMAGE_SIZE or image_size % multiple:
        raise ModelError(
            "the image size does not suit the backbone",
            expected=f"at least {MIN_IMAGE_SIZE}"
            + (f" and a multiple of {multiple}" if multiple > 1 else ""),
            found=f"{image_size} with {backbone}",
            next_step="prepare the pool with another pool.image_size, or choose another model.backbone",
        )


def create_model(backbone: Backbone, num_classes: int, image_size: int) -> nn.Module:
    """Return a backbone with random weights, drawn from torch's global random state.

    Args:
        backbone: Which.
        num_classes: The number of logits.
        image_size: Height and width of the images, pixels.

    Raises:
        ModelError: The image size does not suit the backbone, or its package is missing.
    """
    check_image_size(backbone, image_size)
    if backbone == "efficientnet_lite0":
        model: nn.Module = import_lite("efficientnet_lite_pytorch").EfficientNet.from_name(
            "efficientnet-lite0", num_classes=num_classes, image_size=image_size
        )
        return model
    options = {"image_size": image_size} if backbone == "vit_b_16" else {}
    import torchvision  # here, since it takes seconds and efficientnet_lite0 does without

    created: nn.Module = torchvision.models.get_model(
        backbone, weights=None, num_classes=num_classes, **options
    )
    return created


def import_lite(package: str) -> Any:
    """Return one of the optional packages of efficientnet_lite0: its code or its weights.

    Raises:
        ModelError: It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ModelError(
            "the backbone efficientnet_lite0 needs an optional package",
            found=str(error),
            next_step="pip install 'xal-ray[lite]'",
        ) from error


def _resnet_features(model: Any, images: Tensor) -> Tensor:
    stem = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    activation: Tensor = model.layer4(model.layer3(model.layer2(model.layer1(stem))))
    return activation


def _resnet_head(model: Any, activation: Tensor) -> Tensor:
    logits: Tensor = model.fc(model.avgpool(activation).flatten(1))
    return logits


def _densenet_features(model: Any, images: Tensor) -> Tensor:
    activation: Tensor = model.features[:-1](images)  # up to, not including, norm5
    return activation


def _densenet_head(model: Any, activation: Tensor) -> Tensor:
    # Not in place as in torchvision: an in-place ReLU overwrites what a hook on norm5 has kept.
    normed = F.relu(model.features[-1](activation))
    logits: Tensor = model.classifier(F.adaptive_avg_pool2d(normed, 1).flatten(1))
    return logits


def _plain_features(model: Any, images: Tensor) -> Tensor:
    activation: Tensor = model.features(images)
    return activation


def _efficientnet_head(model: Any, activation: Tensor) -> Tensor:
    logits: Tensor = model.classifier(model.avgpool(activation).flatten(1))
    return logits


def _convnext_head(model: Any, activation: Tensor) -> Tensor:
    logits: Tensor = model.classifier(model.avgpool(activation))  # LayerNorm, flatten, linear
    return logits


def _vit_features(model: Any, images: Tensor) -> Tensor:
    patches = model._process_input(images)
    tokens = torch.cat([model.class_token.expand(len(images), -1, -1), patches], dim=1)
    tokens = model.encoder.dropout(tokens + model.encoder.pos_embedding)
    tokens = model.encoder.layers[:-1](tokens)
    # The last block's normed tokens, as is the custom. Behind that block only the class token is read, and a
    # patch's gradient is zero; before its LayerNorm, which ignores scale, gradient times activation is zero.
    # The class token's own residual goes in front: the block adds to it.
    return torch.cat([tokens[:, :1], model.encoder.layers[-1].ln_1(tokens)], dim=1)


def _vit_head(model: Any, activation: Tensor) -> Tensor:
    """Return the rest of the last block, for the class token alone: no other token is read."""
    block, residual, normed = model.encoder.layers[-1], activation[:, :1], activation[:, 1:]
    attended, _ = block.self_attention(normed[:, :1], normed, normed, need_weights=False)
    token = residual + block.dropout(attended)
    token = token + block.mlp(block.ln_2(token))
    logits: Tensor = model.heads(model.encoder.ln(token)[:, 0])
    return logits


def _lite_features(model: Any, images: Tensor) -> Tensor:
    activation: Tensor = model.extract_features(images)
    return activation


def _lite_head(model: Any, activation: Tensor) -> Tensor:
    logits: Tensor = model._fc(model._dropout(model._avg_pooling(activation).flatten(1)))
    return logits


_RESNET = Architecture(
    "layer4", "fc", _resnet_features, _resnet_head, pooled_linear=True, bf16_keeps_ranks=True
)
ARCHITECTURES: dict[Backbone, Architecture] = {
    "resnet18": _RESNET,
    "resnet34": _RESNET,
    "resnet50": _RESNET,
    "densenet121": Architecture(
        "features.denseblock4",
        "classifier",
        _densenet_features,
        _densenet_head,
        pooled_linear=False,
        bf16_keeps_ranks=True,
    ),
    "efficientnet_b0": Architecture(
        "features.8",
        "classifier.1",
        _plain_features,
        _efficientnet_head,
        pooled_linear=True,
        own_dropout="classifier.0",
    ),
    "convnext_tiny": Architecture(
        "features.7", "classifier.2", _plain_features, _convnext_head, pooled_linear=False
    ),
    "vit_b_16": Architecture(
        "encoder.layers.encoder_layer_11.ln_1", "heads.head", _vit_features, _vit_head, pooled_linear=False
    ),
    "efficientnet_lite0": Architecture(
        "_swish after _conv_head",
        "_fc",
        _lite_features,
        _lite_head,
        pooled_linear=True,
        own_dropout="_dropout",
    ),
}
