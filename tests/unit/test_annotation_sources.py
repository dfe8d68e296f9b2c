"""ISIC 2018, COCO and YOLO: what is listed, and where the ROI comes to lie."""

import json

import numpy as np
import pytest
from layouts import brats, coco, isic2018, yolo
from layouts.drawn import box_of, picture
from PIL import Image

from xal_ray.config import Pool
from xal_ray.errors import SourceError
from xal_ray.pool.reading import read_row
from xal_ray.pool.sources import read_source
from xal_ray.pool.sources.split_names import settled_split, split_of_name
from xal_ray.roi import boxes_to_grid, mask_to_grid
from xal_ray.storage import write_bytes


def _pool(settings, source=None, **others):
    return Pool(
        **{**settings, "image_size": 64, "source": {**settings["source"], **(source or {})}, **others}
    )


def _rows(pool):
    return {row["image_id"]: row for row in read_source(pool).manifest.to_pylist()}


def _roi(row, pool):
    (image,) = read_row(row, pool)
    return image.roi


# --- ISIC 2018 and HAM10000


def test_isic_groups_by_lesion_and_says_what_is_missing(tmp_path):
    pool = _pool(isic2018.build(tmp_path, num_patients=6))
    listing = read_source(pool)
    rows = _rows(pool)
    # Lesions 1, 3, 5 have two images; the last of the nine has no file.
    assert sorted(rows) == [f"ISIC_{24306 + number:07d}" for number in range(8)]
    assert listing.excluded == {"missing_file": 1, "not_in_csv": 1}
    assert rows["ISIC_0024307"]["group_id"] == rows["ISIC_0024308"]["group_id"] == "HAM_0000001"
    assert [row["label"] for row in rows.values()][:4] == ["MEL", "NV", "NV", "BCC"]
    assert {row["split"] for row in rows.values()} == {None}
    assert [row["roi_state"] for row in rows.values()][:2] == ["present", "not_annotated"]
    assert listing.classes == ("MEL", "NV", "BCC")
    assert _roi(rows["ISIC_0024306"], pool).max() == 1


def test_isic_official_splits_stand_without_lesions(tmp_path):
    pool = _pool(isic2018.build(tmp_path, num_patients=4, official=True))
    rows = _rows(pool)
    splits = [(row["split"], row["group_id"] == row["image_id"]) for row in rows.values()]
    assert set(splits) == {("pool", False), ("val", True), ("test", True)}


def test_isic_without_lesions_must_be_told_to_group_by_image(tmp_path):
    settings = isic2018.build(tmp_path, num_patients=4)
    (tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv").unlink()
    with pytest.raises(SourceError, match=r"LesionGroupings.*\n.*pool.group_by=image"):
        read_source(_pool(settings))
    rows = _rows(_pool(settings, group_by="image"))
    assert all(row["group_id"] == name for name, row in rows.items())


def test_isic_findings_choose_classes(tmp_path):
    pool = _pool(isic2018.build(tmp_path, num_patients=6), {"findings": ["nv", "mel"]})
    listing = read_source(pool)
    assert listing.classes == ("NV", "MEL")
    assert listing.excluded["other_findings"] == 2


def test_ham10000_has_ages_and_sexes(tmp_path):
    pool = _pool(isic2018.build_ham10000(tmp_path, num_patients=3))
    rows = _rows(pool)
    assert len(rows) == 6
    assert [row["label"] for row in rows.values()] == ["MEL", "MEL", "NV", "NV", "BCC", "BCC"]
    assert len({row["group_id"] for row in rows.values()}) == 3
    assert (rows["ISIC_0024306"]["age_band"], rows["ISIC_0024306"]["sex"]) == (None, None)
    assert (rows["ISIC_0024310"]["age_band"], rows["ISIC_0024310"]["sex"]) == ("30-39", "M")


def test_a_folder_without_isic_says_what_would_do(tmp_path):
    with pytest.raises(SourceError, match="HAM10000_metadata"):
        read_source(_pool({"source": {"kind": "isic2018", "path": str(tmp_path)}}))


# --- COCO


def test_coco_in_its_public_layout(tmp_path):
    pool = _pool(coco.build(tmp_path, num_patients=10))
    listing = read_source(pool)
    assert listing.excluded == {"missing_file": 1, "several_findings": 1}
    assert any("1 annotations belong to no image" in note for note in listing.notes)
    rows = _rows(pool)
    assert len(rows) == 19
    assert rows["annotations/instances_train2017/1"]["split"] == "pool"
    assert rows["annotations/instances_test2017/19"]["group_id"] == "patient-9"
    assert rows["annotations/instances_train2017/5"]["label"] == "No finding"
    assert rows["annotations/instances_train2017/5"]["roi_state"] == "absent_confirmed"
    assert {row["split"] for row in rows.values()} == {"pool", "val", "test"}


def test_coco_several_takes_the_first_finding_and_its_shapes_alone(tmp_path):
    pool = _pool(coco.build(tmp_path, num_patients=10), {"several": "first"})
    row = _rows(pool)["annotations/instances_train2017/0"]
    assert row["label"] == "bright"
    assert len(row["boxes"]) == 1
    assert row["boxes"][0] != [1, 1, 6, 6]


def test_coco_shapes_lie_where_the_lesion_is_seen(tmp_path):
    """Boxes, polygons and both kinds of runs: the bright lesion is inside, the rest of the picture is not."""
    pool = _pool(coco.build(tmp_path, num_patients=10))
    forms = set()
    for row in _rows(pool).values():
        if row["label"] == "bright":
            (image,) = read_row(row, pool)
            values = image.pixels[:, :, 0].astype(float)
            assert values[image.roi == 1].mean() > values[image.roi == 0].mean() + 60
            assert image.roi[values > 185].mean() > 0.95
            forms |= {name for name in ("boxes", "polygons", "rle") if row[name]}
    assert forms == {"boxes", "polygons", "rle"}


def _one_image(root, annotations, image=None, **content):
    """A COCO file with one image of 96 x 72 and one patient; its pool."""
    grey, _ = picture(np.random.default_rng(0), None, coco.FRAME)
    (root / "scans").mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).save(root / "scans" / "1.png")
    item = {"id": "a", "file_name": "scans/1.png", "width": 96, "height": 72, "patient_id": 7} | (image or {})
    document = {
        "images": [item],
        "annotations": [{"image_id": "a", "category_id": 1} | annotation for annotation in annotations],
        "categories": [{"id": 1, "name": "mass"}, {"id": 2, "name": "cyst"}],
    } | content
    (root / "labels.json").write_text(json.dumps(document))
    return Pool(image_size=64, source={"kind": "coco", "path": str(root / "labels.json")})


