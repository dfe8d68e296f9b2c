"""A backbone of another package: any module with a named target layer and a last linear layer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam
import torch
from torch import nn
from torch.nn import functional as F

from xal_ray.config import Config
from xal_ray.errors import ModelError, PluginError
from xal_ray.model.inference import Explainer
from xal_ray.model.network import ModelSpec, Network, freeze_backbone
from xal_ray.model.saliency import check_cut, explain, explain_with_library
from xal_ray.model.weights import build_network, load_model, save_model
from xal_ray.plugins import backbone

pytestmark = pytest.mark.slow

SIZE = 32
HERE = __name__


class Around(nn.Module):
    """A way leads around the target layer, what follows it may work in place, and the pool is no mean."""

    def __init__(self, num_classes: int, in_place: bool = False) -> None:
        super().__init__()
        self.in_place = in_place
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.target, self.last = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(16, 8, 3, padding=1)
        self.fc = nn.Linear(32, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        early = F.relu(self.norm(self.stem(images)))
        deep = F.relu(self.target(early), inplace=self.in_place)
        joined = torch.cat([deep, F.avg_pool2d(early, 2)], dim=1)
        pooled = F.adaptive_avg_pool2d(F.relu_(self.last(joined)), 2)
        return self.fc(pooled.view(len(images), -1))  # in another layout of memory this fails


class Plain(nn.Module):
    """A global average pool and a linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(images).mean(dim=(2, 3)))


@backbone(target_layer="target")
def around(num_classes: int, image_size: int) -> nn.Module:
    return Around(num_classes)


@backbone(target_layer="body", pooled_linear=True)
def plain(num_classes: int, image_size: int) -> nn.Module:
    return Plain(num_classes)


def make_network(name: str, size: int = SIZE) -> tuple[Network, ModelSpec]:
    spec = ModelSpec(f"{HERE}:{name}", ("a", "b", "c"), size, 1)
    return build_network(spec, "none", 1), spec


def make_images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7))


def normalised(maps: np.ndarray) -> np.ndarray:
    """Min-max normalised twice, which is what the library does: for each layer, and for all of them."""
    for _ in range(2):
        maps = maps - maps.min(axis=(1, 2), keepdims=True)
        maps = maps / (1e-7 + maps.max(axis=(1, 2), keepdims=True))
    return maps


@pytest.mark.parametrize("name", ["around", "plain"])
def test_maps_are_those_of_the_library(name: str) -> None:
    network, _ = make_network(name)
    network, images = network.double(), make_images(4).double()
    logits, maps = explain(network, images)
    target = network.model.get_submodule(network.target_layer_name)
    with pytorch_grad_cam.GradCAM(network.model, [target]) as cam:
        cam.get_target_width_height = lambda _: None
        reference = cam(images, targets=None)
        torch.testing.assert_close(logits, cam.outputs.detach(), rtol=0, atol=1e-8)
    assert (maps.flatten(1).amax(dim=1) > 0).sum() >= 2
    np.testing.assert_allclose(normalised(maps.numpy()), reference, rtol=0, atol=1e-5)
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.is_grad_enabled()


def test_what_works_in_place_behind_the_target_layer_changes_no_map() -> None:
    network, _ = make_network("around")
    twin, _ = make_network("around")
    twin.model.in_place = True
    for method in ("gradcam", "hirescam"):
        _, maps = explain_with_library(network, make_images(3), method)
        _, same = explain_with_library(twin, make_images(3), method)
        assert torch.equal(maps, same)
    assert torch.equal(explain(network, make_images(3))[1], explain(twin, make_images(3))[1])


@pytest.mark.parametrize("method", ["gradcam++", "scorecam"])
def test_other_methods_go_through_the_library(method: str) -> None:
    network, _ = make_network("around")
    freeze_backbone(network)
    logits, maps = explain_with_library(network, make_images(2), method)
    assert maps.shape == (2, 8, 8)
    assert maps.amax() > 0
    torch.testing.assert_close(logits, explain(network, make_images(2))[0])


@pytest.mark.parametrize("name", ["around", "plain"])
def test_scoring_has_samples_ties_and_embeddings(name: str) -> None:
    network, spec = make_network(name)
    pixels = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 1)).astype(np.uint8)
    width = network.classifier.in_features
    activation, embedding = network.embed(make_images(3))
    assert embedding.shape == (3, width)
    assert activation.shape == (3, 8, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(network.classifier(embedding), network(make_images(3)))
    outputs = Explainer(network, spec, torch.device("cpu"), dropout_masks=torch.ones(2, width))(pixels)
    assert outputs.maps.shape == (5, 8, 8)
    assert outputs.samples is not None
    torch.testing.assert_close(outputs.samples[:, 0], torch.softmax(outputs.logits, dim=1))


def test_a_saved_model_comes_back_and_is_refused_once_its_code_has_changed(tmp_path: Path) -> None:
    network, spec = make_network("around")
    save_model(tmp_path, network, spec, {})
    before = torch.get_rng_state()
    loaded, found, card = load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert found == spec
    with torch.no_grad():
        assert torch.equal(loaded(make_images(2)), network(make_images(2)))
    assert f"{HERE}:around (sha256 " in card["plugin"]
    card["plugin"] = card["plugin"].replace("sha256", "sha255")
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="has changed since"):
        load_model(tmp_path)


