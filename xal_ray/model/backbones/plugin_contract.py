"""Holds a backbone of another package to what it owes, by trying it with random images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xal_ray.model.backbones.from_plugin import PooledCut, broken, from_target, shape_of
from xal_ray.nearest_name import nearest_name
from xal_ray.registry.backbones import BackboneSpec
from xal_ray.registry.importing import blaming

_PROBES = 2  # images that a plug-in is tried with


def check_plugin(spec: BackboneSpec, model: nn.Module, classifier: str, num_classes: int, size: int) -> None:
    """Try a plug-in's model with random images, in eval mode.

    Args:
        spec: The backbone.
        model: The model, on the CPU.
        classifier: Its last linear layer.
        num_classes: The number of logits.
        size: Height and width of the images, pixels.

    Raises:
        PluginError: It breaks what a backbone owes.
    """
    _check_target(spec, model)
    images = torch.randn(_PROBES, 3, size, size, generator=torch.Generator().manual_seed(0))
    model.eval()
    logits = _check_shapes(spec, model, classifier, images, num_classes)
    with torch.no_grad():
        alone = model(images[:1])
    if not torch.allclose(alone, logits[:1], rtol=1e-3, atol=1e-4):
        raise broken(
            spec,
            "answers otherwise for the same image beside another one",
            expected="in eval mode, logits that depend on the image alone",
            found=f"a difference of {(alone - logits[:1]).abs().max():.2g}",
        )
    _check_gradient(spec, model, images)
    with _restored(model):
        model.train()
        _check_shapes(spec, model, classifier, images, num_classes)
    model.eval()
    if spec.pooled_linear:
        _check_pooled(spec, model, classifier, images)
        with _restored(model):
            _shake(model)
            _check_pooled(spec, model, classifier, images)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Give a model its weights and statistics back, and torch its random state."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in model.state_dict().items():
                    value.copy_(before[name])


def _shake(model: nn.Module) -> None:
    """Change all weights and statistics, as training does: what begins as 0 or 1 may hide a layer."""
    draw = torch.Generator().manual_seed(1)
    for value in model.state_dict().values():
        if value.is_floating_point():
            factor, more = torch.rand(2, *value.shape, generator=draw).to(value.dtype)
            sign = 1 - 2 * torch.randint(2, value.shape, generator=draw)
            value.copy_(torch.where(value == 0, sign * (0.05 + 0.05 * more), value * (0.5 + factor)))


def _check_target(spec: BackboneSpec, model: nn.Module) -> None:
    names = [name for name, _ in model.named_modules() if name]
    if spec.target_layer not in names:
        near = nearest_name(spec.target_layer, names)
        raise broken(
            spec,
            f"has no layer '{spec.target_layer}'",
            expected="the name of a module, as model.named_modules() has it",
            found=", ".join(names[:6]) + (", ..." if len(names) > 6 else ""),
            next_step=f'did you mean target_layer="{near}"?' if near else None,
        )


def _check_shapes(
    spec: BackboneSpec, model: nn.Module, classifier: str, images: Tensor, num_classes: int
) -> Tensor:
    """Look at what the target layer, the last linear layer and the model give; returns the logits."""
    mode = "train" if model.training else "eval"
    target, last, logits = _seen(spec, model, classifier, images, mode)
    if len(target) != 1 or not isinstance(target[0], Tensor) or target[0].ndim != 4:
        shown = [shape_of(output) for output in target]
        raise broken(
            spec,
            f"has a target layer that saliency maps can't be drawn from: {spec.target_layer}",
            expected="one output a forward pass, (n, k, h, w)",
            found=", ".join(shown) or "a layer that does not run",
        )
    if not isinstance(logits, Tensor) or logits.shape != (_PROBES, num_classes):
        raise broken(
            spec,
            f"gives no logits in {mode} mode",
            expected=f"({_PROBES}, {num_classes}) numbers for {_PROBES} images",
            found=shape_of(logits),
        )
    if not logits.isfinite().all():
        raise broken(spec, f"gives no logits in {mode} mode", "NaN or infinity", "finite numbers")
    layer = model.get_submodule(classifier)
    assert isinstance(layer, nn.Linear)  # noqa: S101  see `last_linear`
    if len(last) != 1 or not torch.equal(last[0][1], logits) or last[0][0].ndim != 2:
        raise broken(
            spec,
            f"does not end with its last linear layer in {mode} mode",
            expected="its outputs, (n, C), of inputs (n, d), to be the logits",
            found=f"something behind {classifier}, or another layer",
            next_step='name the last linear layer, as classifier="NAME", and leave softmax and the like out',
        )
    if not torch.allclose(F.linear(last[0][0], layer.weight, layer.bias), logits, rtol=1e-3, atol=1e-4):
        raise broken(
            spec,
            "has a last layer that is not linear",
            expected=f"outputs of {classifier} that are its weight times its inputs, plus its bias",
            found=f"other ones, of a {type(layer).__name__}",
        )
    return logits


def _seen(
    spec: BackboneSpec, model: nn.Module, classifier: str, images: Tensor, mode: str
) -> tuple[list[Any], list[tuple[Tensor, Tensor]], Any]:
    """Return all that the target layer gave, what the last layer took and gave, and the model's answer."""
    target: list[Any] = []
    last: list[tuple[Tensor, Tensor]] = []
    hooks = [
        model.get_submodule(spec.target_layer).register_forward_hook(
            lambda _, __, output: target.append(output)
        ),
        model.get_submodule(classifier).register_forward_hook(
            lambda _, given, output: last.append((given[0], output))
        ),
    ]
    what = f"fails on images of {images.shape[-1]} pixels in {mode} mode"
    try:
        with torch.no_grad(), blaming(lambda raised: broken(spec, what, raised)):
            return target, last, model(images)
    finally:
        for hook in hooks:
            hook.remove()


def _check_gradient(spec: BackboneSpec, model: nn.Module, images: Tensor) -> None:
    """Refuse a target layer that the logits have no gradient at."""
    leaf, logits = from_target(model, images, spec.target_layer)
    gradient = None
    if logits.requires_grad:
        (gradient,) = torch.autograd.grad(logits.sum(), leaf, allow_unused=True)
    if gradient is None:
        raise broken(
            spec,
            f"has a target layer that the logits do not depend on: {spec.target_layer}",
            expected="a gradient of the logits at its output",
            found="none: its output is not used, or detached",
        )


def _check_pooled(spec: BackboneSpec, model: nn.Module, classifier: str, images: Tensor) -> None:
    """Hold the closed form of the gradient, and of the logits, against those of the whole model."""
    leaf, logits = from_target(model, images, spec.target_layer)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), leaf)
    layer = model.get_submodule(classifier)
    assert isinstance(layer, nn.Linear)  # noqa: S101  see `last_linear`
    cells = leaf.shape[2] * leaf.shape[3]
    fits = leaf.shape[1] == layer.in_features and torch.allclose(
        gradient, (layer.weight[0] / cells)[None, :, None, None].expand_as(gradient), rtol=1e-3, atol=1e-7
    )
    if fits:
        with torch.no_grad():
            short = PooledCut(spec.target_layer, classifier).head(model, leaf)
            fits = torch.allclose(short, logits, rtol=1e-3, atol=1e-4 * float(logits.detach().abs().max()))
    if not fits:
        raise broken(
            spec,
            "says pooled_linear, and is not",
            expected="a global average pool and the linear layer behind the target layer, nothing else",
            found="another gradient at the target layer, or other logits",
            next_step="leave pooled_linear out: the gradient is then taken by differentiation",
        )
