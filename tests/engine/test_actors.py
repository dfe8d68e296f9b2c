"""Actors that stay from stage to stage."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import xal_ray
from xal_ray import config
from xal_ray.engine import shared
from xal_ray.engine.actors import ActorShape
from xal_ray.engine.code_check import SameCode
from xal_ray.engine.shards import Shard, run_shards
from xal_ray.engine.training import stage
from xal_ray.errors import PoolError, StageError
from xal_ray.machine import private_folder
from xal_ray.storage import read_table, write_table

pytestmark = [pytest.mark.slow, pytest.mark.ray]

TWO = ActorShape(2, 0.5)


def witness():
    """Work that writes down in which process it was set up and done. Local, so that it travels by value."""

    class Witness:
        def __init__(self, name: str, fail_at: str | None = None) -> None:
            self.name = name
            self.fail_at = fail_at
            self.num_done = 0

        def __call__(self, path, rows):
            if path.name == self.fail_at:
                raise PoolError("no such thing")
            self.num_done += 1
            note = {"pid": [os.getpid()], "name": [self.name], "num_done": [self.num_done]}
            write_table(path, pa.table(note))

    return Witness


def shards_of(folder, count=6):
    return [Shard(folder / f"{n:05d}.parquet", pa.table({"n": [n]})) for n in range(count)]


def notes(folder):
    return [row for path in sorted(folder.glob("*.parquet")) for row in read_table(path).to_pylist()]


def test_the_next_stage_finds_the_actors_of_the_last_one(tmp_path, stages):
    work = witness()
    for name in ("first", "second"):
        run_shards("noting", shards_of(tmp_path / name), work, {"name": name}, TWO, stages)
    first, second = notes(tmp_path / "first"), notes(tmp_path / "second")
    assert {row["pid"] for row in second} <= {row["pid"] for row in first}
    assert {row["name"] for row in second} == {"second"}
    # Set up anew for the second stage, once in each process.
    for pid in {row["pid"] for row in second}:
        assert sorted(r["num_done"] for r in second if r["pid"] == pid)[0] == 1


def test_the_same_work_is_not_set_up_twice(tmp_path, stages):
    work, one = witness(), ActorShape(1, 0.5)
    for name in ("a", "b"):
        run_shards("noting", shards_of(tmp_path / name, 2), work, {"name": "same"}, one, stages)
    assert sorted(row["num_done"] for row in notes(tmp_path / "b")) == [3, 4]


def test_an_actor_with_other_code_than_its_driver_does_nothing(tmp_path, stages, monkeypatch):
    monkeypatch.setattr(shared, "SameCode", lambda: SameCode("0123456789abcdef", "/opt/other on head"))
    with pytest.raises(StageError, match="other code than the process that drives it"):
        run_shards("noting", shards_of(tmp_path), witness(), {"name": "x"}, ActorShape(1, 0.5), stages)
    assert not list(tmp_path.iterdir())


HOSTILE = """
import sys, pyarrow as pa
from pathlib import Path
from xal_ray import config
from xal_ray.engine import session
from xal_ray.engine.actors import ActorShape
from xal_ray.engine.context import open_context
from xal_ray.engine.shards import Shard, run_shards
from xal_ray.progress import QUIET

class Work:
    def __call__(self, path, rows):
        import torch, xal_ray.scoring.scorer
        path.write_text(f"{torch.__file__} {xal_ray.scoring.scorer.__file__}")

session.start(config.Ray(num_cpus=3))
with open_context(config.Ray(), QUIET) as context:
    shards = [Shard(Path(sys.argv[1]), pa.table({"n": [1]}))]
    run_shards("noting", shards, Work, {}, ActorShape(1, 0.5), context)
session.stop()
"""


def test_actors_do_not_look_into_the_working_directory(tmp_path):
    """As where the program is called in a clone of another version, or beside a user's `torch.py`."""
    here, script = tmp_path / "here", tmp_path / "bin" / "program.py"
    (here / "xal_ray").mkdir(parents=True)
    script.parent.mkdir()
    script.write_text(HOSTILE)
    for name in ("torch.py", "json.py", "numpy.py", "xal_ray/__init__.py"):
        (here / name).write_text("raise SystemExit('a file of the user')")
    root = str(Path(xal_ray.__file__).parents[1])
    command = [sys.executable, str(script), str(tmp_path / "said")]
    subprocess.run(command, cwd=here, env={**os.environ, "PYTHONPATH": root}, check=True, timeout=120)
    assert str(here) not in (tmp_path / "said").read_text()


def test_another_shape_ends_the_actors_of_the_former(tmp_path, stages):
    run_shards("noting", shards_of(tmp_path / "two"), witness(), {"name": "x"}, TWO, stages)
    assert stages.actors.held == TWO
    run_shards("noting", shards_of(tmp_path / "one"), witness(), {"name": "x"}, ActorShape(1, 0.5), stages)
    assert stages.actors.held == ActorShape(1, 0.5)
    before = {row["pid"] for row in notes(tmp_path / "two")}
    assert not before & {row["pid"] for row in notes(tmp_path / "one")}


