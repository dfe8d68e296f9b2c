"""Grey of more than 8 bits, signed and real numbers in PNG and TIFF files: by depth, by range, by window."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from xal_ray.config import Limits, Pool, Raster
from xal_ray.errors import PoolError
from xal_ray.images import ImageError, decode_image, decode_mask
from xal_ray.pool.card import open_prepared, plan_of
from xal_ray.pool.schema import SCHEMA_VERSION
from xal_ray.storage import write_json

LIMITS = Limits()
RANGE = Raster(window="range")
VALUES = np.arange(-2048, 2048).reshape(64, 64)


def _tiff(values, kind, *, white_is_zero=False):
    """A file of one strip: kind 1 is unsigned, 2 signed, 3 real."""
    data = values.tobytes()
    samples = 1 if values.ndim == 2 else values.shape[2]
    short, long = 3, 4
    entries = [
        (256, long, values.shape[1]),
        (257, long, values.shape[0]),
        (258, short, 8 * values.dtype.itemsize),
        (259, short, 1),
        (262, short, 0 if white_is_zero else 1),
        (273, long, 8),
        (277, short, samples),
        (278, long, values.shape[0]),
        (279, long, len(data)),
        (339, short, kind),
    ]
    tags = b"".join(
        struct.pack("<HHI", tag, size, 1)
        + (struct.pack("<HH", value, 0) if size == short else struct.pack("<I", value))
        for tag, size, value in entries
    )
    directory = struct.pack("<H", len(entries)) + tags + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + directory


def _save(tmp_path, data, name="a.tif"):
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def _scaled(values, low, high):
    return np.floor(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)


NUMBERS = [("i1", 2), ("<i2", 2), ("<i4", 2), ("<f4", 3), ("<u4", 1)]


@pytest.mark.parametrize(("dtype", "kind"), NUMBERS)
@pytest.mark.parametrize("shift", [0, 2100])  # refused for what it is, not for the values that it holds
def test_signed_and_real_numbers_are_refused_never_wrapped(tmp_path, dtype, kind, shift):
    values = (VALUES // (32 if dtype == "i1" else 1) + (64 if dtype == "i1" and shift else shift)).astype(
        dtype
    )
    path = _save(tmp_path, _tiff(values, kind))
    with pytest.raises(ImageError, match=r"pool\.raster\.window") as caught:
        decode_image(path, LIMITS)
    assert caught.value.code == "unsupported_format"


@pytest.mark.parametrize(("dtype", "kind"), [*NUMBERS, ("<u2", 1)])
def test_a_window_reads_them(tmp_path, dtype, kind):
    values = VALUES // 32 if dtype == "i1" else VALUES + (2048 if dtype.startswith("<u") else 0)
    if dtype == "<u4":
        values = values + 2**31
    path = _save(tmp_path, _tiff(values.astype(dtype), kind))
    low, high = values.min(), values.max()
    np.testing.assert_array_equal(decode_image(path, LIMITS, deep=RANGE).pixels, _scaled(values, low, high))
    center, width = float(low + (high - low) * 0.4), float((high - low) / 2)
    window = Raster(window=(center, width))
    expected = _scaled(values, center - width / 2, center + width / 2)
    np.testing.assert_array_equal(decode_image(path, LIMITS, deep=window).pixels, expected)


@pytest.mark.parametrize("dtype", ["<f8", "<i8"])
def test_numbers_that_pillow_does_not_know_are_refused(tmp_path, dtype):
    path = _save(tmp_path, _tiff(VALUES.astype(dtype), 3 if "f" in dtype else 2))
    with pytest.raises(ImageError):
        decode_image(path, LIMITS, deep=RANGE)


def test_signed_colours_are_refused(tmp_path):
    for kind in (2, 3):
        path = _save(tmp_path, _tiff(np.zeros((8, 8, 3), np.int8), kind))
        with pytest.raises(ImageError):
            decode_image(path, LIMITS)


def test_what_is_no_number_is_black_and_stretches_nothing(tmp_path):
    values = VALUES.astype("<f4")
    values[0, 0], values[0, 1] = np.nan, np.inf
    pixels = decode_image(_save(tmp_path, _tiff(values, 3)), LIMITS, deep=RANGE).pixels
    assert (pixels[0, 0], pixels[0, 1]) == (0, 255)
    np.testing.assert_array_equal(pixels[1:], _scaled(VALUES, VALUES.ravel()[2], VALUES.max())[1:])


def test_white_as_zero_is_turned_over_after_the_window(tmp_path):
    deep = (VALUES + 2048).astype("<u2")
    path = _save(tmp_path, _tiff(deep, 1, white_is_zero=True))
    np.testing.assert_array_equal(
        decode_image(path, LIMITS, deep=RANGE).pixels, _scaled(4095 - deep, 0, 4095)
    )
    ours = decode_image(path, LIMITS, deep=Raster(window=(1000, 500))).pixels
    np.testing.assert_array_equal(ours, _scaled(-deep.astype(int), -1250, -750))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_part_of_16_bits_is_remarked_and_a_window_keeps_its_greys(tmp_path, suffix):
    """12-bit values, and Hounsfield units with 32,768 added."""
    path = tmp_path / f"a.{suffix}"
    for values in ((VALUES + 2048), np.linspace(-160, 240, 4096).reshape(64, 64) + 32768):
        deep = values.astype(np.uint16)
        Image.fromarray(deep).save(path)
        by_depth = decode_image(path, LIMITS)
        np.testing.assert_array_equal(by_depth.pixels, _scaled(deep, 0, 65535))  # as ever
        assert by_depth.remarks == ("few_greys",)
        by_range = decode_image(path, LIMITS, deep=RANGE)
        assert by_range.remarks == ()
        np.testing.assert_array_equal(by_range.pixels, _scaled(deep, deep.min(), deep.max()))
    Image.fromarray((VALUES + 2048).astype(np.uint16) // 64).save(path)
    assert decode_image(path, LIMITS).remarks == ("one_grey",)
    Image.fromarray((VALUES + 2048).astype(np.uint16) // 256 * 4096).save(path)  # 16 values, all kept
    assert decode_image(path, LIMITS).remarks == ()
    Image.fromarray(np.full((64, 64), 9, np.uint16)).save(path)
    assert decode_image(path, LIMITS).remarks == ()


def test_eight_bits_are_not_windowed(tmp_path):
    grey = ((VALUES + 2048) // 64 + 20).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    for deep in (RANGE, Raster(window=(5, 9))):
        np.testing.assert_array_equal(decode_image(tmp_path / "a.png", LIMITS, deep=deep).pixels, grey)


def _png_of_deep_colours(values):
    """Pillow writes no colours of 16 bits."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape
    rows = b"".join(b"\0" + np.repeat(row[:, None], 3, axis=1).astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_colours_of_16_bits_are_remarked_and_not_windowed(tmp_path):
    path = _save(tmp_path, _png_of_deep_colours(VALUES + 2048), "a.png")
    assert decode_image(path, LIMITS).remarks == ("few_greys",)
    with pytest.raises(ImageError, match="colours of 16 bits"):
        decode_image(path, LIMITS, deep=RANGE)
    path = _save(tmp_path, _png_of_deep_colours((VALUES + 2048) * 16), "a.png")
    assert decode_image(path, LIMITS).remarks == ()


def test_a_mask_of_16_bit_colours_that_are_all_dark_is_refused(tmp_path):
    path = _save(tmp_path, _png_of_deep_colours(VALUES > 0), "m.png")
    with pytest.raises(ImageError, match="colours of 16 bits"):
        decode_mask(path, LIMITS)
    path = _save(tmp_path, _png_of_deep_colours((VALUES > 0) * 65535), "m.png")
    np.testing.assert_array_equal(decode_mask(path, LIMITS), VALUES > 0)


@pytest.mark.parametrize(("dtype", "kind"), [*NUMBERS[:4], ("<u2", 1)])
def test_masks_of_any_numbers_are_read(tmp_path, dtype, kind):
    inside = VALUES % 64 > 40
    path = _save(tmp_path, _tiff(inside.astype(dtype), kind))
    np.testing.assert_array_equal(decode_mask(path, LIMITS), inside)


# --- the pool's identity


def _prepared(folder, settings):
    card = {
        "schema_version": SCHEMA_VERSION,
        "settings": plan_of(settings),
        "source": {"manifest_sha256": None},
        "pseudonym_key_id": None,
    }
    write_json(folder / "card.json", card)


def test_the_window_is_part_of_a_pools_settings_where_it_is_used(tmp_path):
    usual = Pool(source={"kind": "phantom"})
    windowed = Pool(source={"kind": "phantom"}, raster=RANGE)
    assert "raster" not in plan_of(usual)  # pools from before stay what they are
    assert plan_of(windowed)["raster"] == {"window": "range"}
    narrow = Pool(source={"kind": "phantom"}, raster={"window": [9, 4]})
    for made, wanted in ((usual, windowed), (windowed, usual), (windowed, narrow)):
        _prepared(tmp_path, made)
        open_prepared(made, tmp_path)
        with pytest.raises(PoolError, match="other settings"):
            open_prepared(wanted, tmp_path)
