"""A frozen backbone that runs once gives what one that runs every time gives."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch

from xal_ray import config
from xal_ray.acquire.fullsize import Regions
from xal_ray.config import build_config
from xal_ray.engine import activations as kept
from xal_ray.engine.activations import keep_activations
from xal_ray.errors import ConfigError, ModelError, PoolError, StorageError
from xal_ray.loop import run
from xal_ray.model.network import ModelSpec
from xal_ray.model.weights import build_network, load_model, save_model
from xal_ray.pool.activations import ActivationReader, Shapes, part_path, write_part
from xal_ray.pool.schema import PoolReader, open_pool
from xal_ray.progress import QUIET
from xal_ray.record.layout import RunLayout
from xal_ray.scoring.scorer import Scorer
from xal_ray.storage import read_table

pytestmark = [pytest.mark.slow, pytest.mark.ray]

FROZEN = {
    "model.freeze": "backbone",
    "train.augment": "none",
    "train.max_steps": 40,
    "train.learning_rate": 0.01,
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory, phantom_pool):
    """A pool of its own: activations are written beside it."""
    path = tmp_path_factory.mktemp("activations") / "pool"
    shutil.copytree(phantom_pool.path, path)
    return open_pool(path)


def model_settings(backbone, pool, folder):
    """A frozen backbone with weights: published ones, or random ones from a file."""
    if backbone == "efficientnet_lite0":
        return config.Model(backbone=backbone, weights="imagenet", freeze="backbone")
    spec = ModelSpec(backbone, pool.classes, pool.image_size, pool.channels)
    return config.Model(backbone=backbone, weights=random_weights(spec, 7, folder), freeze="backbone")


def random_weights(spec, seed, folder):
    """The path of a state dict."""
    state = build_network(spec, "none", seed).model.state_dict()
    path = folder / f"{seed}.safetensors"
    path.write_bytes(safetensors.torch.save({name: value.contiguous() for name, value in state.items()}))
    return str(path)


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "resnet18", "densenet121"])
def test_scores_from_kept_activations_equal_scores_from_images(backbone, pool, tmp_path, stages):
    settings = model_settings(backbone, pool, tmp_path)
    reader = keep_activations(pool, settings, stages)
    spec = ModelSpec(backbone, pool.classes, pool.image_size, pool.channels)
    network = build_network(spec, settings.weights, 3)
    save_model(tmp_path / "whole", network, spec, {})
    save_model(tmp_path / "head", network, spec, {}, backbone=reader.backbone)

    rows = pool.index().sort_by([("content_sha256", "ascending")])  # parts and rows in no order
    score = config.Score(precision="fp32", mc_samples=4, batch_size=8)
    expected = Scorer(tmp_path / "whole", score, use_roi=True)
    expected = expected(pool.read_rows(rows), with_embeddings=True).to_pylist()
    found = Scorer(tmp_path / "head", score, use_roi=True)
    found = found(reader.stream_rows(rows, 13), with_embeddings=True).to_pylist()
    assert [row["image_id"] for row in found] == rows["image_id"].to_pylist()
    for row, other in zip(found, expected, strict=True):
        # The dropout masks are drawn from the model's id, and that is another one.
        for name in set(row) - {"model_id", "bald"}:
            if isinstance(row[name], float | list):
                np.testing.assert_allclose(row[name], other[name], rtol=1e-3, atol=2e-4, err_msg=name)
            else:
                assert row[name] == other[name], name
        assert row["bald"] >= 0
        assert len(row["embedding"]) == network.classifier.in_features


@pytest.mark.parametrize("shape", [(6, 2, 3), (8, 5)], ids=["channels and cells", "tokens"])
def test_what_is_read_is_what_was_written(shape, tmp_path):
    chance = np.random.default_rng(0)
    shapes = Shapes(shape, width=4, grid=(2, 3), frame=(32, 48))
    activations = chance.random((9, *shape), dtype=np.float32)
    embeddings = chance.random((9, 4), dtype=np.float32)
    has_roi = chance.random(9) < 0.5
    fine = chance.integers(0, 256, (9, *shapes.fine), dtype=np.uint8)
    rois = Regions(chance.random((9, 2, 3), dtype=np.float32), fine, (32, 48))
    names = [f"image-{number}" for number in range(9)]
    write_part(part_path(tmp_path, 3), shapes, names, activations, embeddings, has_roi, rois)
    asked = np.array([7, 0, 4, 4, 8])
    references = pa.table({"image_id": [names[row] for row in asked], "part": [3] * 5, "row": asked})
    reader = ActivationReader(tmp_path, shapes)
    found = reader.read_rows(references)
    assert found.image_ids == [names[row] for row in asked]
    np.testing.assert_array_equal(np.stack(found.inputs.activations), activations[asked])
    np.testing.assert_array_equal(found.inputs.embeddings, embeddings[asked])
    np.testing.assert_array_equal(reader.read_embeddings(references), embeddings[asked])
    np.testing.assert_array_equal(found.has_roi, has_roi[asked])
    some = found.regions(np.array([2, 0]), (2, 3))
    np.testing.assert_array_equal(some.adjoint, rois.adjoint[[4, 7]])
    np.testing.assert_array_equal(some.fine, fine[[4, 7]])


def test_a_part_that_was_made_anew_at_its_path_is_read_anew(tmp_path):
    shapes = Shapes((2, 1, 1), width=2, grid=(1, 1), frame=(8, 8))
    references = pa.table({"image_id": ["a"], "part": [0], "row": [0]})
    reader = ActivationReader(tmp_path / "kept", shapes)
    for value in (1.0, 2.0):
        shutil.rmtree(tmp_path / "kept", ignore_errors=True)
        rois = Regions(np.zeros((1, 1, 1), np.float32), np.zeros((1, *shapes.fine), np.uint8), (8, 8))
        values = np.full((1, 2), value, np.float32)
        write_part(part_path(reader.path, 0), shapes, ["a"], values, values, np.array([False]), rois)
        assert reader.read_embeddings(references)[0, 0] == value


def test_the_same_images_by_name_with_other_pixels_have_activations_of_their_own(pool, stages):
    """As where a pool was made anew at its path, and its old activations were left there."""
    settings = config.Model(backbone="efficientnet_lite0", weights="imagenet", freeze="backbone")
    here = stages.with_resources(stages.resources.model_copy(update={"num_actors": 0}))
    before = keep_activations(pool, settings, here)
    changed = PoolReader(pool.path, {**pool.card, "content_hash": "of other pixels"})
    after = keep_activations(changed, settings, here)
    assert before.path != after.path
    assert before.shapes == after.shapes


def test_a_whole_run_picks_the_same_images(tiny_run, pool, tmp_path):
    outcomes = {}
    for cached in (False, True):
        overrides = [f"{key}={value}" for key, value in FROZEN.items()]
        overrides += [f"model.cache_activations={str(cached).lower()}", f"pool.path={pool.path}"]
        settings = build_config(tiny_run, overrides)
        layout = RunLayout(tmp_path / str(cached))
        assert run(settings, layout.path, QUIET).status == "finished"
        outcomes[cached] = layout
    for number in range(3):
        plain, cached = (outcomes[way].round(number) for way in (False, True))
        before, after = (load_model(files.folder)[0].classifier.weight for files in (plain, cached))
        np.testing.assert_allclose(after.detach(), before.detach(), atol=1e-4)
        if number < 2:
            picks, others = read_table(plain.selection), read_table(cached.selection)
            assert others["image_id"].equals(picks["image_id"])
            np.testing.assert_allclose(others["utility"], picks["utility"], atol=1e-4)
        metrics, twins = (json.loads(files.metrics.read_text()) for files in (plain, cached))
        assert twins["splits"]["val"]["balanced_accuracy"] == metrics["splits"]["val"]["balanced_accuracy"]
    size = (outcomes[True].round(0).folder / "model.safetensors").stat().st_size
    assert size < 20_000 < (outcomes[False].round(0).folder / "model.safetensors").stat().st_size


def test_the_backbone_runs_once(pool, stages, monkeypatch):
    settings = config.Model(backbone="efficientnet_lite0", weights="imagenet", freeze="backbone")
    first = keep_activations(pool, settings, stages)

    def refuse(*_, **__):
        raise AssertionError("it ran again")

    monkeypatch.setattr(kept, "run_shards", refuse)
    assert keep_activations(pool, settings, stages) == first


def test_a_killed_pass_goes_on_from_its_finished_parts(pool, stages):
    settings = config.Model(backbone="efficientnet_lite0", weights="imagenet", freeze="backbone")
    reader = keep_activations(pool, settings, stages)
    parts = sorted((reader.path / "parts").iterdir())
    content = parts[1].read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in parts}
    (reader.path / "card.json").unlink()
    parts[1].unlink()
    keep_activations(pool, settings, stages)
    assert parts[1].read_bytes() == content
    assert [path for path in parts if path.stat().st_mtime_ns != stamps[path]] == [parts[1]]


def test_other_weights_lie_in_another_folder(pool, tmp_path, stages):
    folders = set()
    for seed in (1, 2):
        spec = ModelSpec("resnet18", pool.classes, pool.image_size, pool.channels)
        weights = random_weights(spec, seed, tmp_path)
        settings = config.Model(backbone="resnet18", weights=weights, freeze="backbone")
        folders.add(keep_activations(pool, settings, stages).path)
    assert len(folders) == 2


def test_no_room_is_known_before_anything_is_made(pool, tmp_path, stages, monkeypatch):
    settings = model_settings("resnet34", pool, tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(kept.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StorageError, match="no room for the backbone's activations"):
        keep_activations(pool, settings, stages)


def test_a_damaged_part_is_named(phantom_pool, tmp_path, stages):
    shutil.copytree(phantom_pool.path, tmp_path / "pool")
    pool = open_pool(tmp_path / "pool")
    settings = config.Model(backbone="efficientnet_lite0", weights="imagenet", freeze="backbone")
    reader = keep_activations(pool, settings, stages)
    parts = sorted((reader.path / "parts").iterdir())
    parts[0].write_bytes(parts[0].read_bytes()[:1000])
    shutil.copy(parts[2], parts[1])
    index = pool.index()
    for number, found in ((0, ""), (1, "other images")):
        rows = index.filter(pa.compute.equal(index["part"], number))
        with pytest.raises(PoolError, match="kept activations are damaged") as caught:
            reader.read_rows(rows)
        assert found in str(caught.value)
        assert f"{number:05d}.arrow" in str(caught.value)


def test_a_model_without_its_backbone_says_where_that_was(pool, tmp_path, stages):
    settings = config.Model(backbone="efficientnet_lite0", weights="imagenet", freeze="backbone")
    reader = keep_activations(pool, settings, stages)
    spec = ModelSpec("efficientnet_lite0", pool.classes, pool.image_size, pool.channels)
    shutil.copytree(reader.backbone, tmp_path / "backbone")
    network = build_network(spec, "imagenet", 3)
    save_model(tmp_path / "model", network, spec, {}, backbone=tmp_path / "backbone")
    found, _, _ = load_model(tmp_path / "model")
    for name, value in network.model.state_dict().items():
        assert found.model.state_dict()[name].equal(value), name
    (tmp_path / "backbone" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="its backbone is gone"):
        load_model(tmp_path / "model")
    (tmp_path / "model" / "backbone.json").unlink()
    with pytest.raises(ModelError, match=r"backbone\.json"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.freeze=none", "model.freeze=backbone"),
        ("model.weights=none", "model.weights"),
        ("train.augment=flip", "train.augment=none"),
        ("train.num_workers=2", "train.num_workers=0"),
        ("score.saliency=eigencam", "score.saliency=gradcam"),
        ("score.precision=bf16", "score.precision"),
    ],
)
def test_what_changes_from_round_to_round_is_not_kept(override, named):
    base = ["model.cache_activations=true", "model.freeze=backbone", "model.weights=imagenet"]
    base += ["train.augment=none"]
    build_config({"name": "a"}, base)
    with pytest.raises(ConfigError, match=named):
        build_config({"name": "a"}, [*base, override])
