"""What reading a row gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ReadImage:
    """One image of a manifest row.

    Attributes:
        pixels: (image_size, image_size, channels) uint8.
        frame: Height and width of the original, pixels.
        roi: (image_size, image_size) float32 coverage in [0, 1]; None where none is known.
        settled: Columns of the row that reading has settled (image_id, label, group_id, roi_state, sex, ...).
        burned_in: The header says that the pixels hold text: a name, perhaps.
    """

    pixels: npt.NDArray[np.uint8]
    frame: tuple[int, int]
    roi: npt.NDArray[np.float32] | None
    settled: Mapping[str, Any] = field(default_factory=dict)
    burned_in: bool = False
