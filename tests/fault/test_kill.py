"""Kill the process, or fill its disk, at any moment: the same command finishes with the same bytes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from run_outputs import outputs

from xal_ray.config import build_config
from xal_ray.ledger import Ledger
from xal_ray.loop import run
from xal_ray.progress import QUIET

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.fault, pytest.mark.timeout(420)]

DRIVER = Path(__file__).with_name("kill_driver.py")


def leftovers(path):
    return list(path.rglob("*.tmp"))


@pytest.fixture
def one_round(tiny_run):
    return {**tiny_run, "num_rounds": 1}


@pytest.fixture(scope="module")
def uninterrupted(tiny_run_of, phantom_pool, tmp_path_factory):
    """What a run of one round leaves when nothing happens to it."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run(build_config({**tiny_run_of(phantom_pool), "num_rounds": 1}), out, QUIET).status == "finished"
    return outputs(out)


def write_config(tree, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_killed_at_many_moments_the_run_ends_with_the_same_bytes(one_round, uninterrupted, tmp_path):
    chance = random.Random(7)
    # Before there is a ledger; then at the second sync or later, so that each attempt leaves something.
    kills = [1, 2, 3] + [chance.choice((2, 3, 4, 5)) for _ in range(6)]
    command = [sys.executable, str(DRIVER), str(write_config(one_round, tmp_path)), str(tmp_path / "killed")]
    done = subprocess.run([*command, ",".join(map(str, kills))], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("killed") == len(kills), done.stdout
    assert outputs(tmp_path / "killed") == uninterrupted
    assert leftovers(tmp_path / "killed") == []
    events = [record.event for record in Ledger(tmp_path / "killed" / "ledger.jsonl").records]
    assert events.count("run_started") == events.count("run_finished") == 1
    assert events.count("round_committed") == 3


def start(config, out):
    command = [sys.executable, "-m", "xal_ray.cli", "run", str(config), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_when(process, condition, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"it ended too early: {process.stdout.read()}"
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_killed_while_preparing_and_while_scoring(one_round, phantom_settings, uninterrupted, tmp_path):
    source = phantom_settings.model_dump(mode="json") | {"path": str(tmp_path / "pool")}
    config, out = write_config({**one_round, "pool": source}, tmp_path), tmp_path / "killed"
    kill_when(start(config, out), lambda: list(tmp_path.glob(".pool.partial/rows/*.parquet")))
    assert not (tmp_path / "pool").exists()
    kill_when(start(config, out), lambda: list(out.glob("rounds/000/*/*.parquet")))
    assert not (out / "rounds" / "000" / "metrics.json").exists()
    final = start(config, out)
    text, _ = final.communicate(timeout=200)
    assert final.returncode == 0, text
    assert outputs(out) == uninterrupted


def test_a_run_trained_by_ray_train_and_killed_there(one_round, uninterrupted, tmp_path):
    """One worker gives the same model as none; a kill in the middle changes nothing."""
    tree = {**one_round, "train": {**one_round["train"], "num_workers": 1}}
    config, out = write_config(tree, tmp_path), tmp_path / "killed"
    process = start(config, out)
    for line in process.stdout:
        if line.startswith("training on 1 worker"):
            break
    time.sleep(4)
    kill_when(process, lambda: True)
    assert not (out / "rounds" / "000" / "model.json").exists()
    final = start(config, out)
    text, _ = final.communicate(timeout=300)
    assert final.returncode == 0, text
    mine = outputs(out)
    assert mine == uninterrupted


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 20 MB that can be made larger; needs root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0
    if (
        not mounted
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)]).returncode
    ):
        pytest.skip("a small disk can't be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_a_clear_error_and_the_same_command_goes_on(
    one_round, uninterrupted, small_disk, tmp_path
):
    config, out = write_config(one_round, tmp_path), small_disk / "run"
    process = start(config, out)
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 2, text
    assert "the disk is full" in text
    assert "model.safetensors" in text
    assert leftovers(out) == []
    subprocess.run(["mount", "-o", "remount,size=500m", str(small_disk)], check=True)
    process = start(config, out)
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 0, text
    assert outputs(out) == uninterrupted
