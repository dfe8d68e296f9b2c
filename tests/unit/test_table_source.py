"""The table source: what a CSV or Parquet manifest may say, and every way in which it can be wrong."""

import hashlib
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xal_ray.config import Columns, Pool, Source
from xal_ray.errors import SourceError
from xal_ray.pool.manifest import check_manifest, classes_of
from xal_ray.pool.sources import read_source

MRI = Path(__file__).parents[2] / "../shared/data/brain_tumor_t1ce/manifest.csv"


def _read(folder: Path, text: str, *, group_by: str = "group_id", classes=None, images=("1.png",), **columns):
    for name in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    path = folder / "manifest.csv"
    path.write_text(text, encoding="utf-8")
    return _list(path, group_by, classes, **columns)


def _list(path: Path, group_by: str = "group_id", classes=None, **columns):
    source = Source(path=path, kind="table", columns=Columns(**columns))
    return read_source(Pool(source=source, group_by=group_by, classes=classes)).manifest


def _error(folder: Path, text: str, **arguments) -> str:
    with pytest.raises(SourceError) as caught:
        _read(folder, text, **arguments)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_full_row(tmp_path):
    rows = _read(
        tmp_path,
        "image_id,image,mask,label,group_id,split,box_x0,box_y0,box_x1,box_y1,age\n"
        "0001,1.png,m/1.png,cat,007,pool,1,2.5,3,4e0,50\n"
        "0002,a/../2.png,, ,007,,,,,,51\n",
    ).to_pylist()
    root = tmp_path.resolve()
    assert {name: value for name, value in rows[0].items() if value is not None} == {
        "image_id": "0001",
        "uri": str(root / "1.png"),
        "group_id": "007",
        "label": "cat",
        "split": "pool",
        "mask_uri": str(root / "m/1.png"),
        "boxes": [[1.0, 2.5, 3.0, 4.0]],
        "roi_state": "present",
    }
    assert rows[1]["uri"] == str(root / "2.png")
    assert (rows[1]["label"], rows[1]["split"], rows[1]["mask_uri"]) == (None, None, None)
    assert (rows[1]["boxes"], rows[1]["roi_state"]) == ([], "not_annotated")


def test_frames_and_what_a_breakdown_may_count(tmp_path):
    first, second = _read(
        tmp_path,
        "image,frame,study_id,site,device,sex,age_band\n1.png,0,s1,x,scanner,F,40-49\n1.png,7,s1,,,,\n",
        group_by="header",
    ).to_pylist()
    assert (first["frame"], second["frame"]) == (0, 7)
    assert first["image_id"] != second["image_id"]
    assert (first["group_id"], first["study_id"], first["sex"]) == (None, "s1", "F")
    assert second["site"] is None
    assert "a frame is malformed" in _error(tmp_path, "image,group_id,frame\n1.png,g,-1\n")


def test_image_and_group_are_enough_and_ids_come_from_the_path(tmp_path):
    (row,) = _read(tmp_path, "image,group_id\nx/../1.png,g\n").to_pylist()
    assert row["image_id"] == "img-" + hashlib.sha256(b"1.png").hexdigest()[:16]
    assert row["label"] is None


def test_other_column_names_and_a_bom(tmp_path):
    text = "\ufefffile,patient,finding\n1.png,p,yes\n"
    (row,) = _read(tmp_path, text, image="file", group_id="patient", label="finding").to_pylist()
    assert (row["group_id"], row["label"]) == ("p", "yes")


def test_group_by_image_leaves_the_group_column_aside(tmp_path):
    rows = _read(tmp_path, "image_id,image,group_id\na,1.png,g\nb,2.png,g\n", group_by="image").to_pylist()
    assert [row["group_id"] for row in rows] == ["a", "b"]
    rows = _read(tmp_path, "image_id,image\na,1.png\n", group_by="image").to_pylist()
    assert rows[0]["group_id"] == "a"


