"""The real MRI slices, through prepare, one round, and the report."""

import json
import shutil

import alignment_oracle
import numpy as np
import pytest
from PIL import Image

from xal_ray.config import load_config
from xal_ray.loop import run
from xal_ray.progress import QUIET
from xal_ray.record.layout import RunLayout
from xal_ray.storage import read_table

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture
def some_slices(real_manifest, tmp_path):
    """A manifest of every tenth slice, copied for the length of the test."""
    header, *lines = real_manifest.read_text().splitlines()
    columns = header.split(",")
    for line in (kept := lines[::10]):
        row = dict(zip(columns, line.split(","), strict=True))
        for name in (row["image"], row["mask"]):
            path = tmp_path / "slices" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(real_manifest.parent / name, path)
    manifest = tmp_path / "slices" / "manifest.csv"
    manifest.write_text("\n".join([header, *kept]))
    return manifest


def test_a_round_on_real_slices(some_slices, tmp_path, ray_session, request):
    overrides = [
        f"pool.source.path={some_slices}",
        f"pool.path={tmp_path / 'pool'}",
        "pool.image_size=96",
        "num_rounds=1",
        "train.max_steps=60",
        "select.initial_labels=40",
        "select.query_size=12",
    ]
    config = load_config(request.config.rootpath / "configs" / "brain_tumor_t1ce.yaml", overrides)
    config = config.model_copy(update={"ray": ray_session})
    assert run(config, tmp_path / "run", QUIET).status == "finished"
    layout = RunLayout(tmp_path / "run")
    metrics = json.loads(layout.round(1).metrics.read_text())
    assert metrics["num_labels"] == 52
    # Three classes: a model that has learned nothing has .333.
    assert metrics["splits"]["test"]["balanced_accuracy"] > 0.4
    test = metrics["splits"]["test"]
    assert (
        test["alignment"]["num_images"] > 0.9 * test["num_images"]
    )  # a map without contrast has no alignment
    index = read_table(tmp_path / "pool" / "index.parquet").to_pylist()
    splits = {}
    for row in index:
        assert splits.setdefault(row["group_id"], row["split"]) == row["split"]
    assert layout.report.stat().st_size > 100_000


def test_packed_rois_cover_what_the_masks_cover(some_slices, tmp_path, stages):
    from xal_ray import config
    from xal_ray.engine.prepare import prepare

    settings = config.Pool(image_size=96, source=config.Source(path=some_slices))
    pool = prepare(settings, tmp_path / "pool", stages)
    rows = pool.read_rows(pool.index())
    origins = read_table(pool.path / "origins.parquet").to_pylist()
    uris = {row["image_id"]: row["uri"] for row in origins}
    for position in range(0, len(rows.image_ids), 10):
        path = uris[rows.image_ids[position]].replace("/images/", "/masks/").replace(".jpg", ".png")
        mask = np.asarray(Image.open(path).convert("L")) > 0
        assert (rows.rois[position] / 255).mean() == pytest.approx(mask.mean(), abs=2e-3)


def test_alignment_is_that_of_the_map_laid_over_the_slice(some_slices, tmp_path, stages):
    from xal_ray import config
    from xal_ray.acquire import alignment, fullsize
    from xal_ray.engine.prepare import prepare
    from xal_ray.model.network import ModelSpec
    from xal_ray.model.weights import build_network, save_model
    from xal_ray.scoring.scorer import Scorer

    size = 160
    pool = prepare(
        config.Pool(image_size=size, source=config.Source(path=some_slices)),
        tmp_path / "pool",
        stages,
    )
    spec = ModelSpec("efficientnet_lite0", pool.classes, size, 1)
    save_model(tmp_path / "model", build_network(spec, "imagenet", seed=0), spec, {})
    rows = pool.read_rows(pool.index().slice(0, 24))
    table = Scorer(tmp_path / "model", config.Score(), use_roi=True)(rows).to_pylist()
    compared = 0
    for position, row in enumerate(table):
        if row["misalignment"] is None:
            continue
        cam = np.array(row["saliency"]).reshape(1, 5, 5)
        full, _ = alignment.minmax(fullsize.upsample(cam, (size, size)))
        mask = rows.rois[position][None] / 255
        assert row["soft_dice"] == pytest.approx(alignment_oracle.soft_dice(full, mask)[0], abs=1e-6)
        assert row["misalignment"] == pytest.approx(1 - row["soft_dice"], abs=1e-6)
        assert row["hard_dice"] == pytest.approx(alignment_oracle.hard_dice(full, mask)[0], abs=0.05)
        compared += 1
    assert compared > 10
