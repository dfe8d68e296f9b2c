"""Weights as other programs write them: under keys, behind prefixes, with other heads, in half precision."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision

from xal_ray.errors import ModelError
from xal_ray.model.network import ModelSpec, Network
from xal_ray.model.weights import build_network

pytestmark = pytest.mark.slow

SPEC = ModelSpec("resnet18", ("a", "b", "c"), 64, 1)
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """Of a resnet18 with two classes."""
    torch.manual_seed(0)
    return dict(torchvision.models.resnet18(num_classes=2).state_dict())


def build(path: Path, content: Any, spec: ModelSpec = SPEC) -> tuple[Network, str]:
    """The network, and what was told."""
    if path.suffix == ".safetensors":
        path.write_bytes(safetensors.torch.save(content))
    else:
        torch.save(content, path)
    told: list[str] = []
    return build_network(spec, str(path), 3, told.append), "\n".join(told)


def refused(path: Path, content: Any, spec: ModelSpec = SPEC) -> ModelError:
    with pytest.raises(ModelError) as caught:
        build(path, content, spec)
    assert caught.value.details["next"]
    assert caught.value.details["where"] == str(path)
    return caught.value


def check_backbone(network: Network, state: State) -> None:
    found = network.model.state_dict()
    for name, value in state.items():
        if not name.startswith("fc."):
            assert torch.equal(found[name], value), name


def before(prefix: str) -> Callable[[State], State]:
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


NAMES = {
    "plain": before(""),
    "DataParallel": before("module."),
    "torch.compile": before("_orig_mod."),
    "Lightning": before("model."),
    "backbone": before("backbone."),
    "encoder": before("encoder."),
    "several": before("module._orig_mod.model.backbone."),
    "another word": before("net.trunk."),
    "a compiled part": lambda state: {
        name.replace("layer1.", "layer1._orig_mod.").replace("layer2.", "layer2.module."): value
        for name, value in state.items()
    },
    "two encoders": lambda state: {
        **before("encoder_q.")(state),
        **{f"encoder_k.{name}": value + 1 for name, value in state.items() if value.is_floating_point()},
        "queue": torch.zeros(3, 4),
    },
}
KEYS: dict[str, Callable[[State], Any]] = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.3, "history": [1, 2]},
    "model": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},
    "net": lambda state: {"net": state},
    "teacher": lambda state: {"teacher": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "checkpoint.model": lambda state: {"checkpoint": {"model": state}},
    "state_dict beside another": lambda state: {
        "ema": {name: value + 1 for name, value in state.items()},
        "state_dict": state,
    },
}


@pytest.mark.parametrize("names", NAMES)
def test_names_behind_any_prefix(tmp_path: Path, state: State, names: str) -> None:
    network, _ = build(tmp_path / "w.pth", NAMES[names](state))
    check_backbone(network, state)


@pytest.mark.parametrize("key", KEYS)
def test_a_state_dict_under_any_key(tmp_path: Path, state: State, key: str) -> None:
    network, told = build(tmp_path / "w.ckpt", KEYS[key](before("module.")(state)))
    check_backbone(network, state)
    assert f"weights under '{key.split()[0]}'" in told


def test_what_is_told_of_a_checkpoint(tmp_path: Path, state: State) -> None:
    _, told = build(tmp_path / "w.safetensors", before("model.")(state) | {"criterion.weight": torch.ones(2)})
    assert told.split("\n") == [
        "w.safetensors: weights, whose names begin with 'model.'",
        "w.safetensors: left out, as no part of the backbone: 1 tensors: criterion.weight",
        "w.safetensors: without a last layer for 3 classes: a new one begins at random",
    ]
    _, told = build(tmp_path / "w.pth", torchvision.models.resnet18(num_classes=3).state_dict())
    assert told == "w.pth: its last layer, for 3 classes, is kept"


def test_other_heads_are_left_out_and_a_fresh_one_takes_their_place(tmp_path: Path, state: State) -> None:
    backbone = {name: value for name, value in state.items() if not name.startswith("fc.")}
    fresh = build_network(SPEC, "none", 3)
    for head in (
        {},
        {"fc.0.weight": torch.ones(8, 512), "fc.2.weight": torch.ones(2, 8)},
        {"head.weight": torch.ones(3, 512), "head.bias": torch.ones(3)},
        {"projector.0.weight": torch.ones(8, 512)},
        {"fc.weight": torch.ones(3, 512)},
    ):
        network, _ = build(tmp_path / "w.pth", {**backbone, **head})
        check_backbone(network, state)
        assert torch.equal(network.classifier.weight, fresh.classifier.weight), list(head)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_precisions(tmp_path: Path, state: State, dtype: torch.dtype, suffix: str) -> None:
    half = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    network, _ = build(tmp_path / f"w{suffix}", half)
    check_backbone(network, {name: value.float() for name, value in half.items()})
    assert {value.dtype for value in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_numbers_that_are_not_finite_are_named(
    tmp_path: Path, state: State, number: float, suffix: str
) -> None:
    broken = {name: value.clone() for name, value in before("module.model.")(state).items()}
    broken["module.model.layer2.0.conv1.weight"][0, 0] = number
    error = refused(tmp_path / f"w{suffix}", broken)
    assert "not finite" in error.what
    assert error.details["found"] == "1 tensors: model.layer2.0.conv1.weight (9 of 73728)"


def test_a_head_that_is_not_used_may_hold_anything(tmp_path: Path, state: State) -> None:
    build(tmp_path / "w.pth", state | {"fc.weight": torch.full((2, 512), float("nan"))})


def test_quantised_weights_are_refused(tmp_path: Path, state: State) -> None:
    error = refused(tmp_path / "w.pth", state | {"conv1.weight": state["conv1.weight"].to(torch.int8)})
    assert error.details["found"] == "1 tensors, the first: conv1.weight (torch.int8)"


@pytest.mark.parametrize("other", ["resnet34", "resnet50", "densenet121", "efficientnet_b0"])
def test_weights_of_another_backbone_say_of_which(tmp_path: Path, other: str) -> None:
    model = torchvision.models.get_model(other, weights=None, num_classes=2)
    error = refused(tmp_path / "w.pth", {"state_dict": before("module.")(model.state_dict())})
    assert "do not fit the backbone" in error.what
    assert error.details["next"] == f"--set model.backbone={other}: these weights are of {other}"
    if other == "resnet34":
        assert "unexpected: layer1.2.conv1.weight" in str(error)


def test_weights_of_no_backbone_say_so(tmp_path: Path, state: State) -> None:
    model = torchvision.models.mobilenet_v3_small(weights=None)
    assert "of none of the backbones" in str(refused(tmp_path / "w.pth", model.state_dict()))
    grey = state | {"conv1.weight": state["conv1.weight"][:, :1]}
    error = refused(tmp_path / "w.pth", grey)
    assert "conv1.weight (64 x 1 x 7 x 7 for 64 x 3 x 7 x 7)" in str(error.details["found"])


class Callback:
    """What a training framework keeps beside the weights."""


def test_a_whole_model_is_refused_and_the_advice_can_be_followed(tmp_path: Path, state: State) -> None:
    model = torchvision.models.resnet18(num_classes=2)
    model.load_state_dict(state)
    for content in (model, {"model": model, "epoch": 3}, {"state_dict": state, "callback": Callback()}):
        error = refused(tmp_path / "w.pth", content)
        assert "a pickled " in str(error.details["found"])
        advice = str(error.details["next"])
        assert advice.startswith("only if you trust the file")
        code = advice.partition('python -c "')[2].partition('"')[0]
        exec(code.replace("weights.pth", str(tmp_path / "again.pth")), {})
        check_backbone(build_network(SPEC, str(tmp_path / "again.pth"), 0), state)


def test_a_file_is_known_by_its_content(tmp_path: Path, state: State) -> None:
    (tmp_path / "w.bin").write_bytes(safetensors.torch.save(state))
    torch.save(state, tmp_path / "w.safetensors")
    for name in ("w.bin", "w.safetensors"):
        check_backbone(build_network(SPEC, str(tmp_path / name), 0), state)


def test_a_last_layer_alone_is_refused(tmp_path: Path, state: State) -> None:
    error = refused(tmp_path / "w.pth", {name: state[name] for name in ("fc.weight", "fc.bias")})
    assert "a last layer only" in error.what
    assert "backbone.json" in str(error.details["next"])


def test_files_without_weights_and_folders_are_refused(tmp_path: Path) -> None:
    for content in ({"state_dict": {}, "epoch": 3}, [torch.ones(2)], torch.ones(2), {}):
        assert "other than a state dict" in str(refused(tmp_path / "w.pth", content))
    (tmp_path / "round").mkdir()
    with pytest.raises(ModelError, match="a folder") as caught:
        build_network(SPEC, str(tmp_path / "round"), 0)
    assert "round/model.safetensors" in str(caught.value.details["next"])
