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
from xal_ray.labels.answers import Ids, as_class
from xal_ray.labels.export import export_selection
from xal_ray.labels.inbox import import_labels
from xal_ray.labels.oracle import reveal
from xal_ray.labels.table import merge, read_labels
from xal_ray.loop.labelling import missing_labels
from xal_ray.pool.schema import (
    INDEX_SCHEMA,
    LABEL_SCHEMA,
    ORIGIN_SCHEMA,
    PART_SCHEMA,
    SCHEMA_VERSION,
    open_pool,
)
from xal_ray.record.layout import RECEIVED_SCHEMA, SELECTION_SCHEMA, RunLayout
from xal_ray.record.ledger import Ledger
from xal_ray.storage import read_table, sha256_file, write_json, write_table

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


def _labels(pool, path, awaited=("a", "b", "c"), **options):
    """The labels that are read, and what was told."""
    told: list[str] = []
    table = read_labels(path, pool, list(awaited), tell=told.append, **options)
    return {row["image_id"]: row["label"] for row in table.to_pylist()}, told


def _refused(pool, path, **options) -> dict:
    with pytest.raises(LabelError) as caught:
        _labels(pool, path, **options)
    assert caught.value.details["next"], "every refusal says what to do next"
    return {"what": caught.value.what, **caught.value.details}


def test_classes_in_another_column_are_found_and_can_be_taken(pool, labels_csv):
    header = "annotation_id,choice,image_id,label"
    path = labels_csv("0,cat,a,", "1,dog,b,", "2,not sure,c,", header=header)
    error = _refused(pool, path)
    assert error["what"] == "all 3 rows are empty in 'label'"
    assert error["found"] == "'choice' has classes of this pool"
    assert error["next"] == "--label-column choice"
    path = labels_csv("0,cat,a,", "1,dog,b,", header=header)
    assert _labels(pool, path, label_column="choice")[0] == {"a": "cat", "b": "dog"}
    error = _refused(pool, labels_csv("a,cat", header="image_id,sentiment"))
    assert error["what"] == "the labels lack the column 'label'"
    assert error["next"] == "--label-column sentiment"
    assert _refused(pool, labels_csv("a,x", header="image_id,lable"))["next"] == "--label-column lable"


@pytest.mark.parametrize(
    "cell", ['{"choices": ["cat"]}', '["cat"]', '[{"choices": ["cat"]}]', '"cat"', '{"choices": "cat"}']
)
def test_choices_written_as_json(pool, labels_csv, cell):
    quoted = '"' + cell.replace('"', '""') + '"'
    path = labels_csv(f"a,,{quoted}", "b,,", header="image_id,label,choice")
    assert _refused(pool, path)["next"] == "--label-column choice"
    assert _labels(pool, path, label_column="choice")[0] == {"a": "cat"}
    error = _refused(pool, labels_csv('a,"{""choices"": [""cat"", ""dog""]}"'))
    assert "not one of the pool's classes" in error["what"]
    assert "one class" in error["next"]


def test_a_file_that_nobody_filled_in_says_so_and_an_empty_one_is_refused(pool, labels_csv, tmp_path):
    assert _labels(pool, labels_csv("a,", "b,")) == ({}, ["all 2 rows are empty in 'label'"])
    assert _refused(pool, labels_csv())["what"] == "the labels hold no row"
    (tmp_path / "labels.csv").write_text("")
    assert _refused(pool, tmp_path / "labels.csv")["found"] == "an empty file"


@pytest.mark.parametrize(
    "cell",
    [
        "a.png",
        "images/a.png",
        "C:\\x\\a.tif",
        "0003_a.png",
        "/data/upload/1/1a2b3c4d-0003_a.png",
        "'a",
        "/data/local-files/?d=b%2F0003_a.png",
        "https://store/b%2F0003_a.png?token=x/y&d=1.2",
    ],
)
def test_ids_that_come_back_as_files(pool, labels_csv, cell):
    assert _labels(pool, labels_csv(f"{cell},cat"))[0] == {"a": "cat"}
    found, told = _labels(pool, labels_csv(f"{cell},cat,1", header="image,label,x"))
    assert found == {"a": "cat"}
    assert told == ["columns: read 'image' as image_id"]


def test_ids_of_paths_and_ids_that_a_path_does_not_tell():
    ids = Ids(["x/1.png", "y/1.png", "y/2.png", "z:3"], ["x/1.png"])
    assert ids.of("y/2.png") == ids.of("2") == ids.of("0000_y_2.png.png") == "y/2.png"
    assert ids.of("0001_z_3.png") == "z:3"
    assert ids.of("1.png") is None
    assert ids.of("4.png") is None


