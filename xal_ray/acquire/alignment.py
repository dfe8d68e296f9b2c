"""Defines how well a saliency map agrees with a region of interest (ROI), both on one grid.

Which grid is `fullsize`'s business, which gives the linear measures of full-size maps without making them.

Every measure takes cam (n, gh, gw) in [0, 1] and roi (n, gh, gw), the covered area fractions in [0, 1], and
gives (n,) float64. It is NaN, never a made-up number, where there is nothing to compare: a map that is all
zero or not finite, an empty ROI (every map would miss it by the same amount), or a zero denominator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

CELLS = (1, 2)
# A map whose values differ by less than this share of their size holds rounding noise of float32 only.
CONSTANT_TOLERANCE = 1e-6


def minmax(cams: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
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


def soft_dice(cam: npt.NDArray[Any], roi: npt.NDArray[Any]) -> FloatArray:
    """Soft Dice `2 sum(c m) / (sum c + sum m)`, in [0, 1], nothing binarised.

    Raises:
        ValueError: The shapes differ or are not (n, gh, gw).

    Source:
        Milletari, Navab, Ahmadi, "V-Net" (2016), with first powers in the denominator; as agreement with
        experts in Uddin et al., arXiv 2602.13308 (2026).
    """
    maps, regions = _pair(cam, roi)
    shared = (maps * regions).sum(axis=CELLS)
    dice: FloatArray = 2.0 * shared / (maps.sum(axis=CELLS) + regions.sum(axis=CELLS))
    return dice


def misalignment(cam: npt.NDArray[Any], roi: npt.NDArray[Any]) -> FloatArray:
    """Misalignment `M = 1 - soft Dice`, in [0, 1]; 1 = the map misses the ROI altogether.

    Raises:
        ValueError: The shapes differ or are not (n, gh, gw).

    Source:
        Uddin et al., "Learning to Select Like Humans", arXiv 2602.13308 (2026).
    """
    return 1.0 - soft_dice(cam, roi)


def hard_dice(cam: npt.NDArray[Any], roi: npt.NDArray[Any], threshold: float = 0.5) -> FloatArray:
    """Hard Dice `2 sum(b m) / (sum b + sum m)`, `b = [c >= threshold]`, in [0, 1]; the ROI is not binarised.

    Raises:
        ValueError: The shapes differ or are not (n, gh, gw).
    """
    maps, regions = _pair(cam, roi)
    high = _thresholded(maps, threshold)
    dice: FloatArray = (
        2.0 * (high * regions).sum(axis=CELLS) / (high.sum(axis=CELLS) + regions.sum(axis=CELLS))
    )
    return dice


def iou(cam: npt.NDArray[Any], roi: npt.NDArray[Any], threshold: float = 0.5) -> FloatArray:
    """Intersection over union of the map's cells at or above a threshold and the fractional ROI, in [0, 1].

    `sum(min(b, m)) / sum(max(b, m))` with `b = [c >= threshold]`; the ROI is not binarised.

    Raises:
        ValueError: The shapes differ or are not (n, gh, gw).
    """
    maps, regions = _pair(cam, roi)
    high = _thresholded(maps, threshold)
    union = np.maximum(high, regions).sum(axis=CELLS)
    ratio: FloatArray = np.minimum(high, regions).sum(axis=CELLS) / union
    return ratio


def pointing_game(cam: npt.NDArray[Any], roi: npt.NDArray[Any]) -> FloatArray:
    """Score whether the map's peak points at the ROI: 1 hit, 0 miss; the mean over the cells of tied peaks.

    A hit is a peak cell that the ROI covers at all. A cell is the finest place a map can point at, and a
    lesion rarely fills half of one; the paper likewise allows a margin (15 px) around the object.

    Raises:
        ValueError: The shapes differ or are not (n, gh, gw).

    Source:
        Zhang et al., "Top-down Neural Attention by Excitation Backprop" (2016), section 4.1.
    """
    maps, regions = _pair(cam, roi)
    peaks = maps == maps.max(axis=CELLS, keepdims=True)
    hits = (peaks & (regions > 0.0)).sum(axis=CELLS)
    # An undefined pair is NaN and so has no peak: 0 / 0.
    return _ratio(hits.astype(np.float64), peaks.sum(axis=CELLS).astype(np.float64))


def energy_in_roi(cam: npt.NDArray[Any], roi: npt.NDArray[Any]) -> FloatArray:
    """Return the share of the map's sum that lies inside the ROI: `E = sum(c m) / sum c`, in [0, 1].

    Raises:
        ValueError: The shapes differ or are not (n, gh, gw).

    Source:
        Wang et al., "Score-CAM" (2020), section 4.3 (energy-based pointing game).
    """
    maps, regions = _pair(cam, roi)
    energy: FloatArray = (maps * regions).sum(axis=CELLS) / maps.sum(axis=CELLS)
    return energy


def lift(cam: npt.NDArray[Any], roi: npt.NDArray[Any]) -> FloatArray:
    """Size-corrected alignment `(E - a) / (1 - a)`: E the energy in the ROI, a the ROI's share of the area.

    0 is what a flat map gets whatever the ROI's size, 1 a map that lies inside the ROI; negative values avoid
    it. NaN also where the ROI is the whole image (a = 1).

    Raises:
        ValueError: The shapes differ or are not (n, gh, gw).
    """
    area = _pair(cam, roi)[1].mean(axis=CELLS)
    return _ratio(energy_in_roi(cam, roi) - area, 1.0 - area)


def _pair(cam: npt.NDArray[Any], roi: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """Both in float64; NaN throughout where there is nothing to compare."""
    maps, regions = _maps(cam), _maps(roi)
    if maps.shape != regions.shape:
        raise ValueError(f"cam and roi must have one shape, found {maps.shape} and {regions.shape}")
    defined = np.isfinite(maps).all(axis=CELLS) & np.isfinite(regions).all(axis=CELLS)
    defined &= (maps > 0.0).any(axis=CELLS) & (regions > 0.0).any(axis=CELLS)
    maps[~defined] = np.nan
    regions[~defined] = np.nan
    return maps, regions


def _thresholded(maps: FloatArray, threshold: float) -> FloatArray:
    # A comparison would turn the NaN of an undefined pair into "below".
    return np.where(np.isnan(maps), np.nan, maps >= threshold)


def _maps(values: npt.NDArray[Any]) -> FloatArray:
    """Return a float64 copy, which the caller may write into."""
    if values.ndim != 3 or 0 in values.shape[1:]:
        raise ValueError(f"expected (n, gh, gw), found shape {values.shape}")
    return values.astype(np.float64)


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """NaN where the denominator is 0."""
    ratio = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator != 0.0)
    return ratio
