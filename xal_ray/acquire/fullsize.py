"""Alignment at the images' full size, from a few numbers per region of interest (ROI).

A saliency map has few cells. People look at it upsampled to the image, and the ROI is drawn there. Bilinear
upsampling is linear, `full = Y c X^T`, so what soft Dice sums over all pixels can be moved to the ROI's side
once: `sum_p full_p m_p = sum_k c_k (Y^T m X)_k`. The adjoint `Y^T m X` has as many numbers as the map, and
with the upsampled map's extrema the result is exact, at the price of a dot product.

Measures that threshold the map are not linear. They are taken on a grid of `FINE` cells a side or a little
more, never on the map's own cells: a lesion is often smaller than one of those.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from xal_ray.acquire import alignment
from xal_ray.roi import mask_to_grid

FloatArray = npt.NDArray[np.float64]

FINE = 56  # coarser, thresholded measures rank images differently than at full size
WHOLE_TOLERANCE = 1e-6  # an ROI that lacks less of the image is the whole image: its area is a float32 sum
MEASURES = ("soft_dice", "misalignment", "hard_dice", "iou", "pointing_game", "energy_in_roi", "lift")


@dataclass(frozen=True)
class Regions:
    """ROIs of n images, reduced to what alignment with maps of one grid needs.

    Attributes:
        adjoint: (n, gh, gw) float32 `Y^T m X / (h w)`; it sums to the ROI's share of the image.
        fine: (n, fh, fw) uint8 coverage, 0 to 255, each side `fine_cells` of the map's; a cell that is
            covered at all is not 0.
        frame: Height and width of the images, pixels.
    """

    adjoint: npt.NDArray[np.float32]
    fine: npt.NDArray[np.uint8]
    frame: tuple[int, int]

    @property
    def area(self) -> FloatArray:
        """(n,) the ROIs' share of the image, in [0, 1]."""
        total: FloatArray = self.adjoint.sum(axis=(1, 2), dtype=np.float64)
        return total

    def take(self, rows: npt.NDArray[np.intp]) -> Regions:
        """Return some of the regions, in a given order."""
        return Regions(self.adjoint[rows], self.fine[rows], self.frame)


def reduce_rois(coverage: npt.NDArray[np.uint8], grid: tuple[int, int]) -> Regions:
    """Reduce ROIs at full size.

    Args:
        coverage: (n, h, w) uint8, 0 to 255.
        grid: Rows and columns of the saliency maps.
    """
    frame = (coverage.shape[1], coverage.shape[2])
    masks = coverage.astype(np.float32) / np.float32(255)
    down, right = (interpolation(size, cells) for size, cells in zip(frame, grid, strict=True))
    pixels = np.float32(frame[0] * frame[1])
    adjoint = ((down.T.astype(np.float32) @ masks @ right.astype(np.float32)) / pixels).astype(np.float32)
    fine = mask_to_grid(masks, (fine_cells(grid[0]), fine_cells(grid[1])))
    packed = np.maximum(np.round(fine * 255), fine > 0).astype(np.uint8)
    return Regions(adjoint, packed, frame)


def measure(cams: npt.NDArray[np.floating], regions: Regions) -> dict[str, FloatArray]:
    """Return all measures of `MEASURES`, by name.

    Args:
        cams: (n, gh, gw) saliency maps, each min-max normalised; undefined ones are NaN.
        regions: Of the same n images, for this grid.

    Returns:
        (n,) each; NaN where a map is undefined or an ROI is empty. `soft_dice`, `misalignment`,
        `energy_in_roi` and `lift` are those of the map that is upsampled to the frame and normalised there;
        `hard_dice` and `iou` (threshold .5) those on the fine grid; `pointing_game` is that of the map's own
        cells.
    """
    linear = linear_measures(cams, regions.adjoint, regions.frame)
    hard_dice, iou = _thresholded(cams, regions)
    cells = mask_to_grid(regions.fine / np.float32(255), (cams.shape[1], cams.shape[2]))
    values = linear | {
        "hard_dice": hard_dice,
        "iou": iou,
        "pointing_game": alignment.pointing_game(cams, cells),
    }
    undefined = np.isnan(linear["soft_dice"])
    return {name: np.where(undefined, np.nan, values[name]) for name in MEASURES}


def linear_measures(
    cams: npt.NDArray[np.floating], adjoint: npt.NDArray[np.float32], frame: tuple[int, int]
) -> dict[str, FloatArray]:
    """The measures of `measure` that need the adjoints alone: soft Dice, misalignment, energy and lift.

    Args:
        cams: (n, gh, gw) saliency maps, each min-max normalised; undefined ones are NaN.
        adjoint: (n, gh, gw), see `Regions`; or (n, k, gh, gw), k ROIs for each map.
        frame: Height and width of the images, pixels.

    Returns:
        (n,) or (n, k) each; NaN where a map is undefined or an ROI is empty, lift also where the ROI is the
        whole image.
    """
    shared, saliency, area = _shares(cams, adjoint, frame)
    with np.errstate(invalid="ignore", divide="ignore"):
        soft_dice = 2.0 * shared / (saliency + area)
        energy = shared / saliency
        lift = np.where(area < 1.0 - WHOLE_TOLERANCE, (energy - area) / (1.0 - area), np.nan)
    return {
        "soft_dice": soft_dice,
        "misalignment": 1.0 - soft_dice,
        "energy_in_roi": energy,
        "lift": lift,
    }


