import stat

import pytest

from xal_ray.cluster.job_record import JobRecord, find_record, home_of, write_record
from xal_ray.cluster.request import JobRequest
from xal_ray.config import build_config
from xal_ray.errors import RunError
from xal_ray.places import place


def record(**changes):
    values = {
        "command": "run",
        "name": "mine",
        "submission_id": "xal-ray-mine-0123abcd",
        "out": "s3://bucket/runs/mine",
        "cluster_file": "/home/me/aws.yaml",
        "address": None,
        "cluster_name": "aws",
        "code_sha256": "0" * 64,
        "versions": {"ray": "2.60.0"},
        "submitted_utc": "2026-01-01T00:00:00+00:00",
    }
    return JobRecord(**values | changes)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["mine", "runs/mine", "runs/mine/"])
def test_a_job_is_found_by_its_name_or_folder(tmp_path, name):
    write_record(tmp_path / "runs" / "mine", record())
    folder, found = find_record(name)
    assert found == record()
    assert folder.resolve() == tmp_path / "runs" / "mine"


def test_only_its_owner_reads_a_record_and_it_is_replaced_whole(tmp_path):
    path = write_record(tmp_path / "a", record())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_record(tmp_path / "a", record(submission_id="other"))
    assert find_record("a")[1].submission_id == "other"
    assert [each.name for each in path.parent.iterdir()] == ["job.json"]


@pytest.mark.parametrize("text", [None, "{", "{}"])
def test_what_is_not_there_or_damaged_is_an_error(tmp_path, text):
    if text is not None:
        (tmp_path / "job.json").write_text(text)
    with pytest.raises(RunError):
        find_record(".")


def test_a_run_of_this_machine_is_never_overwritten(tmp_path):
    asked = JobRequest("run", build_config({"name": "x"}), place("s3://b/runs/mine"))
    assert str(home_of(asked)) == "runs/mine"
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "ledger.jsonl").touch()
    assert str(home_of(asked)) == "runs/mine-on-cluster"
    write_record(home_of(asked), record())
    assert str(find_record("mine")[0]) == "runs/mine-on-cluster"
    shared = JobRequest("sweep", asked.settings, tmp_path / "sweeps" / "s")
    assert str(home_of(shared)) == "sweeps/s-on-cluster"
