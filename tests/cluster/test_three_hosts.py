"""A run on three isolated hosts, through the command line: what a lost host costs is time, never a byte.

A small run that loses a host while it scores is always tested. The others take 5 to 8 minutes each on two
cores, and run with XAL_RAY_ALL_CLUSTER_TESTS=1; docs/cluster-transcript.md shows what they saw.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from fake_aws import fake_aws
from hosts import THIS_MACHINE, Hosts, obstacle
from laptop import ROOT, Laptop, host_with, on_premises, wait_for
from recipes import TITLES, write_modules, write_scans
from run_outputs import outputs

from xal_ray.config import load_config
from xal_ray.loop import run
from xal_ray.progress import QUIET

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.fault,
    pytest.mark.cluster,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(obstacle() is not None, reason=str(obstacle())),
]
where_asked_for = pytest.mark.skipif(
    os.environ.get("XAL_RAY_ALL_CLUSTER_TESTS") != "1",
    reason="set XAL_RAY_ALL_CLUSTER_TESTS=1: they take half an hour on two cores",
)
HEAD, WORKERS = 0, (1, 2)
NUM_SHARDS = 78  # of the first round
SCORER, TRAINER = "ray::Actor", "RayTrainWorker"
SCORES = "rounds/000/scores/*.parquet"


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A folder that all hosts will share, with a pool, and what the run gives in one process."""
    shared = tmp_path_factory.mktemp("shared")
    config = write_config(shared)
    run(load_config(config, ["train.num_workers=0", "ray.num_actors=0"]), shared / "alone", QUIET)
    return shared, config, outputs(shared / "alone")


