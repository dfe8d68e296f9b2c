"""A box, through every change of frame between a source and the packed ROI, and back within a pixel.

Each picture is black with a white box. So the box must come back from the ROI, and the picture must be white
where the ROI is: image and ROI went through the same changes.
"""

import itertools
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xal_ray.config import Nifti, Pool
from xal_ray.pool.manifest import manifest_of
from xal_ray.pool.reading import read_row
from xal_ray.roi import compress_counts, mask_to_counts

FORMS = ("box", "polygon", "rle", "mask")
_Exif = Image.Transpose
# What was done to the upright picture before it was stored; the EXIF orientation undoes it.
_STORED = {
    1: None,
    2: _Exif.FLIP_LEFT_RIGHT,
    3: _Exif.ROTATE_180,
    4: _Exif.FLIP_TOP_BOTTOM,
    5: _Exif.TRANSPOSE,
    6: _Exif.ROTATE_90,
    7: _Exif.TRANSVERSE,
    8: _Exif.ROTATE_270,
}
_ORIENTATION = 274


def _white_box(frame, box):
    picture = np.zeros(frame, dtype=np.uint8)
    x0, y0, x1, y1 = box
    picture[y0:y1, x0:x1] = 255
    return picture


def _row(uri, frame, box, form, **others):
    x0, y0, x1, y1 = box
    shapes = {"boxes": [list(box)]} if form == "box" else {"boxes": []}
    if form == "polygon":
        shapes["polygons"] = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    if form == "rle":
        counts = compress_counts(mask_to_counts(_white_box(frame, box)))
        shapes["rle"] = {"height": frame[0], "width": frame[1], "counts": counts}
    if form == "mask":
        Image.fromarray(_white_box(frame, box)).save(mask := f"{uri}.mask.png")
        shapes["mask_uri"] = mask
    row = {"image_id": "a", "uri": str(uri), "group_id": "g", "roi_state": "present"}
    return manifest_of([{**row, **shapes, **others}]).to_pylist()[0]


def _edges(profile, length):
    """Where a stretch of coverage begins and ends, in pixels of a side."""
    cells = np.flatnonzero(profile > 0.02)
    first, last = cells[0], cells[-1]
    if first == last:
        return np.array([first, last + 1]) * length / len(profile)
    begin, end = first + 1 - profile[first], last + profile[last]
    return np.array([begin, end]) * length / len(profile)


def _check(image, frame, box):
    """The box comes back from the ROI within a pixel, or a cell where cells are larger; and it is white."""
    assert image.frame == frame
    size = len(image.roi)
    x0, y0, x1, y1 = box
    for axis, low, high, across in ((1, y0, y1, (x1 - x0) / frame[1]), (0, x0, x1, (y1 - y0) / frame[0])):
        length = frame[1 - axis]
        found = _edges(image.roi.sum(axis=axis) / (across * size), length)
        # Only a box within one cell is not known better than its cell.
        narrow = (high - low) * size / length < 2
        np.testing.assert_allclose(found, (low, high), atol=max(1.0, length / size) if narrow else 0.05)
    # Blurred edges leave the middle where it is, within a cell or a pixel.
    white = image.pixels[:, :, 0] / 255
    for axis, length in ((1, frame[0]), (0, frame[1])):
        middles = [_middle(each.sum(axis=axis)) for each in (white, image.roi)]
        np.testing.assert_allclose(*middles, atol=max(1.0, size / length))


def _middle(profile):
    return (profile * np.arange(len(profile))).sum() / profile.sum()


@st.composite
def frames_and_boxes(draw, least=12, most=96):
    frame = draw(st.integers(least, most)), draw(st.integers(least, most))

    def interval(length):
        low = draw(st.integers(0, length - 4))
        return low, draw(st.integers(low + 4, length))

    (y0, y1), (x0, x1) = interval(frame[0]), interval(frame[1])
    return frame, (x0, y0, x1, y1)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(case=frames_and_boxes(), size=st.integers(16, 128), form=st.sampled_from(FORMS))