def misalignment(
    cams: npt.NDArray[np.floating], adjoint: npt.NDArray[np.float32], frame: tuple[int, int]
) -> FloatArray:
    """Misalignment as `measure` has it, from the adjoints alone.

    Args:
        cams: (n, gh, gw) saliency maps, each min-max normalised; undefined ones are NaN.
        adjoint: (n, gh, gw), see `Regions`.
        frame: Height and width of the images, pixels.

    Returns:
        (n,); NaN where a map is undefined or an ROI is empty.
    """
    return linear_measures(cams, adjoint, frame)["misalignment"]


def fine_cells(cells: int) -> int:
    """Return the least multiple of `cells` from `FINE` on: no fine cell lies across a border of the map's."""
    return -(-FINE // cells) * cells


def upsample(cams: npt.NDArray[np.floating], frame: tuple[int, int]) -> FloatArray:
    """Bilinear upsampling with pixel centres at one half, as `torch.nn.functional.interpolate` does it.

    Args:
        cams: (n, gh, gw).
        frame: Height and width of the result.

    Returns:
        (n, h, w).
    """
    down, right = interpolation(frame[0], cams.shape[1]), interpolation(frame[1], cams.shape[2])
    full: FloatArray = down @ cams.astype(np.float64) @ right.T
    return full


@lru_cache(maxsize=32)
def interpolation(size: int, cells: int) -> FloatArray:
    """The weights of linear interpolation from `cells` values to `size` pixels, (size, cells); rows sum to 1.

    Pixel i lies at `(i + .5) cells / size - .5` on the axis of cell centres; beyond the outermost centres the
    value stays that of the cell.
    """
    positions = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0.0, cells - 1.0)
    before = np.minimum(positions.astype(np.intp), max(cells - 2, 0))
    weights = np.zeros((size, cells))
    pixels = np.arange(size)
    weights[pixels, before] = 1.0 - (positions - before)
    if cells > 1:
        weights[pixels, before + 1] += positions - before
    weights.setflags(write=False)
    return weights


def _thresholded(cams: npt.NDArray[np.floating], regions: Regions) -> tuple[FloatArray, FloatArray]:
    """Hard Dice and IoU at half of each map's range, on the fine grid.

    Hard Dice is `2 sum(b m) / (sum b + sum m)`, IoU `sum(min(b, m)) / sum(max(b, m))`, with `b = [c >= half]`
    and a fractional `m`. In whole numbers, as `min(b, m) = b m` and `max(b, m) = b + m - b m` for `b` 0 or 1.
    """
    fine = upsample(cams, (regions.fine.shape[1], regions.fine.shape[2]))
    middle = (fine.min(axis=(1, 2), keepdims=True) + fine.max(axis=(1, 2), keepdims=True)) / 2.0
    above = fine >= middle
    shared = (above * regions.fine).sum(axis=(1, 2), dtype=np.int64).astype(np.float64)
    both = 255.0 * above.sum(axis=(1, 2)) + regions.fine.sum(axis=(1, 2), dtype=np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2.0 * shared / both, shared / (both - shared)


def _shares(
    cams: npt.NDArray[np.floating], adjoint: npt.NDArray[np.float32], frame: tuple[int, int]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Means over the pixels of the full-size image: of map times ROI, of the map, and of the ROI."""
    maps = cams.astype(np.float64)
    area = adjoint.sum(axis=(-2, -1), dtype=np.float64)
    height, width = frame
    down, right = interpolation(height, maps.shape[1]), interpolation(width, maps.shape[2])
    low, high = _extrema(maps, down, right)
    everywhere = whole_adjoint(frame, (maps.shape[1], maps.shape[2]))
    sums = (maps * everywhere).sum(axis=(1, 2))
    finite = np.asarray(np.isfinite(maps).all(axis=(1, 2)))
    if adjoint.ndim == 4:  # several ROIs for each map
        maps = maps[:, None]
        low, high, sums, finite = low[:, None], high[:, None], sums[:, None], finite[:, None]
    defined = finite & (high > low) & (area > 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        shared = ((maps * adjoint).sum(axis=(-2, -1)) - low * area) / (high - low)
        saliency = (sums - low) / (high - low)
    return (
        np.where(defined, shared, np.nan),
        np.where(defined, saliency, np.nan),
        np.where(defined, area, np.nan),
    )


def whole_adjoint(frame: tuple[int, int], grid: tuple[int, int]) -> FloatArray:
    """(gh, gw) the adjoint of an ROI that is the whole image, see `Regions`; it sums to 1."""
    down, right = (interpolation(size, cells) for size, cells in zip(frame, grid, strict=True))
    return np.outer(down.mean(axis=0), right.mean(axis=0))


def _extrema(maps: FloatArray, down: FloatArray, right: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the least and the largest pixel of each upsampled map.

    Between four cell centres the surface is bilinear, so that it is extreme at the outermost pixels there.
    """
    ends = down[_outermost(down)] @ maps @ right[_outermost(right)].T
    return ends.min(axis=(1, 2)), ends.max(axis=(1, 2))


def _outermost(weights: FloatArray) -> npt.NDArray[np.intp]:
    """Return the first and the last pixel between each pair of neighbouring cell centres."""
    cell = np.argmax(weights > 0.0, axis=1)  # the pixel's lower neighbour
    changes = np.flatnonzero(np.diff(cell))
    ends: npt.NDArray[np.intp] = np.unique(np.concatenate([[0, len(cell) - 1], changes, changes + 1]))
    return ends
