"""Sources of chest X-rays: VinDr-CXR, SIIM-COVID, RSNA Pneumonia, NIH ChestX-ray14, CheXlocalize."""

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from layouts import chexlocalize, nih_cxr14, rsna_pneumonia, scans, siim_covid, vindr

from xal_ray.config import Pool
from xal_ray.errors import SourceError
from xal_ray.pool.manifest import MANIFEST_SCHEMA
from xal_ray.pool.reading import read_row
from xal_ray.pool.sources import Listing, read_source
from xal_ray.pool.sources.common import layouts
from xal_ray.pool.sources.vindr import LOCAL_FINDINGS
from xal_ray.pseudonyms import Pseudonyms
from xal_ray.storage import write_bytes

pytest.importorskip("pydicom")

KEY = Pseudonyms(b"k" * 32)
SIZE = 64
PATIENTS = 24
LAYOUTS = {
    "vindr-physionet": (vindr, {}),
    "vindr-kaggle": (vindr, {"layout": "kaggle"}),
    "vindr-png": (vindr, {"layout": "png"}),
    "siim": (siim_covid, {}),
    "siim-png": (siim_covid, {"layout": "png"}),
    "rsna": (rsna_pneumonia, {}),
    "rsna-detailed": (rsna_pneumonia, {"detailed": True}),
    "nih": (nih_cxr14, {}),
    "nih-2017": (nih_cxr14, {"edition": "2017"}),
    "chexlocalize": (chexlocalize, {}),
}
KINDS = {
    "vindr": "vindr-kaggle",
    "siim": "siim",
    "rsna": "rsna",
    "nih": "nih",
    "chexlocalize": "chexlocalize",
}


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Builds each layout once; returns its folder and settings."""
    made = {}

    def build(name: str) -> tuple[Path, dict]:
        if name not in made:
            module, options = LAYOUTS[name]
            root = tmp_path_factory.mktemp(name)
            made[name] = root, module.build(root, num_patients=PATIENTS, **options)
        return made[name]

    return build


@pytest.fixture
def copied(built, tmp_path):
    """The same, to be changed."""

    def copy(name: str) -> tuple[Path, dict]:
        root, settings = built(name)
        target = tmp_path / "copy"
        shutil.copytree(root, target)
        return target, {**settings, "source": {**settings["source"], "path": str(target)}}

    return copy


def _read(settings: dict, **source) -> Listing:
    return read_source(_pool(settings, **source))


def _pool(settings: dict, **source) -> Pool:
    given = {name: value for name, value in settings.items() if name != "source"}
    return Pool.model_validate(
        {"image_size": SIZE, "channels": 1, **given, "source": settings["source"] | source}
    )


def _rows(listing: Listing) -> dict[str, dict]:
    return {row["image_id"]: row for row in listing.manifest.to_pylist()}


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8-sig")
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_listed_and_read(name, built):
    root, settings = built(name)
    listing = _read(settings)
    rows = listing.manifest.to_pylist()
    assert listing.manifest.schema.equals(MANIFEST_SCHEMA)
    assert listing.data_set == settings["source"]["kind"]
    assert len({row["label"] for row in rows}) >= 2
    assert listing.excluded["missing_file"] >= 1
    assert listing.excluded["not_in_csv"] >= 1
    for row in rows:
        assert Path(row["uri"]).is_file()
        assert Path(row["uri"]).is_relative_to(root)
        has_roi = bool(row["boxes"] or row["polygons"] or row["rle"])
        assert row["roi_state"] in (["present"] if has_roi else ["absent_confirmed", "not_annotated"])
        (image,) = read_row(row, _pool(settings))
        assert image.pixels.shape == (SIZE, SIZE, 1)
        assert (image.roi is not None) == has_roi
        if has_roi:  # the finding is bright: image and ROI are still on top of each other
            assert image.pixels[image.roi > 0.9].mean() > image.pixels[image.roi == 0].mean() + 20
        group = image.columns(KEY).get("group_id") or row["group_id"]
        assert group
        assert "canary" not in group.lower()
    assert "canary" not in str(listing.notes).lower()


@pytest.mark.parametrize(
    ("name", "places"),
    [
        (
            "vindr-physionet",
            [
                ".",
                "physionet.org",
                "physionet.org/files/vindr-cxr/1.0.0/annotations",
                "{set}/train",
                "{set}/test",
            ],
        ),
        ("vindr-kaggle", ["train", "train.csv"]),
        ("siim", ["train", "train_study_level.csv"]),
        ("rsna", ["stage_2_train_images"]),
        ("nih-2017", ["images_001"]),
        ("chexlocalize", ["CheXpert", "CheXlocalize"]),
    ],
)
def test_a_set_is_found_from_above_and_from_its_own_folders(name, places, built, tmp_path):
    root, settings = built(name)
    expected = _read(settings).manifest
    for place in places:
        path = root / place.format(set="physionet.org/files/vindr-cxr/1.0.0")
        assert _read(settings, path=str(path)).manifest.equals(expected), place
    (tmp_path / "above" / "empty").mkdir(parents=True)
    shutil.copytree(root, tmp_path / "above" / "set" / "set")
    assert _read(settings, path=str(tmp_path / "above")).manifest.num_rows == expected.num_rows


@pytest.mark.parametrize("name", KINDS.values())
def test_a_folder_without_the_set_says_what_would_do(name, built, tmp_path):
    (tmp_path / "something").mkdir()
    with pytest.raises(SourceError, match="does not hold this set") as caught:
        _read(built(name)[1], path=str(tmp_path))
    assert {"expected", "found"} <= {key for key, text in caught.value.details.items() if text}
    with pytest.raises(SourceError, match="no such folder"):
        _read(built(name)[1], path=str(tmp_path / "absent"))


def test_two_sets_below_one_folder_are_not_guessed_between(built, tmp_path):
    root, settings = built("nih")
    for copy in "ab":
        shutil.copytree(root, tmp_path / copy)
    with pytest.raises(SourceError, match="several such sets"):
        _read(settings, path=str(tmp_path))


@pytest.mark.parametrize("name", ["vindr-kaggle", "siim", "nih"])
def test_no_image_costs_a_stat(name, built, monkeypatch):
    _, settings = built(name)
    asked = []
    for function in ("stat", "lstat"):
        real = getattr(os, function)
        monkeypatch.setattr(
            os, function, lambda path, *a, _f=real, **k: asked.append(str(path)) or _f(path, *a, **k)
        )
    listing = _read(settings)
    images = [path for path in asked if Path(path).suffix in (".dicom", ".dcm", ".png")]
    assert len(images) <= 20 < listing.manifest.num_rows  # `check_some_exist` tries a few


# --- hostile and malformed files

HOSTILE = {
    "vindr-kaggle": ("train.csv", f"{0:032x}"),
    "siim": ("train_image_level.csv", f"{0xB00000000000:012x}"),
    "rsna": ("stage_2_train_labels.csv", "00000000-0000-0000-0000-00000abc0000"),
    "nih": ("Data_Entry_2017_v2020.csv", "00000001_000"),
    "chexlocalize": ("CheXpert/val_labels.csv", "patient64540"),
}


@pytest.mark.parametrize("bad", ["../../Canary/x", "/etc/Canary", "Canary name", ".Canary", ""])
@pytest.mark.parametrize("name", HOSTILE)
def test_ids_that_are_paths_or_empty_are_refused_by_row(name, bad, copied):
    root, settings = copied(name)
    file, image = HOSTILE[name]
    _edit(root / file, image, bad)
    if name == "nih":
        _edit(root / file, f"{bad}.png", bad)
    with pytest.raises(SourceError, match="malformed") as caught:
        _read(settings)
    assert "Canary" not in str(caught.value)
    assert f"{file}, row 2" in str(caught.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_ragged_row_and_a_missing_column_are_named_but_not_quoted(name, copied):
    root, settings = copied(name)
    path = root / HOSTILE[name][0]
    text = path.read_text(encoding="utf-8-sig")
    path.write_text(text + "Canary,row\n")
    with pytest.raises(SourceError, match=r"Expected \d+ columns") as caught:
        _read(settings)
    assert "Canary" not in str(caught.value)
    path.write_text("Canary\n" + text)
    with pytest.raises(SourceError, match="has no column"):
        _read(settings)
    path.write_bytes(b"\xff\xfe\0\0")
    with pytest.raises(SourceError, match="can't be read"):
        _read(settings)


@pytest.mark.parametrize(
    ("name", "folder"), [("vindr-kaggle", "train"), ("nih", "images"), ("siim", "train")]
)
def test_links_that_lead_out_are_refused(name, folder, copied, tmp_path):
    root, settings = copied(name)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.png").touch()
    link = root / folder / "x.png"
    link.symlink_to(outside / "x.png")
    with pytest.raises(SourceError, match="leads out"):
        _read(settings)
    link.unlink()
    (root / folder / "more").symlink_to(root / folder)
    with pytest.raises(SourceError, match="subfolder is a link"):
        _read(settings)
    (root / folder / "more").unlink()
    csv = root / HOSTILE[name][0]
    shutil.move(csv, outside / "table.csv")
    csv.symlink_to(outside / "table.csv")
    with pytest.raises(SourceError, match="leads out"):
        _read(settings)


@pytest.mark.parametrize("name", KINDS.values())
def test_unknown_findings_are_refused_with_the_nearest(name, built):
    with pytest.raises(SourceError, match="not known to this source"):
        _read(built(name)[1], findings=["Unheard of"])
    with pytest.raises(SourceError, match="stands twice"):
        _read(built(name)[1], findings=[])


def test_findings_are_named_in_any_capitals_and_a_near_miss_is_told(built):
    _, settings = built("vindr-kaggle")
    assert set(
        _read(settings, findings=["nodule/mass", "NO FINDING"]).manifest["label"].unique().to_pylist()
    ) == {
        "Nodule/Mass",
        "No finding",
    }
    with pytest.raises(SourceError, match="did you mean 'Nodule/Mass'"):
        _read(settings, findings=["Nodule"])


# --- VinDr-CXR

IMAGES = ["one", "two", "three", "both", "none", "mixed"]
READERS = "abc"


def _small_vindr(root: Path, *, suffix: str = ".dicom", columns: str = "", cells: str = "") -> dict:
    """Six images, whose names say how many readers saw a nodule in it."""
    for image in IMAGES:
        (root / "train").mkdir(exist_ok=True)
        (root / "train" / f"{image}{suffix}").touch()
    rows = []
    for image, seers in (("one", 1), ("two", 2), ("three", 3), ("none", 0)):
        for number, reader in enumerate(READERS):
            box = f"{10 * number},0,{20 + 10 * number},10" if number < seers else ",,,"
            rows.append(f"{image},{'Nodule/Mass' if number < seers else 'No finding'},{reader},{box}")
    rows += [
        f"both,{name},{reader},0,0,9,9" for reader in READERS for name in ("Nodule/Mass", "Lung Opacity")
    ]
    mixed = ("Nodule/Mass", "Lung Opacity", "Cardiomegaly")
    rows += [f"mixed,{name},{reader},1,1,5,5" for name, reader in zip(mixed, READERS, strict=True)]
    header = f"image_id,class_name,rad_id,x_min,y_min,x_max,y_max{columns}"
    (root / "train.csv").write_text("\n".join([header, *(row + cells for row in rows)]))
    return {"source": {"kind": "vindr", "path": str(root)}, "group_by": "image"}


@pytest.mark.parametrize(
    ("policy", "labels", "excluded"),
    [
        (
            "any",
            {"one": "Nodule/Mass", "two": "Nodule/Mass", "three": "Nodule/Mass"},
            {"several_findings": 2, "no_finding": 1},
        ),
        (
            "majority",
            {"two": "Nodule/Mass", "three": "Nodule/Mass"},
            {"several_findings": 1, "no_finding": 2, "undecided": 1},
        ),
        ("all", {"three": "Nodule/Mass"}, {"several_findings": 1, "no_finding": 1, "undecided": 3}),
    ],
)
def test_vindr_labels_by_policy(policy, labels, excluded, tmp_path):
    listing = _read(_small_vindr(tmp_path), readers={"labels": policy})
    assert {image: row["label"] for image, row in _rows(listing).items()} == labels
    assert listing.excluded == excluded


def test_vindr_several_findings_may_take_the_first_that_was_asked(tmp_path):
    settings = _small_vindr(tmp_path)
    for findings in (["Nodule/Mass", "Lung Opacity"], ["Lung Opacity", "Nodule/Mass"]):
        listing = _read(settings, findings=findings, several="first")
        assert _rows(listing)["both"]["label"] == findings[0]


def test_vindr_no_finding_needs_that_nothing_else_was_found(tmp_path):
    findings = ["Nodule/Mass", "No finding"]
    settings = _small_vindr(tmp_path)
    _edit(tmp_path / "train.csv", "none,No finding,a,,,,", "none,No finding,a,0,0,1,1")
    rows = _rows(_read(settings, findings=findings, readers={"labels": "any"}))
    assert {image for image, row in rows.items() if row["label"] == "No finding"} == {"none"}
    assert (rows["none"]["boxes"], rows["none"]["roi_state"]) == ([], "absent_confirmed")
    assert rows["one"]["roi_state"] == "present"
    by_majority = _rows(_read(_small_vindr(tmp_path), findings=findings))
    assert by_majority["one"]["label"] == "No finding"  # two of three
    assert (by_majority["one"]["boxes"], by_majority["one"]["roi_state"]) == ([], "absent_confirmed")


def test_vindr_another_finding_is_not_no_finding(tmp_path):
    settings = _small_vindr(tmp_path)
    _edit(tmp_path / "train.csv", "none,No finding,a", "none,Cardiomegaly,a")
    listing = _read(settings, findings=["Nodule/Mass", "No finding"], readers={"labels": "any"})
    assert "none" not in _rows(listing)
    assert listing.excluded["other_findings"] == 1


@pytest.mark.parametrize(
    ("policy", "boxes"),
    [
        ("union", [[0, 0, 20, 10], [10, 0, 30, 10], [20, 0, 40, 10]]),
        ("majority_pixel", [[10, 0, 30, 10]]),
        ("cluster_mean", [[10, 0, 30, 10]]),
    ],
)
def test_vindr_boxes_by_policy(policy, boxes, tmp_path):
    rows = _rows(_read(_small_vindr(tmp_path), readers={"boxes": policy}))
    assert rows["three"]["boxes"] == boxes


def test_vindr_a_region_without_agreement_is_not_annotated(tmp_path):
    listing = _read(_small_vindr(tmp_path), readers={"labels": "any", "boxes": "majority_pixel"})
    assert _rows(listing)["one"]["roi_state"] == "not_annotated"
    assert any("1 labelled images have no pixel that readers agree on" in note for note in listing.notes)


def test_vindr_names_no_patients(built, tmp_path):
    settings = _small_vindr(tmp_path)
    with pytest.raises(SourceError, match="does not say which images show the same patient"):
        _read({**settings, "group_by": "group_id"})
    assert all(row["group_id"] is None for row in _rows(_read({**settings, "group_by": "header"})).values())
    with pytest.raises(SourceError, match="no header"):
        _read({**built("vindr-png")[1], "group_by": "header"})


def test_vindr_copies_need_the_size_of_their_originals(tmp_path):
    settings = _small_vindr(tmp_path, suffix=".jpg")
    with pytest.raises(SourceError, match=r"train_meta\.csv"):
        _read(settings)
    (tmp_path / "train_meta.csv").write_text("image_id,dim0,dim1\ntwo,300,200\n")
    listing = _read(settings)
    assert {image: (row["roi_height"], row["roi_width"]) for image, row in _rows(listing).items()} == {
        "two": (300, 200)
    }
    assert listing.excluded["no_original_size"] == 1
    (tmp_path / "train_meta.csv").write_text("image_id,dim0,dim1\ntwo,0,200\n")
    with pytest.raises(SourceError, match="a size is malformed"):
        _read(settings)


def test_vindr_sizes_may_stand_beside_the_boxes(tmp_path):
    settings = _small_vindr(tmp_path, suffix=".png", columns=",width,height", cells=",200,300")
    assert {(row["roi_height"], row["roi_width"]) for row in _rows(_read(settings)).values()} == {(300, 200)}


def test_vindr_a_row_without_a_finding_is_refused(tmp_path):
    settings = _small_vindr(tmp_path)
    _edit(tmp_path / "train.csv", "two,Nodule/Mass,a,0,0", "two,,a,0,0")
    with pytest.raises(SourceError, match="'class_name' is empty") as caught:
        _read(settings)
    assert "row 5" in str(caught.value)


@pytest.mark.parametrize("cells", ["a,,0", "a,Canary,0", "a,1e999,0", "a,50,0"])
def test_vindr_a_box_that_can_not_be_meant_is_dropped(cells, tmp_path):
    settings = _small_vindr(tmp_path)
    _edit(tmp_path / "train.csv", "two,Nodule/Mass,a,0,0", f"two,Nodule/Mass,{cells}")
    listing = _read(settings)
    assert _rows(listing)["two"]["boxes"] == [[10, 0, 30, 10]]
    (warned,) = listing.warned
    assert (warned.kind, warned.image_id) == ("shape_dropped", "two")
    assert warned.detail.startswith("train.csv, row 5: 1 with ")
    assert "Canary" not in warned.detail


def test_vindr_an_image_with_no_other_box_of_its_label_is_refused(tmp_path):
    settings = _small_vindr(tmp_path)
    for box in ("a,0,0,20,10", "b,10,0,30,10"):
        _edit(tmp_path / "train.csv", f"two,Nodule/Mass,{box}", f"two,Nodule/Mass,{box[0]},x,0,9,9")
    listing = _read(settings)
    assert [each.image_id for each in listing.refused] == ["two"]
    assert "two" not in _rows(listing)
    assert "three" in _rows(listing)


def test_vindr_physionet_reads_global_findings_nan_and_the_test_sets_other_name(tmp_path):
    folder = tmp_path / "annotations"
    for name in ("train/a.dicom", "train/b.dicom", "test/c.dicom", "test/d.dicom"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    columns = [*LOCAL_FINDINGS, "COPD"]
    zeros = ",".join("0" for _ in LOCAL_FINDINGS[1:])
    head = ",".join(["image_id", "rad_id", *columns])
    rows = [
        f"{image},{reader},nan,{zeros},{copd}" for image, copd in (("a", 1), ("b", "")) for reader in "xyz"
    ]
    folder.mkdir()
    (folder / "image_labels_train.csv").write_text(
        "\n".join(
            [head + ",Other diseases,No finding", *(f"{row},0,{int(row.startswith('b'))}" for row in rows)]
        )
    )
    (folder / "image_labels_test.csv").write_text("image_id,Other disease,No finding\nc,1.0,0.0\nd,0,1\n")
    source = {"kind": "vindr", "path": str(tmp_path), "findings": ["COPD", "Other diseases", "No finding"]}
    listing = _read({"source": source, "group_by": "header"})
    assert {
        image: (row["label"], row["split"], row["roi_state"]) for image, row in _rows(listing).items()
    } == {
        "a": ("COPD", None, "not_annotated"),
        "b": ("No finding", None, "absent_confirmed"),
        "c": ("Other diseases", "test", "not_annotated"),
        "d": ("No finding", "test", "absent_confirmed"),
    }
    assert any("annotations_train.csv is missing" in note for note in listing.notes)


def test_vindr_layouts_agree_with_each_other(built):
    """The same patients and readers, once by image labels and once by boxes alone."""
    physionet, kaggle = (_rows(_read(built(name)[1])) for name in ("vindr-physionet", "vindr-kaggle"))
    train = {image: row for image, row in physionet.items() if row["split"] is None}
    assert train.keys() == kaggle.keys()
    assert len(physionet) == len(train) + 6
    for image, row in train.items():
        assert (row["label"], row["boxes"]) == (kaggle[image]["label"], kaggle[image]["boxes"])


def test_vindr_tells_agreement(built):
    told = _read(built("vindr-kaggle")[1]).agreement
    assert told.keys() == {"Nodule/Mass", "Pulmonary fibrosis", "No finding"}
    assert all(set(finding["marked_by"]) == {"1", "2", "3"} for finding in told.values())


# --- SIIM-COVID

BAD_BOXES = [
    "__import__('os').system('true')",
    "[{'x': 1}]",
    "[{'x': 1, 'y': 1, 'width': 2, 'height': 2, 'Canary': 3}]",
    "[1, 2]",
    "{'x': 1, 'y': 1, 'width': 2, 'height': 2}",
    "[{'x': 1, 'y': 1, 'width': -2, 'height': 2}]",
    "[{'x': 1, 'y': 1, 'width': 1e999, 'height': 2}]",
    "[{'x': True, 'y': 1, 'width': 2, 'height': 2}]",
    "[{'x': 'Canary', 'y': 1, 'width': 2, 'height': 2}]",
    "[" * 3000,
    "[" + "0," * 6000 + "]",
    "-" * 3900 + "1",
    "1" + "+1" * 1900,
    "[{" * 90 + "}]" * 90,
    "9" * 3900,
    "[{'x': " + "9" * 400 + ", 'y': 1, 'width': 2, 'height': 2}]",
    r"['\C\d']",
]


def _small_siim(root: Path, rows: list[str], header: str = "id,boxes,label,StudyInstanceUID") -> dict:
    for image in "abc":
        path = root / "train" / "s1" / "q" / f"{image}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    names = ",".join(siim_covid.CLASSES)
    (root / "train_study_level.csv").write_text(f"id,{names}\ns1_study,0,1,0,0\ns0_study,1,0,0,0\n")
    (root / "train_image_level.csv").write_text("\n".join([header, *rows]))
    return {"source": {"kind": "siim_covid", "path": str(root)}}


def test_siim_boxes_of_the_literal_of_the_label_and_the_sentinel(tmp_path):
    rows = [
        "a_image,\"[{'x': 1.5, 'y': 2, 'width': 3, 'height': 4}]\",opacity 1 9 9 10 10,s1",
        "b_image,,opacity 1 1 2 3 4 opacity 1 5 6 7 8,s1",
        "c_image,,none 1 0 0 1 1,s1",
    ]
    found = _rows(_read(_small_siim(tmp_path, rows)))
    assert found["a"]["boxes"] == [[1.5, 2, 4.5, 6]]
    assert found["b"]["boxes"] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert (found["c"]["boxes"], found["c"]["roi_state"]) == ([], "not_annotated")
    assert {row["study_id"] for row in found.values()} == {"s1"}
    assert {row["group_id"] for row in found.values()} == {None}


GOOD_ROW = "b_image,,opacity 1 1 2 3 4,s1"


@pytest.mark.parametrize("cell", BAD_BOXES)
def test_siim_malformed_boxes_cost_their_image_and_are_not_run(cell, tmp_path):
    listing = _read(_small_siim(tmp_path, [f'a_image,"{cell}",none 1 0 0 1 1,s1', GOOD_ROW]))
    assert list(_rows(listing)) == ["b"]
    (refused,) = listing.refused
    assert (refused.image_id, refused.error_code) == ("a", "roi_mismatch")
    assert "Canary" not in refused.detail


def test_siim_malformed_boxes_leave_those_beside_them_and_those_of_the_label(tmp_path):
    good = "{'x': 1, 'y': 2, 'width': 2, 'height': 2}"
    bad = good.replace("2}", "-2}")
    rows = [f'a_image,"[{bad}, {{1: 2}}, {good}]",,s1', f'b_image,"[{bad}]",opacity 1 5 6 7 8,s1']
    listing = _read(_small_siim(tmp_path, rows))
    assert {name: row["boxes"] for name, row in _rows(listing).items()} == {
        "a": [[1, 2, 3, 4]],
        "b": [[5, 6, 7, 8]],
    }
    assert [each.image_id for each in listing.warned] == ["a", "a", "b"]


@pytest.mark.parametrize(
    "label", ["opacity 1 0 0 1", "Canary 1 0 0 1 1", "opacity 1 5 5 1 1", "opacity 1 0 0 nan 1"]
)
def test_siim_malformed_labels_cost_their_image(label, tmp_path):
    listing = _read(_small_siim(tmp_path, [f"a_image,,{label},s1", GOOD_ROW]))
    assert [each.image_id for each in listing.refused] == ["a"]
    assert "Canary" not in listing.refused[0].detail
    with pytest.raises(SourceError, match="no image can be used") as caught:
        _read(_small_siim(tmp_path, [f"a_image,,{label},s1"]))
    assert "Canary" not in str(caught.value)


def test_siim_a_malformed_box_of_a_negative_study_is_a_contradiction(tmp_path):
    listing = _read(
        _small_siim(tmp_path, ["a_image,,opacity 1 5 5 1 1,s0", GOOD_ROW]), findings=siim_covid.CLASSES
    )
    assert _rows(listing)["a"]["roi_state"] == "not_annotated"


def test_siim_negatives_are_confirmed_and_contradictions_are_not_believed(tmp_path):
    rows = ["a_image,,opacity 1 1 2 3 4,s0", "b_image,,none 1 0 0 1 1,s0", "c_image,,,s1"]
    listing = _read(_small_siim(tmp_path, rows))
    found = _rows(listing)
    assert [found[image]["roi_state"] for image in "abc"] == [
        "not_annotated",
        "absent_confirmed",
        "not_annotated",
    ]
    assert found["a"]["boxes"] == []
    assert any("negative studies have boxes" in note for note in listing.notes)
    assert any("1 images of positive studies have no box" in note for note in listing.notes)


@pytest.mark.slow
def test_siim_groups_copies_by_study_and_files_by_the_headers_patient(built):
    _, copies = built("siim-png")
    rows = _rows(_read(copies))
    assert all(row["group_id"] == row["study_id"] for row in rows.values())
    assert max(Counter(row["group_id"] for row in rows.values()).values()) == 2
    with pytest.raises(SourceError, match="no header"):
        _read({**copies, "group_by": "header"})
    _, files = built("siim")
    by_study: dict[str, set] = {}
    groups = set()
    for row in _rows(_read(files)).values():
        (image,) = read_row(row, _pool(files))
        by_study.setdefault(row["study_id"], set()).add(image.columns(KEY)["group_id"])
        groups.add(image.columns(KEY)["group_id"])
    assert all(len(found) == 1 for found in by_study.values())
    assert len(groups) == PATIENTS < len(by_study)  # some patients have two studies


# --- RSNA Pneumonia


def test_rsna_rows_of_one_image_are_its_boxes(built):
    _, settings = built("rsna")
    rows = list(_rows(_read(settings)).values())
    counts = Counter((row["label"], len(row["boxes"])) for row in rows)
    assert set(counts) == {("No pneumonia", 0), ("Pneumonia", 1), ("Pneumonia", 2)}
    assert [4.0, 5.0, 14.5, 17.0] in next(row["boxes"] for row in rows if len(row["boxes"]) == 2)
    assert all(row["roi_state"] != "not_annotated" for row in rows)


def test_rsna_says_that_patients_are_not_known(built):
    _, settings = built("rsna")
    with pytest.raises(SourceError, match="one an image, not one a patient"):
        _read({**settings, "group_by": "group_id"})
    assert any("NIH ChestX-ray14" in note for note in _read(settings).notes)


def test_rsna_findings_of_two_files_are_not_mixed(copied):
    root, settings = copied("rsna")
    with pytest.raises(SourceError, match="can't be mixed"):
        _read(settings, findings=["Pneumonia", "Normal"])
    (root / "stage_2_detailed_class_info.csv").unlink()
    with pytest.raises(SourceError, match=r"stage_2_detailed_class_info\.csv is missing"):
        _read(settings, findings=["Lung Opacity", "Normal"])
    assert _read(settings).manifest.num_rows == PATIENTS


@pytest.mark.parametrize("row", ["x,1,2,3,4,7", "x,1,2,3,4,"])
def test_rsna_malformed_targets(row, copied):
    root, settings = copied("rsna")
    path = root / "stage_2_train_labels.csv"
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(SourceError, match="is malformed"):
        _read(settings)


@pytest.mark.parametrize("box", ["1,2,-3,4", "1,,3,4", "1,2,Canary,4", "1,2,inf,4"])
def test_rsna_malformed_boxes_cost_their_image(box, copied):
    root, settings = copied("rsna")
    path = root / "stage_2_train_labels.csv"
    before = _rows(_read(settings))
    boxed = next(name for name, row in before.items() if row["roi_state"] == "present")
    lines = [line for line in path.read_text().splitlines() if not line.startswith(boxed)]
    path.write_text("\n".join([*lines, f"{boxed},{box},1"]) + "\n")
    listing = _read(settings)
    assert set(_rows(listing)) == set(before) - {boxed}
    assert [each.image_id for each in listing.refused] == [boxed]
    path.write_text(path.read_text() + f"{boxed},1,2,3,4,1\n")
    assert _rows(_read(settings))[boxed]["boxes"] == [[1, 2, 4, 6]]
    path.write_text("\n".join([*lines, f"{boxed},1,2,0,4,1"]) + "\n")
    assert _rows(_read(settings))[boxed]["roi_state"] == "not_annotated"


# --- NIH ChestX-ray14


def test_nih_boxes_are_read_by_position_in_the_published_frame(built):
    _, settings = built("nih")
    rows = _rows(_read(settings))
    boxed = [row for row in rows.values() if row["boxes"]]
    assert {row["label"] for row in boxed} == {"Mass", "Infiltration"}  # written "Infiltrate" there
    assert {(row["roi_width"], row["roi_height"]) for row in boxed} == {(1024, 1024)}
    assert all(min(box) >= 0 and max(box) <= 1024 for row in boxed for box in row["boxes"])
    assert {row["roi_state"] for row in rows.values()} == {"present", "absent_confirmed", "not_annotated"}


def test_nih_patients_ages_and_the_official_test_set(built):
    _, settings = built("nih")
    rows = _rows(_read(settings))
    assert rows["00000001_000"]["group_id"] == "1"
    ages = {row["age_band"] for row in rows.values()}
    assert None in ages  # 411
    assert "20-29" in ages
    assert {row["sex"] for row in rows.values()} == {"F", "M"}
    splits: dict[str, set] = {}
    for row in rows.values():
        splits.setdefault(row["group_id"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {"test"} in splits.values()


def test_nih_editions_agree(built):
    new, old = (_rows(_read(built(name)[1])) for name in ("nih", "nih-2017"))
    for image, row in new.items():
        assert all(
            row[name] == old[image][name] for name in ("label", "boxes", "group_id", "age_band", "sex")
        )
    assert {row["split"] for row in old.values()} == {None}


def test_nih_images_with_several_asked_findings(built):
    _, settings = built("nih")
    assert _read(settings).excluded["several_findings"] == 1
    first = _rows(_read(settings, several="first", findings=["Infiltration", "Mass"]))
    assert first["00000002_000"]["label"] == "Infiltration"


@pytest.mark.parametrize("sides", ["1,2", "1,2,Canary,4", "1,2,-3,4", "1,2,nan,4", "", "1,2,3,inf"])
def test_nih_malformed_boxes_cost_their_image(sides, copied):
    root, settings = copied("nih")
    path = root / "BBox_List_2017.csv"
    before = _rows(_read(settings))
    boxed, label = next((name, row["label"]) for name, row in before.items() if row["boxes"])
    kept = [line for line in path.read_text().splitlines() if not line.startswith(boxed)]
    path.write_text("\n".join([*kept, f"{boxed}.png,{label},{sides}", f"x.png,Mass,{sides}"]) + "\n")
    listing = _read(settings)
    assert set(_rows(listing)) == set(before) - {boxed}
    assert [each.image_id for each in listing.refused] == [boxed]
    assert [each.image_id for each in listing.warned] == [boxed, "x"]
    assert all("Canary" not in each.detail for each in listing.warned)
    path.write_text("\n".join([*kept, f"{boxed}.png,{label},1,2,0,4"]) + "\n")
    assert _rows(_read(settings))[boxed]["roi_state"] == "not_annotated"


def test_nih_an_image_that_stands_twice_is_refused(copied):
    root, settings = copied("nih")
    path = root / "Data_Entry_2017_v2020.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]))
    with pytest.raises(SourceError, match="stands twice"):
        _read(settings)


# --- CheXlocalize


def test_chexlocalize_runs_labels_and_patients(built):
    _, settings = built("chexlocalize")
    rows = _rows(_read(settings))
    # Nothing was published for training: the validation set is dealt out.
    assert Counter(row["split"] for row in rows.values()) == {None: len(rows) - 7, "test": 7}
    frontal = rows["patient64540_study1_view1_frontal"]
    assert (frontal["label"], frontal["group_id"], frontal["study_id"]) == (
        "Airspace Opacity",  # "Lung Opacity" in the labels
        "patient64540",
        "patient64540/study1",
    )
    assert (frontal["sex"], frontal["age_band"]) == ("M", "30-39")
    assert frontal["rle"]["counts"]
    assert rows["patient64546_study1_view1_frontal"]["roi_state"] == "not_annotated"  # an empty mask
    lateral = rows["patient64543_study1_view2_lateral"]
    assert (lateral["roi_state"], lateral["group_id"]) == ("not_annotated", "patient64543")


def test_chexlocalize_without_labels_takes_what_is_segmented(copied):
    root, settings = copied("chexlocalize")
    expected = {image: row for image, row in _rows(_read(settings)).items() if row["rle"]}
    for split in ("val", "test"):
        (root / f"CheXpert/{split}_labels.csv").unlink()
    listing = _read(settings)
    assert {image: row["label"] for image, row in _rows(listing).items()} == {
        image: row["label"] for image, row in expected.items()
    }
    assert listing.excluded["undecided"] > 0
    assert any("no file of labels" in note for note in listing.notes)


def test_chexlocalize_contours_stand_in_for_missing_runs(copied):
    root, settings = copied("chexlocalize")
    (root / "CheXlocalize/gt_segmentations_val.json").unlink()
    contours = {
        "img_size": list(scans.FRAME),
        "Airspace Opacity": [[[10, 20], [30, 20], [30, 44], [10, 44]], [[1, 1]]],
    }
    view = "patient64540_study1_view1_frontal"
    (root / "CheXlocalize/gt_annotations_val.json").write_text(json.dumps({view: contours}))
    row = _rows(_read(settings))[view]
    assert row["polygons"] == [[10, 20, 30, 20, 30, 44, 10, 44]]
    (image,) = read_row(row, _pool(settings))
    assert image.roi.mean() == pytest.approx(20 * 24 / (96 * 80), rel=0.02)


@pytest.mark.parametrize("content", ["[]", "{", "7", "[" * 100_000])
def test_chexlocalize_files_that_hold_no_segmentations(content, copied):
    root, settings = copied("chexlocalize")
    (root / "CheXlocalize/gt_segmentations_val.json").write_text(content)
    with pytest.raises(SourceError, match="segmentations is malformed"):
        _read(settings)


def _edited(path: Path, listing: Listing, region) -> str:
    """Put something else into the entry of the label of a view; its image id."""
    row = next(row for row in _rows(listing).values() if row["roi_state"] == "present" and not row["split"])
    entries = json.loads(path.read_text())
    names = {"Airspace Opacity": ["Airspace Opacity", "Lung Opacity"]}.get(row["label"], [row["label"]])
    name = next(name for name in names if name in entries[row["image_id"]])
    if region is None:
        entries[row["image_id"]] = 7
    else:
        entries[row["image_id"]][name] = region
    entries["../../Canary"] = {}
    path.write_text(json.dumps(entries))
    return row["image_id"]


@pytest.mark.parametrize(
    "region",
    [
        {"size": [1e9, 2], "counts": "1"},
        {"size": [99999999, 2], "counts": "1"},
        {"size": [2, 2], "counts": [1, 3]},
        {"size": [2, 2]},
        "Canary",
        [],
    ],
)
def test_chexlocalize_a_malformed_segmentation_costs_its_image(region, copied):
    root, settings = copied("chexlocalize")
    before = _read(settings)
    image = _edited(root / "CheXlocalize/gt_segmentations_val.json", before, region)
    listing = _read(settings)
    assert set(_rows(listing)) == set(_rows(before)) - {image}
    assert [each.image_id for each in listing.refused] == [image]
    assert [each.image_id for each in listing.warned] == [None]
    assert "Canary" not in str(listing.refused) + str(listing.warned)


def test_chexlocalize_an_entry_that_is_none_leaves_the_image_without_a_region(copied):
    root, settings = copied("chexlocalize")
    image = _edited(root / "CheXlocalize/gt_segmentations_val.json", _read(settings), None)
    listing = _read(settings)
    assert _rows(listing)[image]["roi_state"] == "not_annotated"
    assert {each.image_id for each in listing.warned} == {None, image}


# --- boxes come back within a pixel


def _edges(coverage: np.ndarray, length: int) -> tuple[float, float]:
    """Where a box begins and ends along an axis, in pixels of the original, told from covered fractions."""
    profile = coverage / coverage.max()
    cells = np.flatnonzero(profile > 1e-6)
    scale = length / len(profile)
    start = (cells[0] + 1 - profile[cells[0]]) * scale if len(cells) > 1 else cells[0] * scale
    return start, start + profile.sum() * scale


@pytest.mark.parametrize("name", ["vindr-kaggle", "vindr-png", "siim", "siim-png", "rsna", "nih"])
@pytest.mark.parametrize("size", [37, 64])
def test_boxes_come_back_within_a_pixel(name, size, built):
    _, settings = built(name)
    listing = _read(settings, readers={"boxes": "cluster_mean"})
    boxed = [row for row in listing.manifest.to_pylist() if len(row["boxes"]) == 1]
    assert len(boxed) >= 4
    for row in boxed[:6]:
        pool = _pool({**settings, "image_size": size})
        (image,) = read_row(row, pool)
        height = row["roi_height"] or image.frame[0]
        width = row["roi_width"] or image.frame[1]
        x0, y0, x1, y1 = np.clip(row["boxes"][0], 0, [width, height, width, height])
        found = (*_edges(image.roi.max(axis=0), width), *_edges(image.roi.max(axis=1), height))
        assert np.abs(np.subtract(found, (x0, x1, y0, y1))).max() < 1.0, row["image_id"]


def test_notes_hold_no_id_and_no_absolute_path(built):
    for name in LAYOUTS:
        root, settings = built(name)
        listing = _read(settings)
        text = " ".join(listing.notes)
        assert str(root) not in text
        assert not any(image in text for image in _rows(listing))
        assert not re.search(r"[0-9a-f]{12}", text)


def test_a_file_that_a_set_lacks_or_that_is_too_large_is_named(copied, monkeypatch):
    root, settings = copied("siim")
    monkeypatch.setattr(layouts, "MAX_BYTES", 10)
    with pytest.raises(SourceError, match="too large"):
        _read(settings)
    monkeypatch.undo()
    (root / "train_study_level.csv").unlink()
    with pytest.raises(SourceError, match="no such file") as caught:
        _read(settings)
    assert "train_study_level.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("contours", "is_lost"),
    [
        ([[[1, 2], [3, "Canary"], [4, 4]]], True),
        ([[[1, 2], [3, 1e999], [4, 4]]], True),
        ([[1, 2, 3]], True),
        ([[[1, 2, 3]]], True),
        ([[[9**999, 1], [1, 2], [3, 4]]], True),
        ({"a": 1}, True),
        (5, True),
        ([[[500, 500], [510, 500], [510, 510]]], True),
        ([[[1, 2], [3, 4]]], False),
        ([[[1, 2]], [[1, 1], [2, 2], [3, 3]]], False),
    ],
)
def test_chexlocalize_malformed_contours(contours, is_lost, copied):
    root, settings = copied("chexlocalize")
    before = _read(settings)
    views = {name: row["rle"] for name, row in _rows(before).items() if row["rle"] and not row["split"]}
    image = next(iter(views))
    label = _rows(before)[image]["label"]
    (root / "CheXlocalize/gt_segmentations_val.json").unlink()
    (root / "CheXlocalize/gt_annotations_val.json").write_text(
        json.dumps({image: {"img_size": [96, 80], label: contours}})
    )
    listing = _read(settings)
    assert [each.image_id for each in listing.refused] == ([image] if is_lost else [])
    assert bool(listing.warned) != is_lost
    if not is_lost:
        assert _rows(listing)[image]["roi_state"] == "not_annotated"
    assert "Canary" not in str(listing.refused) + str(listing.warned)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vindr-physionet", "chexlocalize"])
def test_a_set_in_an_object_store_is_listed_as_on_a_disk(name, built, s3_bucket):
    root, settings = built(name)
    for file in root.rglob("*"):
        if file.is_file():
            write_bytes(s3_bucket / "sets" / str(file.relative_to(root)), file.read_bytes())
    on_disk, there = _read(settings), _read(settings, path=f"{s3_bucket}/sets")
    assert there.manifest.drop_columns(["uri"]).equals(on_disk.manifest.drop_columns(["uri"]))
    assert (there.notes, there.excluded) == (on_disk.notes, on_disk.excluded)
    assert all(uri.startswith("s3://") for uri in there.manifest["uri"].to_pylist())