def test_a_wrong_id_and_a_wrong_class_are_answered_with_the_right_one(pool, labels_csv):
    assert Ids(["0012"], ["0012"]).nearest("12") == "0012"
    assert Ids(["img-77aa"], ["img-77aa"]).nearest("img-77ab") == "img-77aa"
    assert "to_label/selection.csv" in _refused(pool, labels_csv("zebra,cat"))["next"]
    for label, meant in (("Cat", "cat"), ("dgo", "dog"), ("CAT", "cat")):
        assert f"did you mean '{meant}'?" in _refused(pool, labels_csv(f"a,{label}"))["next"]
    assert "leave the cell empty" in _refused(pool, labels_csv("a,nan"))["next"]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("1.0", "1"),
        ("01", "1"),
        ("TRUE", "true"),
        ("True", "true"),
        ("yes", None),
        ("Cat", None),
        ("10", None),
    ],
)
def test_numbers_and_truth_values_are_read_as_other_programs_write_them(label, expected):
    assert as_class(label, ["0", "1", "cat", "T"] if expected != "true" else ["true", "false"]) == expected


def test_two_labels_of_an_image_name_both_lines(pool, labels_csv):
    error = _refused(pool, labels_csv("a,cat", "b,cat", "a,dog"))
    assert error["where"].endswith("line 4, and line 2")
    assert _labels(pool, labels_csv("a,cat", "a,cat"))[0] == {"a": "cat"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_what_a_spreadsheet_makes_of_labels(pool, tmp_path, encoding):
    text = "sep=;\r\nImage_ID;LABEL;reason\r\na;cat;Größe\r\n;;\r\nb;dog;\r\n;;;;\r\n"
    (tmp_path / "l.csv").write_bytes(text.encode(encoding))
    assert _labels(pool, tmp_path / "l.csv")[0] == {"a": "cat", "b": "dog"}


def test_a_comma_too_many_is_refused(pool, labels_csv):
    assert "Expected 2 columns, got 3" in _refused(pool, labels_csv("a,cat, of the house"))["found"]
    assert _labels(pool, labels_csv("a,cat,,"))[0] == {"a": "cat"}


def test_a_workbook_is_refused_with_advice(pool, tmp_path):
    (tmp_path / "labels.xlsx").write_bytes(b"PK\x03\x04")
    assert "CSV UTF-8" in _refused(pool, tmp_path / "labels.xlsx")["next"]


def test_optional_columns_that_are_nearly_there_are_refused(pool, labels_csv):
    for column, value in (("mask_path", "m.png"), ("box_x", "1")):
        error = _refused(pool, labels_csv(f"a,cat,{value}", header=f"image_id,label,{column}"))
        assert f"rename '{column}' to" in error["next"]
    error = _refused(pool, labels_csv("a,cat,1,2,3,4", header="image_id,label,xmin,ymin,xmax,ymax"))
    assert (error["found"], error["expected"]) == ("xmin, ymin, xmax, ymax", "box_x0, box_y0, box_x1, box_y1")
    error = _refused(pool, labels_csv("a,cat,1,1,2", header="image_id,label,box_x0,box_y0,box_x1"))
    assert error["what"] == "the labels lack the column 'box_y1'"


def test_two_boxes_of_an_image_are_no_two_labels(pool, labels_csv):
    header = "image_id,label,box_x0,box_y0,box_x1,box_y1"
    error = _refused(pool, labels_csv("a,cat,0,0,8,12", "a,cat,8,0,16,12", header=header))
    assert error["what"] == "an image has two different regions"


def test_a_box_or_mask_that_a_program_left_out_is_none(pool, labels_csv):
    header = "image_id,label,mask,box_x0,box_y0,box_x1,box_y1"
    (row,) = read_labels(labels_csv("a,cat,NA,nan,nan,nan,nan", header=header), pool, ["a"]).to_pylist()
    assert (row["label"], row["roi"]) == ("cat", None)


def test_decimal_commas_in_boxes_where_commas_do_not_part_cells(pool, labels_csv):
    header = "image_id;label;box_x0;box_y0;box_x1;box_y1"
    table = read_labels(labels_csv("a;cat;0,0;0;8,0;12", header=header), pool, ["a"])
    plain = read_labels(labels_csv("a,cat,0,0,8,12", header=header.replace(";", ",")), pool, ["a"])
    assert table.equals(plain)


def test_a_box_becomes_coverage_in_the_pools_frame(pool, labels_csv):
    path = labels_csv("a,cat,0,0,8,12", header="image_id,label,box_x0,box_y0,box_x1,box_y1")
    (roi,) = read_labels(path, pool, ["a"])["roi"].to_pylist()
    coverage = np.frombuffer(roi, dtype=np.uint8).reshape(SIZE, SIZE)
    assert (coverage[:, :4] == 255).all()
    assert (coverage[:, 4:] == 0).all()


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("90,0,99,12", "outside"),
        ("8,0,0,12", "wrong order"),
        ("8,0,8,12", "no area"),
        ("0,0,x,12", "no numbers"),
        ("0,,8,12", "no numbers"),
    ],
)
def test_a_box_that_can_not_be_meant_costs_its_image_and_is_named_by_line(pool, labels_csv, cells, message):
    header = "image_id,label,box_x0,box_y0,box_x1,box_y1"
    with pytest.raises(LabelError, match=message) as caught:
        read_labels(labels_csv(f"a,cat,{cells}", header=header), pool, ["a"])
    assert "line 2" in str(caught.value)
    assert caught.value.details["next"]
    told = []
    path = labels_csv("b,dog,0,0,8,12", f"a,cat,{cells}", header=header)
    assert read_labels(path, pool, ["a", "b"], tell=told.append)["image_id"].to_pylist() == ["b"]
    (line,) = told
    assert line.startswith("warning: line 3: a box can't be meant")
    assert "still waits" in line