def write_config(shared: Path) -> Path:
    tree = {
        "name": "three",
        "num_rounds": 2,
        "pool": {
            "path": str(shared / "pool"),
            "image_size": 64,
            "source": {"kind": "phantom", "phantom": {"num_patients": 120, "images_per_patient": 4}},
            "rows_per_part": 48,
        },
        "model": {"backbone": "efficientnet_lite0", "weights": "imagenet"},  # starts in half the time
        "train": {
            "num_workers": 1,
            "max_steps": 60,
            "eval_every_steps": 20,
            "patience": 0,
            "minibatch_size": 8,
            "num_threads": 1,
        },
        "score": {"batch_size": 4, "rows_per_shard": 4, "max_error_fraction": 0.9},
        "select": {"initial_labels": 12, "query_size": 8},
        "ray": {"num_actors": 4, "num_cpus": 6, "object_store_mb": 200, "checkpoint_every_steps": 10},
    }
    path = shared / "three.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A run of one round, trained by the driver, and what it gives in one process.

    Its source, backbone and strategy are those of CONTRIBUTING's recipes: modules that no host has installed.
    """
    (tmp_path / "author").mkdir()
    write_recipes(tmp_path / "author")
    monkeypatch.syspath_prepend(tmp_path / "author")
    write_scans(tmp_path / "scans", 120, 4)
    tree = {
        "name": "three",
        "num_rounds": 1,
        "pool": {
            "path": str(tmp_path / "pool"),
            "image_size": 64,
            "source": {"kind": "my_scans:scans", "path": str(tmp_path / "scans")},
            "rows_per_part": 48,
        },
        "model": {"backbone": "my_net:tiny"},
        "train": {"max_steps": 4, "eval_every_steps": 2, "minibatch_size": 8, "num_threads": 1},
        # A shard an image: of fewer, none would be left when a host is lost.
        "score": {"batch_size": 4, "rows_per_shard": 1, "max_error_fraction": 0.9},
        "select": {"strategy": "my_strategies:unsure", "initial_labels": 12, "query_size": 8},
        "ray": {"num_actors": 2, "num_cpus": 6, "object_store_mb": 200},
    }
    config = tmp_path / "three.yaml"
    config.write_text(yaml.safe_dump(tree))
    run(load_config(config, ["ray.num_actors=0"]), tmp_path / "alone", QUIET)
    num_shards = len(list((tmp_path / "alone").glob(SCORES)))
    return config, num_shards, outputs(tmp_path / "alone")


def write_recipes(folder: Path) -> None:
    for title in TITLES:
        write_modules(title, folder)


@contextmanager
def cluster(tmp_path: Path, shared: Path) -> Iterator[tuple[Hosts, Laptop]]:
    """Three fresh hosts, and somebody who may log in to them."""
    with Hosts(tmp_path / "hosts", 3, [ROOT, shared]) as hosts:
        yield hosts, Laptop(tmp_path / "laptop", on_premises(hosts))


def kill_a_scorer(hosts: Hosts, out: Path, num_shards: int = NUM_SHARDS) -> int:
    """Kill a host that scores the first round, once some shards are there and long before the last."""
    wait_for("the first shards", lambda: len(list(out.glob(SCORES))) >= 3, timeout_s=400)
    number = wait_for("a host that scores", lambda: host_with(hosts, WORKERS, SCORER))
    hosts.kill(number)
    assert len(list(out.glob(SCORES))) < num_shards - 5
    return number


def kill_a_trainer(hosts: Hosts, out: Path) -> int:
    """Kill the host that trains the second round, once a checkpoint is there and long before the end."""
    folder = out / "rounds" / "001"
    wait_for("a checkpoint", lambda: checkpoints(folder), timeout_s=400)
    number = wait_for("the host that trains", lambda: host_with(hosts, WORKERS, TRAINER))
    hosts.kill(number)
    assert not (folder / "model.json").exists()
    return number


def checkpoints(folder: Path) -> list[str]:
    """The checkpoints that Ray Train has noted in its list: those from which a training can go on."""
    lists = [path.read_text() for path in folder.glob("training/*/checkpoint_manager_snapshot.json")]
    return [found for text in lists for found in re.findall(r"checkpoint_\d{4}[-_.0-9]+", text)]


def test_one_host_of_three_lost_while_scoring_changes_nothing(small, tmp_path):
    config, num_shards, expected = small
    with cluster(tmp_path, tmp_path) as (hosts, laptop):
        write_recipes(laptop.folder)
        words = ("run", config, "--cluster", laptop.cluster_file, "--out", tmp_path / "three")
        running = laptop.start(*words)
        kill_a_scorer(hosts, tmp_path / "three", num_shards)
        laptop.finish(running)
        assert outputs(tmp_path / "three") == expected
        assert laptop.said.count("finished. Report") == 1


@where_asked_for
def test_a_host_lost_while_scoring_and_one_while_training_change_nothing(reference, tmp_path):
    shared, config, expected = reference
    out = shared / "three"
    with cluster(tmp_path, shared) as (hosts, laptop):
        said = laptop.call("run", config, "--cluster", laptop.cluster_file, "--out", out, "--detach")
        assert "is up" in said
        watching = laptop.start("attach", "three")
        try:
            hosts.start(kill_a_scorer(hosts, out))
            laptop.end(watching)  # the laptop is closed for a while
            hosts.start(kill_a_trainer(hosts, out))
        finally:
            laptop.end(watching)
        said = laptop.call("attach", "three", "--down", timeout_s=600)
        assert outputs(out) == expected
        assert "training was interrupted and went on after step" in said
        assert said.count("finished. Report") == 1
        assert (laptop.folder / "runs" / "three" / "report.html").is_file()
        assert not host_with(hosts, [HEAD], "gcs_server")


@where_asked_for
def test_a_lost_head_costs_the_stage_that_it_was_in(reference, tmp_path):
    shared, config, expected = reference
    out = shared / "headless"
    with cluster(tmp_path, shared) as (hosts, laptop):
        words = ("run", config, "--cluster", laptop.cluster_file, "--out", out)
        laptop.call(*words, "--detach")
        wait_for("the first commit", lambda: (out / "rounds" / "000" / "COMMITTED").exists(), timeout_s=600)
        wait_for("the next round", lambda: host_with(hosts, WORKERS, TRAINER), timeout_s=200)
        hosts.kill(HEAD)
        hosts.start(HEAD)
        said = laptop.call(*words, "--down", timeout_s=900)
        assert "is up" in said
        assert outputs(out) == expected


@where_asked_for
def test_pool_and_run_on_s3_and_a_host_that_falls_silent(reference, tmp_path):
    _, config, expected = reference
    with Hosts(tmp_path / "hosts", 3, [ROOT]) as hosts, fake_aws(THIS_MACHINE) as aws:
        aws.client("s3").create_bucket(Bucket="test")
        for number in range(hosts.count):
            aws.admit(hosts.home(number))
        laptop = Laptop(tmp_path / "laptop", on_premises(hosts), aws.environment)
        words = ("run", config, "--set", "pool.path=s3://test/pool", "--out", "s3://test/three")
        laptop.call(*words, "--cluster", laptop.cluster_file, "--detach")
        scores = "three/rounds/000/scores/"
        wait_for("the first shards", lambda: len(aws.keys("test", scores)) >= 3, timeout_s=600, poll_s=0.2)
        number = wait_for("a host that scores", lambda: host_with(hosts, WORKERS, SCORER))
        hosts.kill(number, silently=True)
        assert len(aws.keys("test", scores)) < NUM_SHARDS - 5
        laptop.call("attach", "three", "--down", timeout_s=900)
        aws.download("test", "three/", tmp_path / "copy")
        assert outputs(tmp_path / "copy") == expected


@where_asked_for
def test_the_benchmark_of_hosts_runs(tmp_path):
    result = tmp_path / "nodes.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "nodes.py"), "--smoke", "--json", str(result)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(result.read_text())["rows"][0]["images/s"] > 0