def test_actors_give_way_to_training_workers_only_where_both_do_not_fit(tmp_path, stages):
    run_shards("noting", shards_of(tmp_path / "small"), witness(), {"name": "x"}, TWO, stages)
    stage._check_and_make_room(2, {"CPU": 1.0}, stages)
    assert stages.actors.held == TWO
    stage._check_and_make_room(2, {"CPU": 2.0}, stages)  # with 1 for reads and the actors': all 6
    assert stages.actors.held == TWO
    stage._check_and_make_room(5, {"CPU": 1.0}, stages)
    assert stages.actors.held.num_actors == 0


def test_after_an_error_nobody_goes_on_writing(tmp_path, stages):
    arguments = {"name": "x", "fail_at": "00002.parquet"}
    with pytest.raises(PoolError, match="no such thing"):
        run_shards("noting", shards_of(tmp_path), witness(), arguments, TWO, stages)
    assert stages.actors.held.num_actors == 0
    done = len(notes(tmp_path))
    run_shards("noting", shards_of(tmp_path), witness(), {"name": "again"}, TWO, stages)
    assert [row["name"] for row in notes(tmp_path)].count("again") == 6 - done


def test_actors_that_others_may_need_end_with_the_stage(tmp_path, stages):
    arguments, released = {"name": "x"}, stages.with_resources(config.Ray(keep_actors=False))
    run_shards("noting", shards_of(tmp_path), witness(), arguments, TWO, released)
    assert len(notes(tmp_path)) == 6
    assert stages.actors.held.num_actors == 0


def test_what_a_stage_costs_to_begin_is_told_apart(tmp_path, stages):
    pace = run_shards("noting", shards_of(tmp_path), witness(), {"name": "x"}, TWO, stages)
    assert pace.num_rows == 6
    assert 0 < pace.startup_s < pace.seconds
    assert pace.rows_per_s == pytest.approx(6 / (pace.seconds - pace.startup_s))
    again = run_shards("noting", shards_of(tmp_path), witness(), {"name": "x"}, TWO, stages)
    assert again.num_rows == 0


ON_FOUR_GPUS = """
import sys
from pathlib import Path
import pyarrow as pa
import ray
from xal_ray import config
from xal_ray.engine import session
from xal_ray.engine.context import open_context
from xal_ray.engine.shards import Shard, run_shards
from xal_ray.progress import QUIET
from xal_ray.storage import write_table

def note():
    class Note:
        def __init__(self, num_actors):
            self.num_actors = num_actors

        def __call__(self, path, rows):
            import os, time, ray
            (path.parent / f"{os.getpid()}.pid").touch()
            while len(list(path.parent.glob("*.pid"))) < self.num_actors:
                time.sleep(0.05)  # so that every actor gets one, whenever it is up
            seen = os.environ["CUDA_VISIBLE_DEVICES"]
            write_table(path, pa.table({"gpus": [",".join(map(str, ray.get_gpu_ids()))], "seen": [seen]}))
    return Note

session.prepare_environment()
ray.init(address="local", num_cpus=8, num_gpus=4, include_dashboard=False, log_to_driver=False)
for name, settings in (("whole", {}), ("parts", {"num_actors": 8, "gpus_per_actor": 0.5})):
    resources = config.Ray(**settings)
    session.start(resources)
    folder, shape = Path(sys.argv[1]) / name, session.scoring_shape(resources)
    folder.mkdir()
    shards = [Shard(folder / f"{n}.parquet", pa.table({"n": [n]})) for n in range(shape.num_actors)]
    with open_context(resources, QUIET) as context:
        run_shards("noting", shards, note(), {"num_actors": shape.num_actors}, shape, context)
session.stop()
"""


def test_gpus_are_dealt_out_by_ray_one_an_actor_or_in_parts(tmp_path):
    """On a Ray that declares four GPUs: placement only, nothing is computed on them."""
    subprocess.run([sys.executable, "-c", ON_FOUR_GPUS, str(tmp_path)], check=True, timeout=200)
    for name in ("whole", "parts"):
        rows = notes(tmp_path / name)
        assert len(rows) == (4 if name == "whole" else 8)
        assert {row["gpus"] for row in rows} == {"0", "1", "2", "3"}
        assert all(row["gpus"] == row["seen"] for row in rows)
    assert all([row["gpus"] for row in notes(tmp_path / "parts")].count(gpu) == 2 for gpu in "0123")


def test_what_actors_write_follows_the_users_umask_and_rays_token_does_not(
    tmp_path, phantom_pool, ray_session
):
    umask = os.umask(0o022)
    os.umask(umask)
    files = [path for path in phantom_pool.path.rglob("*") if path.is_file()]
    assert files
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert token.parent == private_folder()
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.parent.stat().st_mode & 0o777 == 0o700


def test_what_ray_data_logs_as_an_error_is_raised_and_said_by_us_alone(ray_session):
    import ray.data._internal.execution.streaming_executor_state as state

    assert not state.logger.isEnabledFor(logging.ERROR)
