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
from xal_ray.pool.sources.common.split_names import settled_split, split_of_name
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


SOUND_BOX = {"bbox": [10, 10, 20, 20]}
BAD_PARTS = [
    {"segmentation": [[1, 2, 3, 4]]},
    {"segmentation": [[]]},
    {"segmentation": [[], [5, 5]]},
    {"segmentation": [[10, 10, 20, 20, 30, 30]]},
    {"segmentation": [[1, 2, float("nan"), 4, 5, 6]]},
    {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]},
    {"segmentation": [[1, 2, "3", 4, 5, 6]]},
    {"segmentation": [[200, 200, 210, 200, 210, 210]]},
    {"segmentation": "text"},
    {"segmentation": {"size": [72, 96], "counts": [7000]}},
    {"segmentation": {"size": [72, 96], "counts": "\x7f"}},
    {"segmentation": {"size": [72, 96], "counts": 7}},
    {"segmentation": {"size": [100000, 100000], "counts": [10**10]}},
    {"segmentation": {"counts": [1]}},
]
BAD_BOXES = [[1, 1, "9", 9], [5, 5, -2, 4], [5, 5, 4], None, [1, float("nan"), 2, 2], [200, 1, 20, 9], 7]


def _shapes(tmp_path, *annotations, **image):
    """The listing of one bad image and one good one."""
    good = {"image_id": "b", "category_id": 1, "bbox": [1, 1, 9, 9]}
    pool = _one_image(tmp_path, [*annotations, good], image)
    path = tmp_path / "labels.json"
    document = json.loads(path.read_text())
    document["images"].append({**document["images"][0], "id": "b"})
    path.write_text(json.dumps(document))
    return pool, read_source(pool)


@pytest.mark.parametrize(
    "annotation",
    [*BAD_PARTS, {"segmentation": {"size": [72, 96], "counts": [72 * 96]}}],  # of nothing
)
def test_coco_falls_back_to_the_box_of_a_shape_that_can_not_be_meant(tmp_path, annotation):
    pool, listing = _shapes(tmp_path, annotation | SOUND_BOX)
    row = {row["image_id"]: row for row in listing.manifest.to_pylist()}["a"]
    assert (row["boxes"], row["polygons"], row["rle"]) == ([[10, 10, 30, 30]], None, None)
    np.testing.assert_array_equal(_roi(row, pool), boxes_to_grid([[10, 10, 30, 30]], (72, 96), (64, 64)))
    assert [(each.kind, each.image_id) for each in listing.warned] == [("box_instead", "a")]


@pytest.mark.parametrize("annotation", [*BAD_PARTS[4:], *({"bbox": bbox} for bbox in BAD_BOXES if bbox)])
def test_coco_a_shape_that_can_not_be_meant_costs_its_image(tmp_path, annotation):
    _, listing = _shapes(tmp_path, annotation)
    assert listing.manifest["image_id"].to_pylist() == ["b"]
    (refused,) = listing.refused
    assert (refused.image_id, refused.error_code) == ("a", "roi_mismatch")
    assert "none of its shapes can be meant" in refused.detail
    assert "labels.json, images[0]" in refused.detail


@pytest.mark.parametrize(
    "annotation",
    [*BAD_PARTS[:4], {"bbox": [5, 5, 0, 4]}, {"segmentation": [[1, 2, 3, 4]], "bbox": [1, 2, 2, 0]}],
)
def test_coco_shapes_without_area_leave_the_image_without_a_region(tmp_path, annotation):
    _, listing = _shapes(tmp_path, annotation)
    row = {row["image_id"]: row for row in listing.manifest.to_pylist()}["a"]
    assert (row["label"], row["roi_state"]) == ("mass", "not_annotated")
    assert {(each.kind, each.image_id) for each in listing.warned} == {("shape_dropped", "a")}


def test_coco_drops_bad_parts_beside_sound_ones(tmp_path):
    triangle = [10, 10, 30, 10, 10, 30]
    annotations = [{"segmentation": [triangle, [30, 30, 31, 31]]}, {"bbox": [90, 60, -5, 3]}, *BAD_PARTS[:9]]
    _, listing = _shapes(tmp_path, *annotations)
    row = {row["image_id"]: row for row in listing.manifest.to_pylist()}["a"]
    assert (row["polygons"], row["boxes"], row["roi_state"]) == ([triangle], [], "present")
    assert len(listing.warned) >= 10


def test_coco_shapes_over_the_edge_are_cut(tmp_path):
    pool, listing = _shapes(
        tmp_path, {"bbox": [-3, 8, 16, 16]}, {"segmentation": [[90, 60, 500, 60, 90, 70]]}
    )
    assert not listing.refused
    (image,) = read_row({row["image_id"]: row for row in listing.manifest.to_pylist()}["a"], pool)
    assert image.remarks == ("shape_cut",)
    inside = boxes_to_grid([[0, 8, 13, 24]], (72, 96), (64, 64))
    np.testing.assert_allclose(image.roi[:40], inside[:40], atol=1e-6)
    assert image.roi[55:].max() == 1


