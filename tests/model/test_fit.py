"""Training: it learns, it is reproducible to the bit, and it disturbs nothing around it."""

from __future__ import annotations

import copy
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from xal_ray.config import Train
from xal_ray.errors import LabelError, ModelError, StageError
from xal_ray.model.network import ModelSpec, Network, freeze_backbone, images_to_tensor
from xal_ray.model.training.fit import fit
from xal_ray.model.training.minibatches import LabelledImages, Minibatches, augment, part_of
from xal_ray.model.training.optimiser import Optimiser, class_weights, weighted_loss
from xal_ray.model.training.workers import Alone
from xal_ray.model.weights import build_network, load_model, save_model

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SPEC = ModelSpec("resnet18", ("dark", "bright", "never"), 32, 1)
QUICK = Train(max_steps=4, eval_every_steps=2, minibatch_size=6, learning_rate=1e-3, num_threads=1)


def make_images(count: int, seed: int = 0, classes: int = 2) -> LabelledImages:
    """Noise with a square in the middle whose brightness is the class."""
    generator = np.random.default_rng(seed)
    labels = (np.arange(count) % classes).astype(np.int64)
    pixels = generator.integers(60, 120, (count, 32, 32, 1))
    pixels[:, 10:22, 10:22] += (labels * 100)[:, None, None, None]
    return LabelledImages(pixels.astype(np.uint8), labels)


def make_network(backbone: str = "resnet18") -> Network:
    return build_network(ModelSpec(backbone, SPEC.classes, 32, 1), "none", seed=1)


def weights(network: Network) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_separable_problem_is_learned() -> None:
    network = make_network()
    settings = Train(max_steps=40, eval_every_steps=10, minibatch_size=16, learning_rate=2e-3)
    history = fit(network, SPEC, make_images(40), make_images(20, seed=1), settings, seed=0, device=CPU)
    test = make_images(40, seed=2)
    with torch.no_grad():
        predicted = network(images_to_tensor(test.pixels, SPEC, CPU)).argmax(dim=1).numpy()
    assert (predicted == test.labels).mean() >= 0.95
    assert [row["step"] for row in history] == [10, 20, 30, 40]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert max(row["val_balanced_accuracy"] for row in history) >= 0.95
    assert not network.training


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_b0"])
def test_same_arguments_same_bits_whatever_the_global_state(backbone: str) -> None:
    spec = ModelSpec(backbone, SPEC.classes, 32, 1)
    results = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)  # noqa: NPY002  the point is that it does not matter
        network = make_network(backbone)
        history = fit(network, spec, make_images(10), make_images(6, 1), QUICK, seed=3, device=CPU)
        results.append((history, weights(network)))
    assert results[0][0] == results[1][0]
    assert same(results[0][1], results[1][1])
    other = make_network(backbone)
    fit(other, spec, make_images(10), make_images(6, 1), QUICK, seed=4, device=CPU)
    assert not same(results[0][1], weights(other))


def test_global_state_and_threads_are_put_back() -> None:
    seen = []

    def note(steps: int) -> None:
        seen.append((steps, torch.get_num_threads()))

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        torch.manual_seed(5)
        state, deterministic = torch.get_rng_state(), torch.backends.cudnn.deterministic
        network = make_network()
        fit(network, SPEC, make_images(8), None, QUICK, seed=0, device=CPU, on_progress=note)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [(1, QUICK.num_threads)] * 4
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.backends.cudnn.deterministic == deterministic


def test_frozen_backbone_stays_to_the_bit() -> None:
    network = make_network()
    freeze_backbone(network)
    before = weights(network)
    fit(network, SPEC, make_images(10), make_images(6, 1), QUICK, seed=0, device=CPU)
    after = weights(network)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"model.fc.weight", "model.fc.bias"}


def test_loaded_model_can_be_trained_on(tmp_path: Path) -> None:
    direct = make_network()
    save_model(tmp_path, direct, SPEC, {})
    loaded, _, _ = load_model(tmp_path)
    for network in (direct, loaded):
        fit(network, SPEC, make_images(8), None, QUICK, seed=0, device=CPU)
    assert same(weights(direct), weights(loaded))


class Scripted:
    """A single worker whose validation losses are made up."""

    rank = 0
    world_size = 1

    def __init__(self, losses: list[float]) -> None:
        self.values = [value for loss in losses for value in (loss, 0.5)]

    def wrap(self, module: nn.Module) -> nn.Module:
        return module

    def broadcast(self, _: float) -> float:
        return self.values.pop(0)


def fit_scripted(patience: int, losses: list[float], max_steps: int = 6) -> tuple[int, Network]:
    network = make_network()
    settings = Train(max_steps=max_steps, eval_every_steps=1, minibatch_size=4, patience=patience)
    history = fit(
        network,
        SPEC,
        make_images(8),
        make_images(4, 1),
        settings,
        seed=0,
        device=CPU,
        sync=Scripted(losses),
    )
    return len(history), network