def test_coco_unites_the_shapes_of_a_label(tmp_path):
    one, two = np.zeros(coco.FRAME, dtype=bool), np.zeros(coco.FRAME, dtype=bool)
    one[10:20, 10:30], two[15:40, 20:25] = True, True
    triangle = [60.0, 10.0, 80.0, 10.0, 60.0, 50.0]
    annotations = [coco.annotation_of(one, "list"), coco.annotation_of(two, "text")]
    annotations += [
        {"segmentation": [triangle]},
        {"bbox": [2, 60, 10.5, 5]},
        {"bbox": [1, 1, 9, 9], "category_id": 2},
    ]
    pool = _one_image(tmp_path, annotations)
    row = _rows(pool.model_copy(update={"source": pool.source.model_copy(update={"several": "first"})}))["a"]
    expected = np.maximum(
        mask_to_grid(one | two, (64, 64)), boxes_to_grid([[2, 60, 12.5, 65]], coco.FRAME, (64, 64))
    )
    roi = _roi(row, pool)
    left = slice(0, 36)
    np.testing.assert_allclose(roi[:, left], expected[:, left], atol=1e-6)
    # 400 px of triangle; a cell has 1.5 x 1.125 px.
    assert roi[:, 36:].sum() == pytest.approx(400 / (1.5 * 1.125), rel=1e-3)
    assert row["group_id"] == "7"


def test_coco_boxes_of_a_resized_copy(tmp_path):
    pool = _one_image(tmp_path, [{"bbox": [96, 36, 48, 72]}], image={"width": 192, "height": 144})
    roi = _roi(_rows(pool)["a"], pool)
    np.testing.assert_array_equal(roi, boxes_to_grid([[96, 36, 144, 108]], (144, 192), (64, 64)))


def test_coco_without_groups_must_be_told(tmp_path):
    pool = _one_image(tmp_path, [{"bbox": [1, 1, 9, 9]}], image={"patient_id": None})
    with pytest.raises(SourceError, match="patient_id, group_id, lesion_id"):
        read_source(pool)
    rows = _rows(pool.model_copy(update={"group_by": "image"}))
    assert rows["a"]["group_id"] == "a"