def test_coco_a_flat_list_is_one_polygon(tmp_path):
    _, listing = _shapes(tmp_path, {"segmentation": [10, 10, 30, 10, 10, 30]})
    assert listing.manifest["polygons"].to_pylist()[0] == [[10, 10, 30, 10, 10, 30]]


def test_coco_keypoints_are_read_by_their_box(tmp_path):
    points = {"keypoints": [5, 5, 2, 9, 9, 1], "num_keypoints": 2}
    _, listing = _shapes(tmp_path, {**points, "bbox": [1, 2, 10, 12]}, points)
    assert listing.manifest["boxes"].to_pylist()[0] == [[1, 2, 11, 14]]
    assert not listing.warned


def test_coco_an_annotation_of_no_category_costs_its_image_and_one_of_no_image_nothing(tmp_path):
    _, listing = _shapes(tmp_path, {"category_id": 5, **SOUND_BOX})
    assert listing.manifest["image_id"].to_pylist() == ["b"]
    assert [each.error_code for each in listing.refused] == ["unknown_label"]
    _, listing = _shapes(tmp_path, {"image_id": [1]}, {"image_id": "none"}, SOUND_BOX)
    assert listing.manifest.num_rows == 2
    assert any("2 annotations belong to no image" in note for note in listing.notes)


@pytest.mark.parametrize("sides", [{"width": 0}, {"height": "72"}, {"width": None}, {"width": 96.0}])
def test_coco_sizes_that_are_none_leave_the_frame_to_the_picture(tmp_path, sides):
    pool, listing = _shapes(tmp_path, {"bbox": [48, 36, 24, 18]}, **sides)
    row = listing.manifest.to_pylist()[0]
    np.testing.assert_array_equal(_roi(row, pool), boxes_to_grid([[48, 36, 72, 54]], (72, 96), (64, 64)))


@pytest.mark.parametrize("item", [{"file_name": ""}, {"file_name": 7}, {"id": None}, {"id": [1]}])
def test_coco_an_image_without_a_name_is_left_out(tmp_path, item):
    _, listing = _shapes(tmp_path, SOUND_BOX)
    path = tmp_path / "labels.json"
    document = json.loads(path.read_text())
    document["images"][0] |= item
    document["images"].append(7)
    path.write_text(json.dumps(document))
    listing = read_source(_coco_pool(path))
    assert listing.manifest["image_id"].to_pylist() == ["b"]
    assert listing.excluded == {"no_file_name": 2}


def _coco_pool(path):
    return Pool(image_size=64, source={"kind": "coco", "path": str(path)})


def test_coco_where_nothing_is_left_the_first_fault_is_named(tmp_path):
    with pytest.raises(
        SourceError, match=r"(?s)no image can be used.*1 x roi_mismatch.*wrong order.*images\[0\]"
    ):
        read_source(_one_image(tmp_path, [{"bbox": [5, 5, -2, 4]}]))


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


def test_yolo_numbers_of_classes_may_be_written_as_text(tmp_path):
    pool = _yolo_image(tmp_path, "1 .5 .5 .2 .2\n", settings="names: {'0': cyst, '1': mass}\ntrain: images\n")
    assert [row["label"] for row in _rows(pool).values()] == ["mass"]


def _yolo_lines(root, text, settings="names: [mass, cyst]\ntrain: images\n"):
    """The pool of an image with these labels and of a good one, and its listing."""
    pool = _yolo_image(root, text, settings=settings)
    Image.fromarray(np.zeros(yolo.FRAME, dtype=np.uint8)).save(root / "images" / "2.png")
    (root / "labels" / "2.txt").write_text("1 .5 .5 .25 .25\n")
    return pool, read_source(pool)


@pytest.mark.parametrize(
    "line",
    [
        "0 .5 .5 .2",
        "0 .5 .5 .2 nan",
        "0 .5 .5 .2 .2 .9",
        "0 200 100 20 20",
        "0 .5 .5 .2 mass",
        "0 .5 .5 -.2 .2",
        "0 1.5 .5 .2 .2",
        "0 1.1 .1 1.2 .1 1.2 .2",
        "0",
    ],
)
def test_yolo_a_shape_that_can_not_be_meant_costs_it_or_its_image(tmp_path, line):
    _, listing = _yolo_lines(tmp_path / "alone", line)
    assert listing.manifest["label"].to_pylist() == ["cyst"]
    (refused,) = listing.refused
    assert refused.error_code == "roi_mismatch"
    assert "fractions of the image's sides" in refused.detail
    _, listing = _yolo_lines(tmp_path / "beside", f"{line}\n0 .5 .5 .5 .5\n")
    row = next(row for row in listing.manifest.to_pylist() if row["label"] == "mass")
    assert (len(row["boxes"]), row["polygons"], row["roi_state"]) == (1, None, "present")
    assert [each.kind for each in listing.warned] == ["shape_dropped"]
    with pytest.raises(SourceError, match=r"(?s)1 x roi_mismatch; the first: none of its shapes"):
        read_source(_yolo_image(tmp_path / "only", line))


