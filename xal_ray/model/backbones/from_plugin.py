"""Backbones of other packages: any torch module with a named target layer and a last linear layer.

It takes (n, 3, s, s) images, grey ones with their channel repeated, and gives (n, C) logits. It is run as it
is, in float32, and watched by hooks: nothing is folded, and no memory layout is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xal_ray.errors import ModelError, PluginError
from xal_ray.nearest_name import nearest_name
from xal_ray.registry.backbones import BackboneSpec

_PROBES = 2  # images that a plug-in is tried with


@dataclass(frozen=True)
class FromPlugin:
    """What makes a plug-in's models (see `xal_ray.model.backbones.Maker`)."""

    spec: BackboneSpec

    def create(self, name: str, num_classes: int, image_size: int) -> nn.Module:
        """Return a model with random weights.

        Raises:
            PluginError: The plug-in fails, or gives something else.
        """
        try:
            model = self.spec.load()(num_classes, image_size)
        except Exception as error:  # whatever the plug-in's author has overlooked
            raise broken(self.spec, "does not make a model", f"{type(error).__name__}: {error}") from error
        if not isinstance(model, nn.Module):
            raise broken(self.spec, "does not make a model", _shape(model), "a torch.nn.Module")
        return model

    def is_at_hand(self, name: str) -> bool:
        """Return whether `imagenet` asks no other machine: who can say?"""
        return True

    def imagenet(self, name: str) -> Mapping[str, Tensor]:
        """Return the state dict that the plug-in brings.

        Raises:
            ModelError: It brings none.
        PluginError: It fails.
        """
        if self.spec.pretrained is None:
            raise ModelError(
                f"the backbone {name} brings no ImageNet weights",
                where="model.weights=imagenet",
                next_step="set model.weights=none, or the path of a state dict",
            )
        try:
            return dict(self.spec.pretrained())
        except Exception as error:  # as above
            raise broken(self.spec, "gives no weights", f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class PooledCut:
    """The cut of a model whose head is a global average pool and a linear layer: it needs no code.

    Attributes:
        target_layer: The layer whose output is the activation.
        classifier: The linear layer.
    """

    target_layer: str
    classifier: str

    def features(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return the target layer's output."""
        return watched(model, images, self.target_layer)[0]

    def head(self, model: nn.Module, activation: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = model.get_submodule(self.classifier)(activation.mean(dim=(2, 3)))
        return logits


def watched(model: nn.Module, images: Tensor, target_layer: str) -> tuple[Tensor, Tensor]:
    """Return the target layer's output, and the logits, of a whole forward pass."""
    kept: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        kept.append(output)
        return output

    with changed_output(model, target_layer, keep):
        logits: Tensor = model(images)
    return kept[-1], logits


@contextmanager
def changed_output(model: nn.Module, layer: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let what follows a layer see what `change` makes of its output."""
    hook = model.get_submodule(layer).register_forward_hook(lambda _, __, output: change(output))
    try:
        yield
    finally:
        hook.remove()


def last_linear(spec: BackboneSpec, model: nn.Module, num_classes: int) -> str:
    """Return the name of a model's last linear layer: as the plug-in gives it, else the last one that fits.

    Raises:
        PluginError: There is none.
    """
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == num_classes and module.bias is not None
    ]
    if spec.classifier is not None and spec.classifier not in names:
        names = []
    if not names:
        raise broken(
            spec,
            "has no last linear layer",
            found=f"no torch.nn.Linear with {num_classes} outputs and a bias"
            + (f" called {spec.classifier}" if spec.classifier else ""),
            expected="one, whose outputs are the logits: frozen backbones, dropout samples and near ties "
            "rest on it",
        )
    return spec.classifier or names[-1]


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
    seen: dict[str, list[Any]] = {"target": [], "input": [], "output": []}

    def see_target(_: nn.Module, __: Any, output: Any) -> None:
        seen["target"].append(output)

    def see_last(_: nn.Module, given: Any, output: Any) -> None:
        seen["input"].append(given[0])
        seen["output"].append(output)

    hooks = [
        model.get_submodule(spec.target_layer).register_forward_hook(see_target),
        model.get_submodule(classifier).register_forward_hook(see_last),
    ]
    try:
        with torch.no_grad():
            logits = model.eval()(images)
    except Exception as error:  # whatever the plug-in's author has overlooked
        raise broken(spec, f"fails on images of {size} pixels", f"{type(error).__name__}: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    _check_shapes(spec, seen, logits, num_classes)
    with torch.no_grad():
        alone = model(images[:1])
    if not torch.allclose(alone, logits[:1], rtol=1e-3, atol=1e-4):
        raise broken(
            spec,
            "answers otherwise for the same image beside another one",
            expected="in eval mode, logits that depend on the image alone",
            found=f"a difference of {(alone - logits[:1]).abs().max():.2g}",
        )
    if spec.pooled_linear:
        _check_pooled(spec, model, classifier, images)


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


def _check_shapes(spec: BackboneSpec, seen: Mapping[str, list[Any]], logits: Any, num_classes: int) -> None:
    target, fed, given = seen["target"], seen["input"], seen["output"]
    if len(target) != 1 or not isinstance(target[0], Tensor) or target[0].ndim != 4:
        shown = [_shape(output) for output in target]
        raise broken(
            spec,
            f"has a target layer that saliency maps can't be drawn from: {spec.target_layer}",
            expected="one output a forward pass, (n, k, h, w)",
            found=", ".join(shown) or "a layer that does not run",
        )
    if (
        not isinstance(logits, Tensor)
        or logits.shape != (_PROBES, num_classes)
        or not logits.isfinite().all()
    ):
        raise broken(
            spec,
            "gives no logits",
            expected=f"({_PROBES}, {num_classes}) finite numbers for {_PROBES} images",
            found=_shape(logits),
        )
    if len(given) != 1 or not torch.equal(given[0], logits) or fed[0].ndim != 2:
        raise broken(
            spec,
            "does not end with its last linear layer",
            expected="its outputs, (n, C), of inputs (n, d), to be the logits",
            found="something behind it, or another layer",
        )


def _check_pooled(spec: BackboneSpec, model: nn.Module, classifier: str, images: Tensor) -> None:
    """Hold the closed form of the gradient against the gradient."""
    leaf, logits = from_target(model, images, spec.target_layer)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), leaf)
    layer = model.get_submodule(classifier)
    assert isinstance(layer, nn.Linear)  # noqa: S101  see `last_linear`
    cells = leaf.shape[2] * leaf.shape[3]
    fits = leaf.shape[1] == layer.in_features and torch.allclose(
        gradient, (layer.weight[0] / cells)[None, :, None, None].expand_as(gradient), rtol=1e-3, atol=1e-7
    )
    if not fits:
        raise broken(
            spec,
            "says pooled_linear, and is not",
            expected="a global average pool and the linear layer behind the target layer, nothing else",
            found="another gradient at the target layer",
            next_step="leave pooled_linear out: the gradient is then taken by differentiation",
        )


def from_target(
    model: nn.Module, images: Tensor, target_layer: str, tap: Callable[[Tensor], Tensor] = lambda leaf: leaf
) -> tuple[Tensor, Tensor]:
    """Run a model with a graph from the target layer on, and none before it.

    What reaches the logits around the target layer is a constant to that graph, as in Grad-CAM it has to be.

    Args:
        model: The model, in eval mode.
        images: (n, 3, s, s).
        target_layer: The layer.
        tap: What the target layer's output passes.

    Returns:
        That output, a leaf of the graph, and the logits.
    """
    leaves: list[Tensor] = []

    def cut(output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)  # from here on; `no_grad` below sets it back
        leaves.append(output.detach().requires_grad_())
        return tap(leaves[-1]).clone()  # a leaf bears no operation in place, as a ReLU behind it may be

    with torch.no_grad(), changed_output(model, target_layer, cut):
        logits: Tensor = model(images)
    return leaves[-1], logits


def broken(
    spec: BackboneSpec, what: str, found: str, expected: str | None = None, next_step: str | None = None
) -> PluginError:
    """The error about a plug-in that breaks its contract."""
    return PluginError(
        f"the backbone {spec.title} {what}",
        expected=expected,
        found=found.strip().split("\n")[0],
        where="model.backbone",
        next_step=next_step or "correct the plug-in; CONTRIBUTING.md says what a backbone owes",
    )


def _shape(value: Any) -> str:
    return (
        f"{tuple(value.shape)}" if isinstance(value, Tensor) else f"an object of type {type(value).__name__}"
    )