def test_parquet_and_tsv_say_the_same_as_csv(tmp_path):
    text = (
        "image_id,image,label,group_id,box_x0,box_y0,box_x1,box_y1\n7,1.png,1,12,1,2,3,4\n8,2.png,,13,,,,\n"
    )
    expected = _read(tmp_path, text)
    columns = {
        "image_id": [7, 8],
        "image": ["1.png", "2.png"],
        "label": pa.array(["1", None]).dictionary_encode(),
        "group_id": pa.array([12, 13], pa.int16()),
        "box_x0": [1.0, None],
        "box_y0": [2, None],
        "box_x1": pa.array([3, None], pa.float32()),
        "box_y1": [4.0, None],
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    assert _list(tmp_path / "m.parquet").equals(expected)
    (tmp_path / "m.tsv").write_text(text.replace(",", "\t"))
    assert _list(tmp_path / "m.tsv").equals(expected)


def test_rows_that_differ_in_their_box_only_are_one_image(tmp_path):
    head = "image_id,image,label,group_id,box_x0,box_y0,box_x1,box_y1\n"
    read = _read(tmp_path, head + "a,1.png,x,g,1,1,2,2\nb,2.png,y,h,,,,\na,1.png,x,g,5,5,9,9\n").to_pylist()
    assert [row["image_id"] for row in read] == ["a", "b"]
    assert read[0]["boxes"] == [[1, 1, 2, 2], [5, 5, 9, 9]]
    for again, reason in (
        ("a,1.png,z,g,5,5,9,9", "differ in label"),
        ("a,3.png,x,g,5,5,9,9", "differ in uri"),
        ("a,1.png,x,g,1,1,2,2", "without a further box"),
        ("a,1.png,x,g,,,,", "without a further box"),
    ):
        message = _error(tmp_path, head + f"a,1.png,x,g,1,1,2,2\nb,2.png,y,h,,,,\n{again}\n")
        assert "'a' in rows 2 and 4" in message
        assert reason in message


MALFORMED_BOXES = ["1,1,2,", "1,1,x,2", "2,1,1,2", "1,1,nan,2", "1,1,inf,2"]


@pytest.mark.parametrize("box", MALFORMED_BOXES)
def test_a_malformed_box_costs_its_image(tmp_path, box):
    head = "image_id,image,label,group_id,box_x0,box_y0,box_x1,box_y1\n"
    path = tmp_path / "manifest.csv"
    for name in ("1.png", "2.png"):
        (tmp_path / name).touch()
    path.write_text(head + f"a,1.png,x,g,{box}\nb,2.png,y,h,1,1,2,2\n")
    listing = read_source(Pool(source={"kind": "table", "path": str(path)}))
    assert (listing.manifest["image_id"].to_pylist(), list(listing.row_numbers)) == (["b"], [3])
    (refused,) = listing.refused
    assert (refused.image_id, refused.error_code) == ("a", "roi_mismatch")
    assert refused.detail.startswith("manifest.csv, row 2: none of its boxes can be meant")
    message = _error(tmp_path, head + f"a,1.png,x,g,{box}\n")
    assert "no image can be used" in message
    assert "row 2" in message


@pytest.mark.parametrize("box", [*MALFORMED_BOXES, "1,1,1,2"])
def test_a_malformed_box_beside_a_sound_one_is_dropped(tmp_path, box):
    head = "image_id,image,label,group_id,box_x0,box_y0,box_x1,box_y1\n"
    (tmp_path / "1.png").touch()
    path = tmp_path / "manifest.csv"
    path.write_text(head + f"a,1.png,x,g,{box}\na,1.png,x,g,1,1,2,2\na,1.png,x,g,,1,7,inf\n")
    listing = read_source(Pool(source={"kind": "table", "path": str(path)}))
    assert listing.manifest["boxes"].to_pylist() == [[[1, 1, 2, 2]]]
    assert [(each.kind, each.image_id) for each in listing.warned] == [("shape_dropped", "a")] * 2


def test_a_box_without_area_leaves_the_image_without_a_region(tmp_path):
    (tmp_path / "1.png").touch()
    path = tmp_path / "manifest.csv"
    path.write_text("image,group_id,box_x0,box_y0,box_x1,box_y1\n1.png,g,1,1,1,2\n")
    listing = read_source(Pool(source={"kind": "table", "path": str(path)}))
    assert listing.manifest["roi_state"].to_pylist() == ["not_annotated"]
    assert [(each.kind, each.detail) for each in listing.warned] == [("shape_dropped", "no area")]


@pytest.mark.parametrize(
    "path",
    [
        "../1.png",
        "a/../../1.png",
        "/etc/passwd",
        "file:///etc/passwd",
        "https://x.org/1.png",
        "C:\\1.png",
        ".",
    ],
)
@pytest.mark.parametrize("column", ["image", "mask"])
def test_paths_that_lead_out_are_refused(tmp_path, path, column):
    cells = {"image": "1.png", "mask": "", column: path}
    message = _error(tmp_path / "in", f"image,mask,group_id\n1.png,,g\n{cells['image']},{cells['mask']},g\n")
    assert "row 3" in message
    assert "leads out" in message or "not a plain local path" in message


def test_links_that_lead_out_are_refused(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/1.png").touch()
    (inside / "folder").symlink_to(tmp_path / "out")
    (inside / "file.png").symlink_to(tmp_path / "out/1.png")
    (inside / "loop.png").symlink_to(inside / "loop.png")
    for path in ("folder/1.png", "file.png"):
        assert "leads out" in _error(inside, f"image,group_id\n{path},g\n")
    (inside / "same.png").symlink_to(inside / "1.png")
    text = f"image,group_id\nsame.png,g\nloop.png,g\n{inside.resolve() / '1.png'},g\n{'x' * 300}.png,g\n"
    assert _read(inside, text).num_rows == 4


def test_an_absolute_path_may_reach_the_folder_through_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    rows = _read(tmp_path / "real", f"image,group_id\n{tmp_path / 'link' / '1.png'},g\n").to_pylist()
    assert rows[0]["image_id"] == "img-" + hashlib.sha256(b"1.png").hexdigest()[:16]


def test_a_missing_column_is_named_with_its_nearest_match(tmp_path):
    message = _error(tmp_path, "image,Grup_ID\n1.png,g\n")
    assert "no column 'group_id'" in message
    assert "image, Grup_ID" in message
    assert "pool.source.columns.group_id=Grup_ID" in message
    assert "pool.group_by=image" in message
    assert "pool.source.columns.image=images" in _error(tmp_path, "images,group_id\n1.png,g\n")


FULL = "image,label,group_id,split,mask\n1.png,a,7,pool,m.png\n"


@pytest.mark.parametrize(
    "header",
    [
        "image, label, group_id, split, mask",
        "Image,Label,GROUP_ID,Split,Mask",
        " IMAGE ,label ,Group Id,SPLIT, mask",
        "\ufeffimage,label,groupId,split,mask",
        "#image,label,group-id,split,mask",
    ],
)
def test_every_column_is_found_however_it_is_spelled(tmp_path, header):
    rows = _read(tmp_path, FULL)
    assert rows["label"].to_pylist() == ["a"]
    assert _read(tmp_path, FULL.replace(FULL.split("\n")[0], header)).equals(rows)


def _notes(
    folder: Path, text: str, *, group_by="group_id", classes=None, images=("1.png",)
) -> tuple[str, ...]:
    _read(folder, text, group_by=group_by, classes=classes, images=images)
    source = Source(path=folder / "manifest.csv")
    return read_source(Pool(source=source, group_by=group_by, classes=classes)).notes


def test_what_is_read_by_another_spelling_and_what_is_not_read_is_told(tmp_path):
    notes = _notes(tmp_path, "Image,GROUP_ID,label,age,notes\n1.png,g,x,4,y\n1.png#2,g,x,4,y\n")
    assert "manifest.csv: columns: read 'GROUP_ID' as group_id, 'Image' as image" in notes
    assert "manifest.csv: columns that nothing reads: 'age', 'notes'" in notes
    assert _notes(tmp_path, "image, group_id,label\n1.png,g,x\n2.png,g,y\n3.png,h,y\n") == ()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("label", "lable"),
        ("label", "labels"),
        ("mask", "maskpath"),
        ("mask", "Mask_Path"),
        ("split", "spilt"),
        ("frame", "frames"),
        ("image_id", "imageids"),
        ("box_x0", "boxx_0s"),
    ],
)
def test_an_optional_column_that_is_nearly_there_is_refused_with_both_ways_out(tmp_path, name, near):
    text = f"image,group_id,{near}\n1.png,g,\n2.png,g,\n"
    message = _error(tmp_path, text)
    assert f"no column '{name}'" in message
    assert f"--set pool.source.columns.{name}={near}" in message
    assert f"--set pool.source.columns.{name}=null" in message
    assert _read(tmp_path, text, **{name: None}).num_rows == 2


