"""What a single pass does not choose again."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xal_ray.errors import LabelError, RunError
from xal_ray.labels.exclusions import find_exclusions, read_ids, run_of_model
from xal_ray.record.layout import SELECTION_SCHEMA, RunLayout
from xal_ray.record.ledger import Ledger
from xal_ray.storage import write_table


class Pool:
    """As much of a pool as is needed."""

    content_hash = "c0ffee"

    def index(self):
        splits = ["pool"] * 6 + ["val", "test", "labeled"]
        return pa.table({"image_id": list("abcdefvtl"), "split": splits})


@pytest.fixture
def run(tmp_path):
    """A run that has labels of b and v, and waits for one of d."""
    layout = RunLayout(tmp_path / "run")
    ledger = Ledger(layout.ledger)
    layout.path.mkdir()
    ledger.append("run_started", pool_hash="c0ffee")
    ledger.append("round_committed", round_number=-1, labels={"b": "cat"}, files={}, selected={})
    pick = {"image_id": "d", "rank": 0, "utility": 1.0, "reason": "so"}
    write_table(layout.round(0).selection, pa.Table.from_pylist([pick], schema=SELECTION_SCHEMA))
    return layout.path


def test_what_a_run_has_labelled_or_picked_is_left_out_and_counted(run):
    found = find_exclusions(Pool(), run)
    assert found.image_ids.to_pylist() == ["b", "d"]
    assert found.in_words(6) == (
        f"6 images in the pool, 2 labelled or picked in {run} left out: 4 to choose from"
    )


def test_a_run_on_another_pool_is_said_to_be_one(run):
    other = Pool()
    other.content_hash = "decaf"
    assert "that run was on another pool" in find_exclusions(other, run).in_words(6)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ids.txt", "a\n\nc \n"),
        ("ids.csv", "rank,image_id\n0,a\n1,c\n"),
        ("selection.csv", "\ufeffimage_id,label\n'a,x\nc,\n"),
        ("windows.csv", "image_id\r\na\r\nc\r\n"),
        ("excel.csv", "sep=;\r\nrank;Image ID\r\n0;a\r\n1;c\r\n;\r\n"),
        ("list", "# read last week\na\nc\n"),
    ],
)
def test_lists_of_any_form_add_to_it(run, tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, newline="", encoding="utf-8")
    assert read_ids(path).to_pylist() == ["a", "c"]
    assert find_exclusions(Pool(), run, (path,)).image_ids.to_pylist() == ["a", "b", "c", "d"]


def test_names_of_files_are_ids_and_rows_of_no_image_are_counted(tmp_path):
    (tmp_path / "list.csv").write_text("image_id\nimages/a.png\n0003_c.png\nx\n")
    found = find_exclusions(Pool(), None, (tmp_path / "list.csv",))
    assert found.image_ids.to_pylist() == ["a", "c"]
    assert found.reasons[0].endswith("left out (1 of its rows name no image of this pool)")


def test_a_list_in_a_workbook_is_refused_with_advice(tmp_path):
    (tmp_path / "list.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(LabelError, match="CSV UTF-8"):
        read_ids(tmp_path / "list.xlsx")


def test_a_selection_is_a_list_too(tmp_path):
    pq.write_table(pa.table({"image_id": ["c", "l"], "rank": [0, 1]}), tmp_path / "selection.parquet")
    assert find_exclusions(Pool(), None, (tmp_path / "selection.parquet",)).image_ids.to_pylist() == ["c"]


def test_a_list_of_another_pool_is_refused_and_one_without_ids_is_not(tmp_path):
    (tmp_path / "other.txt").write_text("x\ny\n")
    with pytest.raises(LabelError, match="no image of a list is in the pool"):
        find_exclusions(Pool(), None, (tmp_path / "other.txt",))
    (tmp_path / "none.csv").write_text("image_id\n")
    assert len(find_exclusions(Pool(), None, (tmp_path / "none.csv",)).image_ids) == 0


@pytest.mark.parametrize("text", [b"id,name\n1,2\n", b"\xff\xfe\x00"])
def test_a_list_that_can_not_be_read_is_refused(tmp_path, text):
    (tmp_path / "list.csv").write_bytes(text)
    with pytest.raises(LabelError, match="a list of images"):
        read_ids(tmp_path / "list.csv")


def test_a_run_is_found_from_its_model_and_nothing_else_is(run, tmp_path):
    model = run / "rounds" / "000"
    assert run_of_model(model) == run_of_model(model / "model.safetensors") == run
    assert run_of_model(tmp_path / "model") is None
    (run / "ledger.jsonl").unlink()
    assert run_of_model(model) is None
    with pytest.raises(RunError, match="no run here"):
        find_exclusions(Pool(), run)


def test_a_run_is_found_by_a_link_and_from_within(run, tmp_path, monkeypatch):
    model = run / "rounds" / "000"
    (tmp_path / "latest").symlink_to(model)
    (tmp_path / "weights.safetensors").symlink_to(model / "model.safetensors")
    assert run_of_model(tmp_path / "latest") == run
    assert run_of_model(tmp_path / "weights.safetensors") == run
    monkeypatch.chdir(model)
    assert run_of_model(Path()) == run_of_model(Path("model.safetensors")) == run


def test_where_nothing_says_what_is_labelled_that_is_said():
    words = find_exclusions(Pool(), None).in_words(6)
    assert words.startswith("6 images in the pool, none left out (")
    assert "--run" in words
