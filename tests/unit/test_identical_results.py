"""The proof that results stay identical can fail: each kind of change to a run's files is found and named."""

import json
from pathlib import Path

import identical_results
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from identical.fingerprints import of_folder

ROUND = "runs/a/rounds/000"


def write_run(work: Path, *, second: int = 1) -> Path:
    """What a run leaves, in small: written at some second, which the ledger and its hashes tell."""
    folder = work / ROUND
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"image_id": ["a", "b"], "utility": [0.25, 0.5]}), folder / "selection.parquet")
    (folder / "model.safetensors").write_bytes(b"\x01\x02\x03")
    (folder / "metrics.json").write_text(json.dumps({"num_labels": 2, "splits": {"val": 0.5}}))
    pq.write_table(pa.table({"objective": [0.5], "train_s": [second / 3]}), work / "runs/sweep.parquet")
    pq.write_table(pa.table({"uri": [f"{work}/a.png"]}), work / "runs/origins.parquet")
    (work / "runs/verdict.json").write_text(json.dumps({"arms": [{"mean": 0.5, "seconds": second}]}))
    (work / "runs/sweep.html").write_text(f"<td>0.5</td><td>{second}.0 s</td>")
    (folder / "COMMITTED").write_text(f"hash of line 1 at {second}\n")
    (work / "runs/a/config.yaml").write_text(f"pool:\n  path: {work}/pools/a\n")
    (work / "runs/a/.lock").write_text(str(second))
    write_ledger(work / "runs/a/ledger.jsonl", second=second)
    return work


def write_ledger(path: Path, *, second: int = 1, run_id: str = "r1", chain: str = "hash of line 0") -> None:
    stamp = f"2026-01-01T00:00:{second:02d}"
    lines = [
        {"data": {"run_id": run_id, "versions": {"numpy": str(second)}}, "event": "run_started"},
        {"data": {"stage": "train", "seconds": second / 7}, "event": "stage_finished"},
    ]
    hashes = ["0" * 64, f"{chain} at {second}", f"hash of line 1 at {second}"]
    whole = [
        {**line, "time_utc": stamp, "prev_hash": hashes[number], "hash": hashes[number + 1]}
        for number, line in enumerate(lines)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in whole))


def found_between(before: Path, after: Path) -> list[str]:
    return identical_results.differences(of_folder(before, before), of_folder(after, after))


def test_another_time_and_folder_make_no_difference(tmp_path):
    before, after = write_run(tmp_path / "a"), write_run(tmp_path / "b", second=2)
    assert len(of_folder(before, before)) == 20
    assert found_between(before, after) == []


@pytest.mark.parametrize(
    "name",
    [f"{ROUND}/model.safetensors", "runs/a/config.yaml", f"{ROUND}/COMMITTED", "runs/sweep.html"],
)
def test_a_changed_byte_is_found(tmp_path, name):
    before, after = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    content = bytearray((after / name).read_bytes())
    content[3 if name.endswith("html") else -2] ^= 1
    (after / name).write_bytes(content)
    assert f"changed  {name}" in found_between(before, after)


def test_the_column_and_the_key_that_changed_are_named(tmp_path):
    before, after = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    table = pa.table({"image_id": ["a", "b"], "utility": [0.25, 0.5000000000000001]})
    pq.write_table(table, after / ROUND / "selection.parquet")
    (after / ROUND / "metrics.json").write_text(json.dumps({"num_labels": 2, "splits": {"val": 0.6}}))
    pq.write_table(pa.table({"uri": [f"{after}/b.png"]}), after / "runs/origins.parquet")
    pq.write_table(pa.table({"objective": [0.25], "train_s": [1.0]}), after / "runs/sweep.parquet")
    (after / "runs/verdict.json").write_text(json.dumps({"arms": [{"mean": 0.25, "seconds": 1}]}))
    assert found_between(before, after) == [
        f"changed  {ROUND}/metrics.json",
        f"changed  {ROUND}/metrics.json splits",
        f"changed  {ROUND}/selection.parquet",
        f"changed  {ROUND}/selection.parquet column utility",
        "changed  runs/origins.parquet column uri",
        "changed  runs/sweep.parquet column objective",
        "changed  runs/verdict.json",
        "changed  runs/verdict.json arms",
    ]


def test_a_type_of_a_column_is_part_of_it(tmp_path):
    before, after = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    table = pa.table({"image_id": ["a", "b"], "utility": pa.array([0.25, 0.5], pa.float32())})
    pq.write_table(table, after / ROUND / "selection.parquet")
    assert f"changed  {ROUND}/selection.parquet schema" in found_between(before, after)


def test_files_that_are_gone_or_new_are_found(tmp_path):
    before, after = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    (after / ROUND / "model.safetensors").rename(after / ROUND / "weights.safetensors")
    assert found_between(before, after) == [
        f"gone     {ROUND}/model.safetensors",
        f"new      {ROUND}/weights.safetensors",
    ]


def test_a_line_of_the_ledger_and_its_chain_are_compared(tmp_path):
    before, after = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    ledger = after / "runs/a/ledger.jsonl"
    write_ledger(ledger, run_id="r2")
    assert found_between(before, after) == ["changed  runs/a/ledger.jsonl line 000 run_started"]
    write_ledger(ledger)
    ledger.write_text(ledger.read_text().replace('"prev_hash": "hash of line 0', '"prev_hash": "another'))
    assert found_between(before, after) == ["changed  runs/a/ledger.jsonl chain holds"]


def recorded(path: Path, parts: dict[str, dict[str, str]], left_out: str | None = None) -> str:
    tree = {name: {"left_out": left_out, "entries": entries} for name, entries in parts.items()}
    path.write_text(json.dumps({"commit": "x", "parts": tree}))
    return str(path)


def test_compare_says_what_differs_and_fails(tmp_path, capsys):
    before = recorded(tmp_path / "a.json", {"sweep": {"x": "1", "y": "2"}, "score": {"z": "3"}})
    after = recorded(tmp_path / "b.json", {"sweep": {"x": "1", "y": "4"}, "score": {"z": "3"}})
    assert identical_results.main(["compare", before, after, "--only", "score"]) == 0
    assert identical_results.main(["compare", before, after, "--only", "score,sweep"]) == 1
    printed = capsys.readouterr().out
    assert "changed  y" in printed
    assert "changed  x" not in printed


@pytest.mark.parametrize("left_out", [None, "no data"])
def test_what_was_not_compared_proves_nothing(tmp_path, capsys, left_out):
    parts = {} if left_out is None else {"mri": {}}
    before = recorded(tmp_path / "a.json", {"mri": {"x": "1"}})
    after = recorded(tmp_path / "b.json", parts, left_out)
    assert identical_results.main(["compare", before, after, "--only", "mri"]) == 1
    assert "NOT COMPARED" in capsys.readouterr().out
