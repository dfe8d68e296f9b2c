"""Normalises saliency maps, and tells whether their peak points at a region of interest (ROI).

The other measures of alignment are `fullsize`'s, which makes them of full-size maps without making those.

`pointing_game` takes cam (n, gh, gw) in [0, 1] and roi (n, gh, gw), the covered area fractions in [0, 1], and
gives (n,) float64. It is NaN, never a made-up number, where there is nothing to compare: a map that is all
zero or not finite, an empty ROI (every map would miss it by the same amount), or a zero denominator.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

CELLS = (1, 2)
# A map whose values differ by less than this share of their size holds rounding noise of float32 only.
CONSTANT_TOLERANCE = 1e-6


def minmax(cams: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Normalise every map on its own: `(c - min c) / (max c - min c)`.

    Args:
        cams: (n, gh, gw), any range.

    Returns:
        (n, gh, gw) float32 in [0, 1], and (n,) bool: true where the map is defined, false where it is
        constant or not finite. An undefined map is NaN throughout.

    Raises:
        ValueError: Not (n, gh, gw), or no cells.
    """
    values = _maps(cams)
    finite = np.isfinite(values).all(axis=CELLS)
    values[~finite] = 0.0
    low = values.min(axis=CELLS, keepdims=True)
    span = values.max(axis=CELLS, keepdims=True) - low
    size = np.abs(values).max(axis=CELLS)
    defined = finite & (span[:, 0, 0] > CONSTANT_TOLERANCE * size)
    span[~defined] = np.nan
    return ((values - low) / span).astype(np.float32), defined


def pointing_game(cam: npt.NDArray[np.floating], roi: npt.NDArray[np.floating | np.bool_]) -> FloatArray:
    """Score whether the map's peak points at the ROI: 1 hit, 0 miss; the mean over the cells of tied peaks.

    A hit is a peak cell that the ROI covers at all. A cell is the finest place a map can point at, and a
    lesion rarely fills half of one; the paper likewise allows a margin (15 px) around the object.

    Raises:
        ValueError: The shapes differ or are not (n, gh, gw).

    Source:
        Zhang et al., "Top-down Neural Attention by Excitation Backprop" (2016), section 4.1.
    """
    maps, regions = compared(cam, roi)
    peaks = maps == maps.max(axis=CELLS, keepdims=True)
    hits = (peaks & (regions > 0.0)).sum(axis=CELLS)
    # An undefined pair is NaN and so has no peak: 0 / 0.
    return ratio(hits.astype(np.float64), peaks.sum(axis=CELLS).astype(np.float64))


def compared(
    cam: npt.NDArray[np.floating], roi: npt.NDArray[np.floating | np.bool_]
) -> tuple[FloatArray, FloatArray]:
    """Return both in float64, NaN throughout where there is nothing to compare.

    Raises:
        ValueError: The shapes differ or are not (n, gh, gw).
    """
    maps, regions = _maps(cam), _maps(roi)
    if maps.shape != regions.shape:
        raise ValueError(f"cam and roi must have one shape, found {maps.shape} and {regions.shape}")
    defined = np.isfinite(maps).all(axis=CELLS) & np.isfinite(regions).all(axis=CELLS)
    defined &= (maps > 0.0).any(axis=CELLS) & (regions > 0.0).any(axis=CELLS)
    maps[~defined] = np.nan
    regions[~defined] = np.nan
    return maps, regions


def _maps(values: npt.NDArray[np.floating | np.bool_]) -> FloatArray:
    """Return a float64 copy, which the caller may write into."""
    if values.ndim != 3 or 0 in values.shape[1:]:
        raise ValueError(f"expected (n, gh, gw), found shape {values.shape}")
    return values.astype(np.float64)


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide; NaN where the denominator is 0."""
    quotient = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0.0)
    return quotient