def test_weights_of_a_file_are_taken(tmp_path: Path) -> None:
    source = Around(7)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    network = build_network(ModelSpec(f"{HERE}:around", ("a", "b", "c"), SIZE, 1), str(tmp_path / "w.pt"), 0)
    assert torch.equal(network.model.stem.weight, source.stem.weight)
    with pytest.raises(ModelError, match="brings no ImageNet weights"):
        build_network(ModelSpec(f"{HERE}:around", ("a", "b"), SIZE, 1), "imagenet", 0)


def test_what_needs_two_parts_is_refused_in_words() -> None:
    for sections in (
        {"score": {"precision": "bf16"}},
        {"score": {"compile": True}},
        {
            "model": {"cache_activations": True, "freeze": "backbone", "weights": "w.pt"},
            "train": {"augment": "none"},
        },
    ):
        settings = Config(name="x", **sections)
        check_cut(make_network("plain")[0], settings)
        with pytest.raises(ModelError, match="in two parts"):
            check_cut(make_network("around")[0], settings)


class _Behind(Plain):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).softmax(dim=1)


class _Batchwise(Plain):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images - images.mean(dim=0) if len(images) > 1 else images)


class _Fails(Plain):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of luck")


class _Otherwise(Plain):
    """What it gives while it is trained is another thing."""

    def forward(self, images: torch.Tensor) -> Any:
        logits = super().forward(images)
        return (logits, logits) if self.training else logits


class _Normed(Plain):
    """What stands behind the pool is told from nothing only once it has been trained."""

    def __init__(self, num_classes: int, layer: nn.Module) -> None:
        super().__init__(num_classes)
        self.layer = layer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer(self.body(images).mean(dim=(2, 3))))


class _Gate(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.shift = nn.Parameter(torch.tensor(factor)), nn.Parameter(torch.zeros(8))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return pooled * self.factor + self.shift


class _Cosine(nn.Linear):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return F.linear(F.normalize(rows), F.normalize(self.weight))


class _Detached(Plain):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(images).detach().mean(dim=(2, 3)))


def with_head(num_classes: int, head: Callable[[int, int], nn.Module]) -> Plain:
    model = Plain(num_classes)
    model.fc = head(8, num_classes)
    return model


def exits(num_classes: int, image_size: int) -> nn.Module:
    raise SystemExit(0)


BROKEN = {
    "other in training": (lambda n, s: _Otherwise(n), "body", True, "no logits in train mode"),
    "norm behind": (lambda n, s: _Normed(n, nn.BatchNorm1d(8)), "body", True, "says pooled_linear"),
    "gate behind": (lambda n, s: _Normed(n, _Gate(1.0)), "body", True, "says pooled_linear"),
    "not linear": (lambda n, s: with_head(n, _Cosine), "body", False, "last layer that is not linear"),
    "weight computed": (
        lambda n, s: with_head(n, lambda k, n: nn.utils.parametrizations.weight_norm(nn.Linear(k, n))),
        "body",
        False,
        "a weight and a bias of its own",
    ),
    "no gradient": (lambda n, s: _Detached(n), "body", False, "that the logits do not depend on"),
    "leaves": (exits, "body", False, "SystemExit"),
    "no module": (lambda n, s: 7, "body", False, "an object of type int"),
    "fails at once": (lambda n, s: Plain("x"), "body", False, "TypeError"),
    "no such layer": (lambda n, s: Plain(n), "boddy", False, 'did you mean target_layer="body"'),
    "no linear layer": (lambda n, s: nn.Sequential(nn.Conv2d(3, n, 3)), "0", False, "no last linear layer"),
    "flat target": (lambda n, s: Plain(n), "fc", False, "can't be drawn from"),
    "something behind": (lambda n, s: _Behind(n), "body", False, "does not end with its last linear layer"),
    "not pooled": (lambda n, s: Around(n), "target", True, "says pooled_linear, and is not"),
    "by the batch": (lambda n, s: _Batchwise(n), "body", False, "beside another one"),
    "fails on images": (lambda n, s: _Fails(n), "body", False, "RuntimeError: out of luck"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_it_breaks_is_named(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    factory, layer, pooled, words = BROKEN[case]
    module = SimpleNamespace(net=backbone(target_layer=layer, pooled_linear=pooled)(factory), __spec__=None)
    name = f"broken_{case.replace(' ', '_')}"
    monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(PluginError) as caught:
        build_network(ModelSpec(f"{name}:net", ("a", "b"), SIZE, 1), "none", 0)
    assert words in str(caught.value)
    assert name in str(caught.value)


def test_a_last_layer_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    factory = backbone(target_layer="body", classifier="head")(lambda n, s: Plain(n))
    monkeypatch.setitem(sys.modules, "headless", SimpleNamespace(net=factory, __spec__=None))
    with pytest.raises(PluginError, match="no last linear layer"):
        build_network(ModelSpec("headless:net", ("a", "b"), SIZE, 1), "none", 0)


def test_being_tried_changes_no_weight() -> None:
    torch.manual_seed(1)
    wanted = Plain(3).state_dict()
    network, _ = make_network("plain")
    assert all(torch.equal(value, wanted[name]) for name, value in network.model.state_dict().items())
