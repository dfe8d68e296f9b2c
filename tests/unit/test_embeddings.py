"""The column `embedding` of score shards, read."""

import numpy as np
import pyarrow as pa
import pytest

from xal_ray.errors import StorageError
from xal_ray.scoring.embeddings import all_embeddings, embeddings_of
from xal_ray.storage import write_table


@pytest.fixture
def folder(tmp_path):
    """Two shards; the third image has no score."""
    kind = pa.list_(pa.float16(), 2)
    rows = [[0.5, 1.0], [2.0, -3.0], None, [65504.0, 0.25], [4.0, 5.0]]
    rows = [row and [np.float16(value) for value in row] for row in rows]
    for number, part in enumerate((slice(0, 3), slice(3, 5))):
        table = pa.table({"image_id": list("abcde")[part], "embedding": pa.array(rows[part], kind)})
        write_table(tmp_path / f"{number}.parquet", table)
    return tmp_path


def test_embeddings_come_in_the_order_that_was_asked_for(folder):
    found = embeddings_of(folder, ["e", "a", "d"])
    assert found.dtype == np.float16
    assert found.tolist() == [[4.0, 5.0], [0.5, 1.0], [65504.0, 0.25]]
    assert embeddings_of(folder, []).shape == (0, 0)


def test_images_without_an_embedding_are_no_neighbours_and_are_missed_where_they_are_needed(folder):
    ids, embeddings = all_embeddings(folder)
    assert ids == ["a", "b", "d", "e"]
    assert embeddings.shape == (4, 2)
    with pytest.raises(StorageError, match="lack an embedding"):
        embeddings_of(folder, ["a", "c"])
    assert all_embeddings(folder / "none")[0] == []