def test_best_weights_are_kept_and_patience_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    # The schedule depends on the budget: a constant one makes runs of different length comparable.
    monkeypatch.setattr(Optimiser, "_set_learning_rate", lambda *_: None)
    steps, best = fit_scripted(2, [3.0, 1.0, 2.0, 1.5, 0.1, 0.1])
    assert steps == 4
    _, two_steps = fit_scripted(0, [9.0, 9.0], max_steps=2)
    assert same(weights(best), weights(two_steps))


def test_patience_zero_runs_to_the_end_and_keeps_the_last() -> None:
    steps, last = fit_scripted(0, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert steps == 6
    _, increasing = fit_scripted(1, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    assert same(weights(last), weights(increasing))


def test_one_worker_equals_no_workers() -> None:
    results = []
    for sync in (None, Alone()):
        network = make_network()
        fit(network, SPEC, make_images(8), None, QUICK, seed=0, device=CPU, sync=sync)
        results.append(weights(network))
    assert same(*results)


def test_one_class_is_enough_and_absent_classes_weigh_nothing() -> None:
    history = fit(make_network(), SPEC, make_images(4, classes=1), None, QUICK, seed=0, device=CPU)
    assert np.isfinite(history[-1]["train_loss"])
    assert "val_loss" not in history[-1]
    balanced = class_weights(np.array([6, 2, 0]), QUICK)
    assert balanced.tolist() == pytest.approx([8 / 12, 8 / 4, 0.0])
    none = class_weights(np.array([6, 2, 0]), Train(class_weights="none"))
    assert none.tolist() == [1.0, 1.0, 1.0]


def test_loss_is_the_weighted_mean_over_images() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.5, 1.5, -1.0]])
    labels, class_weights = torch.tensor([0, 1]), torch.tensor([0.5, 3.0, 0.0])
    by_hand = [
        0.5 * np.log(np.exp([2.0, 0.0, 1.0]).sum() / np.exp(2.0)),
        3.0 * np.log(np.exp([0.5, 1.5, -1.0]).sum() / np.exp(1.5)),
    ]
    found = weighted_loss(logits, labels, class_weights)
    assert float(found) == pytest.approx(np.mean(by_hand), rel=1e-6)


@pytest.mark.parametrize(("count", "size"), [(2, 32), (3, 2), (7, 3), (5, 5), (5, 1)])
def test_minibatches_show_every_image_equally_often(count: int, size: int) -> None:
    images = LabelledImages(np.zeros((count, 1, 1, 1), np.uint8), np.arange(count))
    stream = Minibatches(images, size, seed=0)
    effective = min(max(size, 2), count)
    batches = [next(stream).labels for _ in range(count * 4)]
    assert {len(batch) for batch in batches} == {effective}
    seen = np.concatenate(batches)
    for epoch in range(4 * effective):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


@pytest.mark.parametrize(("count", "workers"), [(32, 3), (31, 4), (4, 2)])
def test_workers_share_out_all_of_a_minibatch(count: int, workers: int) -> None:
    assert sum(part_of(count, rank, workers) for rank in range(workers)) == count


