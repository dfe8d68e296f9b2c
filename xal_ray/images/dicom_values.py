"""What the header of a DICOM file says of its values: rescale, tables, windows, padding, palettes."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from xal_ray.config import Dicom
from xal_ray.images.decoded import Pixels
from xal_ray.images.dicom_elements import PER_FRAME_GROUPS, Dataset, numbers_of, text_of
from xal_ray.images.dicom_frames import Shape
from xal_ray.images.dicom_grey import Grey, Table, Window
from xal_ray.images.dicom_header import (
    CENTER,
    FUNCTION,
    INTERCEPT,
    LUT_DATA,
    LUT_DESCRIPTOR,
    MODALITY_LUT,
    PADDING,
    PADDING_LIMIT,
    PALETTE,
    SHARED_GROUPS,
    SLOPE,
    VALUE_GROUP,
    VOI_GROUP,
    VOI_LUT,
    WIDTH,
)
from xal_ray.images.failure import ImageError


def may_be_mixed(values: Dataset, dicom: Dicom) -> bool:
    """Whether a mean of stored values means what they do, and becomes the grey that it is among all."""
    places = _places(values)
    if PADDING in values or any(MODALITY_LUT in place for place in places):
        return False
    if dicom.window == "header":
        return _window(places) is not None or any(VOI_LUT in place for place in places)
    return dicom.window != "range"


def grey_of(values: Dataset, shape: Shape, little: bool, dicom: Dicom, *, is_float: bool) -> Grey:
    """What the header, or the configuration, says of turning stored values into grey."""
    places = _places(values)
    slope, intercept = _decimal(places, SLOPE), _decimal(places, INTERCEPT)
    modality = _table(places, MODALITY_LUT, little, signed=shape.signed)
    voi: Table | Window | None = None
    if isinstance(dicom.window, tuple):
        voi = Window(*dicom.window, "LINEAR_EXACT")
    elif dicom.window == "header":
        signed = shape.signed or (intercept or 0) < 0
        voi = _table(places, VOI_LUT, little, signed=signed) or _window(places)
    padding = None
    if not is_float and (low := numbers_of(values.get(PADDING), little=little, signed=shape.signed)):
        limit = numbers_of(values.get(PADDING_LIMIT), little=little, signed=shape.signed) or low
        padding = (float(min(low[0], limit[0])), float(max(low[0], limit[0])))
    return Grey(
        1.0 if slope is None else slope,
        intercept or 0.0,
        modality,
        voi,
        shape.photometric == "MONOCHROME1",
        padding,
    )


def _places(values: Dataset) -> list[Dataset]:
    """Where values may stand: of the frame, of all frames, of the file."""
    places: list[Dataset] = []
    for groups in (PER_FRAME_GROUPS, SHARED_GROUPS):
        for item in _items(values, groups):
            places += [*_items(item, VALUE_GROUP), *_items(item, VOI_GROUP)]
    return [*places, values]


def _items(values: Dataset, tag: int) -> list[Dataset]:
    found = values.get(tag)
    return found if isinstance(found, list) else []


def _decimal(places: list[Dataset], tag: int) -> float | None:
    """The first of the numbers of an element; None where it is missing, or none."""
    for values in places:
        text = text_of(values.get(tag)).split("\\")[0].strip()
        if text:
            try:
                number = float(text)
            except ValueError:
                raise ImageError("unreadable", "the header holds a number that is none") from None
            if not math.isfinite(number) or abs(number) > 1e30:
                raise ImageError("unreadable", "the header holds a number that is none")
            return number
    return None


def _window(places: list[Dataset]) -> Window | None:
    """The first window of the header, if it makes one."""
    center, width = _decimal(places, CENTER), _decimal(places, WIDTH)
    if center is None or width is None:
        return None
    named = next((name for values in places if (name := text_of(values.get(FUNCTION)).upper())), "LINEAR")
    functions: dict[str, Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]] = {
        "LINEAR": "LINEAR",
        "LINEAR_EXACT": "LINEAR_EXACT",
        "SIGMOID": "SIGMOID",
    }
    function = functions.get(named)
    if function is None or width < (1 if function == "LINEAR" else 1e-12):
        return None
    return Window(center, width, function)


def _table(places: list[Dataset], tag: int, little: bool, *, signed: bool) -> Table | None:
    """The first look-up table of a sequence."""
    for values in places:
        for item in _items(values, tag):
            descriptor = numbers_of(item.get(LUT_DESCRIPTOR), little=little)
            data = item.get(LUT_DATA)
            if len(descriptor) == 3 and isinstance(data, bytes):
                return _table_of(descriptor, data, little, signed=signed)
    return None


def _table_of(descriptor: tuple[int, ...], data: bytes, little: bool, *, signed: bool) -> Table:
    count, first, bits = descriptor[0] or 1 << 16, descriptor[1], descriptor[2]
    if not 1 <= bits <= 16:
        raise ImageError("unsupported_format", "a look-up table must have entries of 1 to 16 bits")
    if len(data) in (count, count + count % 2) and bits <= 8:
        entries = np.frombuffer(data, dtype=np.uint8)[:count].astype(np.uint16)
    elif len(data) >= 2 * count:
        entries = np.frombuffer(data, dtype="<u2" if little else ">u2")[:count].astype(np.uint16)
    else:
        raise ImageError("unreadable", "a look-up table is shorter than it says")
    return Table(entries, first - (1 << 16) if signed and first >= 1 << 15 else first, bits)


def through_palette(stored: npt.NDArray[Any], values: Dataset, little: bool, shape: Shape) -> Pixels:
    """Colours of a palette; grey where all of them are."""
    planes: list[Pixels] = []
    for descriptor_tag, data_tag in PALETTE:
        descriptor, data = numbers_of(values.get(descriptor_tag), little=little), values.get(data_tag)
        if len(descriptor) != 3 or not isinstance(data, bytes):
            raise ImageError("unsupported_format", "the palette is missing, or written in segments")
        table = _table_of(descriptor, data, little, signed=shape.signed)
        # Some writers keep 8 bits in words and say 16, or the other way round: the entries tell.
        bits = table.bits if table.entries.max(initial=0) < 1 << table.bits else 16
        planes.append(Grey(voi=Table(table.entries, table.first, bits)).in_8_bits(stored))
    if all(np.array_equal(planes[0], plane) for plane in planes[1:]):
        return planes[0]
    return np.stack(planes, axis=2)
