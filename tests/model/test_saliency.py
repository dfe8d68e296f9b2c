"""Saliency maps equal those of pytorch-grad-cam on the uncut model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import get_args

import cv2
import numpy as np
import pytest
import pytorch_grad_cam
import torch
from torch import nn

from xal_ray.config import Saliency
from xal_ray.model.network import ModelSpec, Network, freeze_backbone
from xal_ray.model.saliency import explain, explain_with_library
from xal_ray.model.weights import build_network

pytestmark = pytest.mark.slow

METHODS = get_args(Saliency)


def make_network(backbone: str, size: int) -> Network:
    """A network whose BatchNorm statistics are not the initial ones."""
    if backbone == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    network = build_network(ModelSpec(backbone, tuple("abcdef"), size, 3), "none", seed=4)
    network.train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(4)  # of the stochastic depth
        for seed in range(3):
            network(make_images(4, size, seed) * 1.5 + 0.3)
    return network.eval()


def make_images(count: int, size: int, seed: int = 7) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def upsampled(maps: torch.Tensor, size: int) -> np.ndarray:
    """Min-max normalised, resized and normalised again, which is what the library does."""
    result = []
    for grid in maps.numpy():
        for resize in (True, False):
            grid = grid - grid.min()
            grid = grid / (1e-7 + grid.max())
            grid = cv2.resize(grid, (size, size)) if resize else grid
        result.append(grid)
    return np.stack(result)


TARGETS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "resnet18": lambda model: model.layer4[-1],
    "resnet50": lambda model: model.layer4[-1],
    "densenet121": lambda model: model.features.denseblock4,
    "efficientnet_b0": lambda model: model.features[-1],
    "convnext_tiny": lambda model: model.features[-1],
    "vit_b_16": lambda model: model.encoder.layers[-1].ln_1,
}


def lay_out(tokens: torch.Tensor) -> torch.Tensor:
    """(n, 1 + 16, k) tokens of a 64-pixel image without the class token → (n, k, 4, 4)."""
    return tokens[:, 1:].reshape(len(tokens), 4, 4, -1).permute(0, 3, 1, 2)


def test_lite_equals_plain_autograd() -> None:
    # The layer has no module of its own that the library could hook.
    network, images = make_network("efficientnet_lite0", 96), make_images(3, 96)
    with torch.no_grad():
        network.classifier.weight.abs_()  # or all maps of this random network are zero
    logits, maps = explain(network, images)
    activation = network.model.extract_features(images).detach().requires_grad_()
    pooled = activation.mean(dim=(2, 3))
    by_hand = network.model._fc(pooled)
    torch.testing.assert_close(logits, by_hand.detach(), rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(by_hand.amax(dim=1).sum(), activation)
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * activation).sum(dim=1).relu()
    assert expected.amax() > 0
    torch.testing.assert_close(maps, expected.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backbone", ["resnet18", "densenet121"])
def test_other_targets_than_the_predicted_class(backbone: str) -> None:
    network, images = make_network(backbone, 96), make_images(3, 96)
    targets = torch.tensor([5, 0, 2])
    _, maps = explain(network, images, targets)
    layer = TARGETS[backbone](network.model)
    chosen = [pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget(int(c)) for c in targets]
    with pytorch_grad_cam.GradCAM(network.model, [layer]) as cam:
        reference = cam(images, targets=chosen)
    np.testing.assert_allclose(upsampled(maps, 96), reference, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_grid_maps(method: str, capfd: pytest.CaptureFixture[str]) -> None:
    network, images = make_network("resnet18", 64), make_images(2, 64)
    draw = explain if method == "gradcam" else partial(explain_with_library, method=method)
    logits, maps = draw(network, images)
    assert maps.shape == (2, 2, 2)
    assert maps.dtype == torch.float32
    assert torch.isfinite(maps).all()
    assert maps.amin() >= 0
    assert maps.amax() > 0
    with torch.no_grad():
        torch.testing.assert_close(logits, network(images), rtol=0, atol=1e-5)
    assert capfd.readouterr() == ("", "")
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("method", "library"),
    [
        ("gradcam", pytorch_grad_cam.GradCAM),
        ("gradcam++", pytorch_grad_cam.GradCAMPlusPlus),
        ("hirescam", pytorch_grad_cam.HiResCAM),
        ("xgradcam", pytorch_grad_cam.XGradCAM),
        ("layercam", pytorch_grad_cam.LayerCAM),
        ("eigencam", pytorch_grad_cam.EigenCAM),
        ("eigengradcam", pytorch_grad_cam.EigenGradCAM),
        ("scorecam", pytorch_grad_cam.ScoreCAM),
    ],
)
def test_each_method_is_the_library_s_own(method: str, library: type) -> None:
    size = 64
    network, images = make_network("resnet18", size), make_images(1 if method == "scorecam" else 2, size)
    _, maps = explain_with_library(network, images, method)
    with library(network.model, [network.model.layer4[-1]]) as cam:
        reference = cam(images, targets=None)
    np.testing.assert_allclose(upsampled(maps, size), reference, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "library"), [("gradcam", pytorch_grad_cam.GradCAM), ("hirescam", pytorch_grad_cam.HiResCAM)]
)
def test_tokens_and_frozen_backbones_work_with_the_library(method: str, library: type) -> None:
    network, images = make_network("vit_b_16", 64), make_images(2, 64)
    layer = network.model.encoder.layers[-1].ln_1
    with library(network.model, [layer], reshape_transform=lay_out) as cam:
        reference = cam(images, targets=None)
    freeze_backbone(network)
    _, maps = explain_with_library(network, images, method)
    assert maps.amax() > 0
    np.testing.assert_allclose(upsampled(maps, 64), reference, rtol=0, atol=1e-4)


def test_a_network_in_training_mode_is_explained_in_eval_mode() -> None:
    network, images = make_network("resnet18", 64), make_images(2, 64)
    expected = explain(network, images)
    statistics = network.model.state_dict()["bn1.running_mean"].clone()
    found = explain(network.train(), images)
    assert torch.equal(expected[1], found[1])
    assert torch.equal(network.model.state_dict()["bn1.running_mean"], statistics)
