"""What every backbone of the registry promises: its cut, its last layer, its maps, its files."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import pytorch_grad_cam
import torch
from torch import nn

from xal_ray.errors import ModelError
from xal_ray.model.network import ModelSpec, Network
from xal_ray.model.saliency import explain
from xal_ray.model.weights import build_network, load_model, save_model
from xal_ray.registry.backbones import BACKBONES

pytestmark = pytest.mark.slow

SIZE = 64  # maps of 2 x 2 cells, or of 4 x 4 patches


def make_images(count: int, seed: int = 7) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=BACKBONES.names())
def network(request: pytest.FixtureRequest) -> Network:
    """A network whose BatchNorm statistics are not the initial ones."""
    record = BACKBONES[request.param]
    if record.package:
        pytest.importorskip(record.package)
    network = build_network(ModelSpec(record.name, tuple("abcdef"), SIZE, 3), "none", seed=4).train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(4)  # of the stochastic depth
        network(make_images(4, seed=0) * 1.5 + 0.3)
    return network.eval()


@pytest.fixture(scope="module")
def uncut(network: Network) -> Network:
    """In float64: a random network's maps are nearly flat, and min-max normalisation magnifies rounding."""
    return copy.deepcopy(network).double()


def normalised(maps: np.ndarray) -> np.ndarray:
    """Min-max normalised twice, which is what the library does: for each layer, and for all of them."""
    for _ in range(2):
        maps = maps - maps.min(axis=(1, 2), keepdims=True)
        maps = maps / (1e-7 + maps.max(axis=(1, 2), keepdims=True))
    return maps


def laid_out(output: torch.Tensor) -> torch.Tensor:
    """(n, 1 + h w, k) tokens without the class token → (n, k, h, w); (n, k, h, w) stays."""
    if output.ndim == 4:
        return output
    side = SIZE // 16
    return output[:, 1:].reshape(len(output), side, side, -1).permute(0, 3, 1, 2)


def test_the_cut_network_equals_the_whole_model(network: Network) -> None:
    images = make_images(2)
    with torch.no_grad():
        activation, logits = network.features(images), network(images)
        torch.testing.assert_close(logits, network.model(images), rtol=0, atol=1e-6)
        torch.testing.assert_close(network.head(activation), logits, rtol=0, atol=0)
    assert logits.shape == (2, 6)
    cells = network.spatial(activation).shape[2:]
    assert cells[0] == cells[1] == laid_out_side(network)


def laid_out_side(network: Network) -> int:
    return SIZE // (16 if network.backbone.resized else 32)


def test_the_last_layer_and_its_dropout_are_what_the_record_says(network: Network) -> None:
    assert network.classifier.out_features == 6
    with torch.no_grad():
        _, embedding = network.embed(make_images(2))
        torch.testing.assert_close(network.classifier(embedding), network(make_images(2)))
    if network.backbone.own_dropout is not None:
        assert isinstance(network.model.get_submodule(network.backbone.own_dropout), nn.Dropout)


def test_the_closed_form_is_claimed_only_where_the_head_is_pool_and_linear(network: Network) -> None:
    with torch.no_grad():
        shape = network.features(make_images(1)).shape
    if len(shape) == 3:  # tokens have no closed form
        assert network.linear_weight is None
        return
    activation = torch.randn(2, *shape[1:], generator=torch.Generator().manual_seed(0))
    layer = network.classifier
    by_hand = activation.mean(dim=(2, 3)) @ layer.weight.T + layer.bias
    with torch.no_grad():
        same = torch.allclose(network.head(activation), by_hand, atol=1e-5)
    assert same == (network.linear_weight is not None)


def test_maps_are_the_library_s_on_the_uncut_model(uncut: Network) -> None:
    names = dict(uncut.model.named_modules())
    if uncut.target_layer_name not in names:
        pytest.skip("the layer has no module to hook; tests/model/test_saliency.py compares with autograd")
    images = make_images(3).double()
    logits, maps = explain(uncut, images)
    target = names[uncut.target_layer_name]
    with pytorch_grad_cam.GradCAM(uncut.model, [target], reshape_transform=laid_out) as cam:
        cam.get_target_width_height = lambda _: None
        reference = cam(images, targets=None)
        torch.testing.assert_close(logits, cam.outputs.detach(), rtol=0, atol=1e-5)
    assert maps.dtype == torch.float32
    assert maps.amax() > 0  # the comparison is not one of zeros
    np.testing.assert_allclose(normalised(maps.numpy()), reference, rtol=0, atol=1e-5)


def test_an_image_s_answer_does_not_depend_on_its_batch(uncut: Network) -> None:
    images = make_images(2).double()
    logits, maps = explain(uncut, images)
    for index in range(2):
        alone_logits, alone = explain(uncut, images[index : index + 1])
        torch.testing.assert_close(alone_logits[0], logits[index], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone[0], maps[index], rtol=0, atol=1e-5)


def test_a_saved_model_comes_back(network: Network, tmp_path) -> None:
    spec = ModelSpec(network.backbone.name, tuple("abcdef"), SIZE, 3)
    save_model(tmp_path, network, spec, {"round": 3})
    state = torch.get_rng_state()
    for path in (tmp_path, tmp_path / "model.safetensors"):
        loaded, loaded_spec, card = load_model(path)
        assert loaded_spec == spec
        assert card["round"] == 3
        assert card["target_layer"] == network.target_layer_name
        assert card["model_id"] == card["weights_sha256"][:16]
        assert "plugin" not in card
        assert not loaded.training
        assert all(parameter.requires_grad for parameter in loaded.parameters())
        assert {value.device.type for value in loaded.state_dict().values()} == {"cpu"}
    with torch.no_grad():
        assert torch.equal(loaded(make_images(2)), network(make_images(2)))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_image_size_that_does_not_suit_is_refused(network: Network) -> None:
    odd = SIZE + 1 if network.backbone.size_multiple > 1 else 24
    with pytest.raises(ModelError, match="image size") as caught:
        build_network(ModelSpec(network.backbone.name, ("a", "b"), odd, 1), "none", 0)
    assert str(odd) in str(caught.value)
