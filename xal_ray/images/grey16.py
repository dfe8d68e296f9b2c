"""Grey pixels of more than 8 bits, signed ones and real numbers, of a PNG or TIFF file, to 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from xal_ray.config import Raster
from xal_ray.images.decoded import Pixels
from xal_ray.images.errors import ImageError
from xal_ray.images.scaling import finite_range, scale_to_8_bit

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # of a TIFF file
_WHITE_IS_ZERO = 0
_UNSIGNED, _SIGNED = 1, 2
_DEEP_COLOUR = "xal_ray deep colour"  # where `info` says so: loading forgets how a picture was stored
_STRIP_PIXELS = 1 << 18  # at a time: a few megabytes of integers, whatever the image


def is_deep(picture: Image.Image) -> bool:
    """Return whether a picture is grey and of more than 8 bits, or of signed or real numbers."""
    return picture.mode.startswith(("I", "F")) or (picture.mode == "L" and _format(picture) == _SIGNED)


def is_deep_colour(picture: Image.Image) -> bool:
    """Return whether Pillow has left out the lower half of colours of 16 bits."""
    return picture.info.get(_DEEP_COLOUR) is True


def note_depth(picture: Any) -> None:
    """Note in a picture that is not loaded yet whether it has colours of 16 bits."""
    modes = [tile.args[0] if isinstance(tile.args, tuple) else tile.args for tile in picture.tile]
    picture.info[_DEEP_COLOUR] = any(isinstance(mode, str) and ";16" in mode for mode in modes)


def values_of(picture: Image.Image) -> npt.NDArray[np.number]:
    """Return the values of a deep picture as its file holds them, (h, w)."""
    values = np.asarray(picture)
    if picture.mode == "L":
        return values.view(np.int8)
    return values.view(np.uint32) if depth_of(picture) == 32 and _format(picture) == _UNSIGNED else values


def in_8_bits(picture: Image.Image, settings: Raster) -> Pixels:
    """Return a deep picture in [0, 255].

    Raises:
        ImageError: It is signed, real or of more than 16 bits, and its range is to be that of its type.
    """
    if settings.window == "dtype":
        return _divide_by_depth(picture)
    values = values_of(picture)
    if settings.window == "range":
        low, high = finite_range(values)
    else:
        center, width = settings.window
        low, high = center - width / 2, center + width / 2
    if is_inverted(picture):
        return scale_to_8_bit(-values.astype(np.float64), -high, -low)
    return scale_to_8_bit(values, low, high)


def depth_of(picture: Image.Image) -> int:
    """Bits of a sample: of a TIFF as its tag says; a PNG of these modes has 16."""
    return int(_tags(picture).get(_BITS_PER_SAMPLE, (16,))[0])


def is_inverted(picture: Image.Image) -> bool:
    """Return whether large values are dark."""
    return bool(_tags(picture).get(_PHOTOMETRIC) == _WHITE_IS_ZERO)


def _divide_by_depth(picture: Image.Image) -> Pixels:
    """Scale deep grey pixels to [0, 255] by the depth that the file declares, never by the values found.

    A value v of depth d becomes (255 v + m // 2) // m with m = 2^d - 1. Done strip by strip: beside Pillow's
    own pixels (2 or 4 bytes each) there is 1 byte a pixel of result.
    """
    depth = depth_of(picture)
    unclear = ImageError(
        "unsupported_format",
        "grey pixels must be unsigned and of at most 16 bits; pool.raster.window=range, or centre and width, "
        "says what is black and white in others",
    )
    if _format(picture) != _UNSIGNED or depth > 16 or picture.mode == "F":
        raise unclear
    largest = (1 << depth) - 1
    width, height = picture.size
    pixels = np.empty((height, width), dtype=np.uint8)
    num_rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, num_rows):
        bottom = min(height, top + num_rows)
        # A negative value becomes a very large one, and is refused as such.
        values = np.asarray(picture.crop((0, top, width, bottom))).astype(np.uint32)
        if values.max() > largest:
            raise unclear
        if is_inverted(picture):
            values = largest - values
        pixels[top:bottom] = (values * 255 + largest // 2) // largest
    return pixels


def _format(picture: Image.Image) -> int:
    """Return what numbers the samples of a TIFF file are; those of other formats have no sign."""
    return int(_tags(picture).get(_SAMPLE_FORMAT, (_UNSIGNED,))[0])


def _tags(picture: Image.Image) -> Any:
    return getattr(picture, "tag_v2", {})
