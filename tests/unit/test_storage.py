import errno
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xal_ray import storage
from xal_ray.errors import StorageError


def test_a_written_file_is_whole_and_leaves_nothing_beside_it(tmp_path):
    storage.write_bytes(tmp_path / "a" / "b.bin", b"hello")
    assert (tmp_path / "a" / "b.bin").read_bytes() == b"hello"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.bin"]


def test_a_full_disk_is_explained_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "b.bin"
    storage.write_bytes(path, b"old")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full") as caught:
        storage.write_bytes(path, b"new")
    assert caught.value.exit_code == 2
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.bin"]


def test_a_folder_that_refuses_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="refused a write"):
        storage.write_bytes(tmp_path / "file" / "below.bin", b"x")


def test_tables_come_back_and_equal_tables_are_equal_bytes(tmp_path):
    table = pa.table({"id": ["a", "b"], "pixels": [b"\x00\x01", b"\x02\x03"], "map": [[0.5, 1.0], None]})
    storage.write_table(tmp_path / "1.parquet", table, plain=["pixels"])
    storage.write_table(tmp_path / "2.parquet", table, plain=["pixels"])
    assert storage.read_table(tmp_path / "1.parquet").equals(table)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_shards_are_read_in_the_order_of_their_names(tmp_path):
    for number in (2, 0, 1):
        storage.write_table(tmp_path / f"{number:05d}.parquet", pa.table({"n": [number], "m": [0]}))
    schema = pa.schema([("n", pa.int64()), ("m", pa.int64())])
    assert storage.read_shards(tmp_path, schema, ["n"]).to_pydict() == {"n": [0, 1, 2]}
    empty = storage.read_shards(tmp_path / "none", schema, ["m"])
    assert (empty.num_rows, empty.column_names) == (0, ["m"])


def test_row_groups_come_one_by_one_and_their_ids_on_demand(tmp_path, monkeypatch):
    for number, ids in [(1, "efghi"), (0, "abcd")]:
        values = [ord(name) / 128 for name in ids]
        table = pa.table({"image_id": list(ids), "x": values, "y": [None, *values[1:]], "z": values})
        storage.write_table(tmp_path / f"{number}.parquet", table, row_group_size=2)
    read, read_row_group = [], pq.ParquetFile.read_row_group

    def counted(file, number, columns, **options):
        read.append(columns)
        return read_row_group(file, number, columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    groups = list(storage.iter_row_groups(tmp_path, ["y", "x"]))
    assert [table.num_rows for table, _ in groups] == [2, 2, 2, 2, 1]
    assert groups[0][0]["y"].to_pylist() == [None, ord("b") / 128]
    assert read == [["y", "x"]] * 5
    # also after all have been gone over, and in any order
    assert ["".join(load_ids().to_pylist()) for _, load_ids in groups[::-1]] == ["i", "gh", "ef", "cd", "ab"]
    assert read[5:] == [["image_id"]] * 5
    assert list(storage.iter_row_groups(tmp_path / "none", ["x"])) == []


def test_row_groups_of_damaged_files_or_without_a_column_are_explained(tmp_path):
    storage.write_table(tmp_path / "0.parquet", pa.table({"image_id": ["a"], "x": [0.5]}))
    with pytest.raises(StorageError, match=r"bald(.|\n)*0\.parquet"):
        next(storage.iter_row_groups(tmp_path, ["x", "bald"]))
    (tmp_path / "0.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(StorageError, match=r"0\.parquet"):
        next(storage.iter_row_groups(tmp_path, ["x"]))


def test_a_damaged_table_is_explained(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(StorageError, match=r"x\.parquet"):
        storage.read_table(tmp_path / "x.parquet")


def test_json_is_canonical_and_refuses_what_json_can_not_hold(tmp_path):
    storage.write_json(tmp_path / "1.json", {"b": 1, "a": [1.5, None]})
    storage.write_json(tmp_path / "2.json", {"a": [1.5, None], "b": 1})
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.write_json(tmp_path / "3.json", {"a": float("nan")})
    assert not (tmp_path / "3.json").exists()


def test_a_digest_depends_on_values_alone():
    assert storage.digest({"a": 1, "b": [2]}) == storage.digest({"b": [2], "a": 1})
    assert storage.digest({"a": 1}) != storage.digest({"a": 2})


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / "rounds").mkdir()
    (tmp_path / "rounds" / ".model.safetensors.1234abcd.tmp").write_bytes(b"half")
    (tmp_path / "rounds" / "kept.txt").write_text("")
    storage.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["kept.txt"]


def test_an_appended_line_is_the_last_one(tmp_path):
    storage.append_line(tmp_path / "l", "one")
    storage.append_line(tmp_path / "l", "two")
    assert (tmp_path / "l").read_text() == "one\ntwo\n"
