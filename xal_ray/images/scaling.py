"""Numbers to 8 bits, and images to the training size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from xal_ray.images.decoded import Box, Pixels

_STRIP_PIXELS = 1 << 18  # at a time: a few megabytes of float64, whatever the image
FEW_GREYS = 32
_SAMPLED_PIXELS = 4096


def scale_to_8_bit(values: npt.NDArray[np.number], low: float, high: float) -> Pixels:
    """Scale numbers linearly: `low` and less become 0, `high` and more 255, with nan as 0.

    A value v becomes floor(255 (v - low) / (high - low) + 1/2). Where `high` is not above `low`, all is 0.
    Done strip by strip in float64.

    Args:
        values: (h, w), integers or floats.
        low: In units of the values, finite.
        high: The same.

    Returns:
        (h, w).
    """
    pixels = np.zeros(values.shape, dtype=np.uint8)
    if not high > low:
        return pixels
    for rows in strips(values.shape):
        strip = values[rows].astype(np.float64)
        # Halves first: the difference of the two ends of float64 is no float64.
        share = (strip * 0.5 - low * 0.5) / (high * 0.5 - low * 0.5)
        pixels[rows] = to_8_bit(share)
    return pixels


def to_8_bit(share: npt.NDArray[np.float64]) -> Pixels:
    """Shares of white in [0, 1] to [0, 255]; what lies outside is cut off, and nan is 0."""
    np.nan_to_num(share, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
    return np.floor(np.clip(share, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def strips(shape: tuple[int, ...]) -> list[slice]:
    """Slices of rows that hold some 260,000 pixels each."""
    height, width = shape[:2]
    num_rows = max(1, _STRIP_PIXELS // max(1, width))
    return [slice(top, min(height, top + num_rows)) for top in range(0, height, num_rows)]


def finite_range(values: npt.NDArray[np.number]) -> tuple[float, float]:
    """Return the least and the largest finite number; 0 and 0 where there is none."""
    if values.dtype.kind in "biu":
        return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    low, high = np.inf, -np.inf
    for rows in strips(values.shape):
        finite = values[rows][np.isfinite(values[rows])]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def lost_greys(stored: Callable[[], npt.NDArray[np.number]], pixels: Pixels) -> tuple[str, ...]:
    """Return what a scaling to 8 bits has left of a picture, where that is little.

    Args:
        stored: Gives the values before; it is only asked where few greys are left.
        pixels: The values after.

    Returns:
        `one_grey`: different values became one grey. `few_greys`: fewer than 32 are left of more.
    """
    step = max(1, pixels.size // _SAMPLED_PIXELS)
    if len(np.unique(pixels.reshape(-1)[::step])) >= FEW_GREYS:
        return ()
    num_greys = len(np.unique(pixels))
    values = stored()
    low, high = finite_range(values)
    if num_greys >= FEW_GREYS or low == high:
        return ()
    if num_greys == 1:
        return ("one_grey",)
    return ("few_greys",) if len(np.unique(values)) > num_greys else ()


def to_training_size(image: Pixels, size: int, channels: int, box: Box | None = None) -> Pixels:
    """Stretch an image to a square, with antialiasing.

    Args:
        image: (height, width) or (height, width, 3).
        size: Height and width of the result, pixels.
        channels: 1 (grey: .299 red + .587 green + .114 blue) or 3 (RGB).
        box: The part to take: left, top, right, bottom in pixels, fractions allowed; None takes all.

    Returns:
        (size, size, channels).
    """
    picture = in_mode(Image.fromarray(image), "L" if channels == 1 else "RGB")
    # Pillow's bilinear filter widens with the reduction, so that every source pixel counts.
    stretched = np.array(picture.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return stretched.reshape(size, size, channels)


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return a picture in a mode of Pillow's: converted where it is in another."""
    # Pillow copies even where there is nothing to convert.
    return image if image.mode == mode else image.convert(mode)