def test_pictures_of_any_shape_made_smaller_or_larger(folder, case, size, form):
    frame, box = case
    Image.fromarray(_white_box(frame, box)).save(path := folder / "a.png")
    (image,) = read_row(_row(path, frame, box, form), Pool(image_size=size))
    _check(image, frame, box)


@settings(deadline=None, max_examples=30)
@given(
    case=frames_and_boxes(least=40),
    scale=st.floats(0.4, 2.5),
    squared=st.booleans(),
    form=st.sampled_from(["box", "polygon", "rle"]),
)
def test_resized_and_squared_copies(folder, case, scale, squared, form):
    """Boxes are given in the original's pixels, and the copy has other ones."""
    frame, box = case
    height, width = (round(side * scale) for side in frame)
    # Copies are rounded to whole pixels: more than 2 % of difference is no copy.
    if not squared and abs(width / height / (frame[1] / frame[0]) - 1) > 0.02:
        return
    copy = Image.fromarray(_white_box(frame, box)).resize((64, 64) if squared else (width, height))
    copy.save(path := folder / "b.png")
    row = _row(path, frame, box, form, roi_width=frame[1], roi_height=frame[0])
    (image,) = read_row(row, Pool(image_size=64))
    assert image.frame == (copy.height, copy.width)
    _check(type(image)(image.pixels, frame, image.roi), frame, box)


@pytest.mark.parametrize("orientation", _STORED)
@pytest.mark.parametrize("size", [40, 12 * 8])
def test_turned_jpeg_files(tmp_path, orientation, size):
    """Boxes are given on the upright picture; smaller ones are decoded at a fraction of their size."""
    frame, box = (203, 306), (40, 120, 160, 171)
    upright = Image.fromarray(_white_box(frame, box))
    turned = _STORED[orientation]
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    stored = upright if turned is None else upright.transpose(turned)
    stored.save(path := tmp_path / "a.jpg", quality=95, exif=exif)
    for form in ("box", "mask"):
        (image,) = read_row(_row(path, frame, box, form), Pool(image_size=size))
        _check(image, frame, box)


_TURNS = [
    (order, flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


@pytest.mark.slow
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_volumes_stored_in_all_48_orders_of_their_axes(tmp_path, plane):
    """The mask is stored in another order than the image; boxes are given on the slice as it is shown."""
    frame, box, number = (20, 30), (5, 3, 16, 14), 4
    # To the right, the front and the top: of an axial slice as shown, rows run back and columns to the left.
    shown = np.zeros((*frame, 9), dtype=np.int16)
    shown[:, :, number] = _white_box(frame, box)
    upright = {
        "axial": lambda v: v[::-1, ::-1].transpose(1, 0, 2),
        "coronal": lambda v: v[::-1, ::-1].transpose(1, 2, 0),
        "sagittal": lambda v: v[::-1, ::-1].transpose(2, 1, 0),
    }[plane](shown)
    body = nibabel.Nifti1Image(np.ascontiguousarray(upright), np.diag([0.8, 1.1, 2.0, 1.0]))
    pool = Pool(image_size=40, nifti=Nifti(plane=plane))
    pictures = []
    for (order, flips), (mask_order, mask_flips) in zip(_TURNS, _TURNS[17:] + _TURNS[:17], strict=True):
        for name, turn in (("image", (order, flips)), ("mask", (mask_order, mask_flips))):
            stored = body.as_reoriented(np.array(list(zip(*turn, strict=True))))
            nibabel.save(stored, tmp_path / f"{name}.nii")
        uri = tmp_path / "image.nii"
        row = {**_row(uri, frame, box, "box"), "frame": number}
        masked = {**row, "boxes": [], "mask_uri": str(tmp_path / "mask.nii")}
        (by_box,), (by_mask,) = read_row(row, pool), read_row(masked, pool)
        _check(by_box, frame, box)
        np.testing.assert_allclose(by_mask.roi, by_box.roi, atol=1e-6)
        pictures.append(by_box.pixels)
    assert all((picture == pictures[0]).all() for picture in pictures)
