"""Regions of interest of one frame (boxes, polygons, runs, masks) as covered area fractions on a coarse grid.

A saliency map has few cells (7 x 7, say), and a lesion is often smaller than one of them. So a region is
never binarised on the grid: a cell holds the fraction of its area that the region covers.
"""

from xal_ray.roi.grids import (
    FRAME_TOLERANCE_PX,
    NORMALISED_SIDE,
    FloatArray,
    boxes_to_grid,
    check_mask,
    mask_to_grid,
    pack_coverage,
)
from xal_ray.roi.polygons import polygons_to_grid
from xal_ray.roi.runs import compress_counts, mask_to_counts, rle_to_mask
from xal_ray.roi.validity import Sound, sound_boxes, sound_polygons

__all__ = [
    "FRAME_TOLERANCE_PX",
    "NORMALISED_SIDE",
    "FloatArray",
    "Sound",
    "boxes_to_grid",
    "check_mask",
    "compress_counts",
    "mask_to_counts",
    "mask_to_grid",
    "pack_coverage",
    "polygons_to_grid",
    "rle_to_mask",
    "sound_boxes",
    "sound_polygons",
]
