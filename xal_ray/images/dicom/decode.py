"""DICOM files: header, size check, one frame decoded, grey.

    file  ->  elements on a list  ->  sizes within limits  ->  codestream says the same  ->  one frame
          ->  modality LUT  ->  VOI LUT or window  ->  MONOCHROME1 inverted  ->  8 bits

Of the header nothing leaves but a `Header`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from xal_ray.config import Dicom, Limits
from xal_ray.images.decoded import Box, Decoded, Pixels
from xal_ray.images.dicom.bits import counted_bits
from xal_ray.images.dicom.elements import EXPLICIT_BIG, Elements, numbers_of, text_of
from xal_ray.images.dicom.frames import Frame, read_frame
from xal_ray.images.dicom.grey import Grey, Window
from xal_ray.images.dicom.header import MOST_OF_FRACTION, SEGMENTATION, header_of, offset_table, open_pixels
from xal_ray.images.dicom.plugins import JPEG_BASELINE, JPEG_EXTENDED
from xal_ray.images.dicom.shape import FrameShape
from xal_ray.images.dicom.values import grey_of, may_be_mixed, padding_of, through_palette
from xal_ray.images.masks import Mask, cut_plane, palette_values
from xal_ray.images.scaling import lost_greys


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
    elements, shape, index = open_pixels(stream, num_bytes, limits, frame)
    values, little = elements.kept, elements.syntax != EXPLICIT_BIG
    if not may_be_mixed(values, dicom):
        at_least = None
    decoded, shape = _decoded(elements, shape, index, limits, at_least)
    padding = padding_of(values, shape, little) if shape.samples == 1 else None
    stored, has_foreign = _counted(decoded, padding)
    if decoded.meaning == "PALETTE COLOR":
        pixels = through_palette(stored, values, little, shape)
    elif shape.samples == 3:
        pixels = _colours_in_8_bits(stored, shape.stored if shape.allocated > 8 else 8)
    else:
        pixels = grey_of(values, shape, little, dicom, is_float=stored.dtype.kind == "f").in_8_bits(stored)
    remarks = (*(("high_bits",) if has_foreign else ()), *lost_greys(lambda: stored, pixels))
    frame_size = (shape.rows, shape.columns)
    if decoded.halvings:
        return Decoded(*_on_the_frame(pixels, frame_size, decoded.halvings), header_of(values), remarks)
    return Decoded(pixels, frame_size, header=header_of(values), remarks=remarks)


def _decoded(
    elements: Elements, shape: FrameShape, frame: int, limits: Limits, at_least: int | None = None
) -> tuple[Frame, FrameShape]:
    """Return a frame, and the shape with the bits and the sign that its codestream settled."""
    decoded = read_frame(elements, shape, frame, offset_table(elements.kept), limits, at_least)
    return decoded, replace(shape, stored=decoded.bits, signed=decoded.signed)


def _counted(decoded: Frame, padding: tuple[int, int] | None = None) -> tuple[npt.NDArray[np.number], bool]:
    return counted_bits(
        decoded.values, decoded.bits, signed=decoded.signed, exact=decoded.exact, padding=padding
    )


def _on_the_frame(
    pixels: Pixels, frame: tuple[int, int], halvings: int
) -> tuple[Pixels, tuple[int, int], Box]:
    """Return where a frame lies in its coarse waves.

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
    elements, shape, index = open_pixels(stream, num_bytes, limits, frame)
    values, little = elements.kept, elements.syntax != EXPLICIT_BIG
    decoded, shape = _decoded(elements, shape, index, limits)
    (stored, _), meaning = _counted(decoded), decoded.meaning
    if text_of(values.get(SEGMENTATION)).upper() == "FRACTIONAL":
        (most,) = numbers_of(values.get(MOST_OF_FRACTION), little=little)[:1] or (255,)
        return Mask(stored >= max(most, 1) / 2)
    if meaning == "PALETTE COLOR":
        shown = through_palette(stored, values, little, shape)
        stored = palette_values(stored, shown if shown.ndim == 3 else np.stack([shown] * 3, axis=2))
    elif stored.ndim == 3:
        stored = stored.max(axis=2)
    elif meaning == "MONOCHROME1" and np.isin(stored, (0, white := 2**shape.stored - 1)).all():
        stored = white - stored
    return cut_plane(stored, lossy=elements.syntax in (JPEG_BASELINE, JPEG_EXTENDED))


def _colours_in_8_bits(stored: npt.NDArray[np.number], bits: int) -> Pixels:
    """Colours divided by their depth: v becomes 255 v / (2^bits - 1)."""
    if stored.dtype == np.uint8 and bits == 8:
        return np.ascontiguousarray(stored)
    identity = Grey(voi=Window((2.0**bits - 1) / 2, 2.0**bits - 1, "LINEAR_EXACT"))
    return np.stack([identity.in_8_bits(stored[:, :, channel]) for channel in range(3)], axis=2)
