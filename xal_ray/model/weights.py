"""Says where a network's weights come from and go to: chance, published files, a user's file, a saved model.

A saved model is a folder with `model.safetensors` and `model.json`, which says what the weights are of. Of a
frozen backbone that is kept elsewhere, it holds the last layer alone, and `backbone.json` says where the rest
is: that file is a place, not a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from xal_ray.errors import ModelError, StorageError
from xal_ray.model.backbones import create_model, maker_of
from xal_ray.model.backbones.plugin_contract import check_plugin
from xal_ray.model.files import BACKBONE_FILE, CARD_FILE, WEIGHTS_FILE
from xal_ray.model.foreign_weights import head_names, load_checkpoint, misfits_of
from xal_ray.model.network import ModelSpec, Network
from xal_ray.model.weight_files import read_checkpoint
from xal_ray.places import is_remote, place
from xal_ray.registry.backbones import BACKBONES
from xal_ray.registry.lookup import UnknownNameError
from xal_ray.storage import read_json, sha256_bytes, write_bytes, write_json


def is_at_hand(backbone: str, weights: str) -> bool:
    """Return whether weights can be read without asking another machine for them."""
    if weights == "none":
        return True
    if weights != "imagenet":
        return not is_remote(place(weights))
    return maker_of(BACKBONES[backbone]).is_at_hand(backbone)


def build_network(
    spec: ModelSpec, weights: str, seed: int, tell: Callable[[str], None] = lambda _: None
) -> Network:
    """Build a network, on the CPU and in eval mode.

    Args:
        spec: What it is for.
        weights: `none` (random), `imagenet`, or the path or URI of a state dict, or of a checkpoint that
            holds one (.safetensors, .pth, .pt), with the names of the original model, whatever stands before
            them. A last layer for other classes is replaced by a random one.
        seed: Of what is random; the global random state is neither read nor changed.
        tell: Hears how a file of weights was understood, and what became of its last layer.

    Raises:
        ModelError: The image size does not suit the backbone, or the weights can't be had, do not fit, or are
            not finite.
        PluginError: The backbone is a plug-in that breaks what a backbone owes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = _create_network(spec)
        if not network.is_ours:
            name = network.classifier_name
            check_plugin(network.backbone, network.model, name, len(spec.classes), spec.image_size)
    if weights == "imagenet":
        state = _imagenet_weights(spec.backbone)
        load_checkpoint(network, spec, state, Path("model.weights=imagenet"), lambda _: None)
    elif weights != "none":
        path = place(weights)
        load_checkpoint(network, spec, read_checkpoint(path), path, tell)
    return _laid_out(network)


def _create_network(spec: ModelSpec) -> Network:
    return Network(spec, create_model(spec.backbone, len(spec.classes), spec.image_size))


def _empty_network(spec: ModelSpec) -> Network:
    """Return a network whose weights are set next, all of them."""
    if BACKBONES[spec.backbone].origin is None:
        # Without storage of its own, the model draws no random weights that would be overwritten at once.
        with torch.device("meta"):
            return _create_network(spec)
    with torch.random.fork_rng(devices=[]):  # a plug-in's may compute with what it begins with
        return _create_network(spec)


def _laid_out(network: Network) -> Network:
    """In eval mode, with the memory layout in which convolutions are fastest."""
    network.eval()
    return network.to(memory_format=torch.channels_last) if network.is_ours else network


def save_model(
    folder: Path, network: Network, spec: ModelSpec, extra: Mapping[str, Any], *, backbone: Path | None = None
) -> None:
    """Write `model.safetensors`, then `model.json`; equal weights give equal bytes.

    Args:
        folder: Where to.
        network: The network, on any device.
        spec: Its specification.
        extra: Plain values for `model.json`, beside those that are always there.
        backbone: What `save_backbone` wrote: then only the last layer is written.

    Raises:
        StorageError: The disk refused.
    """
    state = network.model.state_dict()
    names = sorted(state)
    card = {**extra}
    if backbone is not None:
        names = head_names(network.classifier_name)
        card["backbone_sha256"] = read_json(backbone / CARD_FILE)["weights_sha256"]
        write_json(folder / BACKBONE_FILE, {"path": str(backbone.resolve())})
    _save(folder, network, spec, {name: state[name] for name in names}, card)


def backbone_sha256(network: Network) -> str:
    """Return what `save_backbone` would say of a network."""
    return sha256_bytes(_serialised(_backbone_state(network)))


def save_backbone(folder: Path, network: Network, spec: ModelSpec) -> None:
    """Write all weights but the last layer's, as `save_model` does.

    Raises:
        StorageError: The disk refused.
    """
    _save(folder, network, spec, _backbone_state(network), {})


def load_backbone(folder: Path) -> Network:
    """Read what `save_backbone` wrote; the last layer is zero.

    Raises:
        ModelError: A file is missing or damaged.
    """
    weights_path, card_path = _locate(folder)
    card = read_json(card_path)
    network = _empty_network(ModelSpec.from_json(card["spec"]))
    own = network.model.state_dict()
    head = {name: torch.zeros(own[name].shape) for name in head_names(network.classifier_name)}
    state = {**_read_saved(weights_path, card["weights_sha256"]), **head}
    network.model.load_state_dict(state, assign=True)
    return _laid_out(network)


def _backbone_state(network: Network) -> dict[str, Tensor]:
    head = set(head_names(network.classifier_name))
    state = network.model.state_dict()
    return {name: state[name] for name in sorted(state) if name not in head}