@pytest.mark.parametrize(
    "name", ["../1.png", "/etc/hostname", "https://there/1.png", "scans/../../1.png", "a\\b.png"]
)
def test_coco_files_do_not_lead_out(tmp_path, name):
    pool = _one_image(tmp_path / "set", [{"bbox": [1, 1, 9, 9]}], image={"file_name": name})
    with pytest.raises(SourceError, match=r"leads out|not a plain"):
        read_source(pool)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"bbox": [1, 1, "9", 9]}, "a bbox is malformed"),
        ({"bbox": [90, 1, 20, 9]}, "outside the frame"),
        ({"bbox": [5, 5, -2, 4]}, "empty or inverted"),
        ({"segmentation": [[1, 2, 3, 4]]}, "three or more pairs"),
        ({"segmentation": [[1, 2, 3, 4, 500, 2]]}, "outside the frame"),
        ({"segmentation": "text"}, "a segmentation is malformed"),
        ({"segmentation": {"size": [72, 96], "counts": [7000]}}, "runs of a mask are malformed"),
        ({"segmentation": {"size": [72, 96], "counts": "\x7f"}}, "runs of a mask are malformed"),
        ({"segmentation": {"size": [100000, 100000], "counts": [10**10]}}, "another size"),
        ({"category_id": 5}, "not listed"),
        ({"image_id": [1]}, "no sound 'image_id'"),
    ],
)
def test_coco_annotations_that_can_not_be_meant(tmp_path, annotation, message):
    with pytest.raises(SourceError, match=message):
        read_source(_one_image(tmp_path, [annotation]))


@pytest.mark.parametrize(
    "text",
    ["", "[", '{"images": 1}', "[" * 100_000, '{"images": [{"id": 1}], "annotations": [], "categories": []}'],
)
def test_coco_files_that_are_none(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SourceError):
        read_source(Pool(source={"kind": "coco", "path": str(tmp_path)}))


def test_coco_files_are_read_within_limits(tmp_path):
    pool = _one_image(tmp_path, [{"bbox": [1, 1, 9, 9]}])
    limits = pool.limits.model_copy(update={"max_file_bytes": 100})
    with pytest.raises(SourceError, match="at most 100 bytes"):
        read_source(pool.model_copy(update={"limits": limits}))


def test_coco_as_exporters_write_it(tmp_path):
    for part in ("train", "valid"):
        _one_image(
            tmp_path / part, [{"bbox": [1, 1, 9, 9]}], image={"patient_id": part, "file_name": "1.png"}
        )
        (tmp_path / part / "scans" / "1.png").rename(tmp_path / part / "1.png")
        (tmp_path / part / "labels.json").rename(tmp_path / part / "_annotations.coco.json")
    rows = _rows(Pool(source={"kind": "coco", "path": str(tmp_path)}))
    assert {name: row["split"] for name, row in rows.items()} == {
        "train/_annotations.coco/a": "pool",
        "valid/_annotations.coco/a": "val",
    }
    assert rows["valid/_annotations.coco/a"]["uri"].endswith("valid/1.png")


# --- YOLO


def test_yolo_with_a_yaml_file_of_another_machine(tmp_path):
    pool = _pool(yolo.build(tmp_path, num_patients=12))
    listing = read_source(pool)
    rows = {row["uri"].rsplit("/", 1)[-1]: row for row in listing.manifest.to_pylist()}
    assert len(rows) == 12
    assert [rows[f"{number:04d}.jpg"]["split"] for number in (0, 7, 9)] == ["pool", "val", "test"]
    assert [rows[f"{number:04d}.jpg"]["label"] for number in (0, 1, 2, 5)] == [
        "bright",
        None,
        "ring",
        "No finding",
    ]
    states = [rows[f"{number:04d}.jpg"]["roi_state"] for number in (0, 1, 5)]
    assert states == ["present", "not_annotated", "absent_confirmed"]
    assert listing.classes == ("bright", "dark", "ring", "No finding")
    assert any("stay unlabelled: 1" in note for note in listing.notes)


def _yolo_image(root, line, frame=yolo.FRAME, settings="names: [mass]\ntrain: images\n"):
    grey, _ = picture(np.random.default_rng(0), None, frame)
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    Image.fromarray(grey).save(root / "images" / "1.png")
    (root / "labels" / "1.txt").write_text(line)
    (root / "data.yaml").write_text(settings)
    return Pool(image_size=64, source={"kind": "yolo", "path": str(root)}, group_by="image")