@pytest.mark.parametrize(
    ("backbone", "frozen", "augment"),
    [("resnet18", True, "none"), ("resnet18", True, "flip"), ("efficientnet_b0", False, "none")],
)
def test_head_is_trained_with_dropout_where_samples_of_it_are_asked_for(
    backbone: str, frozen: bool, augment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModelSpec(backbone, SPEC.classes, 32, 1)
    settings = Train(
        max_steps=3, eval_every_steps=3, minibatch_size=8, learning_rate=1e-3, num_threads=1, augment=augment
    )
    network = make_network(backbone)
    if frozen:
        freeze_backbone(network)
    kept = []
    layer, linear = type(network.classifier), nn.functional.linear

    def forward(self: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
        if self.training and self.out_features == len(SPEC.classes):
            kept.append(float((inputs == 0).float().mean()))
        return linear(inputs, self.weight, self.bias)

    monkeypatch.setattr(layer, "forward", forward)
    images, val = make_images(16), make_images(6, 1)
    fit(copy.deepcopy(network), spec, images, val, settings, seed=0, device=CPU)
    natural = (
        0.0 if backbone == "efficientnet_b0" else float(np.mean(kept))
    )  # the former's is its own dropout
    kept.clear()
    fit(network, spec, images, val, settings, seed=0, device=CPU, head_dropout=0.7)
    assert len(kept) == 3
    expected = 1 - 0.3 * (1 - natural)
    assert np.mean(kept) == pytest.approx(expected, abs=0.06)  # in the place of its own .2, not beside it
    pixels = images_to_tensor(images.pixels, spec, CPU)
    with torch.no_grad():
        assert torch.equal(network(pixels), network(pixels))


def test_augmentation_flips_and_shifts_each_image_by_itself() -> None:
    size, count = 32, 200
    pixels = torch.zeros(count, size, size, 1, dtype=torch.uint8)
    pixels[:, 16, 8] = 255
    chance = np.random.default_rng(0)
    assert augment(pixels, Train(augment="none"), chance) is pixels

    flipped = augment(pixels, Train(augment="flip"), chance)
    columns = {8, size - 1 - 8}
    assert set(flipped[:, 16, :, 0].argmax(dim=1).tolist()) == columns
    assert 70 < int((flipped[:, 16, 8, 0] == 255).sum()) < 130

    moved = augment(pixels, Train(augment="flip_shift"), chance)
    assert (moved.flatten(1) == 255).sum(dim=1).tolist() == [1] * count
    places = moved[..., 0].flatten(1).argmax(dim=1)
    assert set((places // size).tolist()) == set(range(14, 19))
    assert set((places % size).tolist()) == {c + shift for c in columns for shift in range(-2, 3)}


def test_shift_repeats_the_border() -> None:
    pixels = torch.full((50, 32, 32, 1), 9, dtype=torch.uint8)
    moved = augment(pixels, Train(augment="flip_shift"), np.random.default_rng(0))
    assert torch.equal(moved, pixels)


def test_learning_rate_follows_half_a_cosine() -> None:
    settings = Train(max_steps=4, learning_rate=0.8, augment="none", class_weights="none")
    step_once = Optimiser(make_network(), SPEC, settings, torch.ones(3), CPU)
    rates = []
    for step in range(1, 5):
        step_once._set_learning_rate(step)
        rates.append(step_once._adamw.param_groups[0]["lr"])
    assert rates == pytest.approx([0.8, 0.4 + 0.4 * 0.5**0.5, 0.4, 0.4 - 0.4 * 0.5**0.5])


def test_errors_say_what_to_do() -> None:
    images = make_images(4)
    with pytest.raises(LabelError, match="too few"):
        fit(make_network(), SPEC, make_images(1), None, QUICK, seed=0, device=CPU)
    wrong = LabelledImages(images.pixels, images.labels + 2)
    with pytest.raises(LabelError, match="not among"):
        fit(make_network(), SPEC, wrong, None, QUICK, seed=0, device=CPU)
    cropped = LabelledImages(images.pixels[:, 1:], images.labels)
    with pytest.raises(ModelError, match="do not fit"):
        fit(make_network(), SPEC, images, cropped, QUICK, seed=0, device=CPU)


def test_divergence_is_a_stage_error() -> None:
    network = make_network()
    with torch.no_grad():
        network.classifier.weight.fill_(float("nan"))
    with pytest.raises(StageError, match="diverged"):
        fit(network, SPEC, make_images(4), None, QUICK, seed=0, device=CPU)


class Gloo:
    """A worker of a process group on this machine."""

    world_size = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def wrap(self, module: nn.Module) -> nn.Module:
        return nn.parallel.DistributedDataParallel(module)

    def broadcast(self, value: float) -> float:
        tensor = torch.tensor(value, dtype=torch.float64)
        torch.distributed.broadcast(tensor, src=0)
        return float(tensor)


def train_worker(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    torch.set_num_threads(1)
    torch.save(gradient_of_all(rank, Gloo(rank)), folder / f"gradient-{rank}.pt")
    whole = make_images(12)
    own = LabelledImages(whole.pixels[rank::2], whole.labels[rank::2])
    network = make_network()
    counts = np.bincount(whole.labels, minlength=3)
    settings = Train(max_steps=4, eval_every_steps=1, minibatch_size=8, patience=2, learning_rate=0.01)
    history = fit(
        network,
        SPEC,
        own,
        make_images(6, 1),
        settings,
        seed=0,
        device=CPU,
        sync=Gloo(rank),
        class_counts=counts,
    )
    result = {"parameters": dict(network.named_parameters()), "history": history}
    torch.save(result, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def gradient_of_all(rank: int, sync: Gloo | None) -> torch.Tensor:
    """The gradient of a minibatch that holds all 11 images, an odd number."""
    generator = np.random.default_rng(0)
    inputs, labels = generator.normal(size=(11, 512)).astype(np.float32), np.arange(11) % 3
    own = slice(rank, None, 2) if sync is not None else slice(None)
    images = LabelledImages(inputs[own], labels[own].astype(np.int64))
    network = make_network()
    freeze_backbone(network)
    settings = Train(max_steps=1, minibatch_size=11, augment="none", num_threads=1, class_weights="none")
    fit(
        network,
        SPEC,
        images,
        None,
        settings,
        seed=0,
        device=CPU,
        sync=sync,
        class_counts=np.bincount(labels, minlength=3),
    )
    gradient = network.classifier.weight.grad
    assert gradient is not None
    return gradient


def test_two_workers_end_with_the_same_parameters_at_the_same_step(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=train_worker, args=(rank, tmp_path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
        assert worker.exitcode == 0
    whole = gradient_of_all(0, None)
    for rank in range(2):
        shared = torch.load(tmp_path / f"gradient-{rank}.pt", weights_only=True)
        torch.testing.assert_close(shared, whole, rtol=1e-4, atol=1e-6)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    start = dict(make_network().named_parameters())
    for name, value in first["parameters"].items():
        assert torch.equal(value, second["parameters"][name]), name
    assert not torch.equal(first["parameters"]["model.fc.weight"], start["model.fc.weight"])
    assert [row["val_loss"] for row in first["history"]] == [row["val_loss"] for row in second["history"]]
    assert [row["train_loss"] for row in first["history"]] != [row["train_loss"] for row in second["history"]]
