"""MATLAB 7.3 files of the Cheng set: the right way up, and nothing but numbers of the file's own."""

import struct
from pathlib import Path

import h5py
import image_files as make
import numpy as np
import pytest

from xal_ray.config import Limits
from xal_ray.images import ImageError
from xal_ray.images.matlab import read_cheng
from xal_ray.storage import write_bytes

LIMITS = Limits()
IMAGE = np.random.default_rng(1).integers(0, 2000, (20, 30)).astype(np.int16)
MASK = IMAGE > 1500


@pytest.fixture
def path(tmp_path) -> Path:
    make.cheng(tmp_path / "1.mat", IMAGE, MASK, label=3, patient="MR 040-x")
    return tmp_path / "1.mat"


def _replace(path: Path, name: str, **options) -> None:
    with h5py.File(path, "r+") as file:
        del file["cjdata"][name]
        file["cjdata"].create_dataset(name, **options)


def _code(path: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(ImageError) as caught:
        read_cheng(path, limits)
    return caught.value.code


def test_rows_and_columns_are_those_that_matlab_shows(path):
    found = read_cheng(path, LIMITS)
    np.testing.assert_array_equal(found.image, IMAGE)
    np.testing.assert_array_equal(found.mask, MASK)
    assert (found.image.dtype, found.mask.dtype, found.label) == (np.int16, bool, 3)
    assert found.patient == "MR 040-x"
    assert "040" not in repr(found)


def test_a_file_in_an_object_store(path, s3_bucket):
    write_bytes(s3_bucket / "1.mat", path.read_bytes())
    np.testing.assert_array_equal(read_cheng(s3_bucket / "1.mat", LIMITS).image, IMAGE)


def test_sizes_are_checked_before_anything_is_read(path):
    assert _code(path, Limits(max_pixels=20 * 30 - 1)) == "too_many_pixels"
    _replace(path, "image", shape=(200_000, 200_000), dtype="i2", chunks=(1000, 1000), compression="gzip")
    assert _code(path) == "too_many_pixels"


def test_a_chunk_that_is_larger_than_its_data_set(path):
    _replace(path, "image", data=IMAGE.T, chunks=(9000, 9000), maxshape=(None, None), compression="gzip")
    assert _code(path) == "too_many_pixels"


def test_a_chunk_that_inflates_to_more_than_its_size(path):
    import zlib

    with h5py.File(path, "r+") as file:
        group = file["cjdata"]
        del group["image"]
        lying = group.create_dataset("image", shape=(30, 20), dtype="i2", chunks=(30, 20), compression="gzip")
        lying.id.write_direct_chunk((0, 0), zlib.compress(b"\0" * (50 << 20), 9))
    assert path.stat().st_size < 1 << 20
    assert _code(path) == "header_mismatch"


def test_links_and_other_files_are_not_followed(path, tmp_path):
    secret = tmp_path / "secret.mat"
    make.cheng(secret, IMAGE, MASK)
    for link in (h5py.ExternalLink(str(secret), "/cjdata/image"), h5py.SoftLink("/cjdata/tumorMask")):
        with h5py.File(path, "r+") as file:
            del file["cjdata"]["image"]
            file["cjdata"]["image"] = link
        assert _code(path) == "unsupported_format"
    raw = tmp_path / "raw"
    raw.write_bytes(IMAGE.tobytes())
    _replace(path, "image", shape=(30, 20), dtype="i2", external=[(str(raw), 0, 1200)])
    assert _code(path) == "unsupported_format"
    layout = h5py.VirtualLayout(shape=(30, 20), dtype="i2")
    layout[:] = h5py.VirtualSource(str(secret), "cjdata/image", shape=(30, 20))
    with h5py.File(path, "r+") as file:
        del file["cjdata"]["image"]
        file["cjdata"].create_virtual_dataset("image", layout)
    assert _code(path) == "unsupported_format"
    with h5py.File(path, "r+") as file:
        del file["cjdata"]
        file["cjdata"] = h5py.ExternalLink(str(secret), "/cjdata")
    assert _code(path) == "unsupported_format"


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("label", np.array([[4.0]]), "unreadable"),
        ("label", np.array([[np.nan]]), "unreadable"),
        ("label", np.array([[1.0, 2.0]]), "too_many_pixels"),
        ("PID", np.array([[7]], dtype=np.uint16), "unreadable"),
        ("PID", np.full((100, 1), 65, dtype=np.uint16), "too_many_pixels"),
        ("PID", "text", "unsupported_format"),
        ("image", IMAGE, "unsupported_format"),  # of another size than the tumour
        ("image", IMAGE.T.astype(float), "unsupported_format"),
        ("image", IMAGE[None], "too_many_pixels"),
        ("tumorMask", MASK, "unsupported_format"),
    ],
)
def test_what_is_no_slice_of_the_set(path, name, data, code):
    _replace(path, name, data=data)
    assert _code(path) == code


def test_other_files(tmp_path, path):
    (tmp_path / "old.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<HH", 0x100, 0x4D49))
    assert _code(tmp_path / "old.mat") == "unsupported_format"
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["x"] = [1]
    assert _code(tmp_path / "other.mat") == "unsupported_format"
    data = path.read_bytes()
    for num_bytes in (530, 700, len(data) // 2, len(data) - 10):
        path.write_bytes(data[:num_bytes])
        assert _code(path) in ("unreadable", "truncated")
