"""torchvision's vision transformers: made, cut, and their positions brought to another image size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xal_ray.model.backbones.from_torchvision import imagenet, is_at_hand, model_of

__all__ = ["create", "features", "head", "imagenet", "is_at_hand", "resized"]


def create(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Return a model with random weights."""
    model: Any = model_of(name, num_classes=num_classes, image_size=image_size)
    # torchvision starts with a zero head: every saliency map would be zero, that is undefined.
    nn.init.trunc_normal_(model.heads.head.weight, std=0.02)
    created: nn.Module = model
    return created


def resized(state: Mapping[str, Tensor], image_size: int, patch_size: int) -> dict[str, Tensor]:
    """Return the weights with their positions interpolated to another image size.

    Raises:
        ValueError: They are not those of such a model.
    """
    from torchvision.models.vision_transformer import interpolate_embeddings

    return dict(interpolate_embeddings(image_size, patch_size, dict(state)))


def features(model: Any, images: Tensor) -> Tensor:
    """Return the last block's normed tokens, behind the class token's own residual: (n, 2 + h w, k)."""
    patches = model._process_input(images)
    tokens = torch.cat([model.class_token.expand(len(images), -1, -1), patches], dim=1)
    tokens = model.encoder.dropout(tokens + model.encoder.pos_embedding)
    tokens = model.encoder.layers[:-1](tokens)
    # The last block's normed tokens, as is the custom. Behind that block only the class token is read, and a
    # patch's gradient is zero; before its LayerNorm, which ignores scale, gradient times activation is zero.
    # The class token's own residual goes in front: the block adds to it.
    return torch.cat([tokens[:, :1], model.encoder.layers[-1].ln_1(tokens)], dim=1)


def head(model: Any, activation: Tensor) -> Tensor:
    """Return the rest of the last block, for the class token alone: no other token is read."""
    block, residual, normed = model.encoder.layers[-1], activation[:, :1], activation[:, 1:]
    attended, _ = block.self_attention(normed[:, :1], normed, normed, need_weights=False)
    token = residual + block.dropout(attended)
    token = token + block.mlp(block.ln_2(token))
    logits: Tensor = model.heads(model.encoder.ln(token)[:, 0])
    return logits
