"""NIfTI: whichever way a volume is stored, its slices are the right way up."""

import gzip
import itertools
from pathlib import Path

import image_files as make
import numpy as np
import pytest

from xal_ray.config import Limits, Nifti
from xal_ray.images import ImageError, KeptVolumes, decode_image, decode_mask, nifti
from xal_ray.images.nifti import open_volume

LIMITS = Limits()
# Axes to the patient's right, front and top.
BODY = np.random.default_rng(2).integers(-500, 3000, (7, 6, 5)).astype(np.int16)
SHOWN = {
    "axial": [BODY[::-1, ::-1, number].T for number in range(5)],
    "coronal": [BODY[::-1, number, ::-1].T for number in range(6)],
    "sagittal": [BODY[number, ::-1, ::-1].T for number in range(7)],
}
ORDERS = [
    (axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


def _save(folder: Path, data: bytes, name: str = "a.nii") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.floor(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255 + 0.5)


def _stored(axes: tuple[int, ...], flips: tuple[bool, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The body with its axes exchanged and turned round, and the affine that says so."""
    voxels = BODY.transpose(axes)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for stored_axis, body_axis in enumerate(axes):
        sign = -1 if flips[stored_axis] else 1
        affine[body_axis, stored_axis] = 1.5 * sign
        affine[body_axis, 3] = 0 if sign > 0 else 1.5 * (BODY.shape[body_axis] - 1)
    return voxels[tuple(slice(None, None, -1 if flip else 1) for flip in flips)], affine


@pytest.mark.parametrize(("axes", "flips"), ORDERS)
def test_all_48_ways_to_store_a_volume_show_the_same(tmp_path, axes, flips):
    path = _save(tmp_path, make.nifti(*_stored(axes, flips)))
    for plane, expected in SHOWN.items():
        volume = open_volume(path, LIMITS, Nifti(plane=plane))
        assert volume.slices == len(expected)
        for number, values in enumerate(expected):
            np.testing.assert_array_equal(volume.plane_values(number), values)


def test_the_front_is_at_the_top_and_the_right_on_the_left(tmp_path):
    marked = np.zeros((4, 4, 4), dtype=np.uint8)
    marked[3, 3, 3] = 1  # right, front, top
    path = _save(tmp_path, make.nifti(marked))
    for plane in ("axial", "coronal"):
        mask = decode_mask(path, LIMITS, frame=3, nifti=Nifti(plane=plane))
        assert np.argwhere(mask).tolist() == [[0, 0]]
    # Seen from the right, the nose is on the left.
    assert np.argwhere(decode_mask(path, LIMITS, frame=3, nifti=Nifti(plane="sagittal"))).tolist() == [[0, 0]]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, ">i2"])
def test_kinds_of_voxels(tmp_path, packed, dtype):
    voxels = (BODY % 200).astype(dtype)
    path = _save(tmp_path, make.nifti(voxels, packed=packed))
    if dtype == ">i2":
        import nibabel

        image = nibabel.Nifti1Image(voxels, np.eye(4), header=nibabel.Nifti1Header(endianness=">"))
        image.set_data_dtype(np.int16)
        nibabel.save(image, tmp_path / "big.nii")
        path = tmp_path / "big.nii"
    expected = voxels[::-1, ::-1, 2].T
    np.testing.assert_array_equal(open_volume(path, LIMITS, Nifti()).plane_values(2), expected)
    pixels = decode_image(path, LIMITS, frame=2).pixels
    np.testing.assert_array_equal(pixels, _scaled(expected, expected.min(), expected.max()))


def test_a_slope_is_applied_and_a_volume_may_be_scaled_as_a_whole(tmp_path):
    path = _save(tmp_path, make.nifti(BODY, slope=-0.5, intercept=100.0))
    values = BODY * -0.5 + 100
    np.testing.assert_allclose(open_volume(path, LIMITS, Nifti()).plane_values(1), values[::-1, ::-1, 1].T)
    pixels = decode_image(path, LIMITS, frame=1, nifti=Nifti(scale="volume")).pixels
    np.testing.assert_array_equal(pixels, _scaled(values[::-1, ::-1, 1].T, values.min(), values.max()))
    for slope in (0.0, np.nan):  # not given
        path = _save(tmp_path, make.nifti(BODY, slope=slope, intercept=7.0))
        np.testing.assert_array_equal(open_volume(path, LIMITS, Nifti()).plane_values(1), SHOWN["axial"][1])


def test_what_is_no_number_is_black_or_white_and_stretches_nothing(tmp_path):
    voxels = BODY.astype(np.float32)
    voxels[0, 0, 0], voxels[1, 0, 0], voxels[2, 0, 0] = np.nan, np.inf, -np.inf
    path = _save(tmp_path, make.nifti(voxels))
    pixels = decode_image(path, LIMITS, frame=0).pixels
    finite = BODY[:, :, 0].ravel()[np.isfinite(voxels[:, :, 0]).ravel()]
    expected = _scaled(BODY[::-1, ::-1, 0].T, finite.min(), finite.max())
    expected[-1, -1], expected[-1, -2], expected[-1, -3] = 0, 255, 0
    np.testing.assert_array_equal(pixels, expected)
    assert not decode_mask(path, LIMITS, frame=0)[-1, -1]
    flat = _save(tmp_path, make.nifti(np.full((4, 4, 2), 9, dtype=np.int16)))
    assert (decode_image(flat, LIMITS, frame=1).pixels == 0).all()


def test_a_slice_must_be_named_and_be_there(tmp_path):
    path = _save(tmp_path, make.nifti(BODY))
    for frame, code in ((None, "several_frames"), (5, "no_such_frame"), (-1, "no_such_frame")):
        with pytest.raises(ImageError) as caught:
            decode_image(path, LIMITS, frame=frame)
        assert caught.value.code == code
    single = _save(tmp_path, make.nifti(BODY[:, :, 0]))
    np.testing.assert_array_equal(
        decode_image(single, LIMITS).pixels, decode_image(path, LIMITS, frame=0).pixels
    )


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"datatype": 128, "bitpix": 24}, "unsupported_format"),  # RGB
        ({"datatype": 32, "bitpix": 64}, "unsupported_format"),  # complex
        ({"datatype": 1536, "bitpix": 128}, "unsupported_format"),  # 128-bit reals
        ({"datatype": 999}, "unsupported_format"),
        ({"dim": [4, 7, 6, 5, 2, 1, 1, 1]}, "unsupported_format"),  # four dimensions
        ({"dim": [3, 7, -6, 5, 1, 1, 1, 1]}, "unreadable"),
        ({"dim": [0, 7, 6, 5, 1, 1, 1, 1]}, "unreadable"),
        ({"dim": [3, 7, 6, 50, 1, 1, 1, 1]}, "truncated"),
        ({"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]}, "too_many_voxels"),
        ({"dim": [3, 1, 1, 30000, 1, 1, 1, 1]}, "too_many_frames"),
        ({"magic": b"ni1"}, "unsupported_format"),  # voxels in a file of their own
        ({"vox_offset": 100}, "unreadable"),
        ({"vox_offset": 1e9}, "unreadable"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "unreadable"),
        ({"srow_x": [0, 0, 0, 0]}, "unreadable"),
        ({"scl_slope": 1, "scl_inter": np.inf}, "unreadable"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_headers_that_are_refused(tmp_path, change, code, packed):
    data = make.nifti(BODY, packed=packed, **change)
    with pytest.raises(ImageError) as caught:
        decode_image(_save(tmp_path, data), LIMITS, frame=0)
    assert caught.value.code == code


_SFORM, _QFORM = {"sform_code": 1}, {"sform_code": 0, "qform_code": 1}
_NO_MATRIX = {f"srow_{axis}": [0, 0, 0, 0] for axis in "xyz"}


@pytest.mark.parametrize(
    "change",
    [
        _QFORM,
        {**_QFORM, "pixdim": [0, 2, 3, 4, 1, 1, 1, 1]},
        {**_QFORM, "pixdim": [np.nan, 2, 3, 4, 1, 1, 1, 1]},
        {**_QFORM, "pixdim": [1, -2, 3, -4, 1, 1, 1, 1]},
        {**_QFORM, "pixdim": [1, 2, 0, np.nan, 1, 1, 1, 1]},
        {**_QFORM, "sform_code": 77},
        {"sform_code": 1, "qform_code": 1, **_NO_MATRIX},
        {"sform_code": 1, "qform_code": 1, "srow_y": [0, np.nan, 0, 0]},
        {"sform_code": 1, "qform_code": 1, "srow_y": [0, 0, 0, 0]},
        {**_SFORM, "qform_code": 1, "quatern_b": np.nan},
        {**_SFORM, "qform_code": -3, "pixdim": [0, -1, 0, 0, 1, 1, 1, 1]},
        {**_SFORM, "dim": [4, 7, 6, 5, 0, 0, 0, 0]},
        {**_SFORM, "dim": [5, 7, 6, 5, 0, 1, 9, 0]},
        {**_SFORM, "extents": 0, "regular": b"x", "glmax": -1, "bitpix": 8},
        {**_SFORM, "vox_offset": 0},
        {**_SFORM, "vox_offset": 348},
        {**_SFORM, "scl_slope": 0, "scl_inter": np.nan},
        {**_SFORM, "scl_slope": np.nan, "scl_inter": 3},
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_headers_that_are_mended(tmp_path, change, packed, capfd, caplog):
    path = _save(tmp_path, make.nifti(BODY, packed=packed, **change))
    for number in range(5):
        np.testing.assert_array_equal(
            open_volume(path, LIMITS, Nifti()).plane_values(number), SHOWN["axial"][number]
        )
    assert (capfd.readouterr(), caplog.records) == (("", ""), [])


@pytest.mark.parametrize("length", [1.0000005, 1.01, 3.0])
def test_a_quaternion_that_is_too_long_is_shortened(tmp_path, length):
    turned = {**_QFORM, "quatern_b": 0.0, "quatern_c": 0.0, "quatern_d": length}  # half a turn about the top
    ours = open_volume(_save(tmp_path, make.nifti(BODY, **turned)), LIMITS, Nifti()).plane_values(1)
    np.testing.assert_array_equal(ours, SHOWN["axial"][1][::-1, ::-1])


def test_a_matrix_counts_before_a_quaternion_and_sizes_alone_where_there_is_neither(tmp_path):
    both = {"sform_code": 1, "qform_code": 1, "quatern_d": 1.0}
    ours = open_volume(_save(tmp_path, make.nifti(BODY, **both)), LIMITS, Nifti()).plane_values(1)
    np.testing.assert_array_equal(ours, SHOWN["axial"][1])
    nibabel = pytest.importorskip("nibabel")
    neither = {"sform_code": 0, "qform_code": 0, "pixdim": [0, -1, 1, 1, 1, 1, 1, 1]}
    path = _save(tmp_path, make.nifti(BODY, **neither))
    # As nibabel.load, after it has mended the sizes.
    assert nibabel.aff2axcodes(nibabel.load(path).affine) == ("L", "A", "S")
    ours = open_volume(path, LIMITS, Nifti()).plane_values(1)
    np.testing.assert_array_equal(ours, SHOWN["axial"][1][:, ::-1])


def test_a_volume_of_one_time_is_a_volume(tmp_path):
    path = _save(tmp_path, make.nifti(BODY[..., None]))
    np.testing.assert_array_equal(open_volume(path, LIMITS, Nifti()).plane_values(2), SHOWN["axial"][2])


def test_damaged_and_other_compressed_files(tmp_path):
    whole = make.nifti(BODY, packed=True)
    for data, code in (
        (whole[:200], ("unsupported_format", "truncated")),
        (whole[:-20], ("truncated",)),
        (whole[:-6] + b"\0" * 6, ("unreadable",)),  # its checksum
        (gzip.compress(b"x" * 1000), ("unsupported_format",)),
        (make.nifti(BODY)[:-1], ("truncated",)),
    ):
        with pytest.raises(ImageError) as caught:
            decode_image(_save(tmp_path, data), LIMITS, frame=4)
        assert caught.value.code in code
    with pytest.raises(ImageError, match="no NIfTI volume"):
        open_volume(_save(tmp_path, b"x" * 400), LIMITS, Nifti())


def test_no_more_is_inflated_than_the_header_promises(tmp_path):
    import tracemalloc

    voxels = np.zeros((8, 8, 8), dtype=np.uint8)
    bomb = gzip.compress(make.nifti(voxels) + b"\0" * (64 << 20), 9)
    path = _save(tmp_path, bomb)
    tracemalloc.start()
    try:
        assert decode_image(path, LIMITS, frame=0).pixels.shape == (8, 8)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_volume_is_read_once_for_all_its_slices(tmp_path, monkeypatch):
    path = _save(tmp_path, make.nifti(BODY))
    kept, reads = KeptVolumes(), []
    read_volume = nifti.read_volume
    monkeypatch.setattr(nifti, "read_volume", lambda *given: reads.append(1) or read_volume(*given))
    for frame in range(5):
        shown = decode_image(path, LIMITS, frame=frame, kept=kept).pixels
        decode_mask(path, LIMITS, frame=frame, kept=kept)
        assert len(reads) == 1
        monkeypatch.setattr(nifti, "read_volume", read_volume)
        np.testing.assert_array_equal(shown, decode_image(path, LIMITS, frame=frame).pixels)
        monkeypatch.setattr(nifti, "read_volume", lambda *given: reads.append(1) or read_volume(*given))
    kept.forget()
    decode_image(path, LIMITS, frame=0, kept=kept)
    assert len(reads) == 2
