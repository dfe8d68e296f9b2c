"""A row reader of another package: what it makes of a row is checked before anything is made of it."""

from __future__ import annotations

import sys
import uuid
from types import SimpleNamespace

import numpy as np
import pytest

from xal_ray.config import Pool
from xal_ray.errors import PluginError
from xal_ray.images.errors import ImageError
from xal_ray.plugins import row_reader
from xal_ray.pool.reading import ReadImage, read_row

POOL = Pool(image_size=16)
GREY = np.zeros((16, 16, 1), np.uint8)
ROI = np.ones((16, 16), np.float32)


@pytest.fixture
def made(monkeypatch):
    """Reads a row by a plug-in that answers so."""

    def read(answer, makes_many=False):
        name = f"reader_{uuid.uuid4().hex}"
        code = row_reader(makes_many=makes_many)(lambda row, pool: answer(row, pool))
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(read=code, __spec__=None))
        return read_row({"image_id": "a", "uri": "a.png", "reader": f"{name}:read"}, POOL)

    return read


def image(pixels=GREY, roi=None, frame=(4, 4), **more):
    return lambda row, pool: [ReadImage(pixels, frame, roi, **more)]


def named(*ids):
    return lambda row, pool: [ReadImage(GREY, (4, 4), None, {"image_id": name}) for name in ids]


def fail(error):
    def read(row, pool):
        raise error

    return read


def test_an_image_with_a_region_says_that_it_has_one(made):
    (found,) = made(image(roi=ROI.astype(bool), settled={"label": "x", "sex": None}))
    assert found.settled == {"roi_state": "present", "label": "x", "sex": None}
    assert (found.roi.dtype, found.roi.sum()) == (np.float32, 256)
    assert [each.settled["image_id"] for each in made(named("a/1", "a/2"), makes_many=True)] == ["a/1", "a/2"]
    assert made(named(), makes_many=True) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda row, pool: None, "NoneType"),
        (lambda row, pool: [GREY], "a ndarray"),
        (image(GREY / np.float32(255)), "float32 (16, 16, 1)"),
        (image(GREY.astype(np.uint16)), "uint16"),
        (image(GREY[:2]), "uint8 (2, 16, 1)"),
        (image(GREY[..., 0]), "uint8 (16, 16)"),
        (image(frame=(4, 4, 1)), "a frame of two"),
        (image(roi=ROI * 255), "255 to 255"),
        (image(roi=ROI * np.nan), "nan to nan"),
        (image(roi=ROI[:2]), "float32 (2, 16)"),
        (image(settled={"split": "test"}), "split"),
        (image(settled={"label": 3}), "a int"),
        (image(settled={"roi_state": "maybe"}), "maybe"),
        (image(roi=ROI, settled={"roi_state": "not_annotated"}), "an roi, and not_annotated"),
        (image(identified={"label": ("patient", "x")}), "label"),
        (image(remarks=("odd",)), "odd"),
        (named("b"), "the first b"),
        (named("a", "a"), "2, the first a"),
        (named(), "0, none"),
        (fail(KeyError("x")), "KeyError: 'x' (test_plugin_readers.py, line "),
        (fail(SystemExit(0)), "SystemExit: 0"),
    ],
)
def test_what_it_breaks_is_named(made, answer, words):
    with pytest.raises(PluginError, match=r"the row reader .* breaks its contract") as caught:
        made(answer)
    assert words in str(caught.value)
    assert caught.value.details["where"] == "the row a"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("ids", [("a/1", "a/1"), ("a/2", "a/1"), ("b/1",), ("a",)])
def test_the_images_of_a_case_have_ids_of_their_own(made, ids):
    with pytest.raises(PluginError, match="begin with a/"):
        made(named(*ids), makes_many=True)


def test_a_file_that_can_not_be_used_is_the_file_s_fault(made):
    with pytest.raises(ImageError):
        made(fail(ImageError("truncated", "it ends early")))
