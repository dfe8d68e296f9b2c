"""Networks cut in two at the layer that saliency maps are drawn from, and the images they take.

`activation = network.features(images)` is the target layer's output, `logits = network.head(activation)` the
rest. The cut is what makes Grad-CAM cost no more than inference (see `saliency.py`). A plug-in's model may
have none: it is then run as a whole. The wrapped model keeps its own parameter names, so that a state dict of
torchvision loads, and a saved model loads in torchvision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xal_ray.errors import ModelError
from xal_ray.model.backbones import Cut, cut_of
from xal_ray.model.backbones.from_plugin import from_target, last_linear, watched
from xal_ray.registry.backbones import BACKBONES

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelSpec:
    """Holds what a network is made for.

    Attributes:
        backbone: Its name: one of the registry's, or a plug-in's path.
        classes: Class names; a class's position is its index in the logits.
        image_size: Height and width of the images, pixels.
        channels: 1 (grey) or 3 (RGB).
    """

    backbone: str
    classes: tuple[str, ...]
    image_size: int
    channels: int

    def to_json(self) -> dict[str, Any]:
        """Return the specification as plain values."""
        return {**asdict(self), "classes": list(self.classes)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ModelSpec:
        """Return the inverse of `to_json`.

        Raises:
            KeyError: A field is missing.
            ValueError: A field does not fit.
            UnknownNameError, PluginError: There is no such backbone here.
        """
        BACKBONES[str(value["backbone"])]
        classes = tuple(str(name) for name in value["classes"])
        return cls(str(value["backbone"]), classes, int(value["image_size"]), int(value["channels"]))


class Network(nn.Module):
    """A classifier, cut at its target layer: `forward = head(features(images))`.

    Attributes:
        model: The whole model, with its original parameter names.
        backbone: What is known of it.
        classifier_name: The last linear layer, in the original model.
        target_layer: An identity through which the activation passes: the place for a hook.
        target_layer_name: What that is in the original model.
        frozen: Only the last linear layer is trained; `train()` then leaves all else in eval mode.
    """

    def __init__(self, spec: ModelSpec, model: nn.Module) -> None:
        super().__init__()
        self.backbone = BACKBONES[spec.backbone]
        self.model = model
        known = self.backbone.classifier if self.is_ours else None
        self.classifier_name = known or last_linear(self.backbone, model, len(spec.classes))
        self.target_layer = nn.Identity()
        self.target_layer_name = self.backbone.target_layer
        self.frozen = False

    @property
    def _cut(self) -> Cut | None:
        return cut_of(self.backbone, self.classifier_name)

    @property
    def is_ours(self) -> bool:
        """Return whether the model is known by heart: its layout in memory and its layers may be changed."""
        return self.backbone.cut is not None

    @property
    def is_cut(self) -> bool:
        """Return whether there is a `head`; without one the whole model has to run for its logits."""
        return self._cut is not None

    def features(self, images: Tensor) -> Tensor:
        """The target layer's activation for (n, 3, s, s) images: (n, k, h, w), or tokens (n, 2 + h w, k)."""
        images = self._laid_out(images)
        cut = self._cut
        if cut is None:
            return watched(self.model, images, self.target_layer_name)[0]
        activation: Tensor = self.target_layer(cut.features(self.model, images))
        return activation

    def head(self, activation: Tensor) -> Tensor:
        """Return the logits, (n, C), where the network is cut.

        In eval mode an image's logits depend on its own activation only.
        """
        cut = self._cut
        assert cut is not None  # noqa: S101  `is_cut` has been asked
        return cut.head(self.model, activation)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (n, C), of (n, 3, s, s) images."""
        if self.is_ours:
            return self.head(self.features(images))
        logits: Tensor = self.model(self._laid_out(images))
        return logits

    def from_activation(
        self, images: Tensor, tap: Callable[[Tensor], Tensor] = lambda leaf: leaf
    ) -> tuple[Tensor, Tensor]:
        """Return the activation, and the logits with a graph from it on alone, for a network without a cut.

        Args:
            images: (n, 3, s, s).
            tap: What the activation passes before the rest of the network sees it.
        """
        return from_target(self.model, self._laid_out(images), self.target_layer_name, tap)

    def _laid_out(self, images: Tensor) -> Tensor:
        """Return the images as they lie best in memory; a plug-in's model may bear the usual layout alone."""
        layout = torch.channels_last if self.is_ours else torch.contiguous_format
        return images.contiguous(memory_format=layout)

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The activation for (n, 3, s, s) images, and the last linear layer's input that follows, (n, d)."""
        kept: list[Tensor] = []
        hook = self.classifier.register_forward_pre_hook(lambda _, arguments: kept.append(arguments[0]))
        try:
            activation = self.features(images)
            if self.is_ours:  # another model has run as a whole
                self.head(activation)
        finally:
            hook.remove()
        return activation, kept[0]

    def spatial(self, activation: Tensor) -> Tensor:
        """An activation (or its gradient) as (n, k, h, w): tokens are laid out, without the class's two."""
        if activation.ndim == 4:
            return activation
        count, tokens, width = activation.shape
        side = round((tokens - 2) ** 0.5)
        return activation[:, 2:].transpose(1, 2).reshape(count, width, side, side)

    @property
    def classifier(self) -> nn.Linear:
        """Return the last linear layer."""
        layer = self.model.get_submodule(self.classifier_name)
        assert isinstance(layer, nn.Linear)  # noqa: S101  by construction, for the type checker
        return layer

    @property
    def linear_weight(self) -> Tensor | None:
        """Return the (C, k) weight, where the head is a global average pool and a linear layer; else None."""
        return self.classifier.weight if self.backbone.pooled_linear else None

    def train(self, mode: bool = True) -> Network:
        """Set training mode; of a frozen network the last layer's alone: no BatchNorm statistic moves."""
        super().train(mode and not self.frozen)
        self.classifier.train(mode)
        return self