@pytest.mark.parametrize(
    "corners",
    [
        ("xmin", "ymin", "xmax", "ymax"),
        ("X1", "Y1", "X2", "Y2"),
        ("roi_x0", "roi_y0", "roi_x1", "roi_y1"),
    ],
)
def test_boxes_under_other_names_are_refused_with_both_ways_out(tmp_path, corners):
    text = f"image,group_id,{','.join(corners)}\n1.png,g,1,2,3,4\n2.png,h,,,,\n"
    settings = dict(re.findall(r"columns\.(\w+)=(\w+)", _error(tmp_path, text).split("; or")[0]))
    assert _read(tmp_path, text, **settings)["boxes"].to_pylist() == [[[1, 2, 3, 4]], []]
    assert _read(tmp_path, text, box_x0=None)["boxes"].to_pylist() == [[], []]


def test_splits_under_another_name_are_refused_with_both_ways_out(tmp_path):
    text = "image,group_id,Subset\n1.png,g,train\n2.png,h,Testing\n"
    message = _error(tmp_path, text)
    assert "--set pool.source.columns.split=Subset" in message
    assert "--set pool.source.columns.split=null" in message
    assert _read(tmp_path, text, split=None).num_rows == 2
    assert _read(tmp_path, "image,group_id,Set\n1.png,g,A\n2.png,h,test\n").num_rows == 2


