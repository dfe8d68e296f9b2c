"""Weights that other programs have written, brought to a network's names, and checked.

A checkpoint may hold its state dict under a key, beside an optimiser's; wrappers put `module.` or
`_orig_mod.` into the names, and larger models `model.` or `backbone.` before them. What counts is where most
of the network's own names are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xal_ray.errors import ModelError
from xal_ray.model.backbones import create_model
from xal_ray.model.backbones.vision_transformer import resized
from xal_ray.model.network import ModelSpec, Network
from xal_ray.model.weight_files import no_state_dict, state_dicts
from xal_ray.registry.backbones import BACKBONES, BackboneSpec

# Where several state dicts of a file fit as well, the first of these is taken.
_USUAL_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "teacher", "student", "module")
_WRAPPERS = frozenset({"module", "_orig_mod"})  # DataParallel, torch.compile: at any place of a name
# torchvision's published densenets still have dots that its module names have lost: `norm.1` → `norm1`.
_DENSENET_DOTS = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_TESTED_SIZE = 224

Shapes = Mapping[str, torch.Size]


@dataclass(frozen=True)
class _Fit:
    """A state dict of a file, with a network's names.

    Attributes:
        key: Where in the file it is: `state_dict`, or empty.
        prefix: What stood before the names that the network has, with its dot, or empty.
        state: The weights by the network's names, and what else stands there.
        outside: Names without the prefix.
        num_own: How many names of the network, less its last layer's, are there.
    """

    key: str
    prefix: str
    state: dict[str, Tensor]
    outside: list[str]
    num_own: int


def load_checkpoint(
    network: Network,
    spec: ModelSpec,
    content: Mapping[Any, Any],
    path: Path,
    tell: Callable[[str], None],
) -> None:
    """Load weights into a network; its last layer stays as it is where the file's is for other classes.

    Args:
        network: The network.
        spec: Its specification.
        content: What `read_checkpoint` gave.
        path: The file, for messages.
        tell: Hears how the file was understood, and what became of the last layer.

    Raises:
        ModelError: There is no state dict, or it is another model's, or holds numbers that are not finite.
    """
    model, backbone = network.model, network.backbone
    own = {name: value.shape for name, value in model.state_dict().items()}
    head = head_names(network.classifier_name)
    found = list(state_dicts(content))
    if not found:
        raise no_state_dict(path, f"{', '.join(map(str, list(content)[:8])) or 'nothing'}, and no tensors")
    fit = _best_fit(found, own, head)
    state = fit.state
    if any(name in state for name in backbone.resized):
        state = _with_positions(state, backbone, spec.image_size, path)
    state, heads = _without_other_heads(state, own, head)
    if set(fit.state) <= set(head):
        raise ModelError(
            "the weights are those of a last layer only",
            expected=f"weights of {backbone.name}",
            found=_first(sorted(fit.state)),
            where=str(path),
            next_step=f"give the others' file: {path.parent / 'backbone.json'}, of kept activations, "
            "says where they are",
        )
    misfits = misfits_of(own, {name: value.shape for name, value in state.items()}, besides=head)
    if misfits:
        raise _of_another_model(misfits, found, backbone, path)
    keeps = all(name in state and state[name].shape == own[name] for name in head)
    state = {name: value for name, value in state.items() if name in own and (keeps or name not in head)}
    _check_numbers(state, {name: value.dtype for name, value in model.state_dict().items()}, fit, path)
    model.load_state_dict(state, strict=False)  # old files lack `num_batches_tracked`
    for note in _notes(fit, heads, keeps=keeps, num_classes=own[head[1]][0]):
        tell(f"{path.name}: {note}")


def head_names(classifier: str) -> list[str]:
    """Return the names of the last linear layer's weights: its bias, then its weight."""
    return [f"{classifier}.{part}" for part in ("bias", "weight")]


def misfits_of(own: Shapes, given: Shapes, *, besides: Sequence[str] = ()) -> str:
    """Return what is missing, unexpected or of another shape, in words; nothing where all fits."""
    missing = [
        name
        for name in own
        if name not in given and name not in besides and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in given if name not in own and name not in besides]
    other = [
        f"{name} ({_size(given[name])} for {_size(own[name])})"
        for name in own
        if name in given and name not in besides and given[name] != own[name]
    ]
    findings = {"missing": missing, "unexpected": unexpected, "of another shape": other}
    return "; ".join(f"{len(names)} {kind}: {_first(names)}" for kind, names in findings.items() if names)


