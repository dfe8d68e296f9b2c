"""Labels that come in by CSV, and what goes out to be labelled."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image

import xal_ray
from xal_ray.errors import LabelError, RunError
from xal_ray.labels.export import export_selection
from xal_ray.labels.inbox import import_labels
from xal_ray.labels.oracle import reveal
from xal_ray.labels.table import merge, read_labels
from xal_ray.layout import RECEIVED_SCHEMA, SELECTION_SCHEMA, RunLayout
from xal_ray.ledger import Ledger
from xal_ray.pool.schema import (
    INDEX_SCHEMA,
    LABEL_SCHEMA,
    ORIGIN_SCHEMA,
    PART_SCHEMA,
    SCHEMA_VERSION,
    open_pool,
)
from xal_ray.storage import read_table, write_json, write_table

SIZE = 8


@pytest.fixture
def pool(tmp_path):
    """Six images `a` to `f` of 16 x 12 pixels in the original; `a` to `e` in the pool, `f` in test."""
    path = tmp_path / "pool"
    names = list("abcdef")
    index = [
        {
            "image_id": name,
            "group_id": f"g{name}",
            "split": "test" if name == "f" else "pool",
            "label": "cat" if name == "f" else None,
            "roi_state": "not_annotated",
            "width": 16,
            "height": 12,
            "content_sha256": "0",
            "part": 0,
            "row": row,
        }
        for row, name in enumerate(names)
    ]
    pixels = [np.full((SIZE, SIZE, 1), row, dtype=np.uint8).tobytes() for row in range(6)]
    parts = [
        {"image_id": name, "pixels": image, "roi": None} for name, image in zip(names, pixels, strict=True)
    ]
    originals = tmp_path / "originals"
    originals.mkdir()
    exif = Image.Exif()
    exif[0x010E] = "Jane Roe"
    Image.fromarray(np.full((12, 16), 200, dtype=np.uint8)).save(originals / "a.png", exif=exif)
    uris = [{"image_id": name, "uri": str(originals / f"{name}.png"), "is_part": False} for name in names]
    hidden = [
        {"image_id": name, "label": label}
        for name, label in zip("abcd", ["cat", "dog", "cat", "dog"], strict=True)
    ]
    write_table(path / "index.parquet", pa.Table.from_pylist(index, schema=INDEX_SCHEMA))
    write_table(path / "parts" / "00000.parquet", pa.Table.from_pylist(parts, schema=PART_SCHEMA))
    write_table(path / "origins.parquet", pa.Table.from_pylist(uris, schema=ORIGIN_SCHEMA))
    write_table(path / "hidden_labels.parquet", pa.Table.from_pylist(hidden, schema=LABEL_SCHEMA))
    card = {
        "schema_version": SCHEMA_VERSION,
        "classes": ["cat", "dog"],
        "image_size": SIZE,
        "channels": 1,
        "settings": {"dicom": {}, "nifti": {}},
    }
    write_json(path / "card.json", card)
    return open_pool(path)


@pytest.fixture
def labels_csv(tmp_path):
    def write(*lines, header="image_id,label"):
        path = tmp_path / "labels.csv"
        path.write_text("\n".join([header, *lines]) + "\n")
        return path

    return write


def selection(*image_ids):
    rows = [
        {"image_id": name, "rank": rank, "utility": 0.5, "reason": "=1+1"}
        for rank, name in enumerate(image_ids)
    ]
    return pa.Table.from_pylist(rows, schema=SELECTION_SCHEMA)


def test_the_oracle_reveals_the_asked_ids_in_their_order(pool):
    assert reveal(pool, ["c", "b"]).to_pylist() == [
        {"image_id": "c", "label": "cat", "roi": None},
        {"image_id": "b", "label": "dog", "roi": None},
    ]


def test_the_oracle_says_which_labels_it_lacks(pool):
    with pytest.raises(LabelError, match="the first: e"):
        reveal(pool, ["a", "e"])


def test_labels_are_read_sorted_and_empty_ones_are_skipped(pool, labels_csv):
    table = read_labels(labels_csv("b,dog", "a, cat ", "c,"), pool, ["a", "b", "c"])
    assert table.schema.equals(RECEIVED_SCHEMA)
    assert table.select(["image_id", "label"]).to_pylist() == [
        {"image_id": "a", "label": "cat"},
        {"image_id": "b", "label": "dog"},
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("zebra,cat", "not in the pool"),
        ("f,cat", "not one of those that wait"),
        ("d,cat", "not one of those that wait"),
        ("b,bird", "not one of the pool's classes"),
        ("b,Cat", "not one of the pool's classes"),
        ("a,dog", "two different labels"),
    ],
)
def test_a_line_that_does_not_fit_is_named(pool, labels_csv, line, message):
    with pytest.raises(LabelError, match=message) as caught:
        read_labels(labels_csv("a,cat", line), pool, ["a", "b"])
    assert "line 3" in str(caught.value)


def test_a_missing_column_and_a_missing_file_are_explained(pool, labels_csv, tmp_path):
    with pytest.raises(LabelError, match="lack the column 'label'"):
        read_labels(labels_csv("a,cat", header="image_id,labels"), pool, ["a"])
    with pytest.raises(LabelError, match="can't be read"):
        read_labels(tmp_path / "none.csv", pool, ["a"])


def test_a_box_becomes_coverage_in_the_pools_frame(pool, labels_csv):
    path = labels_csv("a,cat,0,0,8,12", header="image_id,label,box_x0,box_y0,box_x1,box_y1")
    (roi,) = read_labels(path, pool, ["a"])["roi"].to_pylist()
    coverage = np.frombuffer(roi, dtype=np.uint8).reshape(SIZE, SIZE)
    assert (coverage[:, :4] == 255).all()
    assert (coverage[:, 4:] == 0).all()


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("0,0,99,12", "outside"),
        ("8,0,0,12", "box"),
        ("0,0,x,12", "not a number"),
        ("0,,8,12", "not a number"),
    ],
)
def test_a_box_that_does_not_fit_is_named_by_line(pool, labels_csv, cells, message):
    path = labels_csv(f"a,cat,{cells}", header="image_id,label,box_x0,box_y0,box_x1,box_y1")
    with pytest.raises(LabelError, match=message) as caught:
        read_labels(path, pool, ["a"])
    assert "line 2" in str(caught.value)


def test_a_mask_is_read_from_beside_the_file_and_nowhere_else(pool, labels_csv, tmp_path):
    mask = np.zeros((12, 16), dtype=np.uint8)
    mask[:6] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (roi,) = read_labels(labels_csv("a,cat,mask.png", header="image_id,label,mask"), pool, ["a"])[
        "roi"
    ].to_pylist()
    coverage = np.frombuffer(roi, dtype=np.uint8).reshape(SIZE, SIZE)
    assert (coverage[:4] == 255).all()
    assert (coverage[4:] == 0).all()
    with pytest.raises(LabelError, match="outside the folder"):
        read_labels(labels_csv("a,cat,../../mask.png", header="image_id,label,mask"), pool, ["a"])
    Image.fromarray(mask * 0).save(tmp_path / "mask.png")  # nothing was drawn: no ROI of nothing
    rows = read_labels(labels_csv("a,cat,mask.png", header="image_id,label,mask"), pool, ["a"]).to_pylist()
    assert rows == [{"image_id": "a", "label": "cat", "roi": None}]
    Image.fromarray(mask[:, :5]).save(tmp_path / "mask.png")
    with pytest.raises(LabelError, match="another size"):
        read_labels(labels_csv("a,cat,mask.png", header="image_id,label,mask"), pool, ["a"])


def test_merging_again_changes_nothing_and_another_label_is_refused(pool, labels_csv):
    first = read_labels(labels_csv("a,cat"), pool, ["a", "b"])
    both = merge(first, read_labels(labels_csv("a,cat", "b,dog"), pool, ["a", "b"]))
    assert both["image_id"].to_pylist() == ["a", "b"]
    assert merge(both, first).equals(both)
    with pytest.raises(LabelError, match="another label"):
        merge(both, read_labels(labels_csv("a,dog"), pool, ["a", "b"]))


def test_an_export_shows_the_original_or_else_the_packed_image_and_nothing_more(pool, tmp_path):
    path = export_selection(tmp_path / "to_label", pool, selection("b", "a"))
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image_id"] for row in rows] == ["b", "a"]
    assert [row["label"] for row in rows] == ["", ""]
    assert rows[0]["reason"] == "'=1+1"
    packed, original = (np.asarray(Image.open(path.parent / row["file"])) for row in rows)
    assert packed.shape == original.shape == (12, 16)  # of the original: what is drawn on it fits
    assert (packed == 1).all()
    assert (original == 200).all()
    assert b"Jane Roe" in (tmp_path / "originals" / "a.png").read_bytes()
    assert b"Jane Roe" not in (path.parent / rows[1]["file"]).read_bytes()


@pytest.fixture
def waiting_run(pool, tmp_path):
    """A run whose initial set, `a` and `b`, waits for labels."""
    layout = RunLayout(tmp_path / "run")
    tree = {"name": "x", "pool": {"path": str(pool.path)}, "labels": {"source": "export"}}
    layout.path.mkdir()
    layout.config.write_text(yaml.safe_dump(tree))
    Ledger(layout.ledger).append("run_started", run_id="abc")
    write_table(layout.initial.selection, selection("a", "b"))
    export_selection(layout.initial.to_label, pool, selection("a", "b"))
    return layout


def test_labels_are_imported_bit_by_bit_and_twice_changes_nothing(waiting_run, labels_csv):
    first = import_labels(waiting_run.path, labels_csv("a,cat"))
    assert (first.round_title, first.num_new, first.num_missing) == ("initial set", 1, 1)
    records = len(Ledger(waiting_run.ledger).records)
    again = import_labels(waiting_run.path, labels_csv("a,cat"))
    assert (again.num_new, again.num_missing) == (0, 1)
    assert len(Ledger(waiting_run.ledger).records) == records
    rest = import_labels(waiting_run.path, labels_csv("a,cat", "b,dog"))
    assert (rest.num_new, rest.num_missing) == (1, 0)
    assert read_table(waiting_run.initial.labels)["label"].to_pylist() == ["cat", "dog"]


def test_a_bad_line_imports_nothing(waiting_run, labels_csv):
    with pytest.raises(LabelError, match="line 3"):
        import_labels(waiting_run.path, labels_csv("a,cat", "b,bird"))
    assert not waiting_run.initial.labels.exists()


def test_a_second_import_after_the_commit_changes_nothing_and_new_labels_are_refused(waiting_run, labels_csv):
    file = labels_csv("a,cat", "b,dog")
    import_labels(waiting_run.path, file)
    Ledger(waiting_run.ledger).append("round_committed", round_number=-1, labels={"a": "cat", "b": "dog"})
    content = waiting_run.ledger.read_bytes()
    assert import_labels(waiting_run.path, file).num_new == 0
    assert waiting_run.ledger.read_bytes() == content
    with pytest.raises(LabelError, match="no round of this run waits"):
        import_labels(waiting_run.path, labels_csv("a,dog", "b,dog"))


def test_importing_where_nothing_waits_or_no_run_is_explained(waiting_run, labels_csv, tmp_path):
    with pytest.raises(RunError, match="no run here"):
        import_labels(tmp_path / "nowhere", labels_csv("a,cat"))
    shutil.rmtree(waiting_run.initial.to_label)
    with pytest.raises(LabelError, match="no round of this run waits"):
        import_labels(waiting_run.path, labels_csv("a,cat"))


def test_only_the_oracle_opens_the_hidden_labels():
    """Beside the stage that writes them, one module forms the file's path."""
    package = Path(xal_ray.__file__).parent
    naming = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if '/ "hidden_labels.parquet"' in path.read_text()
    }
    assert naming == {"engine/prepare.py", "labels/oracle.py"}
