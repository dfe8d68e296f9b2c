"""Image files to arrays, within limits: size before reading, pixels before decoding, no guesses.

A file that can't be read raises `ImageError`, whose code goes into the quarantine. Nothing that the file
holds is ever quoted: headers may name a patient.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from xal_ray.config import Limits

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")

ErrorCode = Literal[
    "missing_file",
    "file_too_large",
    "too_many_pixels",
    "unsupported_format",
    "several_frames",
    "truncated",
    "unreadable",
]

_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"RIFF")
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_LOSSY_FORMATS = frozenset({"JPEG", "MPO", "WEBP"})
_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262
_TIFF_WHITE_IS_ZERO = 0

Pixels = npt.NDArray[np.uint8]


class ImageError(Exception):
    """An image or mask file that can't be used.

    Args:
        code: A stable word for tables and tests.
        detail: One sentence for people; it never holds anything that was read from the file.
    """

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(code, detail)  # both in `args`, so that it survives pickling
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


def decode_image(path: Path, limits: Limits) -> Pixels:
    """Read an image file as it is meant to be seen.

    Pixels of more than 8 bits are divided by the file's bit depth; transparency lies over black; the EXIF
    orientation is applied.

    Args:
        path: A PNG, JPEG, BMP, TIFF or WebP file with one frame.
        limits: The largest file and the most pixels.

    Returns:
        (height, width) for grey or (height, width, 3) for RGB, in [0, 255].

    Raises:
        ImageError: The file is missing, too large, damaged, or of another kind.
    """
    upright, source = _load(path, limits)
    if upright.mode.startswith("I"):
        return _divide_by_depth(np.asarray(upright).astype(np.int64), source)
    return _to_8_bit(upright)


def decode_mask(path: Path, limits: Limits) -> npt.NDArray[np.bool_]:
    """Read a mask file.

    Args:
        path: An image file in which nonzero pixels are inside: any channel, a palette's index. In a JPEG or
            WebP file a pixel is inside from half of the range on, because compression blurs zeros.
        limits: The largest file and the most pixels.

    Returns:
        (height, width), true inside.

    Raises:
        ImageError: As for `decode_image`.
    """
    upright, source = _load(path, limits)
    if upright.mode in _ALPHA_MODES:
        upright = _over_black(upright)
    elif upright.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        upright = upright.convert("RGB")
    values = np.asarray(upright)
    # Written so that a nan of a float mask is outside.
    inside = values > 127 if source.format in _LOSSY_FORMATS else (values > 0) | (values < 0)
    return np.array(inside.any(axis=2) if inside.ndim == 3 else inside, dtype=bool)


def to_training_size(image: Pixels, size: int, channels: int) -> Pixels:
    """Stretch an image to a square, with antialiasing.

    Args:
        image: (height, width) or (height, width, 3).
        size: Height and width of the result, pixels.
        channels: 1 (grey: .299 red + .587 green + .114 blue) or 3 (RGB).

    Returns:
        (size, size, channels).
    """
    picture = Image.fromarray(image).convert("L" if channels == 1 else "RGB")
    # Pillow's bilinear filter widens with the reduction, so that every source pixel counts.
    stretched = np.array(picture.resize((size, size), Image.Resampling.BILINEAR))
    return stretched.reshape(size, size, channels)


def _load(path: Path, limits: Limits) -> tuple[Image.Image, Image.Image]:
    """Decode a file within limits; the picture the right way up, and as opened, with its format and tags."""
    _check_file(path, limits)
    try:
        # Other warnings of Pillow may quote a header: they are dropped.
        with warnings.catch_warnings(action="ignore"), path.open("rb") as stream:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            source = _open_header(stream)
            _check_header(source, limits)
            source.load()
            return ImageOps.exif_transpose(source), source
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError("too_many_pixels", "the header promises more pixels than Pillow allows") from None
    except MemoryError:
        raise ImageError("too_many_pixels", "the pixels do not fit into memory") from None
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        if isinstance(error, EOFError) or "truncated" in str(error):
            raise ImageError("truncated", "the file ends before its pixels do") from None
        raise ImageError("unreadable", f"the file is damaged ({type(error).__name__})") from None


def _check_file(path: Path, limits: Limits) -> None:
    try:
        is_file, num_bytes = path.is_file(), path.stat().st_size
    except (OSError, ValueError):
        raise ImageError("missing_file", "there is no file at this path") from None
    if not is_file:  # a folder, or a pipe that would never end
        raise ImageError("unreadable", "the path is not a regular file")
    if num_bytes == 0:
        raise ImageError("truncated", "the file is empty")
    if num_bytes > limits.max_file_bytes:
        raise ImageError(
            "file_too_large", f"{num_bytes} bytes; pool.limits.max_file_bytes is {limits.max_file_bytes}"
        )


def _open_header(stream: BinaryIO) -> Image.Image:
    try:
        return Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        stream.seek(0)
        if stream.read(4).startswith(_SIGNATURES):
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


def _to_8_bit(upright: Image.Image) -> Pixels:
    """Turn any 8-bit mode of Pillow into grey or RGB."""
    if upright.mode in ("F", "LAB"):
        raise ImageError("unsupported_format", "pixels must be integers: grey, RGB, CMYK or a palette")
    if upright.mode in _ALPHA_MODES or "transparency" in upright.info:
        upright = _over_black(upright)
    if upright.mode == "P":
        upright = upright.convert("RGB")
        red, green, blue = np.asarray(upright).transpose(2, 0, 1)
        if np.array_equal(red, green) and np.array_equal(green, blue):
            return np.array(red)
    return np.array(upright.convert("L" if upright.mode in ("1", "L") else "RGB"))


def _over_black(image: Image.Image) -> Image.Image:
    grey = image.mode in ("L", "LA", "La", "1")
    colours = image.convert("RGBA")
    black = Image.new("RGBA", colours.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, colours).convert("L" if grey else "RGB")


def _divide_by_depth(values: npt.NDArray[np.int64], source: Image.Image) -> Pixels:
    """Scale deep grey pixels to [0, 255] by the depth that the file declares, never by the values found."""
    tags: Any = getattr(source, "tag_v2", {})  # TIFF only; a PNG of these modes has 16 bits
    depth = int(tags.get(_TIFF_BITS_PER_SAMPLE, (16,))[0])
    largest = (1 << depth) - 1
    if depth > 16 or values.min() < 0 or values.max() > largest:
        raise ImageError("unsupported_format", "grey pixels must be unsigned and of at most 16 bits")
    if tags.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO:  # Pillow inverts these up to 8 bits only
        values = largest - values
    return ((values * 255 + largest // 2) // largest).astype(np.uint8)
