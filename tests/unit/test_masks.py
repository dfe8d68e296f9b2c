"""Which pixels of a mask are inside, whatever wrote it; and what a mask without any says of its image."""

import io

import image_files as make
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from xal_ray.config import Limits, Nifti, Pool
from xal_ray.images import ImageError, read_mask
from xal_ray.images.masks import cut_plane
from xal_ray.pool.manifest import manifest_of
from xal_ray.pool.reading import read_row
from xal_ray.pool.remarks import REMARKS, count_remarks
from xal_ray.pool.schema import ATTRIBUTE_SCHEMA
from xal_ray.roi import compress_counts, mask_to_counts, mask_to_grid, pack_coverage

pytest.importorskip("nibabel")

LIMITS = Limits()
SHAPE = (64, 72)
ROWS, COLUMNS = np.indices(SHAPE)
DISC = (ROWS - 30) ** 2 + (COLUMNS - 40) ** 2 < 17**2
BLACK_ON_WHITE = np.where(DISC, 0, 255).astype(np.uint8)
WHITE = np.where(DISC, 255, 0).astype(np.uint8)


def _inside(tmp_path, picture, name="mask.png", **options):
    picture.save(tmp_path / name, **options)
    return read_mask(tmp_path / name, LIMITS)


def _blurred(mask, quality):
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


# --- labels, and black and white that was blurred


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 90, 95])
@pytest.mark.parametrize("depth", [1, 257])
def test_what_a_jpeg_has_blurred_is_cut_at_half_of_the_maximum(tmp_path, quality, depth):
    values = _blurred(WHITE, quality)
    assert np.count_nonzero(values) > DISC.sum()
    deep = values.astype(np.uint16) * depth if depth > 1 else values
    found = _inside(tmp_path, Image.fromarray(deep))
    assert found.is_soft
    assert np.count_nonzero(found.inside != DISC) < 0.01 * DISC.size
    np.testing.assert_array_equal(found.inside, values >= values.max() / 2)


@pytest.mark.parametrize("size", [64, 224, 900])
@pytest.mark.parametrize("depth", [1, 257])
def test_probabilities_that_fill_the_picture_are_cut_at_half_of_the_maximum(tmp_path, size, depth):
    rows, columns = np.indices((size, size)) / size
    heat = np.exp(-((rows - 0.4) ** 2 + (columns - 0.6) ** 2) / 0.2)
    values = np.rint(heat * 255).astype(np.uint16 if depth > 1 else np.uint8) * depth
    found = _inside(tmp_path, Image.fromarray(values))
    assert found.is_soft
    np.testing.assert_array_equal(found.inside, values >= values.max() / 2)


def test_labels_of_many_regions_that_touch_are_no_probabilities():
    middles = np.random.default_rng(0).integers(0, 72, (117, 2))
    nearest = ((ROWS[..., None] - middles[:, 0]) ** 2 + (COLUMNS[..., None] - middles[:, 1]) ** 2).argmin(2)
    assert cut_plane((nearest + 1).astype(np.uint8)).inside.all()


@pytest.mark.parametrize(
    "how", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS]
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_what_was_resampled_is_cut_at_half_of_the_maximum(tmp_path, how, mode):
    picture = Image.fromarray(WHITE).convert(mode).resize((171, 150), how)
    found = _inside(tmp_path, picture)
    values = np.asarray(picture.convert("L"))
    assert found.is_soft
    np.testing.assert_array_equal(found.inside, values >= values.max() / 2)


@pytest.mark.parametrize(
    "values", [(1, 2, 3, 4), (1, 2, 4), (50, 100, 150, 200), (85, 170, 255), (1, 2, 3, 255), (117, 2, 1, 64)]
)
@pytest.mark.parametrize("kind", ["png", "tif", "deep", "float", "nii", "dcm"])
def test_labels_are_inside_but_zero(tmp_path, values, kind):
    labels = np.zeros(SHAPE, dtype=np.uint8)
    for number, value in enumerate(values):
        labels[5 + 12 * number : 16 + 12 * number, 20:50] = value
    path = tmp_path / f"mask.{kind}"
    if kind == "nii":
        path.write_bytes(make.nifti(labels[:, :, None].astype(np.int16), np.diag([-1, -1, 1, 1])))
        labels = labels.T
    elif kind == "dcm":
        pytest.importorskip("pydicom")
        path.write_bytes(make.dicom(labels))
    else:
        dtype = {"deep": np.uint16, "float": np.float32}.get(kind, np.uint8)
        Image.fromarray(labels.astype(dtype)).save(path, "PNG" if kind in ("png", "deep") else "TIFF")
    found = read_mask(path, LIMITS)
    assert not found.is_soft
    np.testing.assert_array_equal(found.inside, labels > 0)