@pytest.mark.parametrize("nothing", ["NA", "nan", "None", "NULL", "#N/A"])
def test_what_programs_write_for_nothing_is_no_mask_no_box_and_no_split(tmp_path, nothing):
    header = "image,group_id,label,mask,split,frame,box_x0,box_y0,box_x1,box_y1\n"
    text = header + f"1.png,g,a,m.png,val,1.0,1,2,3,4\n2.png,h,a{f',{nothing}' * 7}\n"
    first, second = _read(tmp_path, text).to_pylist()
    assert (first["boxes"], first["split"], first["frame"]) == ([[1, 2, 3, 4]], "val", 1)
    assert (second["mask_uri"], second["split"], second["frame"], second["boxes"]) == (None, None, None, [])
    assert second["roi_state"] == "not_annotated"
    assert any("are read as empty: 1 of mask, 1 of split" in note for note in _notes(tmp_path, text))


def test_ids_that_a_spreadsheet_has_rounded_or_could_not_compute_are_warned_of(tmp_path):
    text = "image,group_id\n1.png,1.23457E+15\n2.png,1.23457E+15\n3.png,#REF!\n"
    rounded, missing = sorted(_warned(tmp_path, text), key=lambda note: "reads like" in note)
    assert "1 group ids are numbers that a spreadsheet has rounded (the first: row 2)" in rounded
    assert "reads like a missing id" in missing


def test_a_second_spelling_of_a_column_is_none_of_another_name(tmp_path):
    notes = _notes(tmp_path, "image,Image,group_id\n1.png,x,g\n2.png,y,g\n3.png,y,h\n")
    assert notes == ("manifest.csv: columns that nothing reads: 'Image'",)


def test_a_patient_column_is_offered_as_the_group(tmp_path):
    for near in ("patient_id", "Patient ID", "subject"):
        offered = near if " " not in near else f"'{near}'"
        assert f"columns.group_id={offered}," in _error(tmp_path, f"image,{near}\n1.png,g\n")
    assert "columns.image=file_name" in _error(tmp_path, "file_name,group_id\n1.png,g\n")


