"""One frame of a DICOM file: its bytes found, held against the header, and only then decoded."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from xal_ray.config import Limits
from xal_ray.images.dicom import lossless
from xal_ray.images.dicom.bits import is_twos_complement
from xal_ray.images.dicom.codestream import Stated, read_j2k, read_jpeg, read_rle
from xal_ray.images.dicom.elements import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    FLOAT_PIXELS,
    PIXEL_DATA,
    Elements,
    PixelElement,
)
from xal_ray.images.dicom.encapsulation import bytes_of_frame
from xal_ray.images.dicom.plugins import (
    HTJ2K,
    J2K,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_LS,
    NAMES,
    NATIVE,
    RLE,
    through_pydicom,
)
from xal_ray.images.dicom.shape import FrameShape
from xal_ray.images.errors import ImageError


class Frame(NamedTuple):
    """A decoded frame.

    Attributes:
        values: As decoded, (rows, columns) or (rows, columns, 3); bits above `bits` may be anything.
        meaning: The photometric interpretation now: YBR has become RGB.
        bits: Of a sample that count.
        signed: The highest of these is a sign.
        exact: Decoded without loss, so that bits above were put there.
        halvings: How often both sides were halved, and rounded up.
    """

    values: npt.NDArray[np.number]
    meaning: str
    bits: int
    signed: bool
    exact: bool = True
    halvings: int = 0


def read_frame(
    elements: Elements,
    shape: FrameShape,
    frame: int,
    offsets: tuple[bytes, bytes] | None,
    limits: Limits,
    at_least: int | None = None,
) -> Frame:
    """Decode one frame.

    Args:
        elements: The file, its reader at the first byte of the pixels.
        shape: What the header says.
        frame: From 0, below `shape.frames`.
        offsets: The extended offset table and its lengths, if the file has one.
        limits: Frames.
        at_least: What both sides must still have, pixels: grey JPEG 2000 is decoded at 1/2, 1/4, ... of its
            size, as far as they do. None decodes every pixel.

    Raises:
        ImageError: The pixels are not what the header says, or can't be decoded here.
    """
    if elements.pixels is None:
        raise ImageError("no_pixels", "the file holds no image")
    if elements.syntax in J2K and at_least is not None:
        return _j2k(
            bytes_of_frame(elements.file, shape, frame, offsets, limits), elements.syntax, shape, at_least
        )
    return _every_pixel(elements, elements.pixels, shape, frame, offsets, limits)


def _every_pixel(
    elements: Elements,
    pixels: PixelElement,
    shape: FrameShape,
    frame: int,
    offsets: tuple[bytes, bytes] | None,
    limits: Limits,
) -> Frame:
    if elements.syntax in NATIVE:
        return Frame(*_native(elements, pixels, shape, frame), shape.stored, shape.signed)
    if pixels.length is not None or pixels.tag != PIXEL_DATA:
        raise ImageError("unreadable", "the pixels are not compressed as the file says")
    if elements.syntax not in NAMES:
        raise ImageError("unsupported_transfer_syntax", "no package decodes this kind of compression")
    data = bytes_of_frame(elements.file, shape, frame, offsets, limits)
    if elements.syntax == RLE:
        return Frame(*_rle(data, shape), shape.stored, shape.signed)
    if elements.syntax in J2K + HTJ2K:
        return _j2k(data, elements.syntax, shape, None)
    stated = read_jpeg(data)
    _check_stated(stated, shape)
    if (stated.process == 55) != (elements.syntax in JPEG_LS):
        raise ImageError("header_mismatch", "the pixels are not compressed as the file says")
    if elements.syntax in (JPEG_BASELINE, JPEG_EXTENDED) and stated.process <= 2 and stated.bits == 8:
        return Frame(*_jpeg(data, stated, shape), 8, signed=False, exact=False)
    bits, exact = bits_of(stated, shape), stated.exact and elements.syntax != JPEG_LS[1]
    # The codestream knows no sign: it is asked for the bits, and the sign is the header's.
    plain = replace(shape, signed=False, stored=stated.bits)
    if elements.syntax in (JPEG_BASELINE, JPEG_EXTENDED):
        return Frame(*through_pydicom(JPEG_EXTENDED, data, plain), bits, shape.signed, exact)
    if elements.syntax in JPEG_LOSSLESS:
        return Frame(*lossless.decode(data, elements.syntax, plain, limits), bits, shape.signed, exact)
    return Frame(*through_pydicom(elements.syntax, data, plain), bits, shape.signed, exact)


def bits_of(stated: Stated, shape: FrameShape) -> int:
    """Return how many bits of a compressed sample count.

    The codestream says how many it holds. Where these are all that a sample takes, it holds them because
    they are there, and the header says which of them count; else it knows better.
    """
    return min(shape.stored, stated.bits) if stated.bits == shape.allocated else stated.bits


def _j2k(data: bytes, syntax: str, shape: FrameShape, at_least: int | None) -> Frame:
    """JPEG 2000: its waves are coded from coarse to fine, and the finest, if left out, cost nothing.

    The codestream says whether its values have a sign and its colours were transformed; the header may err.
    """
    stated, data = read_j2k(data)
    _check_stated(stated, shape)
    bits = bits_of(stated, shape)
    is_plain = shape.samples == 1 and not (stated.signed or shape.signed) and 1 < stated.bits <= 16
    # Bits that do not count must be cleared before anything is averaged.
    if at_least is not None and is_plain and bits == stated.bits and features.check("jpg_2000"):
        halvings = _most_halvings(stated, at_least)
        if halvings:
            values = _halved(data, stated, halvings)
            return Frame(values, shape.photometric, bits, False, stated.exact, halvings)
    meant = replace(
        shape, signed=stated.signed, stored=stated.bits, photometric=_colours_of_j2k(stated, shape)
    )
    values, meaning = through_pydicom(syntax, data, meant)
    signed = stated.signed or (shape.signed and is_twos_complement(values, stated.bits))
    return Frame(values, meaning, bits, signed, stated.exact)


def _colours_of_j2k(stated: Stated, shape: FrameShape) -> str:
    """Return the photometric interpretation of what a JPEG 2000 decoder gives."""
    if shape.samples == 1:
        return shape.photometric
    if stated.colours == "rgb":
        return "RGB"
    if shape.photometric in ("YBR_ICT", "YBR_RCT"):
        raise ImageError(
            "header_mismatch",
            "the header says that colours are transformed, the codestream does not",
        )
    return shape.photometric


def _most_halvings(stated: Stated, at_least: int) -> int:
    """Return how often both sides can be halved and still be `at_least`."""
    sides = (stated.height, stated.width)
    possible = [
        halvings
        for halvings in range(1, stated.halvings + 1)
        if min(sides) >> halvings >= at_least
        # Pillow rounds a side to the nearest, its decoder up: where these differ, it fails.
        and all((side + (1 << halvings - 1)) >> halvings == -(-side >> halvings) for side in sides)
    ]
    return max(possible, default=0)


def _halved(data: bytes, stated: Stated, halvings: int) -> npt.NDArray[np.number]:
    picture = Image.open(io.BytesIO(data), formats=("JPEG2000",))
    picture.reduce = halvings  # type: ignore[assignment,method-assign]  # Pillow says it so
    values = np.asarray(picture)
    expected = tuple(-(-side >> halvings) for side in (stated.height, stated.width))
    if values.shape != expected or values.dtype.itemsize != (1 if stated.bits <= 8 else 2):
        raise ImageError("header_mismatch", "the pixels have another size than the header says")
    return values >> (8 * values.dtype.itemsize - stated.bits)  # Pillow brings them to all of the depth


def _check_stated(stated: Stated, shape: FrameShape) -> None:
    if (stated.height, stated.width, stated.components) != (shape.rows, shape.columns, shape.samples):
        raise ImageError("header_mismatch", "the compressed pixels have another size than the header says")
    if stated.bits > shape.allocated:
        raise ImageError("header_mismatch", "the compressed pixels have more bits than the header says")


def _native(
    elements: Elements, pixels: PixelElement, shape: FrameShape, frame: int
) -> tuple[npt.NDArray[np.number], str]:
    """Return a frame of uncompressed pixels: exactly its bytes are read."""
    if pixels.length is None:
        raise ImageError("unreadable", "the pixels are not compressed as the file says")
    halved = shape.photometric == "YBR_FULL_422"  # one colour for two pixels
    if halved and shape.columns % 2:
        raise ImageError("unsupported_format", "colours of pairs of pixels in an odd number of columns")
    num_bits = shape.num_samples * shape.allocated * (2 if halved else 3) // 3
    first, last = frame * num_bits, (frame + 1) * num_bits
    start, end = first // 8, -(-last // 8)
    if end > pixels.length:
        raise ImageError("truncated", "the file ends before its pixels do")
    elements.reader.skip(start)
    data = elements.reader.read(end - start)
    if len(data) < end - start:
        raise ImageError("truncated", "the file ends before its pixels do")
    if shape.allocated == 1:
        bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")
        return bits[first % 8 :][: shape.num_samples].reshape(shape.rows, shape.columns), shape.photometric
    big = elements.syntax == EXPLICIT_BIG
    if big and shape.allocated == 8 and pixels.is_words:
        if start % 2 or (len(data) % 2 and shape.frames > 1):
            raise ImageError("unsupported_format", "frames of odd length in words of the other byte order")
        if len(data) % 2:  # its last byte is the second one of a word
            data += elements.reader.read(1)
        data = np.frombuffer(data, dtype=">u2").astype("<u2").tobytes()[: end - start]
    if pixels.tag != PIXEL_DATA:
        kind = "f4" if pixels.tag == FLOAT_PIXELS else "f8"
        values = np.frombuffer(data, dtype=f"{'>' if big else '<'}{kind}")
        return values.reshape(shape.rows, shape.columns), shape.photometric
    # As they are, with the bits above those that count: a padding value may need them.
    whole = replace(shape, stored=shape.allocated)
    return through_pydicom(EXPLICIT_BIG if big else EXPLICIT_LITTLE, data, whole)


def _rle(data: bytes, shape: FrameShape) -> tuple[npt.NDArray[np.number], str]:
    """Segments are planes of bytes: of each sample the highest byte first."""
    num_bytes = shape.allocated // 8
    planes = read_rle(data, shape.samples * num_bytes, shape.rows * shape.columns)
    values = np.empty((shape.samples, shape.rows * shape.columns, num_bytes), dtype=np.uint8)
    for number, plane in enumerate(planes):
        sample, byte = divmod(number, num_bytes)
        values[sample, :, num_bytes - 1 - byte] = np.frombuffer(plane, dtype=np.uint8)
    whole = replace(shape, stored=shape.allocated)
    return through_pydicom(EXPLICIT_LITTLE, values.tobytes(), whole, planar=True)


def _jpeg(data: bytes, stated: Stated, shape: FrameShape) -> tuple[npt.NDArray[np.number], str]:
    """8-bit JPEG: colours are converted once, and as the codestream says where it does."""
    picture = Image.open(io.BytesIO(data), formats=("JPEG",))
    if shape.samples == 1:
        return np.array(picture.convert("L")), shape.photometric
    if stated.colours is None and shape.photometric == "RGB":
        picture.draft("YCbCr", picture.size)  # libjpeg would guess that they need converting
        return np.array(picture), "RGB"
    return np.array(picture.convert("RGB")), "RGB"
