"""Decoding: pixel values against arithmetic of our own, and every way in which a file can be bad."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, TiffImagePlugin

from xal_ray.config import Limits
from xal_ray.images import FORMATS, ImageError, decode_image, decode_mask, to_training_size
from xal_ray.pool.sources.common.image_files import SUFFIXES

LIMITS = Limits()


def _noise(*shape: int, top: int = 256, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(7).integers(0, top, shape).astype(dtype)


def _pixels(path: Path, limits: Limits = LIMITS) -> np.ndarray:
    return decode_image(path, limits).pixels


def _refused(path: Path, limits: Limits = LIMITS) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(path, limits)
    return caught.value


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
@pytest.mark.parametrize("shape", [(5, 9), (5, 9, 3)])
def test_lossless_files_give_their_pixels(tmp_path, suffix, shape):
    pixels = _noise(*shape)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path, **({"lossless": True} if suffix == "webp" else {}))
    decoded = _pixels(path)
    if suffix == "webp" and len(shape) == 2:  # WebP knows no grey
        decoded = decoded[:, :, 0]
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


def test_jpeg_is_near_its_pixels(tmp_path):
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(_pixels(tmp_path / "a.jpg").astype(int) - ramp).max() <= 4


def test_every_suffix_of_a_folder_source_is_decoded(tmp_path):
    for suffix in SUFFIXES - {".dcm", ".dicom"}:
        path = tmp_path / f"a{suffix}"
        Image.fromarray(_noise(4, 4, 3)).save(path)
        assert _pixels(path).shape == (4, 4, 3)
    assert FORMATS == ("PNG", "JPEG", "BMP", "TIFF", "WEBP")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_divided_not_saturated(tmp_path, suffix):
    deep = np.array([[0, 128, 255, 256], [257, 4095, 40000, 65535]], dtype=np.uint16)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(deep).save(path)
    np.testing.assert_array_equal(_pixels(path), np.round(deep / 65535 * 255).astype(np.uint8))


def test_16_bit_tiff_with_white_as_zero_is_inverted(tmp_path):
    deep = np.array([[0, 1000, 65535]], dtype=np.uint16)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    Image.fromarray(deep).save(tmp_path / "a.tif", tiffinfo=tags)
    data = (tmp_path / "a.tif").read_bytes()
    with Image.open(tmp_path / "a.tif") as image:
        if image.tag_v2[262] != 0:  # Pillow writes its own tag: change the entry in the file
            entry = b"\x06\x01\x03\x00\x01\x00\x00\x00"
            assert data.count(entry + b"\x01") == 1
            (tmp_path / "a.tif").write_bytes(data.replace(entry + b"\x01", entry + b"\x00"))
    expected = np.round((65535 - deep.astype(int)) / 65535 * 255)
    np.testing.assert_array_equal(_pixels(tmp_path / "a.tif"), expected)


def test_32_bit_and_float_pixels_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 70000]], dtype=np.int32)).save(tmp_path / "a.tif")
    Image.fromarray(np.array([[0, 0.5]], dtype=np.float32)).save(tmp_path / "b.tif")
    assert _refused(tmp_path / "a.tif").code == "unsupported_format"
    assert _refused(tmp_path / "b.tif").code == "unsupported_format"


def test_1_bit_and_palette_and_cmyk(tmp_path):
    bits = np.array([[0, 255, 0], [255, 255, 0]], dtype=np.uint8)
    Image.fromarray(bits).convert("1").save(tmp_path / "bits.png")
    np.testing.assert_array_equal(_pixels(tmp_path / "bits.png"), bits)

    palette = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8), mode="P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "colours.png")
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]])
    np.testing.assert_array_equal(_pixels(tmp_path / "colours.png"), colours)

    palette.putpalette([10, 10, 10, 200, 200, 200, 90, 90, 90])
    palette.save(tmp_path / "greys.png")
    np.testing.assert_array_equal(_pixels(tmp_path / "greys.png"), [[10, 200], [90, 200]])

    ink = np.zeros((4, 4, 4), dtype=np.uint8)
    ink[:, :, 0] = 255  # cyan only
    Image.fromarray(ink, mode="CMYK").save(tmp_path / "ink.tif")
    np.testing.assert_array_equal(_pixels(tmp_path / "ink.tif")[0, 0], [0, 255, 255])


def test_transparency_lies_over_black(tmp_path):
    pixels = np.array([[[200, 100, 50, 255], [200, 100, 50, 0]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(_pixels(tmp_path / "a.png"), [[[200, 100, 50], [0, 0, 0]]])
    grey = np.array([[[200, 255], [200, 0]]], dtype=np.uint8)
    Image.fromarray(grey, mode="LA").save(tmp_path / "b.png")
    np.testing.assert_array_equal(_pixels(tmp_path / "b.png"), [[200, 0]])
    Image.fromarray(np.array([[7, 9]], dtype=np.uint8)).save(tmp_path / "c.png", transparency=7)
    np.testing.assert_array_equal(_pixels(tmp_path / "c.png"), [[0, 9]])


def test_exif_orientation_is_applied_to_image_and_mask(tmp_path):
    pixels = _noise(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned clockwise by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(_pixels(tmp_path / "a.png"), np.rot90(pixels, -1))
    np.testing.assert_array_equal(decode_mask(tmp_path / "a.png", LIMITS), np.rot90(pixels, -1) > 0)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_a_truncated_file_is_never_half_an_image(tmp_path, suffix):
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(_noise(30, 40, 3)).save(path)
    data = path.read_bytes()
    whole = _pixels(path)
    for num_bytes in np.linspace(1, len(data) - 1, 60).astype(int):
        path.write_bytes(data[:num_bytes])
        try:
            decoded = _pixels(path)
        except ImageError:
            continue
        # Only bytes behind the pixels are missing.
        np.testing.assert_array_equal(decoded, whole)
        assert num_bytes > len(data) - 32
    path.write_bytes(data[: len(data) // 2])
    assert _refused(path).code in (("truncated",) if suffix != "webp" else ("truncated", "unreadable"))


def test_limits_are_checked_before_decoding(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(_noise(10, 10)).save(path)
    assert _refused(path, Limits(max_file_bytes=path.stat().st_size - 1)).code == "file_too_large"
    assert _pixels(path, Limits(max_file_bytes=path.stat().st_size, max_pixels=100)).shape == (10, 10)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("pixels were decoded"))
    error = _refused(path, Limits(max_pixels=99))
    assert error.code == "too_many_pixels"
    assert "10 x 10" in error.detail
    with pytest.raises(ImageError, match="file_too_large"):
        decode_mask(path, Limits(max_file_bytes=1))


def test_pillows_bomb_warning_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(_noise(10, 10)).save(path)
    for allowed in (99, 40):  # a warning above the number, an error above twice of it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", allowed)
        assert _refused(path).code == "too_many_pixels"


def test_bad_paths_and_other_kinds(tmp_path):
    assert _refused(tmp_path / "none.png").code == "missing_file"
    assert _refused(tmp_path / ("x" * 300)).code == "missing_file"
    assert _refused(tmp_path).code == "unreadable"
    (tmp_path / "empty.png").touch()
    assert _refused(tmp_path / "empty.png").code == "truncated"
    Image.fromarray(_noise(4, 4)).save(tmp_path / "gif.png", format="GIF")  # the name does not decide
    assert _refused(tmp_path / "gif.png").code == "unsupported_format"
    (tmp_path / "head.png").write_bytes(b"\x89PNG\r\n\x1a\nDOE^JANE" + b"x" * 40)
    error = _refused(tmp_path / "head.png")
    assert error.code == "unreadable"
    assert "DOE" not in str(error)


def test_several_frames_are_refused(tmp_path):
    frames = [Image.fromarray(_noise(4, 4)), Image.fromarray(255 - _noise(4, 4))]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    assert _refused(tmp_path / "a.tif").code == "several_frames"


def test_an_error_survives_pickling_and_quotes_no_header(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(_noise(30, 30)).save(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 4 :] = b"DOE^JANE 1970"
    path.write_bytes(data)
    error = _refused(path)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.code, copy.detail) == (error.code, error.detail)
    assert "DOE" not in str(error)
    assert error.__cause__ is None


def test_a_mask_is_inside_where_it_is_not_zero(tmp_path):
    labels = np.array([[0, 1, 2], [255, 0, 0]], dtype=np.uint8)
    Image.fromarray(labels).save(tmp_path / "grey.png")
    Image.fromarray(labels).convert("1").save(tmp_path / "bits.png")
    Image.fromarray(labels.astype(np.uint16) * 256).save(tmp_path / "deep.png")
    Image.fromarray(labels.astype(np.float32)).save(tmp_path / "float.tif")
    colours = np.zeros((2, 3, 3), dtype=np.uint8)
    colours[:, :, 2] = labels
    Image.fromarray(colours).save(tmp_path / "blue.png")
    palette = Image.fromarray(labels, mode="P")
    palette.putpalette([9, 9, 9] + [0, 0, 0] * 255)  # an index counts, whatever its colour
    palette.save(tmp_path / "palette.png")
    alpha = np.dstack([colours, np.full((2, 3), 255, dtype=np.uint8)])
    alpha[0, 1, 3] = 0
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    for name in ("grey.png", "deep.png", "float.tif", "blue.png", "palette.png"):
        mask = decode_mask(tmp_path / name, LIMITS)
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, labels > 0, err_msg=name)
    np.testing.assert_array_equal(decode_mask(tmp_path / "bits.png", LIMITS), labels > 127)
    np.testing.assert_array_equal(
        decode_mask(tmp_path / "alpha.png", LIMITS), [[False, False, True], [True, False, False]]
    )


def test_the_fringes_of_a_jpeg_mask_are_outside(tmp_path):
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[19:45, 21:43] = 255
    Image.fromarray(mask).save(tmp_path / "a.jpg", quality=60)
    assert (_pixels(tmp_path / "a.jpg")[mask == 0] > 0).any()
    np.testing.assert_array_equal(decode_mask(tmp_path / "a.jpg", LIMITS), mask > 0)


def test_the_fringes_of_lossy_masks_in_other_modes_are_outside_too(tmp_path):
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[19:45, 21:43] = 255
    picture = Image.fromarray(mask).convert("RGB")
    picture.convert("CMYK").save(tmp_path / "ink.jpg", quality=60)
    picture.putalpha(Image.fromarray(np.full((64, 64), 255, dtype=np.uint8) - mask // 255))
    picture.save(tmp_path / "alpha.webp", quality=20)
    for name in ("ink.jpg", "alpha.webp"):
        assert ((_pixels(tmp_path / name) > 0).any(axis=2) & (mask == 0)).any(), name
        np.testing.assert_array_equal(decode_mask(tmp_path / name, LIMITS), mask > 0, err_msg=name)


def test_training_size_keeps_the_mean_of_a_fine_pattern():
    checkers = (np.indices((256, 512)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = to_training_size(checkers, 32, 1)
    assert small.shape == (32, 32, 1)
    assert small.dtype == np.uint8
    assert np.abs(small.astype(int) - 127.5).max() < 3  # without antialiasing: 0 or 255


def test_training_size_converts_between_grey_and_rgb():
    colour = np.zeros((8, 8, 3), dtype=np.uint8)
    colour[:] = [200, 100, 50]
    assert to_training_size(colour, 4, 1)[0, 0, 0] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    np.testing.assert_array_equal(to_training_size(colour, 4, 3)[1, 1], [200, 100, 50])
    grey = _noise(4, 4)
    np.testing.assert_array_equal(to_training_size(grey, 4, 3), np.dstack([grey] * 3))
    np.testing.assert_array_equal(to_training_size(grey, 4, 1)[:, :, 0], grey)


def test_training_size_stretches_to_the_square():
    wide = np.zeros((10, 40), dtype=np.uint8)
    wide[:, 20:] = 255
    small = to_training_size(wide, 20, 1)[:, :, 0]
    assert (small[:, :9] == 0).all()
    assert (small[:, 11:] == 255).all()
