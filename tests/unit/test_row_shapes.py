"""Boxes, polygons, runs and masks of a row on its image: a bad one costs that shape, or at most the image."""

import numpy as np
import pytest
from PIL import Image

from xal_ray.config import Pool
from xal_ray.images import ImageError
from xal_ray.pool.manifest import manifest_of
from xal_ray.pool.reading import read_row


def _row_of(tmp_path, **shapes):
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 64), dtype=np.uint8)).save(path)
    row = {"image_id": "a", "uri": str(path), "group_id": "g", "boxes": [], "roi_state": "present"}
    return manifest_of([{**row, **shapes}]).to_pylist()[0]


@pytest.mark.parametrize("kind", ["table", "folder", "coco"])
@pytest.mark.parametrize(
    ("shapes", "what"),
    [
        ({"boxes": [[100, 0, 120, 9]]}, "wholly outside"),
        ({"boxes": [[9, 9, 1, 1]]}, "wrong order"),
        ({"polygons": [[70, 0, 80, 0, 80, 9]]}, "wholly outside"),
        ({"rle": {"height": 32, "width": 64, "counts": "1"}}, "runs of a mask"),
        ({"rle": {"height": 8, "width": 8, "counts": "X1X1"}}, ""),
    ],
)
def test_shapes_that_do_not_fit_cost_their_image_whatever_the_source(tmp_path, kind, shapes, what):
    pool = Pool(image_size=16, channels=1, source={"kind": kind, "path": str(tmp_path)})
    with pytest.raises(ImageError) as caught:
        read_row(_row_of(tmp_path, **shapes), pool)
    assert caught.value.code == "roi_mismatch"
    assert what in caught.value.detail
    beside = {**shapes, "boxes": [*shapes.get("boxes", []), [0, 0, 32, 32]]}
    (image,) = read_row(_row_of(tmp_path, **beside), pool)
    assert image.roi.mean() == 0.5
    assert image.remarks == ("shape_dropped",)


def test_boxes_over_the_edge_are_cut_in_every_source(tmp_path):
    pool = Pool(image_size=16, channels=1, source={"kind": "table", "path": str(tmp_path)})
    (image,) = read_row(_row_of(tmp_path, boxes=[[32, -9, 99, 40]]), pool)
    assert (image.roi.mean(), image.remarks) == (0.5, ("shape_cut",))


def test_boxes_without_area_leave_no_region(tmp_path):
    pool = Pool(image_size=16, channels=1, source={"kind": "table", "path": str(tmp_path)})
    (image,) = read_row(_row_of(tmp_path, boxes=[[5, 5, 5, 9]]), pool)
    assert (image.roi, image.settled["roi_state"], image.remarks) == (
        None,
        "not_annotated",
        ("shape_dropped",),
    )


def test_a_mask_of_another_size_costs_its_image(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(np.full((8, 8), 255, dtype=np.uint8)).save(path)
    pool = Pool(image_size=16, channels=1, source={"kind": "table", "path": str(tmp_path)})
    with pytest.raises(ImageError) as caught:
        read_row(_row_of(tmp_path, mask_uri=str(path)), pool)
    assert (caught.value.code, caught.value.detail) == (
        "roi_mismatch",
        "a mask has another size than its image: 8x8 pixels, not 64x32 pixels",
    )
