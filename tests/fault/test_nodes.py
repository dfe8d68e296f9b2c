"""Nodes that come while a stage waits for them, and one that goes with a shard half done."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from xal_ray import config
from xal_ray.engine import scoring
from xal_ray.engine.context import StageContext
from xal_ray.model.network import ModelSpec
from xal_ray.model.weights import build_network, save_model
from xal_ray.progress import QUIET

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.fault]

DRIVER = Path(__file__).with_name("grow_and_lose_nodes.py")
SETTINGS = config.Score(batch_size=8, rows_per_shard=16, precision="fp32")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stage_grows_with_its_cluster_and_outlives_a_node(phantom_pool, ray_session, tmp_path):
    """On a head without work: no node at first, then one, then two; the one in the middle of a shard dies."""
    model, pool = tmp_path / "model", phantom_pool
    spec = ModelSpec("efficientnet_lite0", pool.classes, pool.image_size, pool.channels)
    save_model(model, build_network(spec, "imagenet", seed=3), spec, {})
    alone = StageContext(ray_session.model_copy(update={"num_actors": 0}), QUIET)
    scoring.score(pool, model, {tmp_path / "alone": pool.index()}, SETTINGS, config.Roi(), alone)
    command = [sys.executable, str(DRIVER), str(pool.path), str(model), str(tmp_path / "scores")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert contents(tmp_path / "scores") == contents(tmp_path / "alone")
    assert outcome["rows"] == 80
    assert sorted(outcome["nodes"]) == [False, True, True]
    assert len([name for name in outcome["notes"] if name.startswith("node-")]) == 2
    finished = [name.split("-")[1] for name in outcome["notes"] if name.startswith("done-")]
    assert finished == [f"{number:05d}" for number in range(5)]
    assert "asks for more than the cluster has now: 2 CPU (it has 0)" in outcome["said"]
    assert "waiting for 2 actors, each with 1 CPU" in outcome["said"]
    assert "error_code" not in outcome["said"]  # the node died, and no image is blamed for it
    assert outcome["all_released"]
