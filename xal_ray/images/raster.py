"""Pillow's formats: PNG, JPEG, BMP, TIFF and WebP."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from xal_ray.config import Limits, Raster
from xal_ray.images import grey16
from xal_ray.images.decoded import Box, Decoded, Pixels
from xal_ray.images.errors import ImageError
from xal_ray.images.masks import Mask, cut_plane, palette_values
from xal_ray.images.scaling import FEW_GREYS, in_mode, lost_greys

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"RIFF")

_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_LOSSY_FORMATS = frozenset({"JPEG", "MPO", "WEBP"})
_LOSSLESS_WEBP, _WEBP_HEAD_BYTES = b"VP8L", 4096
_EXIF_ORIENTATION = 274
# EXIF orientations that exchange width and height, bring the right edge to the left, the bottom to the top.
_SIDEWAYS, _RIGHT_TO_LEFT, _BOTTOM_TO_TOP = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)


def decode(
    stream: BinaryIO,
    limits: Limits,
    *,
    at_least: int | None = None,
    grey: bool = False,
    deep: Raster | None = None,
) -> Decoded:
    """Read a picture.

    Grey pixels of more than 8 bits are divided by the file's bit depth, or windowed; transparency lies over
    black; the EXIF orientation is applied.

    With `at_least`, a JPEG is decoded at 1/2, 1/4 or 1/8 of its size (the decoder leaves out the fine waves
    of each block): the smallest whose sides are both still `at_least`. At 224 px one core then does 1.4 (512
    px) to 2.0 (2048 px) times as many grey files, and 2.2 to 3.5 times as many colour files with `grey`. Once
    resized, the pixels differ from a full decode no more than another resampling filter would make them:

        generated scans, 512 to 2048 px to 224 px: mean .4 to .6 of 255, PSNR 48.6 to 50.9 dB
        MRI slices, 256 px to 112 px: mean .84, 43.5 dB; a box filter on the full decode: 1.55, 37.4 dB
        MRI slices, 256 px to 128 px (nothing left to resize): mean 1.41, 38.7 dB; the box filter: the same

    Twice `at_least` would be nearer (54 dB and more), but would cost 12 to 34 % of the speed, and leave 512
    px as they are. All numbers are those of `benchmarks/decode.py`.

    Args:
        stream: The file.
        limits: The most pixels of the original.
        at_least: The training size, pixels; None decodes every pixel. Only JPEG files heed it.
        grey: Colours are not needed: of a colour JPEG only the brightness is decoded, within 2 of 255 of the
            grey of its colours on scans. Files of other formats keep their colours.
        deep: How grey pixels of more than 8 bits, signed and real ones become 8 bits.
    """
    upright, frame, box = _load(stream, limits, at_least, grey)
    if grey16.is_deep(upright):
        pixels = grey16.in_8_bits(upright, deep or Raster())
        return Decoded(pixels, frame, box, remarks=lost_greys(lambda: grey16.values_of(upright), pixels))
    if grey16.is_deep_colour(upright):
        return _of_deep_colours(_to_8_bit(upright), frame, box, deep or Raster())
    return Decoded(_to_8_bit(upright), frame, box)


def _of_deep_colours(pixels: Pixels, frame: tuple[int, int], box: Box | None, deep: Raster) -> Decoded:
    """Colours of 16 bits, of which the upper 8 are read: a scan of 12 bits keeps 16 greys of them."""
    if deep.window != "dtype":
        raise ImageError("unsupported_format", "colours of 16 bits: pool.raster.window is for grey pixels")
    num_greys = len(np.unique(pixels))
    few = 1 < num_greys < FEW_GREYS < pixels.size
    return Decoded(pixels, frame, box, remarks=("few_greys",) if few else ())


def decode_inside(stream: BinaryIO, limits: Limits) -> Mask:
    """Read a mask; see `images.masks`, and `images.read_mask`."""
    lossless_webp = _LOSSLESS_WEBP in stream.read(_WEBP_HEAD_BYTES)
    stream.seek(0)
    upright, _, _ = _load(stream, limits)
    # Asked here, since a converted picture has no format.
    lossy = upright.format in _LOSSY_FORMATS and not lossless_webp
    lossy = lossy or upright.info.get("compression") == "jpeg"
    mask = cut_plane(_values_of_mask(upright), lossy=lossy)
    if grey16.is_deep_colour(upright) and not mask.inside.any():
        raise ImageError("unsupported_format", "colours of 16 bits, of which only the upper 8 are read")
    return mask


def _values_of_mask(upright: Image.Image) -> npt.NDArray[np.number]:
    """Return one number a pixel, transparent ones black; of colours the brightest."""
    if grey16.is_deep(upright):
        values = grey16.values_of(upright)
        # Pillow turns these over up to 8 bits only.
        return (1 << grey16.depth_of(upright)) - 1 - values if grey16.is_inverted(upright) else values
    if upright.mode == "P":
        shown = _over_black(upright) if "transparency" in upright.info else upright
        return palette_values(np.asarray(upright), np.asarray(shown.convert("RGB")))
    if upright.mode in _ALPHA_MODES:
        values = np.asarray(_over_black(upright))
        values = values.max(axis=2) if values.ndim == 3 else values
        # Black that is drawn on nothing: what is drawn is the mask.
        return values if values.any() else _drawn(np.asarray(upright.convert("RGBA"))[:, :, 3])
    if upright.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        upright = upright.convert("RGB")
    values = np.asarray(upright)
    return values.max(axis=2) if values.ndim == 3 else values


def _drawn(alpha: Pixels) -> Pixels:
    """Transparency as a mask; the same everywhere, it draws nothing."""
    return alpha if alpha.min() < alpha.max() else np.zeros_like(alpha)


def _load(
    stream: BinaryIO, limits: Limits, at_least: int | None = None, grey: bool = False
) -> tuple[Image.Image, tuple[int, int], Box | None]:
    """Decode a file within limits; the picture the right way up, its frame, and the frame's box in it."""
    source = _open_header(stream)
    _check_header(source, limits)
    header_size = source.size
    grey16.note_depth(source)
    # Asks a JPEG's decoder for less; the other formats know no draft.
    draft = source.draft("L" if grey else None, (at_least, at_least) if at_least else None)
    source.load()
    orientation = source.getexif().get(_EXIF_ORIENTATION)
    ImageOps.exif_transpose(source, in_place=True)
    if draft is None:
        return source, (source.height, source.width), None
    return source, *_frame_of_draft(source, header_size, draft[1][2:], orientation)


