"""Networks: the cut changes nothing, a seed decides, images are scaled as the weights expect."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision

from xal_ray.errors import ModelError
from xal_ray.model.network import ModelSpec, freeze_backbone, images_to_tensor
from xal_ray.model.weights import build_network
from xal_ray.registry.backbones import BACKBONES

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
NAMES = BACKBONES.names()


def make_spec(backbone: str = "resnet18", size: int = 64, channels: int = 1, classes: int = 3) -> ModelSpec:
    if backbone == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    return ModelSpec(backbone, tuple("abcdefgh"[:classes]), size, channels)


def random_images(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def random_pixels(count: int, size: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels)).astype(np.uint8)


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


def test_missing_lite_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ModelError, match=r"pip install 'xal-ray\[lite\]'"):
        build_network(ModelSpec("efficientnet_lite0", ("a", "b"), 64, 1), "none", 0)


def test_of_a_frozen_network_the_last_layer_alone_is_trained_and_leaves_eval_mode() -> None:
    network = build_network(make_spec(), "none", seed=1)
    freeze_backbone(network)
    trainable = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert trainable == ["model.fc.weight", "model.fc.bias"]
    assert [module for module in network.train().modules() if module.training] == [network.classifier]
