"""A training worker dies, its driver fails, its node goes: the training goes on from the last checkpoint."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training_request import EVERY_STEPS, MAX_STEPS, AtCheckpoint, Lines, small_request

from xal_ray.engine.context import StageContext
from xal_ray.engine.training.stage import train
from xal_ray.errors import StageError
from xal_ray.progress import QUIET

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.fault, pytest.mark.timeout(300)]

ON_NODES = Path(__file__).with_name("training_on_nodes.py")


def kill_the_worker():
    import ray

    workers = [
        actor["Pid"]
        for actor in ray._private.state.actors().values()
        if actor["ActorClassName"] == "RayTrainWorker" and actor["State"] == "ALIVE"
    ]
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGKILL)


def test_killed_in_two_trainings_the_model_has_the_same_bytes(phantom_pool, tmp_path, ray_session, stages):
    """The first one may lose no worker and fails; the second goes on where it ended, and loses one too."""
    train(small_request(phantom_pool), tmp_path / "whole", stages)
    request = small_request(phantom_pool, num_workers=1)
    out, folder = tmp_path / "killed", tmp_path / "killed" / "training"
    # The same Ray, as if others owned it: then checkpoints lie beside the model.
    joined = ray_session.model_copy(update={"address": "auto", "checkpoint_every_steps": EVERY_STEPS})
    first = AtCheckpoint(folder, 0, kill_the_worker)
    first.start()
    with pytest.raises(StageError, match="inside Ray Train"):
        train(request, out, StageContext(joined.model_copy(update={"max_failures": 0}), QUIET))
    first.join()
    assert first.step >= EVERY_STEPS
    assert not (out / "model.json").exists()
    assert folder.is_dir()

    (folder / "round-000-of-another-request").mkdir()
    lines = Lines()
    second = AtCheckpoint(folder, first.step, kill_the_worker)
    second.start()
    train(request, out, StageContext(joined, lines))
    second.join()
    # A training from the start would have reported its first checkpoints once more.
    assert first.step < second.step < MAX_STEPS
    told = [line for line in lines.said if "went on after step" in line]
    assert len(told) == 1
    assert second.step <= int(told[0].split()[-1]) < MAX_STEPS
    assert not folder.exists()
    for name in ("model.safetensors", "model.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_node_goes_and_training_ends_with_one_worker(phantom_pool, tmp_path):
    command = [sys.executable, str(ON_NODES), str(phantom_pool.path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["removed_at"] >= EVERY_STEPS
    assert any("went on after step" in line for line in found["lines"]), found
    assert any("ended with 1 of 2 workers" in line for line in found["lines"]), found
    card = json.loads((tmp_path / "model.json").read_text())
    assert card["history"][-1]["step"] == MAX_STEPS
    assert card["history"][-1]["workers"] == 1
    assert not (tmp_path / "training").exists()
