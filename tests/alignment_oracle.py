"""The measures of alignment as they are defined, on maps in memory: what `acquire.fullsize` is compared with.

Every measure takes cam (n, gh, gw) in [0, 1] and roi (n, gh, gw), the covered area fractions in [0, 1], and
gives (n,) float64; NaN where there is nothing to compare.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from xal_ray.acquire.alignment import CELLS, FloatArray, compared, ratio


def soft_dice(cam: npt.NDArray[Any], roi: npt.NDArray[Any]) -> FloatArray:
    """Soft Dice `2 sum(c m) / (sum c + sum m)`, in [0, 1], nothing binarised.

    Raises:
        ValueError: The shapes differ or are not (n, gh, gw).

    Source:
        Milletari, Navab, Ahmadi, "V-Net" (2016), with first powers in the denominator; as agreement with
        experts in Uddin et al., arXiv 2602.13308 (2026).
    """
    maps, regions = compared(cam, roi)
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
    maps, regions = compared(cam, roi)
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
    maps, regions = compared(cam, roi)
    high = _thresholded(maps, threshold)
    union = np.maximum(high, regions).sum(axis=CELLS)
    overlap: FloatArray = np.minimum(high, regions).sum(axis=CELLS) / union
    return overlap


def energy_in_roi(cam: npt.NDArray[Any], roi: npt.NDArray[Any]) -> FloatArray:
    """Return the share of the map's sum that lies inside the ROI: `E = sum(c m) / sum c`, in [0, 1].

    Raises:
        ValueError: The shapes differ or are not (n, gh, gw).

    Source:
        Wang et al., "Score-CAM" (2020), section 4.3 (energy-based pointing game).
    """
    maps, regions = compared(cam, roi)
    energy: FloatArray = (maps * regions).sum(axis=CELLS) / maps.sum(axis=CELLS)
    return energy


def lift(cam: npt.NDArray[Any], roi: npt.NDArray[Any]) -> FloatArray:
    """Size-corrected alignment `(E - a) / (1 - a)`: E the energy in the ROI, a the ROI's share of the area.

    0 is what a flat map gets whatever the ROI's size, 1 a map that lies inside the ROI; negative values avoid
    it. NaN also where the ROI is the whole image (a = 1).

    Raises:
        ValueError: The shapes differ or are not (n, gh, gw).
    """
    area = compared(cam, roi)[1].mean(axis=CELLS)
    return ratio(energy_in_roi(cam, roi) - area, 1.0 - area)


def _thresholded(maps: FloatArray, threshold: float) -> FloatArray:
    # A comparison would turn the NaN of an undefined pair into "below".
    return np.where(np.isnan(maps), np.nan, maps >= threshold)