@pytest.mark.parametrize("line", ["3 .5 .5 .2 .2", "mass .5 .5 .2 .2", "0.5 .5 .5 .2 .2", "-1 .5 .5 .2 .2"])
def test_yolo_a_line_of_no_known_class_costs_its_image(tmp_path, line):
    _, listing = _yolo_lines(tmp_path, f"0 .5 .5 .5 .5\n{line}\n")
    assert listing.manifest["label"].to_pylist() == ["cyst"]
    assert [(each.error_code, each.detail) for each in listing.refused] == [
        ("unknown_label", "line 2 names no class of the YAML file")
    ]


def test_yolo_labels_that_are_no_text_cost_their_image(tmp_path):
    pool = _yolo_lines(tmp_path, "0 .5 .5 .5 .5\n")[0]
    (tmp_path / "labels" / "1.txt").write_bytes(b"\xff\xfe0 \xe4")
    listing = read_source(pool)
    assert listing.manifest["label"].to_pylist() == ["cyst"]
    assert [(each.error_code, each.detail) for each in listing.refused] == [
        ("unknown_label", "labels/1.txt: a file can't be read")
    ]


@pytest.mark.parametrize("line", ["0 .5 .5 0 .2", "0 .5 .5 0 0", "0 .1 .1 .2 .2 .3 .3"])
def test_yolo_shapes_without_area_leave_the_image_without_a_region(tmp_path, line):
    _, listing = _yolo_lines(tmp_path, line)
    row = next(row for row in listing.manifest.to_pylist() if row["label"] == "mass")
    assert row["roi_state"] == "not_annotated"
    assert [each.detail for each in listing.warned] == ["no area"]


def test_yolo_shapes_over_the_edge_are_cut(tmp_path):
    pool, listing = _yolo_lines(tmp_path, "0 .95 .5 .24 .25\n0 -.1 .1 .2 .1 .2 .2 -.1 .2\n")
    row = next(row for row in listing.manifest.to_pylist() if row["label"] == "mass")
    (image,) = read_row(row, pool)
    assert image.remarks == ("shape_cut",)
    side = 1 << 16
    drawn = [[0.83 * side, 0.375 * side, side, 0.625 * side], [0, 0.1 * side, 0.2 * side, 0.2 * side]]
    np.testing.assert_allclose(image.roi, boxes_to_grid(drawn, (side, side), (64, 64)), atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 2), (17, 3), (1, 2)])
def test_yolo_key_points_are_told_by_the_yaml_file(tmp_path, shape):
    settings = f"names: [mass, cyst]\ntrain: images\nkpt_shape: [{shape[0]}, {shape[1]}]\n"
    points = " ".join([".9"] * shape[0] * shape[1])
    _, listing = _yolo_lines(tmp_path, f"0 .5 .5 .25 .5 {points}\n", settings)
    row = next(row for row in listing.manifest.to_pylist() if row["label"] == "mass")
    side = 1 << 16
    assert (row["boxes"], row["polygons"]) == ([[0.375 * side, 0.25 * side, 0.625 * side, 0.75 * side]], None)
    assert not listing.warned


def test_yolo_lines_that_are_no_key_points_and_a_malformed_kpt_shape(tmp_path):
    settings = "names: [mass, cyst]\ntrain: images\nkpt_shape: {}\n"
    _, listing = _yolo_lines(tmp_path / "a", "0 .1 .1 .2 .1 .2 .2\n", settings.format("[4, 2]"))
    assert [each.error_code for each in listing.refused] == ["roi_mismatch"]
    for number, shape in enumerate(("7", "[4]", "[4, x]", "[0, 2]")):
        with pytest.raises(SourceError, match="kpt_shape is malformed"):
            _yolo_lines(tmp_path / str(number), "0 .5 .5 .2 .2\n", settings.format(shape))


def test_yolo_boxes_polygons_and_turned_boxes_may_share_a_file(tmp_path):
    text = "0 .5 .5 .25 .5\n0 .1 .1 .2 .1 .2 .2\n0 .5 .1 .6 .2 .5 .3 .4 .2\n"
    _, listing = _yolo_lines(tmp_path, text)
    row = next(row for row in listing.manifest.to_pylist() if row["label"] == "mass")
    assert (len(row["boxes"]), [len(polygon) for polygon in row["polygons"]]) == (1, [6, 8])


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