def _save(
    folder: Path, network: Network, spec: ModelSpec, state: Mapping[str, Tensor], extra: Mapping[str, Any]
) -> None:
    data = _serialised(state)
    sha256 = sha256_bytes(data)
    card = {
        **extra,
        "spec": spec.to_json(),
        "weights_sha256": sha256,
        "model_id": sha256[:16],
        "target_layer": network.target_layer_name,
    }
    if network.backbone.origin is not None:
        card["plugin"] = network.backbone.identity
    write_bytes(folder / WEIGHTS_FILE, data)
    write_json(folder / CARD_FILE, card)


def _serialised(state: Mapping[str, Tensor]) -> bytes:
    data: bytes = safetensors.torch.save({name: value.cpu().contiguous() for name, value in state.items()})
    return data


def load_model(path: Path) -> tuple[Network, ModelSpec, dict[str, Any]]:
    """Read what `save_model` wrote.

    Args:
        path: The folder, or the weights file in it.

    Returns:
        The network (on the CPU, in eval mode), its specification, and the content of `model.json`.

    Raises:
        ModelError: A file is missing or damaged, or the two do not belong together; or the backbone is a
            plug-in that has changed since.
        PluginError: The backbone is a plug-in that can't be imported here.
    """
    weights_path, card_path = _locate(path)
    try:
        card = read_json(card_path)
        spec, expected = ModelSpec.from_json(card["spec"]), card["weights_sha256"]
    except StorageError as error:
        raise _damaged(card_path, found=str(error.details["found"])) from error
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(card_path, found=f"a field is missing or does not fit: {error}") from error
    except UnknownNameError as error:
        raise _damaged(card_path, found=f"a field does not fit: {error.what}") from error
    _check_plugin_is_the_same(spec, card, card_path)
    state = _read_saved(weights_path, expected)
    if "backbone_sha256" in card:
        state = {**_read_backbone(weights_path.parent, card["backbone_sha256"]), **state}
    network = _empty_network(spec)
    _check_names_and_shapes(network, state, str(weights_path))
    network.model.load_state_dict(state, assign=True)
    return _laid_out(network), spec, card


def _check_plugin_is_the_same(spec: ModelSpec, card: Mapping[str, Any], card_path: Path) -> None:
    """Refuse weights whose backbone is a plug-in that has changed since they were trained."""
    backbone = BACKBONES[spec.backbone]
    found = None if backbone.origin is None else backbone.identity
    if card.get("plugin") != found:
        raise ModelError(
            "the code of the model's backbone has changed since the model was trained",
            expected=str(card.get("plugin") or f"{spec.backbone}, built in"),
            found=found or f"{spec.backbone}, built in",
            where=str(card_path),
            next_step="bring that version of the plug-in back; or train again, from these weights if they "
            f"fit, with --set model.weights={card_path.parent / WEIGHTS_FILE}",
        )


def _read_backbone(folder: Path, sha256: str) -> dict[str, Tensor]:
    """Return the weights that a saved last layer belongs to."""
    pointer = folder / BACKBONE_FILE
    try:
        weights = place(read_json(pointer)["path"]) / WEIGHTS_FILE
    except (StorageError, KeyError, TypeError) as error:
        raise _damaged(pointer, found=str(error)) from error
    if not weights.is_file():
        raise ModelError(
            "this model holds its last layer only, and its backbone is gone",
            expected=f"weights with the SHA-256 {sha256[:16]}...",
            found="no such file",
            where=str(weights),
            next_step="any run on the same pool with model.cache_activations=true makes it again; "
            f"or write its new place into {pointer}",
        )
    return _read_shared(weights, sha256)


@lru_cache(maxsize=1)
def _read_shared(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read as `_read_saved` does; the same weights are asked for again and again, and nobody trains them."""
    return _read_saved(path, sha256)


def _locate(path: Path) -> tuple[Path, Path]:
    """The weights file and the card of a saved model that is given as its folder or its weights file."""
    weights_path = path / WEIGHTS_FILE if path.is_dir() else path
    card_path = weights_path.parent / CARD_FILE
    missing = [file.name for file in (weights_path, card_path) if not file.is_file()]
    if not path.exists():
        found = "no such folder or file"
    elif weights_path.suffix != ".safetensors":
        found = "a file of another kind"
    elif missing:
        found = "no " + " and no ".join(missing)
    else:
        return weights_path, card_path
    raise ModelError(
        "there is no model here",
        expected=f"a folder with {WEIGHTS_FILE} and {CARD_FILE}, or the first of them beside the second",
        found=found,
        where=str(path),
        next_step="give the folder of a trained round (RUN/rounds/NNN), or copy the model's two files again",
    )


def _read_saved(path: Path, sha256: str) -> dict[str, Tensor]:
    """Return the weights of a saved model, if they are those that its card describes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _damaged(path, found=str(error)) from error
    if sha256_bytes(data) != sha256:
        raise _damaged(path, found=f"{len(data)} bytes other than those that {CARD_FILE} describes")
    return dict(safetensors.torch.load(data))


@lru_cache(maxsize=1)
def _imagenet_weights(backbone: str) -> dict[str, Tensor]:
    """Kept for the next round, which starts from them again; who loads them copies them."""
    return dict(maker_of(BACKBONES[backbone]).imagenet(backbone))


def _check_names_and_shapes(network: Network, state: Mapping[str, Tensor], where: str) -> None:
    own = {name: value.shape for name, value in network.model.state_dict().items()}
    misfits = misfits_of(own, {name: value.shape for name, value in state.items()})
    if misfits:
        raise ModelError(
            "the weights do not fit the backbone",
            found=misfits,
            where=where,
            next_step=f"copy the weights and the {CARD_FILE} of one round again, both",
        )


def _damaged(path: Path, found: str) -> ModelError:
    return ModelError(
        "a saved model is damaged",
        found=found,
        where=str(path),
        next_step="restore the folder from where it was copied, or train the round again",
    )
