"""The fast path gives what the plain network gives: folded, in bf16, compiled, in halves."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from xal_ray import config
from xal_ray.acquire import uncertainty
from xal_ray.model.folding import fold_batch_norms
from xal_ray.model.inference import Explainer, resolve_precision
from xal_ray.model.network import ModelSpec, images_to_tensor
from xal_ray.model.saliency import explain
from xal_ray.model.weights import build_network, save_model
from xal_ray.pool.schema import PixelRows
from xal_ray.registry.backbones import BACKBONES
from xal_ray.scoring.scorer import Scorer, _halves

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SIZE = 64


def make_network(backbone: str):
    """A network with BatchNorm statistics of its own."""
    if backbone == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    spec = ModelSpec(backbone, tuple("abcd"), SIZE, 1)
    weights = "imagenet" if backbone == "efficientnet_lite0" else "none"
    network = build_network(spec, weights, seed=1)
    network.train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        network(images_to_tensor(make_pixels(8), spec, CPU))
    return network.eval(), spec


def make_pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 1), dtype=np.uint8)


@pytest.mark.parametrize(
    ("backbone", "least"),
    [
        ("resnet18", 20),
        ("densenet121", 59),
        ("efficientnet_b0", 49),
        ("efficientnet_lite0", 49),
        ("vit_b_16", 0),
    ],
)
def test_folding_changes_nothing_but_the_number_of_layers(backbone, least):
    network, spec = make_network(backbone)
    pixels = make_pixels(4)
    logits, maps = explain(copy.deepcopy(network), images_to_tensor(pixels, spec, CPU))
    before = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    outputs = Explainer(network, spec, CPU, precision="fp32")(pixels)
    after = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert before - after >= least
    torch.testing.assert_close(outputs.logits, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs.maps, maps, rtol=1e-3, atol=1e-3 * float(maps.amax()))


def test_a_norm_that_reads_no_convolution_is_left_alone():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    model[0].running_mean.fill_(0.7)
    images = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        expected = model(images)
        assert fold_batch_norms(model, images) == 0
        torch.testing.assert_close(model(images), expected)


def test_bf16_moves_logits_a_little_and_exact_not_at_all():
    network, spec = make_network("resnet18")
    pixels = make_pixels(8)
    plain = Explainer(copy.deepcopy(network), spec, CPU, precision="fp32")(pixels)
    fast = Explainer(network, spec, CPU, precision="bf16")
    low, exact = fast(pixels), fast(pixels, exact=True)
    assert torch.equal(exact.logits, plain.logits)
    assert torch.equal(exact.maps, plain.maps)
    assert not torch.equal(low.logits, plain.logits)
    assert low.logits.dtype == low.maps.dtype == torch.float32
    torch.testing.assert_close(low.logits, plain.logits, rtol=0.1, atol=0.1 * float(plain.logits.std()))


def test_dropout_samples_are_those_of_the_masked_head():
    network, spec = make_network("densenet121")
    masks = (torch.rand(7, network.classifier.in_features) < 0.8).float() / 0.8
    pixels = make_pixels(3)
    explainer = Explainer(network, spec, CPU, precision="fp32", dropout_masks=masks)
    samples = explainer(pixels).samples
    assert samples is not None
    assert samples.shape == (3, 7, 4)
    for number, mask in enumerate(masks):
        hook = network.classifier.register_forward_pre_hook(lambda _, inputs, mask=mask: (inputs[0] * mask,))
        with torch.no_grad():
            expected = network(images_to_tensor(pixels, spec, CPU)).softmax(dim=1)
        hook.remove()
        torch.testing.assert_close(samples[:, number], expected, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    network, spec = make_network("resnet18")
    save_model(folder, network, spec, {})
    return folder


def make_rows(count: int) -> PixelRows:
    rois = np.zeros((count, SIZE, SIZE), dtype=np.uint8)
    rois[:, 10:30, 5:40] = 255
    return PixelRows([f"i{n}" for n in range(count)], make_pixels(count), rois, np.ones(count, dtype=bool))


def scored(saved, rows, **settings):
    return Scorer(saved, config.Score(**{"batch_size": 4, **settings}), use_roi=True)(rows)


def test_an_roi_that_covers_nothing_has_no_area(saved):
    rows = make_rows(4)
    rows.rois[2] = 0
    table = scored(saved, rows, precision="fp32")
    for name in ("roi_area", "misalignment"):
        assert table[name].is_valid().to_pylist() == [True, True, False, True]


def test_rows_near_a_tie_are_those_of_fp32(saved):
    rows = make_rows(64)
    exact = scored(saved, rows, precision="fp32")["logit_gap"].to_numpy()
    none = scored(saved, rows, precision="bf16", tie_sigmas=0.0)["logit_gap"].to_numpy()
    few = scored(saved, rows, precision="bf16", tie_sigmas=1e-9)["logit_gap"].to_numpy()
    every = scored(saved, rows, precision="bf16", tie_sigmas=1e9)["logit_gap"].to_numpy()
    np.testing.assert_allclose(every, exact, rtol=1e-4, atol=1e-6)
    assert np.isclose(none, exact, rtol=1e-5).mean() < 0.2
    redone = few != none
    assert 2 <= redone.sum() <= 4  # one in ROWS_PER_PROBE of each piece
    np.testing.assert_allclose(few[redone], exact[redone], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0", "vit_b_16"])
def test_embeddings_are_what_the_last_layer_reads_and_change_no_other_column(backbone, tmp_path):
    network, spec = make_network(backbone)
    save_model(tmp_path, network, spec, {})
    rows = make_rows(6)
    scorer = Scorer(tmp_path, config.Score(batch_size=4, precision="fp32"), use_roi=True)
    plain, found = scorer(rows), scorer(rows, with_embeddings=True)
    assert "embedding" not in plain.schema.names
    assert found.drop_columns(["embedding"]).equals(plain)
    assert scorer(rows).equals(plain)
    with torch.no_grad():
        expected = network.eval().embed(images_to_tensor(rows.pixels, spec, CPU))[1].numpy()
    assert found.schema.field("embedding").type == pa.list_(pa.float16(), expected.shape[1])
    np.testing.assert_allclose(found["embedding"].to_pylist(), expected, rtol=2e-3, atol=1e-3)


def test_embeddings_of_rows_near_a_tie_are_those_of_fp32(saved):
    rows = make_rows(32)
    scorers = {
        sigmas: Scorer(saved, config.Score(batch_size=8, precision="bf16", tie_sigmas=sigmas), use_roi=True)
        for sigmas in (0.0, 1e9)
    }
    exact = Scorer(saved, config.Score(batch_size=8, precision="fp32"), use_roi=True)
    expected = np.array(exact(rows, with_embeddings=True)["embedding"].to_pylist())
    off = {
        sigmas: np.abs(np.array(scorer(rows, with_embeddings=True)["embedding"].to_pylist()) - expected).max()
        for sigmas, scorer in scorers.items()
    }
    assert off[1e9] <= np.abs(expected).max() * 2.0**-10  # a digit of float16
    assert off[0.0] > off[1e9]


def test_what_a_half_can_not_hold_is_its_largest_and_what_has_no_score_is_null():
    values = np.array([[1e9, -1e9], [np.nan, 1.0], [0.5, -np.inf]], dtype=np.float32)
    found = _halves(values, np.array([True, False, True]))
    assert found.to_pylist() == [[65504.0, -65504.0], None, [0.5, -65504.0]]


def test_how_many_are_done_again_follows_what_bf16_does_to_this_model(saved, monkeypatch):
    rows = make_rows(64)
    num_exact = []
    for noise in (0.0, 10.0):
        scorer = Scorer(saved, config.Score(batch_size=4, precision="bf16"), use_roi=True)
        explain_batch, done = scorer.explainer, []

        def noisy(pixels, *, exact, explain_batch=explain_batch, done=done, noise=noise):
            outputs = explain_batch(pixels, exact=True)
            if exact:
                done.append(len(pixels))
                return outputs
            shift = noise * outputs.tie_scale[:, None] * torch.tensor([[3.0, 1.0, -1.0, -3.0]])
            return dataclasses.replace(outputs, logits=outputs.logits + shift)

        monkeypatch.setattr(scorer, "explainer", noisy)
        found = scorer(rows)
        num_exact.append(sum(done))
    assert num_exact == [2, 64]
    exact = scored(saved, rows, precision="fp32")
    assert found["predicted"].equals(exact["predicted"])


def test_pieces_give_what_the_whole_gives(saved):
    rows = make_rows(70)  # more than BATCHES_AT_ONCE batches of 4
    scorer = Scorer(saved, config.Score(batch_size=4, precision="bf16"), use_roi=True)
    assert scorer(rows).equals(scorer(rows.cut(scorer.rows_at_once)))
    assert scorer(rows).num_rows == 70
    assert scorer(rows.cut(1000)).num_rows == 70


def test_bald_is_deterministic_and_there_only_where_asked_for(saved):
    rows = make_rows(10)
    assert scored(saved, rows)["bald"].null_count == 10
    settings = {"mc_samples": 20, "precision": "fp32"}
    first, again = (scored(saved, rows, **settings) for _ in range(2))
    assert first["bald"].equals(again["bald"])
    assert first["bald"].null_count == 0
    alone = scored(
        saved,
        PixelRows(rows.image_ids[3:4], rows.pixels[3:4], rows.rois[3:4], rows.has_roi[3:4]),
        **settings,
    )
    assert alone["bald"][0].as_py() == pytest.approx(first["bald"][3].as_py(), rel=1e-3)
    little, much = (scored(saved, rows, mc_dropout=p, **settings)["bald"].to_numpy() for p in (0.05, 0.6))
    assert (much > little).all()


class Cramped:
    """An explainer with room for so many images, and for some not even alone."""

    def __init__(self, explainer, room, error, too_large=()):
        self.explainer, self.room, self.error, self.too_large = explainer, room, error, too_large
        self.sizes = []

    def __call__(self, pixels, *, exact):
        self.sizes.append(len(pixels))
        if len(pixels) > self.room or any(image in self.too_large for image in map(bytes, pixels)):
            raise self.error
        return self.explainer(pixels, exact=exact)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError(), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_a_batch_that_does_not_fit_into_memory_is_halved(saved, monkeypatch, error):
    rows = make_rows(8)
    scorer = Scorer(saved, config.Score(batch_size=8, precision="fp32"), use_roi=True)
    whole = scorer(rows)
    cramped = Cramped(scorer.explainer, 3, error)
    monkeypatch.setattr(scorer, "explainer", cramped)
    halved = scorer(rows)
    assert cramped.sizes == [8, 4, 2, 2, 2, 2]  # once found too large, a size is not tried again
    assert halved["image_id"].equals(whole["image_id"])
    for name in ("entropy", "misalignment", "logit_gap"):
        assert halved[name].null_count == whole[name].null_count
        there = whole[name].is_valid().to_numpy()
        values = (table[name].to_numpy(zero_copy_only=False)[there] for table in (halved, whole))
        np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-5, err_msg=name)
    scorer(rows)
    assert cramped.sizes[6:] == [8, 4, 2, 2, 2, 2]  # the next shard begins anew


def test_an_error_that_is_not_for_want_of_memory_is_not_hidden(saved, monkeypatch):
    scorer = Scorer(saved, config.Score(batch_size=8, precision="fp32"), use_roi=True)
    monkeypatch.setattr(scorer, "explainer", Cramped(scorer.explainer, 3, RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        scorer(make_rows(8))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lost", [[2], [0, 7], list(range(8))])
def test_an_image_that_does_not_fit_alone_gets_no_scores(saved, monkeypatch, precision, lost):
    rows = make_rows(8)
    settings = config.Score(batch_size=8, precision=precision, tie_sigmas=3.0)
    scorer = Scorer(saved, settings, use_roi=True)
    whole = scorer(rows).to_pylist()
    too_large = [rows.pixels[row].tobytes() for row in lost]
    monkeypatch.setattr(scorer, "explainer", Cramped(scorer.explainer, 8, MemoryError(), too_large))
    found = scorer(rows, with_embeddings=True).to_pylist()
    for number, (row, expected) in enumerate(zip(found, whole, strict=True)):
        assert row["image_id"] == expected["image_id"]
        if number in lost:
            assert row.pop("error_code") == "out_of_memory"
            filled = {name for name, value in row.items() if value is not None}
            assert filled == {"image_id", "model_id"}
        else:
            assert row["error_code"] == expected["error_code"]
            assert row["entropy"] == pytest.approx(expected["entropy"], rel=1e-2)
            assert len(row["embedding"]) == 512


def test_compiled_equals_eager(saved):
    rows = make_rows(6)
    eager = scored(saved, rows, precision="fp32")
    compiled = scored(saved, rows, precision="fp32", compile=True)
    for name in ("entropy", "misalignment", "logit_gap"):
        np.testing.assert_allclose(compiled[name].to_numpy(), eager[name].to_numpy(), rtol=1e-3, atol=1e-4)


def test_only_compiled_batches_are_padded(monkeypatch):
    network, spec = make_network("resnet18")
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    explainer = Explainer(network, spec, CPU, precision="bf16", compile_for=6)
    explainer(make_pixels(6))  # folds
    sizes = []
    network.target_layer.register_forward_hook(lambda _, inputs, output: sizes.append(len(output)))
    pixels = make_pixels(4)
    assert len(explainer(pixels).logits) == len(explainer(pixels, exact=True).logits) == 4
    assert sizes == [6, 4]


def test_auto_takes_bf16_where_ranks_bear_it_and_the_processor_has_it(monkeypatch):
    from xal_ray.model import inference

    for flags, expected in (({"avx2"}, "fp32"), ({"avx512_bf16"}, "bf16"), ({"amx_bf16"}, "bf16")):
        monkeypatch.setattr(inference, "_processor_flags", lambda flags=flags: frozenset(flags))
        assert resolve_precision("auto", CPU, True) == expected
        assert resolve_precision("auto", CPU, False) == "fp32"
        assert resolve_precision("bf16", CPU, False) == "bf16"
    assert resolve_precision("fp32", CPU, True) == "fp32"
    assert BACKBONES["resnet50"].bf16_keeps_ranks
    assert not BACKBONES["efficientnet_lite0"].bf16_keeps_ranks  # measured: see docs/performance.md


def test_bald_worked_out_by_hand():
    certain = np.array([[[1.0, 0.0], [1.0, 0.0]]])
    torn = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    vague = np.array([[[0.5, 0.5], [0.5, 0.5]]])
    assert uncertainty.bald(certain) == 0.0
    assert uncertainty.bald(torn) == pytest.approx(1.0)
    assert uncertainty.bald(vague) == 0.0
    with pytest.raises(ValueError, match=r"\(n, t, c\)"):
        uncertainty.bald(np.ones((2, 2)))
