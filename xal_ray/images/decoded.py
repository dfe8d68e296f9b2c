"""Defines what decoding gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]

Sex = Literal["F", "M", "O"]


@dataclass(frozen=True)
class Header:
    """Holds what leaves the header of a DICOM file; nothing else does.

    Attributes:
        patient_id: As written; for pseudonyms only. None where it is empty. The same of the next two.
        study_uid: The study's.
        institution: Where the image was taken.
        sex: As the standard codes it.
        age_band: Ten years, "40-49" say; "90+" from ninety on.
        device: Maker and model, in plain letters.
        burned_in: The header says that the pixels hold text.
    """

    patient_id: str | None = field(default=None, repr=False)
    study_uid: str | None = field(default=None, repr=False)
    institution: str | None = field(default=None, repr=False)
    sex: Sex | None = None
    age_band: str | None = None
    device: str | None = None
    burned_in: bool = False


@dataclass(frozen=True)
class Decoded:
    """An image as decoded, and the frame in which its masks and boxes are given.

    Attributes:
        pixels: (h, w) for grey or (h, w, 3) for RGB, in [0, 255].
        frame: Height and width of the original the right way up, pixels; `pixels` may be smaller.
        box: Left, top, right and bottom of the frame in units of `pixels`: where a side is no multiple of the
            scale, the outermost pixels reach over its edge. None: the frame is all of `pixels`.
        header: Of a DICOM file.
        remarks: What decoding noticed: words of `pool.remarks.REMARKS`.
    """

    pixels: Pixels
    frame: tuple[int, int]
    box: Box | None = None
    header: Header | None = None
    remarks: tuple[str, ...] = ()