def test_many_small_instances_are_labels():
    labels = np.zeros((256, 256), dtype=np.uint16)
    for number in range(400):
        top, left = divmod(number, 20)
        labels[12 * top : 12 * top + 8, 12 * left : 12 * left + 8] = number + 1
    assert cut_plane(labels).inside.sum() == 400 * 64


@pytest.mark.parametrize(
    ("outside", "inside", "least"),
    [
        (1e-9, 1.0, 0.5),
        (1e-9, 4.0, 2.0),
        (0.0, 0.004, 0.002),
        (0.02, 0.9, 0.45),
        (-0.04, 1.06, 0.53),
        (0.3, 1.0, 0.5),
    ],
)
def test_real_numbers_are_cut_at_half_of_the_maximum_of_their_volume(tmp_path, outside, inside, least):
    voxels = np.where(DISC, inside, outside).astype(np.float32)[:, :, None].repeat(3, axis=2)
    voxels[:, :, 0] = outside  # a slice of crumbs alone
    voxels[0, 0, 1] = least * 1.02
    (tmp_path / "mask.nii").write_bytes(make.nifti(voxels, np.diag([-1, -1, 1, 1])))
    expected = DISC.copy()
    expected[0, 0] = True
    shares = [read_mask(tmp_path / "mask.nii", LIMITS, frame=frame).inside for frame in range(3)]
    assert not shares[0].any()
    np.testing.assert_array_equal(shares[1], expected.T)
    np.testing.assert_array_equal(shares[2], DISC.T)


def test_a_slice_of_a_blurred_volume_holds_nothing_but_crumbs(tmp_path):
    blurred = _blurred(WHITE, 30)
    voxels = np.stack([blurred, np.where(blurred < 10, blurred, 0)], axis=2).astype(np.uint8)
    assert voxels[:, :, 1].any()
    (tmp_path / "mask.nii").write_bytes(make.nifti(voxels, np.diag([-1, -1, 1, 1])))
    assert read_mask(tmp_path / "mask.nii", LIMITS, frame=0, nifti=Nifti()).inside.any()
    assert not read_mask(tmp_path / "mask.nii", LIMITS, frame=1, nifti=Nifti()).inside.any()


@pytest.mark.parametrize("low_and_high", [(0, 1), (0, 255), (0, 65535), (0, 128), (False, True)])
def test_two_values_are_outside_and_inside(low_and_high):
    low, high = low_and_high
    for dtype in (np.float32, np.float64, bool if high is True else np.uint16, np.int32):
        np.testing.assert_array_equal(cut_plane(np.where(DISC, high, low).astype(dtype)).inside, DISC)


def test_crumbs_that_a_codec_left_in_a_dark_jpeg_are_outside(tmp_path):
    grey = np.where(DISC, 100, 0).astype(np.uint8)  # below half of the range
    found = _inside(tmp_path, Image.fromarray(grey), "mask.jpg", quality=40)
    assert np.count_nonzero(found.inside != DISC) < 0.01 * DISC.size


def test_a_lossless_webp_may_hold_labels(tmp_path):
    labels = np.where(DISC, 1 + (ROWS > 30), 0).astype(np.uint8)
    found = _inside(tmp_path, Image.fromarray(labels), "mask.webp", lossless=True)
    np.testing.assert_array_equal(found.inside, DISC)


# --- palettes and transparency


def _with_palette(indices, colours):
    picture = Image.fromarray(indices.astype(np.uint8), mode="P")
    picture.putpalette([number for colour in colours for number in colour])
    return picture


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_black_and_white_of_a_palette_are_colours(tmp_path, bits):
    white_first = _with_palette(~DISC, [(255, 255, 255), (0, 0, 0)])
    for inside, picture in ((DISC, white_first), (DISC, Image.fromarray(WHITE).convert("RGB").quantize(2))):
        np.testing.assert_array_equal(_inside(tmp_path, picture, bits=bits).inside, inside)


def test_greys_of_a_palette_are_greys(tmp_path):
    values = _blurred(WHITE, 50)
    turned = _with_palette(255 - values, [(255 - index,) * 3 for index in range(256)])
    np.testing.assert_array_equal(_inside(tmp_path, turned).inside, values >= values.max() / 2)
    # The same white at three places of the palette.
    often = _with_palette(np.where(DISC, ROWS % 3, 3), [(255,) * 3] * 3 + [(0,) * 3])
    np.testing.assert_array_equal(_inside(tmp_path, often).inside, DISC)


