"""Reads a row to its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from xal_ray.pseudonyms import Pseudonyms


@dataclass(frozen=True)
class ReadImage:
    """One image of a manifest row.

    Attributes:
        pixels: (image_size, image_size, channels) uint8.
        frame: Height and width of the original, pixels.
        roi: (image_size, image_size) float32 coverage in [0, 1]; None where none is known, or there is none.
        settled: Columns of the row that reading has settled: image_id, label, roi_state, sex, ...
        identified: Columns that shall hold the pseudonym of what the file says of a person, a study or a
            site: what kind of id it is, and the id. It is never shown.
        burned_in: The header says that the pixels hold text: a name, perhaps.
        remarks: What reading noticed: words of `pool.remarks.REMARKS`.
    """

    pixels: npt.NDArray[np.uint8]
    frame: tuple[int, int]
    roi: npt.NDArray[np.float32] | None
    settled: Mapping[str, str | None] = field(default_factory=dict)
    identified: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    burned_in: bool = False
    remarks: tuple[str, ...] = ()

    def columns(self, pseudonyms: Pseudonyms | None) -> dict[str, str | None]:
        """Return all columns that reading tells; without a key for pseudonyms those that need none."""
        if pseudonyms is None:
            return dict(self.settled)
        named = {column: pseudonyms.of(kind, value) for column, (kind, value) in self.identified.items()}
        return {**self.settled, **named}
