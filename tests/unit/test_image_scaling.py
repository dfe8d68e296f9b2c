"""Scaled JPEG decoding against the full decode, the original's frame, and deep pixels in bounded memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from xal_ray.config import Limits, Pool, Raster
from xal_ray.images import Decoded, ImageError, decode_image, decode_mask, grey16, to_training_size
from xal_ray.pool.manifest import manifest_of
from xal_ray.pool.reading import read_row

LIMITS = Limits()
ORIENTATIONS = range(1, 9)
SIZE = 100  # of training, pixels
# What benchmarks/decode.py finds, with room: mean and largest difference of 255 grey levels.
MEAN, LARGEST = 0.7, 15


def _scan(height: int, width: int, channels: int = 1) -> np.ndarray:
    """Waves of several lengths, a sharp disc off the centre, and noise; no symmetry."""
    generator = np.random.default_rng(3)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    body = 90 + 50 * x - 30 * y + 60 * ((x - 0.6) ** 2 + (y - 0.3) ** 2 < 0.02)
    for cycles in (3, 11, 29):
        body += 60 / cycles * np.sin(2 * np.pi * cycles * (x + 0.6 * y * y) + cycles)
    planes = [body + 15 * c * (x - y) + generator.normal(scale=4, size=body.shape) for c in range(channels)]
    pixels = np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)
    return pixels if channels == 3 else pixels[:, :, 0]


def _save(path: Path, pixels: np.ndarray, orientation: int = 1, **options: object) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, **{"quality": 92, **options})
    return path


def _at_size(decoded: Decoded, channels: int = 1) -> np.ndarray:
    return to_training_size(decoded.pixels, SIZE, channels, decoded.box).astype(int)


def _difference(path: Path, channels: int = 1) -> np.ndarray:
    scaled = decode_image(path, LIMITS, at_least=SIZE, grey=channels == 1)
    return np.abs(_at_size(scaled, channels) - _at_size(decode_image(path, LIMITS), channels))


@pytest.mark.parametrize(("colours", "channels"), [(1, 1), (3, 1), (3, 3)])
@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(256, 230, 2), (451, 450, 4), (405, 907, 4), (913, 1001, 8), (800, 800, 8)],
)
def test_a_scaled_decode_is_near_the_full_one(tmp_path, height, width, scale, colours, channels):
    path = _save(tmp_path / "a.jpg", _scan(height, width, colours))
    decoded = decode_image(path, LIMITS, at_least=SIZE)
    assert decoded.pixels.shape[:2] == (-(-height // scale), -(-width // scale))
    assert min(decoded.pixels.shape[:2]) >= SIZE
    assert decoded.frame == (height, width)
    difference = _difference(path, channels)
    assert 0 < difference.mean() < MEAN
    assert difference.max() < LARGEST


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"keep_rgb": True}])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_jpeg_is_scaled(tmp_path, channels, options):
    path = _save(tmp_path / "a.jpg", _scan(405, 411, 3), **options)
    assert decode_image(path, LIMITS, at_least=SIZE).pixels.shape == (102, 103, 3)
    difference = _difference(path, channels)
    assert 0 < difference.mean() < MEAN
    assert difference.max() < LARGEST


@pytest.mark.parametrize(("height", "width"), [(199, 199), (199, 800), (800, 199), (90, 400)])
def test_nothing_is_scaled_below_the_training_size(tmp_path, height, width):
    path = _save(tmp_path / "a.jpg", _scan(height, width))
    decoded, full = decode_image(path, LIMITS, at_least=SIZE, grey=True), decode_image(path, LIMITS)
    np.testing.assert_array_equal(decoded.pixels, full.pixels)
    np.testing.assert_array_equal(_at_size(decoded), _at_size(full))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_turned_jpeg_keeps_its_frame_and_its_edges(tmp_path, orientation):
    pixels = _scan(801, 411)  # at 1/4, both edges lie 1/4 into the last pixel
    path = _save(tmp_path / "a.jpg", pixels, orientation)
    decoded, full = decode_image(path, LIMITS, at_least=SIZE, grey=True), decode_image(path, LIMITS)
    assert decoded.frame == full.frame == ((411, 801) if orientation >= 5 else (801, 411))
    assert sorted(decoded.pixels.shape) == [103, 201]
    difference = np.abs(_at_size(decoded) - _at_size(full))
    assert difference.mean() < MEAN
    assert difference.max() < LARGEST
    askew = to_training_size(decoded.pixels, SIZE, 1).astype(int)
    assert np.abs(askew - _at_size(full)).mean() > 2 * difference.mean()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_the_frame_of_other_formats_is_that_of_their_pixels(tmp_path, suffix, orientation):
    path = _save(tmp_path / f"a.{suffix}", _scan(30, 50), orientation)
    decoded = decode_image(path, LIMITS, at_least=10)
    assert decoded.frame == decoded.pixels.shape[:2] == ((50, 30) if orientation >= 5 else (30, 50))
    assert decoded.box is None


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_formats_are_always_decoded_in_full(tmp_path, suffix, channels):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(_scan(64, 80, channels)).save(path)
    full = decode_image(path, LIMITS)
    decoded = decode_image(path, LIMITS, at_least=8, grey=True)
    np.testing.assert_array_equal(decoded.pixels, full.pixels)
    assert (decoded.frame, decoded.box) == (full.frame, full.box) == ((64, 80), None)


def test_deep_png_pixels_do_not_depend_on_the_training_size(tmp_path):
    Image.fromarray(_scan(64, 80).astype(np.uint16) * 256).save(tmp_path / "a.png")
    full = decode_image(tmp_path / "a.png", LIMITS)
    decoded = decode_image(tmp_path / "a.png", LIMITS, at_least=8, grey=True)
    np.testing.assert_array_equal(decoded.pixels, full.pixels)


def test_the_brightness_of_a_colour_jpeg_is_the_grey_of_its_colours(tmp_path):
    path = _save(tmp_path / "a.jpg", _scan(150, 180, 3))  # too small to be scaled
    grey = decode_image(path, LIMITS, at_least=SIZE, grey=True)
    assert grey.pixels.shape == (150, 180)
    colours = decode_image(path, LIMITS, at_least=SIZE).pixels
    assert colours.shape == (150, 180, 3)
    expected = colours @ [0.299, 0.587, 0.114]
    assert np.abs(grey.pixels - expected).max() < 2.5


def test_cmyk_and_mpo_are_scaled_too(tmp_path):
    picture = Image.fromarray(_scan(400, 420, 3))
    picture.convert("CMYK").save(tmp_path / "ink.jpg", quality=92)
    picture.save(tmp_path / "two.mpo", save_all=True, append_images=[picture], quality=92)
    for name in ("ink.jpg", "two.mpo"):
        assert decode_image(tmp_path / name, LIMITS, at_least=SIZE).pixels.shape == (100, 105, 3)
        assert _difference(tmp_path / name).mean() < MEAN


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_refused_at_every_scale(tmp_path, progressive):
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    path = _save(tmp_path / "a.jpg", _scan(400, 400, 3), progressive=progressive)
    data = path.read_bytes()
    for at_least in (400, 200, 100, 50):
        for num_bytes in np.linspace(800, len(data) - 32, 20).astype(int):
            path.write_bytes(data[:num_bytes])
            with pytest.raises(ImageError) as caught:
                decode_image(path, LIMITS, at_least=at_least, grey=True)
            assert caught.value.code == "truncated"


def test_limits_are_those_of_the_original(tmp_path):
    path = _save(tmp_path / "a.jpg", _scan(400, 400))
    with pytest.raises(ImageError, match="400 x 400 pixels"):
        decode_image(path, Limits(max_pixels=159_999), at_least=50)


@pytest.mark.parametrize("orientation", [1, 6])
def test_masks_and_boxes_lie_in_the_original_frame(tmp_path, orientation):
    inside = np.zeros((801, 411), dtype=np.uint8)
    inside[:200, 50:] = 255
    row = {
        "image_id": "a",
        "uri": str(_save(tmp_path / "a.jpg", _scan(801, 411), orientation)),
        "group_id": "a",
        "mask_uri": str(_save(tmp_path / "mask.jpg", inside, orientation)),
        "boxes": [],
        "roi_state": "present",
    }
    (row,) = manifest_of([row]).to_pylist()
    assert decode_mask(Path(row["mask_uri"]), LIMITS).size == 801 * 411
    settings = Pool(image_size=SIZE, channels=1)
    (packed,) = read_row(row, settings)
    turned = orientation == 6
    assert packed.frame == ((411, 801) if turned else (801, 411))
    expected = _at_size(decode_image(Path(row["uri"]), LIMITS, at_least=SIZE, grey=True))
    np.testing.assert_array_equal(packed.pixels.ravel(), expected.ravel())
    assert packed.roi.mean() == pytest.approx(200 * 361 / (801 * 411), abs=1e-3)
    # The box of the same pixels, in the frame that the reader sees: clockwise, the top comes to the right.
    box = [601, 50, 801, 411] if turned else [50, 0, 411, 200]
    (boxed,) = read_row({**row, "mask_uri": None, "boxes": [box]}, settings)
    np.testing.assert_allclose(boxed.roi, packed.roi, atol=1 / 255)


def _formula(values: np.ndarray, depth: int) -> np.ndarray:
    largest = 2**depth - 1
    return ((values.astype(np.int64) * 255 + largest // 2) // largest).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_every_16_bit_value_follows_the_formula(tmp_path, suffix):
    values = np.random.default_rng(0).permutation(1 << 16).astype(np.uint16).reshape(128, 512)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    decoded = decode_image(tmp_path / f"a.{suffix}", LIMITS)
    assert decoded.pixels.dtype == np.uint8
    np.testing.assert_array_equal(decoded.pixels, _formula(values, 16))


@pytest.mark.parametrize("strip", [1, 7, 100, 1000, 1 << 18])
@pytest.mark.parametrize("depth", [9, 10, 12, 15, 16])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4"])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_strips_give_what_the_whole_image_gives(monkeypatch, strip, depth, dtype, white_is_zero):
    monkeypatch.setattr(grey16, "_STRIP_PIXELS", strip)
    values = np.random.default_rng(0).integers(0, 2**depth, (21, 33))
    values[0, 0], values[20, 32] = 0, 2**depth - 1
    picture = Image.fromarray(values.astype(dtype))
    picture.tag_v2 = {258: (depth,), 262: 0 if white_is_zero else 1}
    expected = _formula(2**depth - 1 - values if white_is_zero else values, depth)
    np.testing.assert_array_equal(grey16.in_8_bits(picture, Raster()), expected)


@pytest.mark.parametrize(
    ("value", "depth"), [(-1, 16), (1 << 16, 16), (1 << 12, 12), (-(1 << 31), 12), (0, 32)]
)
def test_values_beyond_the_depth_are_refused_wherever_they_are(monkeypatch, value, depth):
    monkeypatch.setattr(grey16, "_STRIP_PIXELS", 10)
    values = np.zeros((9, 10), dtype=np.int32)
    values[8, 9] = value
    picture = Image.fromarray(values)
    picture.tag_v2 = {258: (depth,)}
    with pytest.raises(ImageError, match="unsigned and of at most 16 bits"):
        grey16.in_8_bits(picture, Raster())


def test_deep_pixels_need_little_more_than_their_result(tmp_path):
    values = np.add.outer(np.arange(2000), np.arange(2000) * 16).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.tif")
    del values
    tracemalloc.start()
    try:
        pixels = decode_image(tmp_path / "a.tif", LIMITS).pixels
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Pillow's own 2 bytes a pixel are not traced; the formula on the whole image takes 16.
    assert peak < 3 * pixels.size