def test_a_box_over_the_edge_is_cut_and_told(pool, labels_csv):
    path = labels_csv("a,cat,8,-5,99,12", header="image_id,label,box_x0,box_y0,box_x1,box_y1")
    told = []
    (roi,) = read_labels(path, pool, ["a"], tell=told.append)["roi"].to_pylist()
    coverage = np.frombuffer(roi, dtype=np.uint8).reshape(SIZE, SIZE)
    assert (coverage[:, 4:] == 255).all()
    assert told == ["warning: boxes that reach out of their image are cut at its edge: lines 2"]


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


def test_a_label_that_was_imported_can_be_replaced_as_the_refusal_says(waiting_run, labels_csv):
    import_labels(waiting_run.path, labels_csv("a,cat", "b,dog"))
    with pytest.raises(LabelError, match="already imported with another label") as caught:
        import_labels(waiting_run.path, labels_csv("a,dog"))
    assert f"remove {waiting_run.initial.labels} and" in caught.value.details["next"]
    waiting_run.initial.labels.unlink()
    assert import_labels(waiting_run.path, labels_csv("a,dog", "b,dog")).num_new == 2
    assert read_table(waiting_run.initial.labels)["label"].to_pylist() == ["dog", "dog"]


def test_an_import_that_was_killed_before_its_record_is_recorded_by_the_same_import(
    waiting_run, labels_csv, monkeypatch
):
    file = labels_csv("a,cat")
    with monkeypatch.context() as killed:
        killed.setattr(Ledger, "append", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            import_labels(waiting_run.path, file)
    for _ in range(2):
        import_labels(waiting_run.path, file)
        imports = [r.data for r in Ledger(waiting_run.ledger).records if r.event == "labels_imported"]
        assert [(data["num_new"], data["file_sha256"]) for data in imports] == [(1, sha256_file(file))]


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


def test_closing_passes_over_the_picks_without_a_label(waiting_run, labels_csv):
    """Images that nobody can label do not hold up the others; with fewer than two labels nothing goes on."""
    write_table(waiting_run.initial.selection, selection("a", "b", "c"))
    with pytest.raises(LabelError, match="too few labels to go on with"):
        import_labels(waiting_run.path, labels_csv("a,cat"), close=True)
    assert not waiting_run.initial.passed_over.exists()
    assert missing_labels(waiting_run.initial) == ["b", "c"]
    received = import_labels(waiting_run.path, labels_csv("a,cat", "b,dog"), close=True)
    assert (received.num_new, received.num_missing, received.num_passed_over) == (1, 0, 1)
    assert missing_labels(waiting_run.initial) == []
    assert read_table(waiting_run.initial.passed_over)["image_id"].to_pylist() == ["c"]
    assert Ledger(waiting_run.ledger).records[-1].event == "labels_closed"


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
        if ".hidden_labels" in path.read_text()
    }
    assert naming == {"pool/assemble.py", "labels/oracle.py"}