def _size(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a number"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _best_fit(found: Sequence[tuple[str, dict[str, Tensor]]], own: Shapes, head: Sequence[str]) -> _Fit:
    """The state dict that has most of a network's names; of several, the one with the most usual key."""

    def usual(key: str) -> int:
        last = key.rpartition(".")[2]
        return _USUAL_KEYS.index(last) if last in _USUAL_KEYS else len(_USUAL_KEYS)

    fits = [_fit(key, state, own, head) for key, state in found]
    return min(fits, key=lambda fit: (-fit.num_own, usual(fit.key)))


def _fit(key: str, state: Mapping[str, Tensor], own: Shapes, head: Sequence[str]) -> _Fit:
    plain = {_unwrapped(name): value for name, value in state.items()}
    wanted = set(own) - set(head)
    prefixes: Counter[str] = Counter()
    for name in plain:
        parts = name.split(".")
        for begin in range(len(parts)):
            if ".".join(parts[begin:]) in wanted:
                prefixes["".join(f"{part}." for part in parts[:begin])] += 1
    prefix, count = max(prefixes.items(), key=lambda entry: entry[1], default=("", 0))
    inside = {name.removeprefix(prefix): value for name, value in plain.items() if name.startswith(prefix)}
    return _Fit(key, prefix, inside, [name for name in plain if not name.startswith(prefix)], count)


def _unwrapped(name: str) -> str:
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    return _DENSENET_DOTS.sub(r"\1\2", ".".join(parts))


def _without_other_heads(
    state: Mapping[str, Tensor], own: Shapes, head: Sequence[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """The state without layers that the network lacks, where it has all of the network but the last layer.

    What stands in the last layer's place, or apart from all modules of the network, is another task's head.
    """
    place = head[0].rpartition(".")[0]
    modules = {name.partition(".")[0] for name in own if name not in head}

    def of_a_head(name: str) -> bool:
        module = name.partition(".")[0]
        return module == place.partition(".")[0] or module not in modules

    heads = [name for name in state if name not in own and of_a_head(name)]
    return {name: value for name, value in state.items() if name not in heads}, heads


def _with_positions(
    state: Mapping[str, Tensor], backbone: BackboneSpec, image_size: int, path: Path
) -> dict[str, Tensor]:
    """Return the positions of a vision transformer, interpolated to another image size."""
    try:
        return resized(state, image_size, backbone.size_multiple)
    except ValueError as error:
        raise ModelError(
            "the weights do not fit the backbone",
            found=str(error),
            where=str(path),
            next_step=f"give weights of torchvision's {backbone.name}, or choose another model.backbone",
        ) from error


def _of_another_model(
    misfits: str, found: Sequence[tuple[str, dict[str, Tensor]]], backbone: BackboneSpec, path: Path
) -> ModelError:
    others = [other.name for other in BACKBONES if other.name != backbone.name and _is_of(other, found)]
    names = "torchvision's names" if backbone.origin is None else "the plug-in's names"
    return ModelError(
        "the weights do not fit the backbone",
        expected=f"weights of {backbone.name}",
        found=misfits,
        where=str(path),
        next_step=f"--set model.backbone={others[0]}: these weights are of {' or '.join(others)}"
        if others
        else f"give weights of {backbone.name} under {names}, or model.weights=imagenet or none; "
        "these are of none of the backbones",
    )


def _is_of(backbone: BackboneSpec, found: Sequence[tuple[str, dict[str, Tensor]]]) -> bool:
    """Return whether a file's weights are those of a backbone, whatever their last layer."""
    try:
        with torch.device("meta"):
            model = create_model(backbone.name, 2, _TESTED_SIZE)
    except ModelError:
        return False  # its package is not installed
    own = {name: value.shape for name, value in model.state_dict().items()}
    assert backbone.classifier is not None  # noqa: S101  it is built in
    head = head_names(backbone.classifier)
    fit = _best_fit(found, own, head)
    state, _ = _without_other_heads(fit.state, own, head)
    shapes = {name: value.shape for name, value in state.items()}
    return not misfits_of(own, shapes, besides=[*head, *backbone.resized])


def _check_numbers(
    state: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype], fit: _Fit, path: Path
) -> None:
    """Refuse weights that are no numbers, or no finite ones: the training that made them went astray."""
    odd = [
        f"{name} ({value.dtype})"
        for name, value in state.items()
        if dtypes[name].is_floating_point and not value.dtype.is_floating_point
    ]
    if odd:
        raise ModelError(
            "the weights are of a type that this network does not compute in",
            expected="floating point numbers",
            found=f"{len(odd)} tensors, the first: {_first(odd)}",
            where=str(path),
            next_step="give the weights as they were before quantisation",
        )
    broken = []
    for name, value in state.items():
        count = int((~torch.isfinite(value.float())).sum()) if value.dtype.is_floating_point else 0
        if count:
            broken.append(f"{fit.prefix}{name} ({count} of {value.numel()})")
    if broken:
        raise ModelError(
            "the weights hold numbers that are not finite (NaN or infinite)",
            found=f"{len(broken)} tensors: {_first(broken)}",
            where=str(path),
            next_step="give an earlier checkpoint, from before that training went astray",
        )


def _notes(fit: _Fit, heads: Sequence[str], *, keeps: bool, num_classes: int) -> Iterator[str]:
    if fit.key or fit.prefix:
        under = f" under '{fit.key}'" if fit.key else ""
        names = f", whose names begin with '{fit.prefix}'" if fit.prefix else ""
        yield f"weights{under}{names}"
    if fit.outside or heads:
        left = [*fit.outside, *(f"{fit.prefix}{name}" for name in heads)]
        yield f"left out, as no part of the backbone: {len(left)} tensors: {_first(left)}"
    yield (
        f"its last layer, for {num_classes} classes, is kept"
        if keeps
        else f"without a last layer for {num_classes} classes: a new one begins at random"
    )