def test_labels_in_another_column_are_found_by_the_classes(tmp_path):
    for text, found in (
        ("image,group_id,diagnosis\n1.png,g,cat\n2.png,g,dog\n", "for pool.source.columns.label"),
        ("image,group_id,label,choice\n1.png,g,,cat\n2.png,g,,dog\n", "all rows are empty in 'label'"),
    ):
        other = "diagnosis" if "diagnosis" in text else "choice"
        message = _error(tmp_path, text, classes=["cat", "dog"])
        assert found in message
        assert f"--set pool.source.columns.label={other}" in message
        rows = _read(tmp_path, text, classes=["cat", "dog"], label=other)
        assert rows["label"].to_pylist() == ["cat", "dog"]
        assert _read(tmp_path, text, classes=["cat", "dog"], label=None)["label"].null_count == 2


def test_decimal_commas_where_commas_do_not_part_cells(tmp_path):
    text = "image;group_id;box_x0;box_y0;box_x1;box_y1\n1.png;g;1,5;2;3,25;4\n"
    assert _read(tmp_path, text)["boxes"].to_pylist() == [[[1.5, 2, 3.25, 4]]]
    assert _read(tmp_path, text.replace(";", "\t"))["boxes"].to_pylist() == [[[1.5, 2, 3.25, 4]]]
    quoted = 'image,group_id,box_x0,box_y0,box_x1,box_y1\n1.png,g,"1,500",2,"3,250",4\n'
    message = _error(tmp_path, quoted)
    assert "none of its boxes can be meant" in message
    assert "with points" in message


def test_rows_keep_their_numbers_behind_blank_and_passed_by_rows(tmp_path):
    text = "# export\n\nimage,group_id,split\n1.png,g,pool\n\n#2.png\n3.png,h,nowhere\n,,\n"
    assert "'nowhere' in row 7" in _error(tmp_path, text)


def _warned(folder: Path, text: str, **arguments) -> list[str]:
    return [note for note in _notes(folder, text, **arguments) if note.startswith("warning: ")]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            ["Glioma", "glioma", "other"],
            "'Glioma' (1 images) and 'glioma' (1 images) differ in spelling only",
        ),
        (["left lung", "left_lung", "x"], "differ in spelling only"),
        (["caf\u00e9", "cafe\u0301", "x"], "differ in spelling only"),
        (["0", "0.0", "1"], "'0' (1 images) and '0.0' (1 images)"),
        (["1", "True", "no"], "'1' (1 images) and 'True' (1 images)"),
        (["yes", "1.0", "no"], "'1.0' (1 images) and 'yes' (1 images)"),
        (["nan", "a", "b"], "'nan' (1 images), which reads like a missing label"),
        (["NA", "a", "b"], "among the classes is 'NA' (1 images)"),
        (["None", "a", "b"], "among the classes is 'None' (1 images)"),
        (["null", "a", "b"], "among the classes is 'null' (1 images)"),
        (["N/A", "a", "b"], "among the classes is 'N/A' (1 images)"),
        (["-", "a", "b"], "among the classes is '-' (1 images)"),
    ],
)
def test_odd_class_names_are_a_warning(tmp_path, labels, said):
    lines = [f"{n}.png,{n // 2},{label}" for n, label in enumerate([*labels, "a"])]
    (warning,) = _warned(tmp_path, "image,group_id,label\n" + "\n".join(lines), images=("0.png",))
    assert said in warning
    given = sorted({*labels, "a"})
    assert [warning] == _warned(tmp_path, "image,group_id,label\n" + "\n".join(lines), classes=given)


