"""Real MRI slices as DICOM, NIfTI, .mat and 16-bit files show what their JPEG files show, and their masks."""

import csv

import image_files as make
import numpy as np
import pytest
from layouts import cheng
from PIL import Image

from xal_ray.config import Pool, Source
from xal_ray.pool.manifest import manifest_of
from xal_ray.pool.reading import read_row
from xal_ray.pool.sources import read_source

pytestmark = pytest.mark.real

EVERY = 250  # slices
SETTINGS = Pool(image_size=96)


@pytest.fixture(scope="module")
def slices(real_manifest):
    """Some slices as they were decoded from JPEG, stretched to all of the grey range, and their masks."""
    found = []
    for row in list(csv.DictReader(real_manifest.open()))[::EVERY]:
        grey = np.asarray(Image.open(real_manifest.parent / row["image"]).convert("L")).astype(float)
        mask = np.asarray(Image.open(real_manifest.parent / row["mask"]).convert("L")) > 0
        grey = np.rint((grey - grey.min()) * 255 / (grey.max() - grey.min())).astype(np.uint8)
        found.append((grey, mask, row["label"]))
    assert len(found) > 10
    return found


def read(path, mask_path=None, **columns):
    row = {"image_id": "a", "uri": str(path), "group_id": "g", "boxes": [], "roi_state": "present", **columns}
    row["mask_uri"] = mask_path and str(mask_path)
    (image,) = read_row(manifest_of([row]).to_pylist()[0], SETTINGS)
    return image


@pytest.fixture(scope="module")
def masks(slices, tmp_path_factory):
    """The files of the slices' masks."""
    folder = tmp_path_factory.mktemp("masks")
    paths = [folder / f"{number}.png" for number in range(len(slices))]
    for path, (_, mask, _) in zip(paths, slices, strict=True):
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return paths


@pytest.fixture(scope="module")
def pictures(slices, masks, tmp_path_factory):
    """What the slices are as 8-bit PNG files, which is what all others must show."""
    path, found = tmp_path_factory.mktemp("pictures") / "a.png", []
    for (grey, _, _), mask in zip(slices, masks, strict=True):
        Image.fromarray(grey).save(path)
        found.append(read(path, mask))
    return found


def greys(slices):
    """Each slice with a kind of grey: every other one is stored as its negative."""
    return [(grey, f"MONOCHROME{1 + number % 2}") for number, (grey, _, _) in enumerate(slices)]


def assert_same(image, picture):
    assert image.frame == picture.frame
    # Sixteen bits and back may round one grey level differently.
    assert np.abs(image.pixels.astype(int) - picture.pixels.astype(int)).max() <= 1


@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.RLE, make.JPEG_LS, make.JPEG_LOSSLESS, make.J2K])
def test_dicom(slices, pictures, masks, tmp_path, syntax):
    path = tmp_path / "a.dcm"
    for (grey, photometric), picture, mask in zip(greys(slices), pictures, masks, strict=True):
        deep = grey.astype(np.uint16) * 16  # 12 bits in 16
        stored = deep.max() - deep if photometric == "MONOCHROME1" else deep
        path.write_bytes(make.dicom(stored, syntax, photometric=photometric, stored=12))
        assert_same(read(path, mask), picture)


def test_jpeg_2000_at_half_its_size(slices, pictures, tmp_path):
    """With a window the coarse waves are enough; 256 px to 96 px through 128 px is another filter."""
    for (grey, photometric), picture in zip(greys(slices), pictures, strict=True):
        deep = grey.astype(np.uint16) * 16
        stored = 4080 - deep if photometric == "MONOCHROME1" else deep
        window = {"center": 2040, "width": 4080, "function": "LINEAR_EXACT"}
        data = make.dicom(stored, make.J2K, photometric=photometric, stored=12, **window)
        (tmp_path / "a.dcm").write_bytes(data)
        image = read(tmp_path / "a.dcm")
        difference = np.abs(image.pixels.astype(int) - picture.pixels.astype(int))
        assert difference.mean() < 1.5
        assert 1 < difference.max() < 40  # it was halved


def test_16_bit_png(slices, pictures, tmp_path):
    for (grey, _, _), picture in zip(slices, pictures, strict=True):
        Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
        assert_same(read(tmp_path / "deep.png"), picture)


def test_nifti(slices, pictures, tmp_path):
    """A stack of slices is a volume: its axes run to the right, the front and the top."""
    number_of = {grey.shape: index for index, (grey, _, _) in enumerate(slices)}
    assert len(number_of) == 1
    for name, planes in {"image": [grey for grey, _, _ in slices], "mask": [m for _, m, _ in slices]}.items():
        body = np.stack([plane.T[::-1, ::-1] for plane in planes], axis=2)
        (tmp_path / f"{name}.nii").write_bytes(make.nifti(body.astype(np.int16)))
    for frame, picture in enumerate(pictures):
        image = read(tmp_path / "image.nii", tmp_path / "mask.nii", frame=frame)
        assert_same(image, picture)
        np.testing.assert_allclose(image.roi, picture.roi, atol=1e-6)


def test_matlab(slices, pictures, tmp_path):
    classes = {"meningioma": 1, "glioma": 2, "pituitary": 3}
    folder = tmp_path / "set"
    folder.mkdir()
    for number, (grey, mask, label) in enumerate(slices, start=1):
        cheng.write_case(
            folder / f"{number}.mat", grey.astype(np.int16) * 9 - 40, mask, classes[label], f"MR{number}"
        )
    pool = Pool(image_size=96, source=Source(kind="cheng", path=folder))
    rows = read_source(pool).manifest.sort_by("uri").to_pylist()
    by_uri = {row["uri"]: row for row in rows}
    for number, ((_, _, label), picture) in enumerate(zip(slices, pictures, strict=True), start=1):
        (image,) = read_row(by_uri[str(folder / f"{number}.mat")], pool)
        assert_same(image, picture)
        np.testing.assert_allclose(image.roi, picture.roi, atol=1e-6)
        assert image.settled["label"] == label
