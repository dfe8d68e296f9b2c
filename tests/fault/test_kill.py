"""Kill the process, or fill its disk, at any moment: the same command finishes with the same bytes."""

import contextlib
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
from process_tree import below, is_below
from run_outputs import outputs

from xal_ray.config import build_config
from xal_ray.loop import run
from xal_ray.progress import QUIET
from xal_ray.record.ledger import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.fault, pytest.mark.timeout(420)]

DRIVER = Path(__file__).with_name("kill_driver.py")


def leftovers(path):
    return list(path.rglob("*.tmp"))


@pytest.fixture
def one_round(tiny_run):
    """Scored by the process that drives the run, which starts no Ray then."""
    return {**tiny_run, "num_rounds": 1, "ray": {**tiny_run["ray"], "num_actors": 0}}


@pytest.fixture(scope="module")
def uninterrupted(tiny_run_of, phantom_pool, tmp_path_factory):
    """What a run of one round, scored by actors, leaves when nothing happens to it."""
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
    kills = [1, 2, 3] + [chance.randrange(2, 10) for _ in range(6)]
    command = [sys.executable, str(DRIVER), str(write_config(one_round, tmp_path)), str(tmp_path / "killed")]
    done = subprocess.run([*command, ",".join(map(str, kills))], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("killed") == len(kills), done.stdout
    assert outputs(tmp_path / "killed") == uninterrupted
    assert leftovers(tmp_path / "killed") == []
    events = [record.event for record in Ledger(tmp_path / "killed" / "ledger.jsonl").records]
    assert events.count("run_started") == events.count("run_finished") == 1
    assert events.count("round_committed") == 3


def start(config, out, *words):
    command = [sys.executable, "-m", "xal_ray.cli", "run", str(config), "--out", str(out), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_when(process, condition, timeout_s=120, number=signal.SIGKILL):
    """Send a signal once a condition holds; what the process had started is gone a few seconds later."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"it ended too early: {process.stdout.read()}"
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.005)
    started = below(process.pid)
    os.kill(process.pid, number)
    said, _ = process.communicate(timeout=30)
    wait_for_the_end_of(started)
    return said


def wait_for_the_end_of(started, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while left := [pid for pid in started if is_alive(pid)]:
        assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
        time.sleep(0.05)


def is_alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def is_training(process):
    """Whether a worker of Ray Train is there, in the Ray that a process has started."""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            is_worker = b"RayTrainWorker" in (folder / "cmdline").read_bytes()
            if is_worker and is_below(int(folder.name), process.pid):
                return True
    return False


def test_killed_while_preparing_while_training_on_ray_and_while_scoring(
    one_round, phantom_settings, uninterrupted, tmp_path
):
    """One worker of Ray Train gives the same model as none; kills in the middle change nothing."""
    tree = {
        **one_round,
        "pool": phantom_settings.model_dump(mode="json") | {"path": str(tmp_path / "pool")},
        "train": {**one_round["train"], "num_workers": 1},
        "ray": {**one_round["ray"], "num_actors": 1, "num_decoders": 1},
    }
    config, out = write_config(tree, tmp_path), tmp_path / "killed"
    first = out / "rounds" / "000"
    kill_when(start(config, out), lambda: list(tmp_path.glob(".pool.partial/rows/*.parquet")))
    assert not (tmp_path / "pool").exists()
    process = start(config, out)
    said = kill_when(process, lambda: is_training(process), number=signal.SIGTERM)
    assert process.returncode == 143
    assert said.endswith("\nstopped; the same command goes on from here\n")
    assert "***" not in said  # a native stack
    assert (tmp_path / "pool").exists()
    assert not (first / "model.json").exists()
    kill_when(start(config, out), lambda: list(first.glob("*/*.parquet")))
    assert (first / "model.json").exists()
    assert not (first / "metrics.json").exists()
    final = start(config, out, "--set", "ray.num_actors=0")  # in its process: the bytes are the same
    text, _ = final.communicate(timeout=300)
    assert final.returncode == 0, text
    assert outputs(out) == uninterrupted


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