def freeze_backbone(network: Network) -> None:
    """Leave only the last linear layer trainable, and all layers in eval mode from now on."""
    network.requires_grad_(False)
    network.classifier.requires_grad_(True)
    network.frozen = True
    network.eval()


@contextmanager
def dropout_before_classifier(network: Network, rate: float) -> Iterator[None]:
    """Train the last layer with dropout of its input, as BALD's samples of that layer have it.

    Some architectures have dropout of their own there: this takes its place. In eval mode nothing is dropped.

    Args:
        network: Or its last layer alone, may be trained meanwhile.
        rate: Of the inputs that are dropped; 0: the architecture as it is.
    """
    if not rate:
        yield
        return
    layer = network.classifier
    hook = layer.register_forward_pre_hook(
        lambda layer, arguments: (F.dropout(arguments[0], rate, training=layer.training),)
    )
    name = network.backbone.own_dropout
    own = network.model.get_submodule(name) if name is not None else nn.Dropout()
    assert isinstance(own, nn.Dropout)  # noqa: S101  by construction, for the type checker
    before, own.p = own.p, 0.0
    try:
        yield
    finally:
        own.p = before
        hook.remove()


def images_to_tensor(pixels: npt.NDArray[np.uint8], spec: ModelSpec, device: torch.device) -> Tensor:
    """Packed images as a network takes them.

    Args:
        pixels: (n, image_size, image_size, channels) uint8; may be read-only.
        spec: The network's specification.
        device: Where the tensor shall be.

    Returns:
        (n, 3, image_size, image_size) float32; grey is repeated to three channels.

    Raises:
        ModelError: The images do not have the size or the channels that the network was made for.
    """
    check_images(pixels, spec)
    return normalise_images(torch.tensor(pixels, device=device), spec)


def check_images(pixels: npt.NDArray[np.uint8], spec: ModelSpec) -> None:
    """Refuse images of another size or number of channels than the network was made for.

    Raises:
        ModelError: They differ.
    """
    expected = (spec.image_size, spec.image_size, spec.channels)
    if pixels.shape[1:] != expected:
        raise ModelError(
            "the images do not fit the model",
            expected="height, width, channels = {}, {}, {}".format(*expected),
            found=", ".join(map(str, pixels.shape[1:])),
            next_step="use a pool that was prepared with the model's image_size and channels",
        )


def normalise_images(pixels: Tensor, spec: ModelSpec) -> Tensor:
    """(n, s, s, channels) uint8 → (n, 3, s, s) float32, scaled as the backbone's ImageNet weights expect.

    The channels stay last in memory, as convolutions like them.
    """
    if spec.channels == 1:
        # A look-up writes the three channels at once; 256 values are all there are.
        levels = torch.arange(256, device=pixels.device)[:, None]
        scaled = F.embedding(pixels[..., 0].int(), _normalised(levels, spec).expand(-1, 3).contiguous())
    else:
        scaled = _normalised(pixels, spec)
    return scaled.permute(0, 3, 1, 2)


def _normalised(values: Tensor, spec: ModelSpec) -> Tensor:
    """(..., channels or 1) levels, 0 to 255 → (..., 3), or (..., channels) for one scale of all channels."""
    if BACKBONES[spec.backbone].scaling == "symmetric":
        return (values.float() - 127.0) / 128.0
    mean = torch.tensor(IMAGENET_MEAN, device=values.device)
    std = torch.tensor(IMAGENET_STD, device=values.device)
    return (values.float() / 255.0 - mean) / std
