"""The lock of a run folder in an object store: taking, renewing, taking over, being taken over."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from xal_ray import storage
from xal_ray.errors import RunError
from xal_ray.record.ledger import LOCK_NAME, Ledger, locked
from xal_ray.storage import lease
from xal_ray.storage.lock import locked_place

pytestmark = pytest.mark.slow


@pytest.fixture
def quick(monkeypatch):
    """Leases that end within two seconds."""
    monkeypatch.setattr(lease, "LEASE_S", 1.5)
    monkeypatch.setattr(lease, "RENEW_S", 0.1)
    monkeypatch.setattr(lease, "POLL_S", 0.05)


def write_holder(folder, number, **changes):
    holder = {"owner": "another", "host": "elsewhere", "pid": 1, "renewed": 3, "released": False, **changes}
    storage.write_bytes(folder / f"{LOCK_NAME}-{number:06d}", json.dumps(holder).encode())


def objects(folder):
    return storage.names_in(folder)


def test_a_holder_that_lives_is_not_taken_over_and_the_next_one_comes_after_it(s3_bucket, quick, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_S", 120)
    run = s3_bucket / "run"
    with locked(run):
        with pytest.raises(RunError, match="another process is working on this run"), locked(run):
            pass
        assert objects(run) == [".lock-000001"]
    with locked(run) as check:
        check()
        assert objects(run) == [".lock-000002"]


def test_one_who_waits_gets_the_lock_when_it_is_let_go(s3_bucket, quick, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_S", 4)
    got = threading.Event()

    def wait():
        with locked(s3_bucket / "run", wait_s=60):
            got.set()

    with locked(s3_bucket / "run"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not got.wait(1.5 * lease.LEASE_S)  # however long: the holder lives
    waiting.join(30)
    assert got.is_set()


def test_who_was_taken_over_writes_no_line_any_more(s3_bucket, quick, monkeypatch):
    run = s3_bucket / "run"
    with locked(run) as check:
        ledger = Ledger(run / "ledger.jsonl", check)
        ledger.append("run_started")
        # As if this process had been suspended: no renewal reaches the store.
        monkeypatch.setattr(lease.Lease, "_put", lambda *_, **__: None)
        with locked(run) as check_of_next:
            Ledger(run / "ledger.jsonl", check_of_next).append("stage_finished")
            with pytest.raises(RunError, match="taken this run over"):
                ledger.append("run_finished")
    events = [record.event for record in Ledger(run / "ledger.jsonl").records]
    assert events == ["run_started", "stage_finished"]


def test_a_dead_process_of_this_machine_is_taken_over_at_once(s3_bucket, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_S", 1e9)
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1, check=True)
    write_holder(s3_bucket / "run", 7, host=lease._host(), pid=int(ended.stdout))
    with locked(s3_bucket / "run"):
        assert objects(s3_bucket / "run") == [".lock-000008"]
    assert not lease._is_dead({"host": lease._host(), "pid": os.getpid()})
    assert not lease._is_dead({"host": "elsewhere", "pid": int(ended.stdout)})


def test_of_several_takers_one_holds(s3_bucket, quick, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_S", 120)
    run = s3_bucket / "run"
    write_holder(run, 3, released=True)
    held, refused, others_are_gone = [], [], threading.Event()
    at_once = threading.Barrier(4)

    def take():
        at_once.wait()
        try:
            with locked(run):
                held.append(True)
                others_are_gone.wait(60)
        except RunError:
            refused.append(True)
            if len(refused) == 3:
                others_are_gone.set()

    takers = [threading.Thread(target=take) for _ in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join(90)
    assert (len(held), len(refused)) == (1, 3)
    assert objects(run) == [".lock-000004"]


def test_who_slept_between_look_and_write_does_not_take_an_old_number(s3_bucket):
    run = s3_bucket / "run"
    write_holder(run, 5)  # 4 was made, held, and cleared away meanwhile
    me = {"owner": "me", "renewed": 0}
    assert not lease._claim(lease._Objects(run, LOCK_NAME), 4, me)
    assert objects(run) == [".lock-000005"]


def test_a_number_that_is_ours_though_the_store_said_no_is_held(s3_bucket, monkeypatch):
    run = s3_bucket / "run"

    def answer_lost(path, data):
        storage.write_bytes(path, data)
        return False

    monkeypatch.setattr(lease, "exclusive_create", answer_lost)
    assert lease._claim(lease._Objects(run, LOCK_NAME), 1, {"owner": "me", "renewed": 0})


def test_the_lease_of_a_place_goes_with_its_end_and_whoever_waited_gets_the_next(s3_bucket, quick):
    place, got = s3_bucket / "pools" / "mri", []

    def wait():
        with locked_place(place, what="pool", wait_s=60):
            got.append(objects(place.parent))

    with locked_place(place, what="pool"):
        assert objects(place.parent) == [".mri.lock-000001"]
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(3 * lease.POLL_S)
        assert not got
    waiting.join(30)
    assert got == [[".mri.lock-000001"]]
    assert not objects(place.parent)
    assert not objects(place)


def test_who_was_taken_over_by_one_that_left_nothing_holds_no_more_and_takes_nothing_away(
    s3_bucket, quick, monkeypatch
):
    pool, put = s3_bucket / "pools" / "mri", lease.Lease._put
    with locked_place(pool, what="pool") as check:
        monkeypatch.setattr(lease.Lease, "_put", lambda *_, **__: None)  # suspended
        with locked_place(pool, what="pool"):
            monkeypatch.setattr(lease.Lease, "_put", put)
        with pytest.raises(RunError, match="taken this pool over"):
            check()  # none holds it now
        next_holder = locked_place(pool, what="pool")
        check_of_next = next_holder.__enter__()  # numbers began anew
        with pytest.raises(RunError, match="taken this pool over"):
            check()
    check_of_next()
    assert objects(pool.parent) == [".mri.lock-000001"]
    next_holder.__exit__(None, None, None)
    assert not objects(pool.parent)
