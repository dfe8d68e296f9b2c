"""DICOM files: header, size check, one frame decoded, grey.

    file  ->  elements on a list  ->  sizes within limits  ->  codestream says the same  ->  one frame
          ->  modality LUT  ->  VOI LUT or window  ->  MONOCHROME1 inverted  ->  8 bits

Of the header nothing leaves but a `Header`.
"""

from __future__ import annotations

import math
import re
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from xal_ray.config import Dicom, Limits
from xal_ray.images.decoded import Box, Decoded, Header, Pixels
from xal_ray.images.dicom_elements import (
    EXPLICIT_BIG,
    FLOAT_PIXELS,
    PER_FRAME_GROUPS,
    PIXEL_DATA,
    SEQUENCES,
    Dataset,
    Elements,
    numbers_of,
    read_elements,
    text_of,
)
from xal_ray.images.dicom_frames import JPEG_BASELINE, JPEG_EXTENDED, Shape, read_frame
from xal_ray.images.dicom_grey import Grey, Table, Window
from xal_ray.images.failure import ImageError
from xal_ray.images.masks import Mask, cut_plane, palette_values

_INSTITUTION, _MAKER, _MODEL = 0x00080080, 0x00080070, 0x00081090
_PATIENT, _SEX, _AGE, _STUDY = 0x00100020, 0x00100040, 0x00101010, 0x0020000D
_SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES = 0x00280002, 0x00280004, 0x00280006, 0x00280008
_ROWS, _COLUMNS, _ALLOCATED, _STORED = 0x00280010, 0x00280011, 0x00280100, 0x00280101
_HIGH_BIT, _SIGNED, _PADDING, _PADDING_LIMIT = 0x00280102, 0x00280103, 0x00280120, 0x00280121
_BURNED_IN, _CENTER, _WIDTH, _FUNCTION = 0x00280301, 0x00281050, 0x00281051, 0x00281056
_INTERCEPT, _SLOPE, _MODALITY_LUT, _VOI_LUT = 0x00281052, 0x00281053, 0x00283000, 0x00283010
_LUT_DESCRIPTOR, _LUT_DATA = 0x00283002, 0x00283006
_PALETTE = ((0x00281101, 0x00281201), (0x00281102, 0x00281202), (0x00281103, 0x00281203))
_SHARED_GROUPS, _VALUE_GROUP, _VOI_GROUP = 0x52009229, 0x00289145, 0x00289132
_OFFSETS, _OFFSET_LENGTHS = 0x7FE00001, 0x7FE00002
_SEGMENTATION, _MOST_OF_FRACTION = 0x00620001, 0x0062000E

_KEPT = frozenset(
    {
        *(_INSTITUTION, _MAKER, _MODEL, _PATIENT, _SEX, _AGE, _STUDY, _BURNED_IN),
        *(_SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES, _ROWS, _COLUMNS, _ALLOCATED, _STORED, _HIGH_BIT, _SIGNED),
        *(_PADDING, _PADDING_LIMIT, _CENTER, _WIDTH, _FUNCTION, _INTERCEPT, _SLOPE),
        *(_LUT_DESCRIPTOR, _LUT_DATA, _OFFSETS, _OFFSET_LENGTHS, _SEGMENTATION, _MOST_OF_FRACTION),
        *(tag for pair in _PALETTE for tag in pair),
        *SEQUENCES,
    }
)
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_MAX_ID = 64


def decode(
    stream: BinaryIO,
    num_bytes: int,
    limits: Limits,
    *,
    frame: int | None,
    dicom: Dicom,
    at_least: int | None = None,
) -> Decoded:
    """Read one frame as grey or RGB; see `images.decode_image`.

    With `at_least` grey JPEG 2000 is decoded at 1/2, 1/4, ... of its size: the smallest whose sides are both
    still `at_least`. Not where the header names a padding value or a modality LUT, since neither may be mixed
    with its neighbours, nor where the range of all values decides what is white.
    """
    elements, shape, index = _open(stream, num_bytes, limits, frame)
    values = elements.kept
    if not _may_be_mixed(values, dicom):
        at_least = None
    offsets = _offset_table(values)
    stored, meaning, halvings = read_frame(elements, shape, index, offsets, limits, at_least)
    little = elements.syntax != EXPLICIT_BIG
    if meaning == "PALETTE COLOR":
        pixels = _through_palette(stored, values, little, shape)
    elif shape.samples == 3:
        pixels = _colours_in_8_bits(stored, shape.stored if stored.dtype.itemsize > 1 else 8)
    else:
        pixels = _grey(values, shape, little, dicom, is_float=stored.dtype.kind == "f").in_8_bits(stored)
    frame_size = (shape.rows, shape.columns)
    if halvings:
        return Decoded(*_on_the_frame(pixels, frame_size, halvings), _header(values))
    return Decoded(pixels, frame_size, header=_header(values))


def _may_be_mixed(values: Dataset, dicom: Dicom) -> bool:
    """Whether a mean of stored values means what they do, and becomes the grey that it is among all."""
    places = _places(values)
    if _PADDING in values or any(_MODALITY_LUT in place for place in places):
        return False
    if dicom.window == "header":
        return _window(places) is not None or any(_VOI_LUT in place for place in places)
    return dicom.window != "range"


def _on_the_frame(
    pixels: Pixels, frame: tuple[int, int], halvings: int
) -> tuple[Pixels, tuple[int, int], Box]:
    """Where a frame lies in its coarse waves.

    The wave k of n halvings is centred on pixel 2^n k, whose middle is 2^n k + 1/2; so x of the frame is
    (x - 1/2) / 2^n + 1/2 of them, and the frame's end reaches beyond the last.

    Returns:
        The pixels with the last row and column repeated, the frame, and its box in them.
    """
    scale = 2**halvings
    first = 0.5 - 0.5 / scale
    box = (first, first, first + frame[1] / scale, first + frame[0] / scale)
    return np.pad(pixels, ((0, 1), (0, 1)), mode="edge"), frame, box


