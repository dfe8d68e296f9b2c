"""Without actors, a stage is done in this process: the same files, and Ray is not started for it."""

import subprocess
import sys

import pyarrow as pa
import pytest
import torch

from xal_ray import config
from xal_ray.engine import scoring, session
from xal_ray.engine.context import StageContext
from xal_ray.engine.shards import Shard, run_shards
from xal_ray.errors import ModelError, PoolError
from xal_ray.model.network import ModelSpec
from xal_ray.model.weights import build_network, save_model
from xal_ray.progress import QUIET
from xal_ray.storage import write_table

pytestmark = [pytest.mark.slow, pytest.mark.ray]

SETTINGS = config.Score(batch_size=8, rows_per_shard=16, precision="fp32")


@pytest.fixture(scope="module")
def model(tmp_path_factory, phantom_pool):
    folder = tmp_path_factory.mktemp("model")
    spec = ModelSpec(
        "efficientnet_lite0", phantom_pool.classes, phantom_pool.image_size, phantom_pool.channels
    )
    save_model(folder, build_network(spec, "imagenet", seed=3), spec, {})
    return folder


def score(pool, model, folder, stages, num_actors):
    context = stages.with_resources(stages.resources.model_copy(update={"num_actors": num_actors}))
    return scoring.score(pool, model, {folder: pool.index()}, SETTINGS, config.Roi(), context)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_no_actors_give_the_same_bytes_as_some(phantom_pool, model, tmp_path, stages):
    before = torch.get_num_threads()
    try:
        pace = score(phantom_pool, model, tmp_path / "here", stages, 0)
    finally:
        torch.set_num_threads(before)
    score(phantom_pool, model, tmp_path / "there", stages, 2)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    assert pace.num_rows == phantom_pool.card["num_rows"]
    assert 0 <= pace.startup_s < pace.seconds


def test_errors_reach_the_caller_as_they_are(phantom_pool, tmp_path, stages):
    with pytest.raises(ModelError, match=r"model\.json"):
        score(phantom_pool, tmp_path / "nothing", tmp_path / "scores", stages, 0)


HERE = StageContext(config.Ray(), QUIET)


class Note:
    """Work that notes how many shards it has done."""

    def __init__(self, fail_at=None):
        self.fail_at = fail_at
        self.num_done = 0

    def __call__(self, path, rows):
        if path.name == self.fail_at:
            raise PoolError("no such thing")
        self.num_done += 1
        write_table(path, pa.table({"num_done": [self.num_done]}))


def test_shards_are_done_in_order_and_finished_ones_are_kept(tmp_path):
    shards = [Shard(tmp_path / f"{number}.parquet", pa.table({"n": [number]})) for number in range(4)]
    with pytest.raises(PoolError, match="no such thing"):
        run_shards("noting", shards, Note, {"fail_at": "2.parquet"}, session.IN_PROCESS, HERE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.parquet", "1.parquet"]
    before = contents(tmp_path)
    assert run_shards("noting", shards, Note, {}, session.IN_PROCESS, HERE).num_rows == 2
    assert contents(tmp_path) | before == contents(tmp_path)
    assert run_shards("noting", shards, Note, {}, session.IN_PROCESS, HERE).num_rows == 0


def test_no_actors_are_no_actors_whatever_the_cluster_has():
    assert session.scoring_shape(config.Ray(num_actors=0, gpus_per_actor=0.5)).num_actors == 0


WITHOUT_RAY = """
import sys
from pathlib import Path
from xal_ray.config import build_config
from xal_ray.loop import run
from xal_ray.progress import QUIET
import yaml
outcome = run(build_config(yaml.safe_load(sys.argv[1])), Path(sys.argv[2]), QUIET, with_report=False)
assert outcome.status == "finished"
assert "ray" not in sys.modules, "Ray was imported"
"""


def test_a_run_that_trains_and_scores_in_its_process_does_not_need_ray(tiny_run, tmp_path):
    import yaml

    tree = {**tiny_run, "num_rounds": 1, "ray": {"num_actors": 0}}
    out = tmp_path / "run"
    subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, yaml.safe_dump(tree), str(out)], check=True, timeout=200
    )
    assert not (out / "report.html").exists()
    assert (out / "rounds" / "001" / "COMMITTED").exists()