def _open_header(stream: BinaryIO) -> Image.Image:
    try:
        return Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        stream.seek(0)
        if stream.read(4).startswith(SIGNATURES):
            raise ImageError("unreadable", "the header is damaged") from None
        raise ImageError("unsupported_format", f"the file is none of {', '.join(FORMATS)}") from None


def _check_header(image: Image.Image, limits: Limits) -> None:
    num_pixels = image.width * image.height
    if num_pixels > limits.max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"{image.width} x {image.height} pixels; pool.limits.max_pixels is {limits.max_pixels}",
        )
    # An MPO is a JPEG whose further pictures are previews or depth maps: the first is the picture.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise ImageError("several_frames", "the file holds several pictures; write each to a file of its own")


def _frame_of_draft(
    upright: Image.Image, header_size: tuple[int, int], extent: tuple[float, float], orientation: object
) -> tuple[tuple[int, int], Box]:
    """Find the original's frame, and where it lies in the draft.

    A draft has ceil(side / scale) pixels along a side: the last one reaches over the right or lower edge of
    the file's frame. The picture has been turned since, and that edge with it.

    Args:
        upright: The turned draft.
        header_size: Width and height of the file's frame, pixels.
        extent: The same in units of the draft's pixels.
        orientation: The file's EXIF orientation.
    """
    width, height = header_size
    across, down = extent
    if orientation in _SIDEWAYS:
        width, height, across, down = height, width, down, across
    left = upright.width - across if orientation in _RIGHT_TO_LEFT else 0.0
    top = upright.height - down if orientation in _BOTTOM_TO_TOP else 0.0
    return (height, width), (left, top, left + across, top + down)


def _to_8_bit(upright: Image.Image) -> Pixels:
    """Turn any 8-bit mode of Pillow into grey or RGB."""
    if upright.mode == "LAB":
        raise ImageError("unsupported_format", "pixels must be grey, RGB, CMYK or of a palette")
    if upright.mode in _ALPHA_MODES or "transparency" in upright.info:
        upright = _over_black(upright)
    if upright.mode == "P":
        upright = upright.convert("RGB")
        red, green, blue = np.asarray(upright).transpose(2, 0, 1)
        if np.array_equal(red, green) and np.array_equal(green, blue):
            return np.array(red)
    return np.asarray(in_mode(upright, "L" if upright.mode in ("1", "L") else "RGB"))


def _over_black(image: Image.Image) -> Image.Image:
    grey = image.mode in ("L", "LA", "La", "1")
    colours = image.convert("RGBA")
    black = Image.new("RGBA", colours.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, colours).convert("L" if grey else "RGB")
