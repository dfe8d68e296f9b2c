"""Says what the header of a DICOM file says of its pixels, and the little of a person that leaves it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import BinaryIO

from xal_ray.config import Limits
from xal_ray.images.decoded import Header, Sex
from xal_ray.images.dicom.elements import (
    EXPLICIT_BIG,
    FLOAT_PIXELS,
    PIXEL_DATA,
    SEQUENCES,
    Dataset,
    Elements,
    numbers_of,
    read_elements,
    text_of,
)
from xal_ray.images.dicom.shape import FrameShape
from xal_ray.images.errors import ImageError

_INSTITUTION, _MAKER, _MODEL = 0x00080080, 0x00080070, 0x00081090
_SEXES: Mapping[str, Sex] = {"F": "F", "M": "M", "O": "O"}
_PATIENT, _SEX, _AGE, _STUDY = 0x00100020, 0x00100040, 0x00101010, 0x0020000D
_SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES = 0x00280002, 0x00280004, 0x00280006, 0x00280008
_ROWS, _COLUMNS, _ALLOCATED, _STORED = 0x00280010, 0x00280011, 0x00280100, 0x00280101
_HIGH_BIT, _SIGNED, PADDING, PADDING_LIMIT = 0x00280102, 0x00280103, 0x00280120, 0x00280121
_BURNED_IN, CENTER, WIDTH, FUNCTION = 0x00280301, 0x00281050, 0x00281051, 0x00281056
INTERCEPT, SLOPE, MODALITY_LUT, VOI_LUT = 0x00281052, 0x00281053, 0x00283000, 0x00283010
LUT_DESCRIPTOR, LUT_DATA = 0x00283002, 0x00283006
PALETTE = ((0x00281101, 0x00281201), (0x00281102, 0x00281202), (0x00281103, 0x00281203))
SHARED_GROUPS, VALUE_GROUP, VOI_GROUP = 0x52009229, 0x00289145, 0x00289132
_OFFSETS, _OFFSET_LENGTHS = 0x7FE00001, 0x7FE00002
SEGMENTATION, MOST_OF_FRACTION = 0x00620001, 0x0062000E

_KEPT = frozenset(
    {
        *(_INSTITUTION, _MAKER, _MODEL, _PATIENT, _SEX, _AGE, _STUDY, _BURNED_IN),
        *(_SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES, _ROWS, _COLUMNS, _ALLOCATED, _STORED, _HIGH_BIT, _SIGNED),
        *(PADDING, PADDING_LIMIT, CENTER, WIDTH, FUNCTION, INTERCEPT, SLOPE),
        *(LUT_DESCRIPTOR, LUT_DATA, _OFFSETS, _OFFSET_LENGTHS, SEGMENTATION, MOST_OF_FRACTION),
        *(tag for pair in PALETTE for tag in pair),
        *SEQUENCES,
    }
)
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_MAX_ID = 64


def open_pixels(
    stream: BinaryIO, num_bytes: int, limits: Limits, frame: int | None
) -> tuple[Elements, FrameShape, int]:
    """Return the header's elements and what they say of the pixels, and the frame that is meant."""
    elements = read_elements(stream, num_bytes, _KEPT, frame or 0, limits.max_file_bytes)
    if elements.pixels is None:
        raise ImageError("no_pixels", "the file holds no image: a report, a plan, a curve or a directory")
    shape = _shape(elements, limits)
    if frame is None and shape.frames > 1:
        raise ImageError("several_frames", "the file holds several frames; the source must say which")
    if not 0 <= (frame or 0) < shape.frames:
        raise ImageError("no_such_frame", "the file holds fewer frames than the source says")
    return elements, shape, frame or 0