@pytest.mark.parametrize(
    "labels", [["T+", "T-"], ["4a", "4b"], ["1", "10"], ["no", "none of these"], ["a1", "a10"]]
)
def test_class_names_that_are_just_alike_are_none(tmp_path, labels):
    lines = [f"{n}.png,{n // 2},{label}" for n, label in enumerate([*labels, *labels])]
    assert _warned(tmp_path, "image,group_id,label\n" + "\n".join(lines), images=("0.png",)) == []


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (["JaneDoe", "janedoe", "x"], "1 group ids differ from another one only in case, spaces or zeros"),
        (["007", "7", "x"], "rows 2 and 3"),
        (["P-007", "P7", "p 07"], "2 group ids differ"),
        (["7.0", "7", "x"], "1 group ids differ"),
        (["g", "g", "g"], "all 4 images are of one group"),
        (["nan", "x", "nan"], "3 images are of the group 'nan' (the first: row 2)"),
    ],
)
def test_odd_groups_are_a_warning_that_quotes_no_id(tmp_path, groups, said):
    lines = [f"{n}.png,{group},{'ab'[n % 2]}" for n, group in enumerate([*groups, groups[-1]])]
    text = "image,group_id,label\n" + "\n".join(lines)
    (warning,) = _warned(tmp_path, text, images=("0.png",))
    assert said in warning
    assert "anedoe" not in warning.lower()
    assert _warned(tmp_path, text, group_by="image", images=("0.png",)) == []


def test_every_image_a_group_of_its_own_is_a_note(tmp_path):
    text = "image,group_id,label\n1.png,g,a\n2.png,h,b\n"
    assert _notes(tmp_path, text)[0].startswith("every image is a group of its own")
    assert _notes(tmp_path, text, group_by="image")[0:] == ()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("validation", "'val'"),
        ("Test", "'test'"),
        ("TESTING", "'test'"),
        ("train", "'labeled' where"),
        ("1", "'pool'"),
    ],
)
def test_other_words_for_splits_are_answered_with_ours(tmp_path, word, said):
    message = _error(tmp_path, f"image,group_id,label,split\n1.png,g,a,{word}\n")
    assert f"'{word}' in row 2" in message
    assert said in message


def test_a_label_that_is_a_class_but_for_its_spelling_is_answered_with_the_class(tmp_path):
    for label, meant in (("Cat", "cat"), ("1.0", "1"), ("True", "1"), ("dgo", "dog")):
        message = _error(tmp_path, f"image,label,group_id\n1.png,{label},g\n", classes=["cat", "1", "dog"])
        assert f"did you mean '{meant}'?" in message


def test_a_column_that_was_named_must_be_there(tmp_path):
    assert "no column 'outline'" in _error(tmp_path, "image,group_id\n1.png,g\n", mask="outline")


def test_box_columns_come_in_fours(tmp_path):
    assert "no column 'box_y1'" in _error(tmp_path, "image,group_id,box_x0,box_y0,box_x1\n1.png,g,1,1,2\n")


@pytest.mark.parametrize("row", [",g,a", "1.png,,a", "1.png,g,"])
def test_empty_cells_that_must_not_be(tmp_path, row):
    message = _error(tmp_path, f"image,group_id,image_id\n1.png,g,first\n{row}\n")
    assert "is empty" in message
    assert "row 3" in message


def test_rows_are_counted_as_in_the_file_even_behind_merged_boxes(tmp_path):
    head = "image_id,image,group_id,split,box_x0,box_y0,box_x1,box_y1\n"
    text = head + "a,1.png,g,pool,1,1,2,2\na,1.png,g,pool,3,3,4,4\nb,2.png,g,labelled,,,,\n"
    message = _error(tmp_path, text)
    assert "'labelled' in row 4" in message
    assert "did you mean 'labeled'" in message


def test_a_group_in_two_splits(tmp_path):
    head = "image,label,group_id,split\n"
    message = _error(tmp_path, head + "1.png,x,JaneDoe,pool\n2.png,x,other,val\n3.png,x,JaneDoe,test\n")
    assert "row 2 is in 'pool', row 4 of the same group in 'test'" in message
    assert "JaneDoe" not in message
    assert _read(tmp_path, head + "1.png,x,g,pool\n2.png,x,g,labeled\n3.png,x,g,\n").num_rows == 3


@pytest.mark.parametrize("split", ["labeled", "val", "test"])
def test_splits_that_need_a_label(tmp_path, split):
    assert f"stands in the split '{split}'" in _error(tmp_path, f"image,group_id,split\n1.png,g,{split}\n")


