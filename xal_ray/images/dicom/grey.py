"""Stored values of a DICOM file to grey: modality LUT, VOI LUT or window, inversion, padding; 8 bits last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from xal_ray.images.decoded import Pixels
from xal_ray.images.scaling import strips, to_8_bit

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """A look-up table.

    Attributes:
        entries: (n) what inputs become.
        first: The input that becomes the first entry; lesser ones do too.
        bits: Of an entry.
    """

    entries: npt.NDArray[np.uint16]
    first: int
    bits: int

    def look_up(self, values: npt.NDArray[np.number]) -> Floats:
        """Return what inputs become; fractions are rounded first."""
        last = len(self.entries) - 1
        # Cut off before they become integers: a float may be larger than any.
        positions = np.clip(np.rint(np.nan_to_num(values.astype(np.float64)) - self.first), 0, last)
        return self.entries[positions.astype(np.int64)].astype(np.float64)


@dataclass(frozen=True)
class Window:
    """A window of values: from black to white.

    Attributes:
        center: In modality units.
        width: At least 1 for LINEAR, above 0 for the others.
        function: How the standard names it.
    """

    center: float
    width: float
    function: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"] = "LINEAR"

    def share(self, values: Floats) -> Floats:
        """Return the share of white that values have in a window.

        With center c and width w:

            LINEAR          (v - (c - .5)) / (w - 1) + .5
            LINEAR_EXACT    (v - c) / w + .5
            SIGMOID         1 / (1 + exp(-4 (v - c) / w))

        Source: DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3.
        """
        if self.function == "SIGMOID":
            exponent = np.clip(-4 * (values - self.center) / self.width, -700, 700)
            return np.asarray(1 / (1 + np.exp(exponent)))
        center, width = self.center, self.width
        if self.function == "LINEAR":
            center, width = center - 0.5, width - 1
        if width == 0:
            return (values > center).astype(np.float64)
        return (values - center) / width + 0.5


@dataclass(frozen=True)
class Grey:
    """Says how stored values become grey.

    Attributes:
        slope: A modality value is slope * stored + intercept.
        intercept: The same.
        modality: A table instead of both.
        voi: From modality values to grey; None stretches their range.
        inverted: Large values are dark: MONOCHROME1.
        padding: The least and the largest stored value that is no part of the image, and becomes black.
    """

    slope: float = 1.0
    intercept: float = 0.0
    modality: Table | None = None
    voi: Table | Window | None = None
    inverted: bool = False
    padding: tuple[float, float] | None = None

    def in_8_bits(self, stored: npt.NDArray[np.number]) -> Pixels:
        """Turn values into grey, strip by strip in float64.

        Args:
            stored: (h, w), integers or floats.

        Returns:
            (h, w).
        """
        pixels = np.empty(stored.shape, dtype=np.uint8)
        low, high = self._range(stored) if self.voi is None else (0.0, 0.0)
        with np.errstate(all="ignore"):  # of floats that are no numbers
            for rows in strips(stored.shape):
                values = self._in_modality_units(stored[rows])
                if isinstance(self.voi, Table):
                    share = self.voi.look_up(values) / (2**self.voi.bits - 1)
                elif self.voi is not None:
                    share = self.voi.share(values)
                else:
                    share = (values - low) / (high - low) if high > low else np.zeros(values.shape)
                # About the range of grey, after the window: the values keep their meaning until then.
                pixels[rows] = to_8_bit(1 - np.clip(share, 0, 1) if self.inverted else share)
                if self.padding is not None:
                    pixels[rows][self._is_padding(stored[rows])] = 0
        return pixels

    def _in_modality_units(self, stored: npt.NDArray[np.number]) -> Floats:
        if self.modality is not None:
            return self.modality.look_up(stored)
        return stored.astype(np.float64) * self.slope + self.intercept

    def _is_padding(self, stored: npt.NDArray[np.number]) -> npt.NDArray[np.bool_]:
        low, high = self.padding or (1, 0)
        return np.asarray((stored >= low) & (stored <= high))

    def _range(self, stored: npt.NDArray[np.number]) -> tuple[float, float]:
        """The least and the largest modality value outside the padding; 0 and 0 where there is none."""
        low, high = np.inf, -np.inf
        for rows in strips(stored.shape):
            values = self._in_modality_units(stored[rows])
            counted = values[np.isfinite(values) & ~self._is_padding(stored[rows])]
            if counted.size:
                low, high = min(low, float(counted.min())), max(high, float(counted.max()))
        return (low, high) if low <= high else (0.0, 0.0)
