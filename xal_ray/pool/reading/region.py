"""Says what the ROI of an image is, once it has been read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xal_ray.roi import mask_to_grid


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