@pytest.mark.parametrize(("image_id", "found"), [("a b", "' '"), ("é", "'é'"), ("x" * 129, "129 characters")])
def test_malformed_ids(tmp_path, image_id, found):
    message = _error(tmp_path, f"image_id,image,group_id\nok,1.png,g\n{image_id},2.png,g\n")
    assert f"{found} in row 3" in message


def test_labels_outside_the_classes(tmp_path):
    text = "image,label,group_id\n1.png,cat,g\n2.png,dgo,h\n3.png,,i\n"
    assert "'dgo' in row 3" in _error(tmp_path, text, classes=["cat", "dog"])
    assert _read(tmp_path, text, classes=["dgo", "cat"]).num_rows == 3


def test_classes():
    def manifest(*labels):
        return pa.table({"label": pa.array(labels, pa.string())})

    assert classes_of(manifest("b", None, "a", "b"), None) == ("a", "b")
    assert classes_of(manifest("b", "a"), ["c", "b", "a"]) == ("c", "b", "a")
    assert classes_of(manifest(None), ["x", "y"]) == ("x", "y")
    with pytest.raises(SourceError, match=r"name the classes: --set 'pool\.classes"):
        classes_of(manifest(None, None), None)
    with pytest.raises(SourceError, match="at least two classes"):
        classes_of(manifest("a", None), None)
    with pytest.raises(SourceError, match="given twice"):
        classes_of(manifest(), ["a", "b", "a"])


def test_nothing_is_where_the_manifest_says(tmp_path):
    text = "image,group_id\n" + "".join(f"pics/{n}.png,g{n}\n" for n in range(25))
    message = _error(tmp_path, text)
    assert "none of the first 20 images exists" in message
    assert str(tmp_path.resolve() / "pics") in message
    assert _read(tmp_path, text, images=["pics/19.png"]).num_rows == 25


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_encodings_of_manifests(tmp_path, encoding):
    text = "image;group_id;label\r\n1.png;g;Mül\r\n"
    (tmp_path / "1.png").touch()
    (tmp_path / "m.csv").write_bytes(text.encode(encoding))
    assert _list(tmp_path / "m.csv")["label"].to_pylist() == ["Mül"]


def test_unreadable_manifests_quote_no_row(tmp_path):
    assert "Expected 2 columns, got 3" in _error(tmp_path, "image,group_id\n1.png,g\n2.png,JaneDoe,x\n")
    assert "JaneDoe" not in _error(tmp_path, "image,group_id\n1.png,g\n2.png,JaneDoe,x\n")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 JaneDoe")
    (tmp_path / "list.xlsx").touch()
    for name, expected in (
        ("damaged.parquet", "Parquet"),
        ("list.xlsx", ".csv, .tsv or"),
    ):
        with pytest.raises(SourceError, match=expected) as caught:
            _list(tmp_path / name)
        assert "JaneDoe" not in str(caught.value)
    with pytest.raises(SourceError, match="No such file"):
        _list(tmp_path / "none.csv")


def test_empty_manifests(tmp_path):
    assert "holds no image" in _error(tmp_path, "image,group_id\n")
    assert "no header" in _error(tmp_path, "")
    assert "write such a row: image, group_id" in _error(tmp_path, "1.png,g,a\n2.png,h,b\n")
    assert "stands twice" in _error(tmp_path, "image,group_id,image\n1.png,g,2.png\n")


@pytest.mark.real
def test_the_mri_manifest():
    if not MRI.exists():
        pytest.skip("the MRI slices are not here: shared/data/brain_tumor_t1ce beside the repository")
    rows = _list(MRI)
    check_manifest(rows, ["meningioma", "glioma", "pituitary"])
    assert rows.num_rows == 3064
    labels = rows["label"].to_pylist()
    assert [labels.count(name) for name in ("meningioma", "glioma", "pituitary")] == [708, 1426, 930]
    assert set(rows["roi_state"].to_pylist()) == {"present"}
    assert all(Path(uri).exists() for column in ("uri", "mask_uri") for uri in rows[column].to_pylist())
    assert rows["boxes"][0].as_py() == [pytest.approx([133.1, 88.3, 189.4, 126.7], rel=1e-6)]
