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
from xal_ray.registry.backbones import BackboneSpec
from xal_ray.registry.importing import blaming


@dataclass(frozen=True)
class FromPlugin:
    """Holds what makes a plug-in's models (see `xal_ray.model.backbones.Maker`)."""

    spec: BackboneSpec

    def create(self, name: str, num_classes: int, image_size: int) -> nn.Module:
        """Return a model with random weights.

        Raises:
            PluginError: The plug-in fails, or gives something else.
        """
        with blaming(lambda raised: broken(self.spec, "does not make a model", raised)):
            model = self.spec.load()(num_classes, image_size)
        if not isinstance(model, nn.Module):
            raise broken(self.spec, "does not make a model", shape_of(model), "a torch.nn.Module")
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
        with blaming(lambda raised: broken(self.spec, "gives no weights", raised)):
            return dict(self.spec.pretrained())


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
        if isinstance(module, nn.Linear)
        and module.out_features == num_classes
        and {"weight", "bias"} <= dict(module.named_parameters(recurse=False)).keys()  # none is computed
    ]
    if spec.classifier is not None and spec.classifier not in names:
        names = []
    if not names:
        raise broken(
            spec,
            "has no last linear layer",
            found=f"no torch.nn.Linear with {num_classes} outputs, and a weight and a bias of its own"
            + (f" called {spec.classifier}" if spec.classifier else ""),
            expected="one, whose outputs are the logits: frozen backbones, dropout samples and near ties "
            "rest on it",
        )
    return spec.classifier or names[-1]


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
    """Return the error about a plug-in that breaks its contract."""
    return PluginError(
        f"the backbone {spec.title} {what}",
        expected=expected,
        found=found.strip().split("\n")[0],
        where="model.backbone",
        next_step=next_step or "correct the plug-in; CONTRIBUTING.md says what a backbone owes",
    )


def shape_of(value: Any) -> str:
    """Say what something is, for an error about a plug-in."""
    return (
        f"{tuple(value.shape)}" if isinstance(value, Tensor) else f"an object of type {type(value).__name__}"
    )
