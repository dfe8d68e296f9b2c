"""Says what the header of a DICOM file says of its values: rescale, tables, windows, padding, palettes."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from xal_ray.config import Dicom
from xal_ray.images.decoded import Pixels
from xal_ray.images.dicom.elements import PER_FRAME_GROUPS, Dataset, numbers_of, text_of
from xal_ray.images.dicom.grey import Grey, Table, Window
from xal_ray.images.dicom.header import (
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
from xal_ray.images.dicom.shape import FrameShape
from xal_ray.images.errors import ImageError

_ANYTHING, _TABLES_RANGE = (0.0, math.inf), (0.0, 65535.0)  # inputs: of real numbers, and out of a table


def may_be_mixed(values: Dataset, dicom: Dicom) -> bool:
    """Tell whether a mean of stored values means what they do, and becomes the grey that it is among all."""
    places = _places(values)
    if PADDING in values or any(MODALITY_LUT in place for place in places):
        return False
    if dicom.window == "header":
        return _window(places) is not None or any(VOI_LUT in place for place in places)
    return dicom.window != "range"


def grey_of(values: Dataset, shape: FrameShape, little: bool, dicom: Dicom, *, is_float: bool) -> Grey:
    """Return what the header, or the configuration, says of turning stored values into grey.

    A slope of 0 stands for none: else every value would be the intercept. So GDCM reads it, too.
    """
    places = _places(values)
    slope, intercept = _decimal(places, SLOPE) or 1.0, _decimal(places, INTERCEPT) or 0.0
    stored = _ANYTHING if is_float else _range_of(shape)
    modality = _table(places, MODALITY_LUT, little, stored)
    voi: Table | Window | None = None
    if isinstance(dicom.window, tuple):
        voi = Window(*dicom.window, "LINEAR_EXACT")
    elif dicom.window == "header":
        ends = sorted(slope * end + intercept for end in stored)
        inputs = _TABLES_RANGE if modality is not None else (ends[0], ends[1])
        voi = _table(places, VOI_LUT, little, inputs) or _window(places)
    padding = None if is_float else padding_of(values, shape, little)
    inverted = shape.photometric == "MONOCHROME1"
    return Grey(slope, intercept, modality, voi, inverted, padding and (float(padding[0]), float(padding[1])))


def padding_of(values: Dataset, shape: FrameShape, little: bool) -> tuple[int, int] | None:
    """Return the least and the largest stored value that is no part of the image."""
    low = numbers_of(values.get(PADDING), little=little, signed=shape.signed)
    if not low:
        return None
    limit = numbers_of(values.get(PADDING_LIMIT), little=little, signed=shape.signed) or low
    return min(low[0], limit[0]), max(low[0], limit[0])


def _range_of(shape: FrameShape) -> tuple[float, float]:
    """Return the least and the largest value that can be stored."""
    bits = shape.stored
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if shape.signed else (0.0, 2.0**bits - 1)


def _places(values: Dataset) -> list[Dataset]:
    """Return where values may stand: of the frame, of all frames, of the file."""
    places: list[Dataset] = []
    for groups in (PER_FRAME_GROUPS, SHARED_GROUPS):
        for item in _items(values, groups):
            places += [*_items(item, VALUE_GROUP), *_items(item, VOI_GROUP)]
    return [*places, values]


def _items(values: Dataset, tag: int) -> list[Dataset]:
    found = values.get(tag)
    return found if isinstance(found, list) else []


def _decimal(places: list[Dataset], tag: int) -> float | None:
    """Return the first of the numbers of an element; None where it is missing, or none."""
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
    """Return the first window of the header, if it makes one."""
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


def _table(places: list[Dataset], tag: int, little: bool, inputs: tuple[float, float]) -> Table | None:
    """Return the first look-up table of a sequence, for inputs of a range."""
    for values in places:
        for item in _items(values, tag):
            descriptor = numbers_of(item.get(LUT_DESCRIPTOR), little=little)
            data = item.get(LUT_DATA)
            if len(descriptor) == 3 and isinstance(data, bytes):
                return _table_of(descriptor, data, little, inputs)
    return None


def _table_of(descriptor: tuple[int, ...], data: bytes, little: bool, inputs: tuple[float, float]) -> Table:
    """Return a table of the entries that are there: what its descriptor says of them is often wrong.

    Args:
        descriptor: How many entries (0: 65,536), which input is the first one's, and how many bits they have.
        data: Entries of 16 bits, or of 8.
        little: The order of bytes; those of 8 bits lie two in a word.
        inputs: The least and the largest input that there can be.
    """
    count, bits = descriptor[0] or 1 << 16, descriptor[2]
    packed = len(data) in (count, count + count % 2)
    if packed and (bits <= 8 or len(data) < 2 * count):
        if not little:
            data = np.frombuffer(data[: len(data) // 2 * 2], dtype=">u2").astype("<u2").tobytes()
        entries = np.frombuffer(data, dtype=np.uint8)[:count].astype(np.uint16)
    elif len(data) >= 2 * count:
        entries = np.frombuffer(data, dtype="<u2" if little else ">u2")[:count].astype(np.uint16)
    else:
        raise ImageError("unreadable", "a look-up table is shorter than it says")
    largest = int(entries.max(initial=0))
    return Table(entries, _first_input(descriptor[1], count, inputs), _depth(bits, largest))


def _first_input(word: int, count: int, inputs: tuple[float, float]) -> int:
    """Whose entry comes first: from 32,768 on it may be a negative number, as inputs may be."""
    if word < 1 << 15:
        return word
    readings = (word - (1 << 16), word) if inputs[0] < 0 else (word, word - (1 << 16))
    met = (first for first in readings if first <= inputs[1] and first + count - 1 >= inputs[0])
    return next(met, readings[0])


def _depth(stated: int, largest: int) -> int:
    """Return the bits of a table's entries.

    Many writers give the width in which entries are stored (16, or 8 for entries of 16) in place of the bits
    that they use. So where the number is 16, or the entries need more, these tell; never less than 8.
    """
    if 1 <= stated < 16 and largest < 1 << stated:
        return stated
    return max(8, largest.bit_length())


def through_palette(
    stored: npt.NDArray[np.number], values: Dataset, little: bool, shape: FrameShape
) -> Pixels:
    """Colours of a palette; grey where all of them are."""
    tables: list[Table] = []
    for descriptor_tag, data_tag in PALETTE:
        descriptor, data = numbers_of(values.get(descriptor_tag), little=little), values.get(data_tag)
        if len(descriptor) != 3 or not isinstance(data, bytes):
            raise ImageError("unsupported_format", "the palette is missing, or written in segments")
        tables.append(_table_of(descriptor, data, little, _range_of(shape)))
    # One depth for all three: of its own, a colour that is never bright would become so.
    bits = max(table.bits for table in tables)
    planes = [Grey(voi=Table(table.entries, table.first, bits)).in_8_bits(stored) for table in tables]
    if all(np.array_equal(planes[0], plane) for plane in planes[1:]):
        return planes[0]
    return np.stack(planes, axis=2)