def _shape(elements: Elements, limits: Limits) -> FrameShape:
    """Return what the header says of the pixels, if it is whole and within limits."""
    values, little = elements.kept, elements.syntax != EXPLICIT_BIG

    def number(tag: int, default: int = 0) -> int:
        return (numbers_of(values.get(tag), little=little) or (default,))[0]

    rows, columns = number(_ROWS), number(_COLUMNS)
    frames = _frames(text_of(values.get(_FRAMES)))
    if min(rows, columns) < 1:
        raise ImageError("unreadable", "the header gives no size")
    if rows * columns > limits.max_pixels:
        raise ImageError(
            "too_many_pixels", f"{columns} x {rows} pixels; pool.limits.max_pixels is {limits.max_pixels}"
        )
    if frames > limits.max_frames:
        raise ImageError("too_many_frames", f"pool.limits.max_frames is {limits.max_frames}")
    if rows * columns * frames > limits.max_voxels:
        raise ImageError("too_many_voxels", f"all frames; pool.limits.max_voxels is {limits.max_voxels}")
    allocated = number(_ALLOCATED)
    shape = FrameShape(
        rows,
        columns,
        frames,
        number(_SAMPLES, 1),
        allocated,
        number(_STORED, allocated),
        number(_SIGNED) == 1,
        number(_PLANAR) == 1,
        text_of(values.get(_PHOTOMETRIC)).upper(),
    )
    _check_kind(shape, elements.pixels.tag if elements.pixels else PIXEL_DATA)
    if shape.stored > 1 and number(_HIGH_BIT, shape.stored - 1) != shape.stored - 1:
        raise ImageError("unsupported_format", "the bits of its pixels are not the lowest ones")
    return shape


def _frames(text: str) -> int:
    if not text:
        return 1
    if not re.fullmatch(r"[+]?[0-9]{1,12}", text):
        raise ImageError("unreadable", "the header gives no number of frames")
    return max(1, int(text))  # some writers mean one by 0


def _check_kind(shape: FrameShape, tag: int) -> None:
    """Refuse what no picture is made of."""
    if tag != PIXEL_DATA:
        bits = 32 if tag == FLOAT_PIXELS else 64
        if shape.samples != 1 or shape.photometric not in _MONOCHROME or shape.allocated != bits:
            raise ImageError("unsupported_format", "pixels of real numbers must be grey")
        return
    known = {1: (*_MONOCHROME, "PALETTE COLOR"), 3: _COLOURS}
    if shape.photometric not in known.get(shape.samples, ()):
        raise ImageError("unsupported_format", "pixels must be grey, RGB, YBR or of a palette")
    if shape.allocated not in ((1, 8, 16, 32) if shape.samples == 1 else (8, 16, 32)):
        raise ImageError("unsupported_format", "samples must have 1, 8, 16 or 32 bits")
    if not 1 <= shape.stored <= shape.allocated:
        raise ImageError("unreadable", "the header gives pixels more bits than they have room for")
    if shape.samples == 3 and shape.signed:
        raise ImageError("unsupported_format", "colours must not be negative")


def offset_table(values: Dataset) -> tuple[bytes, bytes] | None:
    """Return the extended offset table and its lengths, if the file has one."""
    starts, lengths = values.get(_OFFSETS), values.get(_OFFSET_LENGTHS)
    return (starts, lengths) if isinstance(starts, bytes) and isinstance(lengths, bytes) else None


def header_of(values: Dataset) -> Header:
    """Return what leaves the header."""
    sex = text_of(values.get(_SEX)).upper()
    device = " ".join(filter(None, (_plain(values, _MAKER), _plain(values, _MODEL))))
    return Header(
        patient_id=text_of(values.get(_PATIENT)) or None,
        study_uid=text_of(values.get(_STUDY)) or None,
        institution=text_of(values.get(_INSTITUTION)) or None,
        sex=_SEXES.get(sex),
        age_band=_age_band(text_of(values.get(_AGE)).upper()),
        device=device or None,
        burned_in=text_of(values.get(_BURNED_IN)).upper() == "YES",
    )


def _plain(values: Dataset, tag: int) -> str:
    return " ".join(re.sub(r"[^A-Za-z0-9 ._/()+-]", " ", text_of(values.get(tag))).split())[:_MAX_ID]


def _age_band(age: str) -> str | None:
    """Ten years of an age like 045Y; days, weeks and months are below ten years."""
    found = re.fullmatch(r"([0-9]{1,3})([DWMY])", age)
    if found is None:
        return None
    years = int(found[1]) // {"D": 365, "W": 52, "M": 12, "Y": 1}[found[2]]
    decade = min(years // 10, 9) * 10
    return "90+" if decade == 90 else f"{decade:02}-{decade + 9:02}"