def decode_inside(stream: BinaryIO, num_bytes: int, limits: Limits, *, frame: int | None) -> Mask:
    """Read one frame as a mask: its stored values; see `images.masks`.

    Of a segmentation with fractions those from half on are inside. What is black and white is seen as it is
    shown: by its palette, and turned over where it is MONOCHROME1.
    """
    elements, shape, index = _open(stream, num_bytes, limits, frame)
    values, little = elements.kept, elements.syntax != EXPLICIT_BIG
    stored, meaning, _ = read_frame(elements, shape, index, _offset_table(values), limits)
    if text_of(values.get(_SEGMENTATION)).upper() == "FRACTIONAL":
        (most,) = numbers_of(values.get(_MOST_OF_FRACTION), little=little)[:1] or (255,)
        return Mask(stored >= max(most, 1) / 2)
    if meaning == "PALETTE COLOR":
        shown = _through_palette(stored, values, little, shape)
        stored = palette_values(stored, shown if shown.ndim == 3 else np.stack([shown] * 3, axis=2))
    elif stored.ndim == 3:
        stored = stored.max(axis=2)
    elif meaning == "MONOCHROME1" and np.isin(stored, (0, white := 2**shape.stored - 1)).all():
        stored = white - stored
    return cut_plane(stored, lossy=elements.syntax in (JPEG_BASELINE, JPEG_EXTENDED))


def _open(stream: BinaryIO, num_bytes: int, limits: Limits, frame: int | None) -> tuple[Elements, Shape, int]:
    """The header's elements and what they say of the pixels, and the frame that is meant."""
    elements = read_elements(stream, num_bytes, _KEPT, frame or 0, limits.max_file_bytes)
    if elements.pixels is None:
        raise ImageError("no_pixels", "the file holds no image: a report, a plan, a curve or a directory")
    shape = _shape(elements, limits)
    if frame is None and shape.frames > 1:
        raise ImageError("several_frames", "the file holds several frames; the source must say which")
    if not 0 <= (frame or 0) < shape.frames:
        raise ImageError("no_such_frame", "the file holds fewer frames than the source says")
    return elements, shape, frame or 0


def _shape(elements: Elements, limits: Limits) -> Shape:
    """What the header says of the pixels, if it is whole and within limits."""
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
    shape = Shape(
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


def _check_kind(shape: Shape, tag: int) -> None:
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


def _offset_table(values: Dataset) -> tuple[bytes, bytes] | None:
    starts, lengths = values.get(_OFFSETS), values.get(_OFFSET_LENGTHS)
    return (starts, lengths) if isinstance(starts, bytes) and isinstance(lengths, bytes) else None


def _grey(values: Dataset, shape: Shape, little: bool, dicom: Dicom, *, is_float: bool) -> Grey:
    """What the header, or the configuration, says of turning stored values into grey."""
    places = _places(values)
    slope, intercept = _decimal(places, _SLOPE), _decimal(places, _INTERCEPT)
    modality = _table(places, _MODALITY_LUT, little, signed=shape.signed)
    voi: Table | Window | None = None
    if isinstance(dicom.window, tuple):
        voi = Window(*dicom.window, "LINEAR_EXACT")
    elif dicom.window == "header":
        signed = shape.signed or (intercept or 0) < 0
        voi = _table(places, _VOI_LUT, little, signed=signed) or _window(places)
    padding = None
    if not is_float and (low := numbers_of(values.get(_PADDING), little=little, signed=shape.signed)):
        limit = numbers_of(values.get(_PADDING_LIMIT), little=little, signed=shape.signed) or low
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
    for groups in (PER_FRAME_GROUPS, _SHARED_GROUPS):
        for item in _items(values, groups):
            places += [*_items(item, _VALUE_GROUP), *_items(item, _VOI_GROUP)]
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
    center, width = _decimal(places, _CENTER), _decimal(places, _WIDTH)
    if center is None or width is None:
        return None
    named = next((name for values in places if (name := text_of(values.get(_FUNCTION)).upper())), "LINEAR")
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
            descriptor = numbers_of(item.get(_LUT_DESCRIPTOR), little=little)
            data = item.get(_LUT_DATA)
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


def _through_palette(stored: npt.NDArray[Any], values: Dataset, little: bool, shape: Shape) -> Pixels:
    """Colours of a palette; grey where all of them are."""
    planes: list[Pixels] = []
    for descriptor_tag, data_tag in _PALETTE:
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


def _colours_in_8_bits(stored: npt.NDArray[Any], bits: int) -> Pixels:
    """Colours divided by their depth: v becomes 255 v / (2^bits - 1)."""
    if stored.dtype == np.uint8 and bits == 8:
        return np.ascontiguousarray(stored)
    identity = Grey(voi=Window((2.0**bits - 1) / 2, 2.0**bits - 1, "LINEAR_EXACT"))
    return np.stack([identity.in_8_bits(stored[:, :, channel]) for channel in range(3)], axis=2)


def _header(values: Dataset) -> Header:
    sex = text_of(values.get(_SEX)).upper()
    device = " ".join(filter(None, (_plain(values, _MAKER), _plain(values, _MODEL))))
    return Header(
        patient_id=text_of(values.get(_PATIENT)) or None,
        study_uid=text_of(values.get(_STUDY)) or None,
        institution=text_of(values.get(_INSTITUTION)) or None,
        sex=sex if sex in ("F", "M", "O") else None,  # type: ignore[arg-type]
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
