"""The lock of a folder of a disk, and of a place where something is made."""

import errno
import fcntl
import threading

import pytest

from xal_ray.errors import RunError, StorageError
from xal_ray.record.ledger import LOCK_NAME, Ledger, locked
from xal_ray.storage.lock import locked_place


def test_a_folder_is_one_process_s_alone_and_its_lock_stays_beside_its_files(tmp_path):
    run = tmp_path / "run"
    with locked(run):
        (run / "ledger.jsonl").write_text("")
        with pytest.raises(RunError, match="another process is working on this run"), locked(run):
            pass
    assert (run / LOCK_NAME).exists()
    with locked(run):
        pass


def test_a_folder_in_which_nothing_was_begun_goes_with_its_lock(tmp_path):
    with pytest.raises(RunError, match="refused"), locked(tmp_path / "run"):
        raise RunError("refused")
    assert not (tmp_path / "run").exists()


def test_the_lock_of_a_place_lies_beside_it_and_goes_with_its_holder(tmp_path):
    with locked_place(tmp_path / "pool", what="pool"):
        assert [path.name for path in tmp_path.iterdir()] == [".pool.lock"]
        with pytest.raises(RunError, match="this pool"), locked_place(tmp_path / "pool", what="pool"):
            pass
    assert not list(tmp_path.iterdir())


def test_who_waited_for_a_lock_that_was_removed_does_not_hold_beside_the_next_holder(tmp_path, monkeypatch):
    """The waiting process has the old file open; its holder removes it, and another one makes the next."""
    run, others = tmp_path / "run", []
    run.mkdir()
    flock = fcntl.flock

    def late(stream, operation):
        if not others:  # between this process's `open` and its `flock`
            (run / LOCK_NAME).unlink()
            others.append((run / LOCK_NAME).open("w"))
            flock(others[0], fcntl.LOCK_EX)
        flock(stream, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(RunError, match="another process"), locked(run):
        pass
    others[0].close()


def test_a_holder_whose_lock_was_removed_writes_no_line_any_more(tmp_path):
    run = tmp_path / "run"
    with locked(run) as check:
        ledger = Ledger(run / "ledger.jsonl", check)
        ledger.append("run_started")
        (run / LOCK_NAME).unlink()
        with locked(run), pytest.raises(RunError, match="lock of this run is gone"):
            ledger.append("run_finished")
        assert (run / LOCK_NAME).exists()
    assert len(Ledger(run / "ledger.jsonl").records) == 1


def test_of_many_that_begin_and_end_at_once_one_at_a_time_holds(tmp_path):
    """Each removes the folder with its lock when it ends, while others begin there."""
    inside, most = [], []

    def work():
        for _ in range(20):
            with locked(tmp_path / "run", wait_s=60):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80
    assert max(most) == 1


def test_who_waits_is_heard_and_may_give_up(tmp_path):
    def give_up():
        raise RunError("given up")

    with (
        locked(tmp_path / "run"),
        pytest.raises(RunError, match="given up"),
        locked(tmp_path / "run", wait_s=60, on_wait=give_up),
    ):
        pass


def test_a_file_system_without_locks_is_refused_in_words(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match="knows no locks"), locked(tmp_path / "run"):
        pass
