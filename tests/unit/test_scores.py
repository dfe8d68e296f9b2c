import numpy as np
import pyarrow as pa
import pytest

from xal_ray import storage
from xal_ray.errors import StorageError
from xal_ray.scores import score_chunks
from xal_ray.storage import tables

FLOATS = pa.float32()


@pytest.fixture
def folder(tmp_path):
    """Two shards in row groups of three; rows without a score in the first and in the last group."""
    entropy = [0.5, None, 0.25, 0.125, 0.75, 1.0, 0.0, None]
    misalignment = [None, None, 0.5, 0.25, None, 1.0, 0.0, None]
    table = pa.table(
        {
            "image_id": list("abcdefgh"),
            "entropy": pa.array(entropy, FLOATS),
            "misalignment": pa.array(misalignment, FLOATS),
            "bald": pa.array([None] * 8, FLOATS),
        }
    )
    storage.write_table(tmp_path / "00000.parquet", table[:6], row_group_size=3)
    storage.write_table(tmp_path / "00001.parquet", table[6:], row_group_size=3)
    return tmp_path


def test_rows_without_a_score_are_left_out_and_null_becomes_nan(folder):
    replay = score_chunks(folder, ["misalignment"])
    for _ in range(2):  # each call goes over all again
        chunks = list(replay())
        assert [list(chunk.image_ids) for chunk in chunks] == [["a", "c"], ["d", "e", "f"], ["g"]]
        columns = {
            name: np.concatenate([chunk.columns[name] for chunk in chunks])
            for name in ("entropy", "misalignment")
        }
        np.testing.assert_array_equal(columns["entropy"], [0.5, 0.25, 0.125, 0.75, 1.0, 0.0])
        np.testing.assert_array_equal(columns["misalignment"], [np.nan, 0.5, 0.25, np.nan, 1.0, 0.0])
        assert {column.dtype for column in columns.values()} == {np.dtype(np.float64)}


def test_a_column_of_nulls_is_refused_when_it_is_used(folder):
    chunk = next(score_chunks(folder, ["entropy", "bald"])())
    assert list(chunk.columns) == ["entropy", "bald"]
    with pytest.raises(ValueError, match="bald is not finite"):
        chunk.column("bald")


def test_ids_are_read_only_when_asked_for(folder, monkeypatch):
    def refuse(*_):
        raise AssertionError("ids were read")

    monkeypatch.setattr(tables, "_read_ids", refuse)
    assert sum(chunk.num_rows for chunk in score_chunks(folder, [])()) == 6


def test_a_missing_column_is_explained(folder):
    with pytest.raises(StorageError, match="margin"):
        list(score_chunks(folder, ["margin"])())
