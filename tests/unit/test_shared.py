import pytest

from xal_ray import config
from xal_ray.engine.shared import MARK_PREFIX, marks, remove_marks, sharing
from xal_ray.errors import RunError
from xal_ray.places import place

CLUSTER = config.Ray(address="auto")


def test_a_machine_of_ones_own_shares_nothing(tmp_path):
    with sharing([tmp_path], config.Ray()):
        assert marks() == ()
        assert not list(tmp_path.iterdir())


def test_a_process_that_sees_the_folder_may_work(tmp_path):
    with sharing([tmp_path / "run"], CLUSTER):
        (mark,) = marks()
        mark.check()
        assert mark.path.parent == tmp_path / "run"
    assert marks() == ()
    assert not list((tmp_path / "run").iterdir())


def test_a_machine_with_a_disk_of_its_own_is_refused(tmp_path):
    with sharing([tmp_path], CLUSTER):
        (mark,) = marks()
        mark.path.rename(tmp_path / "elsewhere")  # as if this were another machine's folder
        with pytest.raises(RunError, match="do not share a folder") as caught:
            mark.check()
    assert str(tmp_path) in str(caught.value)
    assert "s3://" in str(caught.value)


def test_two_drivers_do_not_disturb_each_other(tmp_path):
    with sharing([tmp_path], CLUSTER):
        first = marks()
        with sharing([tmp_path], CLUSTER):
            assert len(list(tmp_path.glob(f"{MARK_PREFIX}*"))) == 2
        for mark in first:
            mark.check()


def test_object_stores_are_shared_by_nature():
    with sharing([place("s3://bucket/run")], CLUSTER):
        assert marks() == ()


def test_a_failure_leaves_no_mark(tmp_path):
    with pytest.raises(KeyError), sharing([tmp_path], CLUSTER):
        raise KeyError
    assert not list(tmp_path.iterdir())
    assert marks() == ()


def test_what_a_killed_driver_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / f"{MARK_PREFIX}12345678").touch()
    (tmp_path / "ledger.jsonl").touch()
    remove_marks(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.jsonl"]