def test_colours_of_a_palette_are_labels(tmp_path):
    labels = np.where(DISC, 1 + (ROWS > 30), 0)
    voc = [(0, 0, 0), (128, 0, 0), (0, 64, 0)]
    for places in ([0, 1, 2], [2, 0, 1]):  # black need not come first
        picture = _with_palette(np.take(places, labels), [voc[places.index(index)] for index in range(3)])
        np.testing.assert_array_equal(_inside(tmp_path, picture).inside, DISC)
    no_black = _with_palette(labels, [(9, 80, 9), (128, 0, 0), (0, 64, 0)])
    np.testing.assert_array_equal(_inside(tmp_path, no_black).inside, DISC)
    for_looks = _with_palette(labels, [(0, 0, 0)] * 3)
    np.testing.assert_array_equal(_inside(tmp_path, for_looks).inside, DISC)


def test_what_is_transparent_is_outside(tmp_path):
    picture = _with_palette(~DISC, [(255, 255, 255), (255, 255, 255)])
    np.testing.assert_array_equal(_inside(tmp_path, picture, transparency=1).inside, DISC)
    for colour in ((255, 255, 255), (255, 0, 0), (0, 0, 0)):  # black is drawn on nothing, too
        drawn = np.zeros((*SHAPE, 4), dtype=np.uint8)
        drawn[DISC] = (*colour, 255)
        np.testing.assert_array_equal(_inside(tmp_path, Image.fromarray(drawn)).inside, DISC)
    opaque = Image.fromarray(WHITE).convert("LA")
    np.testing.assert_array_equal(_inside(tmp_path, opaque).inside, DISC)
    for alpha in (0, 255):
        nothing = np.zeros((*SHAPE, 4), dtype=np.uint8)
        nothing[..., 3] = alpha
        assert not _inside(tmp_path, Image.fromarray(nothing)).inside.any()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16])
