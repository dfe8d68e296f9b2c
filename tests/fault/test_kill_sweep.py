"""Kill a sweep at any moment: the same command finishes it, and no finished trial is run again."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from run_outputs import outputs

from xal_ray.config import build_config
from xal_ray.loop import run
from xal_ray.progress import QUIET
from xal_ray.record.layout import RunLayout

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.fault, pytest.mark.timeout(420)]

STRATEGIES, SEEDS = ("random", "margin"), (0, 1)


@pytest.fixture
def tree(tiny_run):
    small = {"num_rounds": 1, "train": {**tiny_run["train"], "max_steps": 2}}
    return {**tiny_run, **small, "ray": {"num_cpus": 6, "object_store_mb": 200, "num_actors": 0}}


def start(config, out):
    command = [sys.executable, "-m", "xal_ray.cli", "sweep", str(config), "--out", str(out)]
    options = ["--param", "select.strategy=margin", "--seeds", "2", "--trials-at-once", "2"]
    return subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TUNE_GLOBAL_CHECKPOINT_S": "0.1"},  # else it writes its state first after seconds
    )


def finished_ledgers(out):
    """The ledgers of finished trials with their bytes."""
    found = {path: path.read_bytes() for path in out.glob("trials/*/*/ledger.jsonl")}
    return {path: content for path, content in found.items() if b'"run_finished"' in content}


def tune_states(out):
    return set(out.glob("tune/*/experiment_state-*.json"))


def kill_when_finished(process, out, count, timeout_s=200):
    """Kill the driver as soon as so many trials have finished; returns their ledgers."""
    deadline = time.monotonic() + timeout_s
    while len(finished_ledgers(out)) < count or not tune_states(out):
        assert process.poll() is None, f"it ended too early: {process.stdout.read()}"
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return finished_ledgers(out)


def still_the_same(ledgers):
    return all(path.read_bytes() == content for path, content in ledgers.items())


def test_a_sweep_that_is_killed_ends_as_if_it_had_not_been(tree, tmp_path):
    config, out = tmp_path / "config.yaml", tmp_path / "sweep"
    config.write_text(yaml.safe_dump(tree))
    first = kill_when_finished(start(config, out), out, 1)
    assert 1 <= len(first) < 4
    states = tune_states(out)
    final = start(config, out)
    text, _ = final.communicate(timeout=300)
    assert final.returncode == 0, text
    told = re.search(r"4 trials, 2 at once; (\d) are there already", text)
    assert told, text
    assert len(first) <= int(told.group(1)) < 4  # workers outlive their driver for a moment
    assert still_the_same(first)
    assert states <= tune_states(out)  # Tune's own state was taken up: a new experiment clears the folder
    assert not list(out.glob("trials/**/*.json.tmp"))
    assert json.loads((out / "verdict.json").read_text())["seeds"] == [0, 1]

    threads = torch.get_num_threads()
    for strategy, seed in zip(STRATEGIES, SEEDS, strict=True):  # one that was killed, and one that was not
        (folder,) = out.glob(f"trials/select.strategy={strategy}-*/seed-{seed:04d}")
        select = {**tree["select"], "strategy": strategy}
        whole = tmp_path / f"{strategy}-{seed}"
        run(build_config({**tree, "seed": seed, "select": select}), whole, QUIET, with_report=False)
        assert outputs(folder) == outputs(whole)
        assert len(outputs(RunLayout(folder).path)) > 10
    torch.set_num_threads(threads)
