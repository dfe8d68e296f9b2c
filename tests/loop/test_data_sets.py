"""Each public layout, as its folder lies on a disk: prepared, and two rounds of a run on it."""

import importlib
import json

import pyarrow.compute as pc
import pytest
import yaml

from xal_ray import config
from xal_ray.config import build_config
from xal_ray.engine.prepare import prepare
from xal_ray.loop import run
from xal_ray.progress import QUIET
from xal_ray.record.layout import RunLayout
from xal_ray.storage import read_table

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]

KINDS = (
    "vindr",
    "siim_covid",
    "brats",
    "cheng",
    "rsna_pneumonia",
    "nih_cxr14",
    "chexlocalize",
    "isic2018",
    "coco",
    "yolo",
)


@pytest.mark.parametrize("kind", KINDS)
def test_two_rounds(kind, tmp_path, ray_session, stages):
    layout = importlib.import_module(f"layouts.{kind}")
    settings = layout.build(tmp_path / "set", num_patients=40, seed=1)
    tree = yaml.safe_load(json.dumps(settings, default=str))  # as a person would write it
    tree["image_size"] = 32
    tree["limits"] = {"max_error_fraction": 0.2}
    pool = prepare(config.Pool(**tree), tmp_path / "pool", stages)

    index = pool.index()
    groups = index.group_by("group_id").aggregate([("split", "count_distinct")])
    splits = {row["group_id"]: set() for row in index.to_pylist()}
    for row in index.to_pylist():
        splits[row["group_id"]].add({"labeled": "pool"}.get(row["split"], row["split"]))
    assert all(len(sides) == 1 for sides in splits.values())
    assert groups.num_rows == len(splits) > 5
    assert {"pool", "val", "test"} <= set(pool.card["counts"])
    assert pool.card["source"]["kind"] == kind
    assert pool.card["notes"]
    assert pool.card["roi"].get("present", 0) > 5
    assert all(count > 0 for count in pool.card["class_counts"].values())

    result = build_config(
        {
            "name": "two-rounds",
            "num_rounds": 2,
            "pool": {"path": str(tmp_path / "pool")},
            "model": {"backbone": "efficientnet_lite0", "weights": "imagenet", "freeze": "backbone"},
            "train": {"max_steps": 4, "eval_every_steps": 2, "minibatch_size": 8, "num_threads": 1},
            "score": {"batch_size": 8},
            "select": {"strategy": "smallest_roi", "initial_labels": 14, "query_size": 3},
            "ray": {**ray_session.model_dump(), "num_actors": 0},
        }
    )
    run(result, tmp_path / "run", QUIET)
    files = RunLayout(tmp_path / "run")
    for number in range(2):
        picks = read_table(files.round(number).selection)
        assert picks.num_rows == 3
        assert pc.all(pc.is_in(picks["image_id"], index["image_id"].combine_chunks())).as_py()
    metrics = json.loads(files.round(2).metrics.read_text())
    assert metrics["num_labels"] == 20
    assert metrics["splits"]["val"]["num_images"] > 0
    assert files.report.stat().st_size > 50_000
