"""Pictures of single images: ROI contour and saliency overlay. Pure functions on arrays.

Everything is drawn from what the run saved: pixels and ROI of the pool, the saliency grid of the scores. The
network is not needed.
"""

from __future__ import annotations

import base64
import io

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image

TILE_SIZE = 176  # px: 10 rounds of 24 picks stay under 10 MB, and a 224 px image loses little
TILE_GAP = 4  # px between the plain and the overlaid tile
JPEG_QUALITY = 80
COLOUR_MAP = "magma"  # perceptually uniform; dark where the saliency is low, so the eye goes where it is high
CAM_OPACITY = 0.5
CONTOUR_RGB = (64, 224, 208)  # turquoise: not among magma's colours, and no grey
CONTOUR_HALF_WIDTH = 0.9  # px

Rgb = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]


def picture(pixels: npt.NDArray[np.uint8], roi: Plane | None, saliency: Plane | None) -> Rgb:
    """Draw an image with its ROI and, where there is a saliency map, a second time under that map.

    Args:
        pixels: (h, w, 1 or 3) uint8.
        roi: (h, w) coverage in [0, 1], or None without an ROI.
        saliency: (gh, gw) min-max normalised map in [0, 1], or None (initial picks, failed rows).

    Returns:
        (TILE_SIZE, TILE_SIZE or 2 TILE_SIZE + TILE_GAP, 3) uint8: plain tile, white gap, overlaid tile.
    """
    plain = resize_rgb(pixels, TILE_SIZE)
    tiles = [plain]
    if saliency is not None:
        tiles.append(overlay_saliency(plain, resize_plane(saliency, TILE_SIZE)))
    if roi is not None:
        alpha = contour_alpha(resize_plane(roi, TILE_SIZE))
        tiles = [blend(tile, CONTOUR_RGB, alpha) for tile in tiles]
    if len(tiles) == 1:
        return tiles[0]
    gap = np.full((TILE_SIZE, TILE_GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([tiles[0], gap, tiles[1]], axis=1)


def resize_rgb(pixels: npt.NDArray[np.uint8], size: int) -> Rgb:
    """Scale an image of (h, w, 1 or 3) uint8 to (size, size, 3)."""
    rgb = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    return np.asarray(Image.fromarray(rgb).resize((size, size), Image.Resampling.BICUBIC), dtype=np.uint8)


def resize_plane(plane: Plane, size: int) -> Plane:
    """Scale a map of (h, w) bilinearly to (size, size), pixel centres at one half, as CAMs are."""
    image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)


def overlay_saliency(rgb: Rgb, saliency: Plane) -> Rgb:
    """Lay a saliency map over an image in the colours of `COLOUR_MAP`.

    Args:
        rgb: (s, s, 3) uint8.
        saliency: (s, s) in [0, 1].

    Returns:
        (s, s, 3) uint8: `(1 - CAM_OPACITY) image + CAM_OPACITY colour(saliency)`.
    """
    colours = matplotlib.colormaps[COLOUR_MAP](np.clip(saliency, 0.0, 1.0))[..., :3] * 255.0
    mixed = (1.0 - CAM_OPACITY) * rgb + CAM_OPACITY * colours
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def contour_alpha(roi: Plane) -> Plane:
    """Return the opacity of a thin, smooth line around an ROI.

    The distance to the line is `|f - max f / 2| / |grad f|` of the slightly blurred coverage `f`: half of the
    maximum, not one half, so that a lesion smaller than a pixel still gets its line.

    Args:
        roi: (s, s) coverage in [0, 1].

    Returns:
        (s, s) in [0, 1]; all zero for an empty ROI. An ROI that fills the image gets a frame.
    """
    if not roi.max() > 0:
        return np.zeros_like(roi)
    padded = _blur(np.pad(roi, 2))
    down, right = np.gradient(padded)
    slope = np.hypot(down, right)
    distance = np.abs(padded - padded.max() / 2) / np.maximum(slope, 1e-6)
    # Two pixels of room hold the line of an ROI that touches the border: it is drawn on the border itself.
    inside = np.clip(1.0 + CONTOUR_HALF_WIDTH - distance, 0.0, 1.0)
    return np.asarray(inside[2:-2, 2:-2], dtype=np.float32)


def blend(rgb: Rgb, colour: tuple[int, int, int], alpha: Plane) -> Rgb:
    """Paint a colour over an image of (s, s, 3) uint8 with an opacity of (s, s) in [0, 1]."""
    weight = alpha[..., None]
    mixed = (1.0 - weight) * rgb + weight * np.asarray(colour, dtype=np.float32)
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def jpeg_data_uri(rgb: Rgb) -> str:
    """Encode (h, w, 3) uint8 as a JPEG data URI; full chroma, because contours are thin and coloured."""
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, format="JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _blur(plane: Plane) -> Plane:
    """Return a 3 x 3 binomial blur, edges repeated."""
    for axis in (0, 1):
        padded = np.pad(plane, [(1, 1) if axis == a else (0, 0) for a in (0, 1)], mode="edge")
        size = plane.shape[axis]
        before, here, after = (np.take(padded, range(k, k + size), axis=axis) for k in range(3))
        plane = (before + 2 * here + after) / np.float32(4)
    return plane
