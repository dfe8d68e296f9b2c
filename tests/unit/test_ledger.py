import json

import pytest

from xal_ray.errors import RunError
from xal_ray.record.ledger import GENESIS, Ledger


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("run_started", run_id="abc")
    ledger.append("round_committed", round_number=-1, labels={"a": "cat", "b": "dog"})
    ledger.append("round_committed", round_number=0, labels={"c": "cat"})
    return ledger


def test_records_are_read_back_and_chained(ledger):
    again = Ledger(ledger.path)
    assert again.records == ledger.records
    assert [record.seq for record in again.records] == [0, 1, 2]
    assert again.records[0].prev_hash == GENESIS
    assert again.records[2].prev_hash == again.records[1].hash


def test_the_label_state_is_a_fold_over_committed_rounds(ledger):
    ledger.append("labels_imported", round_number=1, labels={"z": "dog"})
    assert Ledger(ledger.path).labels() == {"a": "cat", "b": "dog", "c": "cat"}


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_torn_last_line_has_no_effect_and_is_dropped(ledger, kept):
    whole = ledger.path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    ledger.path.write_bytes(whole[: -len(last)] + last[:kept])
    again = Ledger(ledger.path)
    assert [record.seq for record in again.records] == [0, 1]
    again.append("round_committed", round_number=0, labels={"c": "cat"})
    assert len(Ledger(ledger.path).records) == 3


def _edit(record):
    record["data"]["labels"]["a"] = "dog"


def _renumber(record):
    record["seq"] = 7


def _redate(record):
    record["time_utc"] = "2000-01-01T00:00:00"


@pytest.mark.parametrize("change", [_edit, _renumber, _redate])
def test_a_changed_line_is_found_and_named(ledger, change):
    lines = ledger.path.read_text().splitlines()
    record = json.loads(lines[1])
    change(record)
    lines[1] = json.dumps(record)
    ledger.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match="line 2"):
        Ledger(ledger.path)


def test_a_removed_line_is_found(ledger):
    lines = ledger.path.read_text().splitlines()
    ledger.path.write_text("\n".join([lines[0], lines[2]]) + "\n")
    with pytest.raises(RunError, match="hash chain"):
        Ledger(ledger.path)


def test_a_line_that_is_no_record_is_found(ledger):
    ledger.path.write_bytes(b"hello\n" + ledger.path.read_bytes())
    with pytest.raises(RunError, match="not a record"):
        Ledger(ledger.path)


def test_the_commit_of_a_round_is_its_last(ledger):
    assert ledger.commit(-1).round == -1
    assert ledger.commit(0).data["labels"] == {"c": "cat"}
    assert ledger.commit(5) is None
    ledger.append("round_committed", round_number=0, files={}, labels={"d": "dog"}, selected={})
    assert ledger.commit(0).data["labels"] == {"d": "dog"}


def test_who_only_reads_leaves_a_line_that_is_being_written(ledger):
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole + b'{"seq": 3, "ev')
    assert len(Ledger(ledger.path).records) == 3
    assert ledger.path.read_bytes() == whole + b'{"seq": 3, "ev'
    assert len(Ledger(ledger.path, lambda: None).records) == 3  # as the lock's holder
    assert ledger.path.read_bytes() == whole


def test_a_line_that_the_disk_refused_half_way_does_not_spoil_the_next(ledger):
    with ledger.path.open("ab") as stream:
        stream.write(b'{"seq": 3, "ev')
    ledger.append("run_finished")
    assert [record.event for record in Ledger(ledger.path).records][3:] == ["run_finished"]
