"""Says what the ROI of an image is, once it has been read: of a mask, or of shapes.

A bad shape costs that shape, or at most the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xal_ray.errors import SourceError
from xal_ray.images import ImageError
from xal_ray.pool.manifest import Row
from xal_ray.roi import (
    FloatArray,
    Sound,
    boxes_to_grid,
    check_mask,
    mask_to_grid,
    polygons_to_grid,
    rle_to_mask,
    sound_boxes,
    sound_polygons,
)


@dataclass(frozen=True)
class Region:
    """An ROI at training size, or that there is none.

    Attributes:
        coverage: (image_size, image_size) float32 in [0, 1]; None where there is none, or none is known.
        state: What reading makes of the row's `roi_state`; None leaves it as the source says.
        remarks: What reading noticed (`pool.remarks`).
    """

    coverage: npt.NDArray[np.float32] | None = None
    state: str | None = None
    remarks: tuple[str, ...] = ()


def region_of_mask(
    inside: npt.NDArray[np.number | np.bool_], grid: tuple[int, int], *, is_soft: bool = False
) -> Region:
    """Return the ROI that a mask draws; one without an inside says that there is confirmed to be none.

    Args:
        inside: (h, w) bool.
        grid: Rows and columns of the result.
        is_soft: It was cut at half of its maximum.
    """
    remarks: tuple[str, ...] = ("soft_mask",) if is_soft else ()
    if not inside.any():
        return Region(state="absent_confirmed", remarks=remarks)
    if inside.all():
        remarks += ("whole_mask",)
    return Region(mask_to_grid(inside.astype(np.float32), grid), "present", remarks)


def region_of_shapes(row: Row, frame: tuple[int, int], grid: tuple[int, int], max_pixels: int) -> Region:
    """Return the union of a row's shapes; what reaches out of the frame is cut.

    Args:
        row: `boxes`, `polygons` and `rle`.
        frame: Height and width of the image that they were drawn on, pixels.
        grid: Rows and columns of the result.
        max_pixels: Of a mask of runs.

    Raises:
        ImageError: `roi_mismatch`: there are shapes, none can be meant, and one of them was more than a point
            or a line.
    """
    boxes = sound_boxes(row["boxes"] or (), frame)
    polygons = sound_polygons(row["polygons"] or (), frame)
    dropped = Sound(boxes.shapes + polygons.shapes, dropped=boxes.dropped + polygons.dropped)
    parts: list[FloatArray] = []
    if boxes.shapes:
        parts.append(boxes_to_grid(boxes.shapes, frame, grid))
    if polygons.shapes:
        parts.append(_drawn(polygons, frame, grid))
    if row["rle"] is not None:
        size = (row["rle"]["height"], row["rle"]["width"])
        try:
            runs = rle_to_mask(row["rle"]["counts"], size, max_pixels=max_pixels)
            check_mask(runs, frame)
        except SourceError as error:
            dropped.dropped[error.what] += 1
        else:
            if not parts and not dropped.dropped:
                return region_of_mask(runs, grid)
            parts.append(mask_to_grid(runs.astype(np.float32), grid))
    remarks: tuple[str, ...] = ("shape_cut",) if boxes.num_cut or polygons.num_cut else ()
    remarks += ("shape_dropped",) if dropped.dropped else ()
    coverage = np.maximum.reduce(parts) if parts else None
    if coverage is not None and coverage.any():
        return Region(coverage, remarks=remarks)
    if coverage is None and dropped.is_lost:
        raise ImageError("roi_mismatch", f"none of its shapes can be meant: {dropped.faults}")
    if coverage is None and not dropped.dropped:
        return Region()
    # Shapes without an area: somebody drew something, but it can't be told where.
    return Region(state="not_annotated", remarks=remarks)


def _drawn(polygons: Sound, frame: tuple[int, int], grid: tuple[int, int]) -> FloatArray:
    try:
        return polygons_to_grid(polygons.shapes, frame, grid)
    except ValueError:
        raise ImageError("roi_mismatch", "its polygons have too many corners to be drawn") from None