@pytest.mark.parametrize("frame", [(64, 64), (64, 96), (300, 100)])
def test_yolo_shapes_in_pictures_of_any_size(tmp_path, frame):
    mask = np.zeros(frame, dtype=bool)
    mask[frame[0] // 4 : frame[0] // 2, frame[1] // 8 : frame[1] // 2] = True
    x0, y0, x1, y1 = box_of(mask)
    corners = [
        value / side for value, side in zip((x0, y0, x1, y0, x1, y1, x0, y1), frame[::-1] * 4, strict=True)
    ]
    lines = {"box": yolo.label_line(0, mask), "polygon": "0 " + " ".join(f"{value:.6f}" for value in corners)}
    for name, line in lines.items():
        pool = _yolo_image(tmp_path / name, line, frame)
        (row,) = _rows(pool).values()
        np.testing.assert_allclose(_roi(row, pool), mask_to_grid(mask, (64, 64)), atol=1e-3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 .5 .5 .2", "4 words"),
        ("0 .5 .5 .2 nan", "malformed"),
        ("0 .5 .5 .2 .2 .9", "6 words"),
        ("3 .5 .5 .2 .2", "names a class"),
        ("0 .5 .5 0 .2", "no area"),
        ("0 200 100 20 20", "leads out"),
        ("mass .5 .5 .2 .2", "malformed"),
    ],
)
def test_yolo_lines_that_can_not_be_meant(tmp_path, line, message):
    with pytest.raises(SourceError, match=message) as error:
        read_source(_yolo_image(tmp_path, line))
    assert "1.txt, line 1" in str(error.value)


def test_yolo_boxes_over_the_edge_by_rounding_are_cut(tmp_path):
    pool = _yolo_image(tmp_path, "0 0.05 0.5 0.1001 1.0")
    (row,) = _rows(pool).values()
    assert _roi(row, pool)[:, :6].min() == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("names: 3", "classes are malformed"),
        ("names: [no, yes]\ntrain: images", "quotes"),
        ("a: &x [1]\nnames: *x", "can't be read"),
        ("names: [a]\ntrain: [[images]]", "a split is malformed"),
        ("names: [a]\ntrain: https://there/images", "not a plain"),
        ("names: !!python/object:os.system [a]", "can't be read"),
    ],
)
def test_yolo_settings_that_are_malformed(tmp_path, settings, message):
    with pytest.raises(SourceError, match=message):
        read_source(_yolo_image(tmp_path, "", settings=settings))


def test_yolo_lists_of_images_and_paths_that_lead_up_stay_inside(tmp_path):
    pool = _yolo_image(
        tmp_path / "set", "0 .5 .5 .2 .2", settings="names: {0: mass}\ntrain: ../../list.txt\n"
    )
    (tmp_path / "list.txt").write_text("/etc/hostname\n")
    (tmp_path / "set" / "list.txt").write_text("images/1.png\nimages/2.png\n")
    listing = read_source(pool)
    assert (listing.manifest.num_rows, listing.excluded) == (1, {"missing_file": 1})
    (tmp_path / "set" / "list.txt").write_text("/etc/hostname\n")
    with pytest.raises(SourceError, match="leads out"):
        read_source(pool)


def test_yolo_with_a_list_of_classes_only(tmp_path):
    pool = _yolo_image(tmp_path, "0 .5 .5 .2 .2")
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(SourceError, match=r"data\.yaml"):
        read_source(pool)
    (tmp_path / "classes.txt").write_text("mass\ncyst\n")
    (row,) = _rows(pool).values()
    assert (row["label"], row["split"]) == ("mass", None)


# --- names of splits


def test_names_tell_splits():
    words = {
        "instances_train2017.json": "pool",
        "ISIC2018 Task3 Validation GroundTruth.csv": "val",
        "valid/_annotations.coco.json": "val",
        "test.json": "test",
        "latest.json": None,
        "trainer/x.json": None,
        "labels.json": None,
    }
    assert {name: split_of_name(name) for name in words} == words
    assert settled_split("pool", ["pool", None]) is None
    assert settled_split("pool", ["pool", "val"]) == "pool"


# --- in an object store


@pytest.mark.slow
@pytest.mark.parametrize("layout", [brats, coco, isic2018, yolo])
def test_sources_in_an_object_store_are_those_on_a_disk(tmp_path, s3_bucket, layout):
    settings = layout.build(tmp_path, num_patients=6)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            write_bytes(s3_bucket / file.relative_to(tmp_path).as_posix(), file.read_bytes())
    local = read_source(_pool(settings)).manifest.to_pylist()
    pool = _pool(settings, {"path": str(s3_bucket)})
    remote = read_source(pool).manifest.to_pylist()
    places = ("uri", "mask_uri", "channel_uris")
    assert [{**row, **dict.fromkeys(places)} for row in remote] == [
        {**row, **dict.fromkeys(places)} for row in local
    ]
    assert remote[0]["uri"].startswith("s3://")
    for there, here in zip(read_row(remote[0], pool), read_row(local[0], pool), strict=True):
        np.testing.assert_array_equal(there.pixels, here.pixels)