def test_a_tiff_whose_zero_is_white_is_seen_as_it_is_shown(tmp_path, dtype):
    values = BLACK_ON_WHITE > 0 if dtype is bool else BLACK_ON_WHITE.astype(dtype)
    picture = Image.fromarray(values * 257 if dtype == np.uint16 else values)
    picture.save(tmp_path / "mask.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "mask.tif") as shown:
        assert shown.tag_v2[262] == 0
    found = read_mask(tmp_path / "mask.tif", LIMITS).inside
    with Image.open(tmp_path / "mask.tif") as shown:
        seen = np.asarray(shown.convert("L") if dtype is not np.uint16 else 65535 - np.asarray(shown)) > 127
    np.testing.assert_array_equal(found, seen)


def test_masks_of_dicom_are_seen_as_they_are_shown(tmp_path):
    pytest.importorskip("pydicom")
    for inverted, values in (("MONOCHROME1", BLACK_ON_WHITE), ("MONOCHROME2", WHITE)):
        (tmp_path / "mask.dcm").write_bytes(make.dicom(values, photometric=inverted))
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.dcm", LIMITS).inside, DISC)


# --- a mask without an inside


def _row(tmp_path, **columns):
    image = tmp_path / "image.png"
    Image.fromarray((ROWS * 3).astype(np.uint8)).save(image)
    row = {
        "image_id": "a",
        "uri": str(image),
        "group_id": "a",
        "boxes": [],
        "roi_state": "present",
        **columns,
    }
    return manifest_of([row]).to_pylist()[0]


def _counts(mask):
    return compress_counts(mask_to_counts(mask))


def _read(row, kind="table"):
    (image,) = read_row(row, Pool(image_size=32, source={"kind": kind}))
    return image


@pytest.mark.parametrize("kind", ["table", "folder", "isic2018"])
@pytest.mark.parametrize("name", ["mask.png", "mask.jpg", "mask.nii", "mask.dcm", "palette.png"])
def test_a_mask_without_an_inside_says_that_there_is_none(tmp_path, kind, name):
    empty = np.zeros(SHAPE, dtype=np.uint8)
    path = tmp_path / name
    if name == "mask.nii":
        path.write_bytes(make.nifti(np.full((*SHAPE[::-1], 1), 1e-9, np.float32), np.diag([-1, -1, 1, 1])))
    elif name == "mask.dcm":
        pytest.importorskip("pydicom")
        path.write_bytes(make.dicom(empty))
    elif name == "palette.png":
        _with_palette(empty, [(0, 0, 0), (255, 255, 255)]).save(path)
    else:
        Image.fromarray(empty).save(path)
    image = _read(_row(tmp_path, mask_uri=str(path)), kind)
    assert (image.roi, image.settled["roi_state"]) == (None, "absent_confirmed")


def test_runs_without_an_inside_say_so_too(tmp_path):
    empty = {"height": SHAPE[0], "width": SHAPE[1], "counts": _counts(np.zeros(SHAPE, bool))}
    image = _read(_row(tmp_path, rle=empty), "coco")
    assert (image.roi, image.settled["roi_state"]) == (None, "absent_confirmed")
    drawn = {**empty, "counts": _counts(DISC)}
    image = _read(_row(tmp_path, rle=drawn), "coco")
    assert image.settled["roi_state"] == "present"
    np.testing.assert_allclose(image.roi.mean(), DISC.mean(), atol=1e-6)


def test_a_shape_without_an_area_is_no_region(tmp_path):
    image = _read(_row(tmp_path, polygons=[[5, 5, 20, 5, 9, 5]]), "coco")
    assert (image.roi, image.settled["roi_state"]) == (None, "not_annotated")


def test_a_region_smaller_than_the_training_size_shows_keeps_its_place():
    mask = np.zeros((3000, 3000), dtype=np.float32)
    mask[1500, 700] = 1
    packed = np.frombuffer(pack_coverage(mask_to_grid(mask, (64, 64))), np.uint8).reshape(64, 64)
    assert np.argwhere(packed).tolist() == [[32, 14]]
    assert packed.max() == 1
    assert not any(pack_coverage(np.zeros((4, 4))))


def test_cheng_without_a_tumour_is_confirmed_to_have_none(tmp_path):
    pytest.importorskip("h5py")
    picture = np.arange(64 * 72, dtype=np.int16).reshape(SHAPE)
    for mask, state in ((np.zeros(SHAPE, np.uint8), "absent_confirmed"), (WHITE // 255, "present")):
        make.cheng(tmp_path / "1.mat", picture, mask)
        row = _row(tmp_path, uri=str(tmp_path / "1.mat"), group_id=None, reader="cheng")
        assert _read(row, "cheng").settled["roi_state"] == state


def test_crumbs_in_the_mask_of_a_case_are_no_label(tmp_path):
    scan = np.add.outer(np.arange(64), np.arange(72) * 9)[:, :, None].repeat(2, axis=2).astype(np.float32)
    scan[0, 0, 1] = 1e6  # one voxel takes all greys of its slice
    mask = np.where(DISC, 4.0, 1e-9).astype(np.float32)[:, :, None].repeat(2, axis=2)
    (tmp_path / "t1ce.nii").write_bytes(make.nifti(scan))
    (tmp_path / "seg.nii").write_bytes(make.nifti(mask))
    files = {"channel_uris": [str(tmp_path / "t1ce.nii")], "mask_uri": str(tmp_path / "seg.nii")}
    (row,) = manifest_of([{**_row(tmp_path), "reader": "brats", **files}]).to_pylist()
    images = read_row(row, Pool(image_size=32, source={"kind": "brats", "slices": {"task": "dominant"}}))
    assert [image.settled["label"] for image in images] == ["enhancing", "enhancing"]
    np.testing.assert_allclose([image.roi.mean() for image in images], DISC.mean(), atol=1e-6)
    assert [image.remarks for image in images] == [(), ("few_greys",)]


# --- what is said of it


def test_soft_masks_and_masks_of_all_are_counted_once(tmp_path):
    soft, whole = tmp_path / "soft.png", tmp_path / "whole.png"
    Image.fromarray(_blurred(WHITE, 30)).save(soft)
    Image.fromarray(np.full(SHAPE, 2, np.uint8)).save(whole)
    assert _read(_row(tmp_path, mask_uri=str(soft))).remarks == ("soft_mask",)
    assert _read(_row(tmp_path, mask_uri=str(whole))).remarks == ("whole_mask",)
    made = [("a", []), ("b", ["soft_mask"]), ("c", ["whole_mask", "soft_mask"])]
    rows = [
        {"image_id": image_id, "likeness": bytes(32), "burned_in": False, "remarks": remarks}
        for image_id, remarks in made
    ]
    found = count_remarks(pa.Table.from_pylist(rows, schema=ATTRIBUTE_SCHEMA))
    assert {name: (each["num_images"], each["example"]) for name, each in found.items()} == {
        "soft_mask": (2, "b"),
        "whole_mask": (1, "c"),
    }
    assert found["soft_mask"]["warning"] == f"2 {REMARKS['soft_mask']} (the first: b)"


def test_a_damaged_mask_is_an_error(tmp_path):
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ImageError):
        read_mask(tmp_path / "mask.png", LIMITS)
