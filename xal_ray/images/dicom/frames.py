"""One frame of a DICOM file: its bytes found, held against the header, and only then decoded."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from xal_ray.config import Limits
from xal_ray.errors import SourceError
from xal_ray.images.dicom.bits import is_twos_complement
from xal_ray.images.dicom.codestream import Stated, read_j2k, read_jpeg, read_rle
from xal_ray.images.dicom.elements import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    FLOAT_PIXELS,
    IMPLICIT_LITTLE,
    PIXEL_DATA,
    Elements,
    FileReader,
    PixelElement,
)
from xal_ray.images.errors import ImageError

RLE = "1.2.840.10008.1.2.5"
JPEG_BASELINE, JPEG_EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
J2K = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
HTJ2K = tuple(f"1.2.840.10008.1.2.4.20{last}" for last in (1, 2, 3))
NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED)
NAMES = {
    IMPLICIT_LITTLE: "implicit VR little endian",
    EXPLICIT_LITTLE: "explicit VR little endian",
    EXPLICIT_BIG: "explicit VR big endian",
    DEFLATED: "deflated",
    RLE: "RLE",
    JPEG_BASELINE: "JPEG baseline",
    JPEG_EXTENDED: "JPEG extended",
    JPEG_LOSSLESS[0]: "JPEG lossless",
    JPEG_LOSSLESS[1]: "JPEG lossless, first order",
    JPEG_LS[0]: "JPEG-LS lossless",
    JPEG_LS[1]: "JPEG-LS near lossless",
    J2K[0]: "JPEG 2000 lossless",
    J2K[1]: "JPEG 2000",
    HTJ2K[0]: "HTJ2K lossless",
    HTJ2K[1]: "HTJ2K lossless, RPCL",
    HTJ2K[2]: "HTJ2K",
}

# Who decodes what, where several could: the same pixels whatever else is installed.
_DECODERS = {
    **dict.fromkeys(JPEG_LOSSLESS, ("gdcm", "pylibjpeg")),
    **dict.fromkeys(JPEG_LS, ("pyjpegls", "gdcm")),
    **dict.fromkeys((*J2K, *HTJ2K), ("pylibjpeg", "pillow")),
    JPEG_EXTENDED: ("pylibjpeg",),  # of more than 8 bits; gdcm and pillow say that they can't
}
_ITEM, _END_OF_SEQUENCE = 0xFFFEE000, 0xFFFEE0DD
_FRAGMENTS_A_FRAME = 4
_SLACK_BYTES = 1 << 20  # of a compressed frame beside twice its pixels: profiles, comments
_LONGEST_MARK = 10
_END_OF_IMAGE = b"\xff\xd9"


@dataclass(frozen=True)
class FrameShape:
    """Holds what a header says of its pixels, within limits.

    Attributes:
        frames: Of the file.
        samples: Of a pixel: 1 or 3.
        allocated: Bits that a stored sample takes.
        stored: Bits of it that count.
        signed: Whether samples may be negative.
        planar: Whether colours lie in planes.
        photometric: What samples mean, as the standard words it.
    """

    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    planar: bool
    photometric: str

    @property
    def num_samples(self) -> int:
        """Samples of a frame."""
        return self.rows * self.columns * self.samples


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

    values: npt.NDArray[Any]
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
            _encapsulated(elements.file, shape, frame, offsets, limits), elements.syntax, shape, at_least
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
    data = _encapsulated(elements.file, shape, frame, offsets, limits)
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
        from xal_ray.images.dicom import lossless  # it calls back, in a child

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


def _halved(data: bytes, stated: Stated, halvings: int) -> npt.NDArray[Any]:
    picture = Image.open(io.BytesIO(data), formats=("JPEG2000",))
    picture.reduce = halvings  # type: ignore[assignment,method-assign]
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
) -> tuple[npt.NDArray[Any], str]:
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


def _rle(data: bytes, shape: FrameShape) -> tuple[npt.NDArray[Any], str]:
    """Segments are planes of bytes: of each sample the highest byte first."""
    num_bytes = shape.allocated // 8
    planes = read_rle(data, shape.samples * num_bytes, shape.rows * shape.columns)
    values = np.empty((shape.samples, shape.rows * shape.columns, num_bytes), dtype=np.uint8)
    for number, plane in enumerate(planes):
        sample, byte = divmod(number, num_bytes)
        values[sample, :, num_bytes - 1 - byte] = np.frombuffer(plane, dtype=np.uint8)
    whole = replace(shape, stored=shape.allocated)
    return through_pydicom(EXPLICIT_LITTLE, values.tobytes(), whole, planar=True)


def _jpeg(data: bytes, stated: Stated, shape: FrameShape) -> tuple[npt.NDArray[Any], str]:
    """8-bit JPEG: colours are converted once, and as the codestream says where it does."""
    picture = Image.open(io.BytesIO(data), formats=("JPEG",))
    if shape.samples == 1:
        return np.array(picture.convert("L")), shape.photometric
    if stated.colours is None and shape.photometric == "RGB":
        picture.draft("YCbCr", picture.size)  # libjpeg would guess that they need converting
        return np.array(picture), "RGB"
    return np.array(picture.convert("RGB")), "RGB"


def through_pydicom(
    syntax: str, data: bytes, shape: FrameShape, *, planar: bool | None = None
) -> tuple[npt.NDArray[Any], str]:
    """Let pydicom, or one of its plugins, decode one frame."""
    try:
        from pydicom.encaps import encapsulate
        from pydicom.pixels import get_decoder
        from pydicom.uid import UID
    except ImportError:
        raise missing_pydicom() from None
    decoder = get_decoder(UID(syntax))
    native = syntax in NATIVE
    plugin = "" if native else plugin_of(syntax)
    if not (native or plugin):
        raise ImageError("unsupported_transfer_syntax", how_to_decode(syntax))
    if plugin == "gdcm":
        _silence_gdcm()
    values, meaning = decoder.as_array(
        # Encapsulated anew: the decoder sees no other bytes than those that were checked.
        data if native else encapsulate([data], has_bot=False),
        decoding_plugin=plugin,
        index=0,
        rows=shape.rows,
        columns=shape.columns,
        number_of_frames=1,
        samples_per_pixel=shape.samples,
        photometric_interpretation=shape.photometric,
        planar_configuration=int(shape.planar if planar is None else planar),
        bits_allocated=shape.allocated,
        bits_stored=shape.stored,
        pixel_representation=int(shape.signed),
        pixel_keyword="PixelData",
        pixel_vr="OB" if shape.allocated <= 8 else "OW",
    )
    expected = (shape.rows, shape.columns, shape.samples)[: 2 if shape.samples == 1 else 3]
    if values.shape != expected:
        raise ImageError("header_mismatch", "the pixels have another size than the header says")
    return values, str(meaning["photometric_interpretation"])


@cache
def _silence_gdcm() -> None:
    """GDCM says on the terminal what it thinks of a file."""
    import gdcm

    for switch in (gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff, gdcm.Trace.DebugOff):
        switch()


def plugin_of(syntax: str) -> str:
    """Which of pydicom's plugins decodes a compressed transfer syntax here; empty where none does."""
    try:
        from pydicom.pixels import get_decoder
        from pydicom.uid import UID
    except ImportError:
        raise missing_pydicom() from None
    try:
        available = get_decoder(UID(syntax)).available_plugins
    except NotImplementedError:
        return ""
    return next((name for name in _DECODERS.get(syntax, ()) if name in available), "")


def missing_pydicom() -> SourceError:
    """Return the error of a machine without pydicom."""
    return SourceError(
        "DICOM files need packages that are not installed",
        expected="pydicom and decoders of compressed pixels",
        next_step="pip install 'xal-ray[dicom]'",
    )


def how_to_decode(syntax: str) -> str:
    """Return what is missing for a transfer syntax, in one sentence."""
    if syntax == JPEG_EXTENDED:
        return (
            "JPEG of more than 8 bits needs pylibjpeg-libjpeg (GPL), which xal-ray does not bring: "
            "convert the files, or install it"
        )
    return f"{NAMES[syntax]} needs the optional extra 'dicom': pip install 'xal-ray[dicom]'"


def _encapsulated(
    reader: FileReader, shape: FrameShape, frame: int, offsets: tuple[bytes, bytes] | None, limits: Limits
) -> bytes:
    """Return the compressed bytes of a frame, out of its fragments."""
    table, fragments = _fragments(reader, limits)
    starts = _starts(table, offsets, shape.frames)
    if shape.frames == 1:
        own = fragments
    elif starts:
        first = fragments[0][0] - 8 if fragments else 0  # offsets count from the first item's tag
        begin = first + starts[frame]
        end = first + starts[frame + 1] if frame + 1 < shape.frames else None
        own = [one for one in fragments if one[0] - 8 >= begin and (end is None or one[0] - 8 < end)]
    elif len(fragments) == shape.frames:
        own = fragments[frame : frame + 1]
    else:
        own = _up_to_marks(reader, fragments, frame)
    num_bytes = sum(length for _, length in own)
    if not num_bytes:
        raise ImageError("truncated", "the file ends before its pixels do")
    if num_bytes > 2 * shape.num_samples * max(1, shape.allocated // 8) + _SLACK_BYTES:
        raise ImageError("header_mismatch", "the compressed pixels are far longer than plain ones would be")
    data = bytearray()
    for position, length in own:
        reader.seek(position)
        data += reader.read(length)
    return bytes(data)


def _fragments(reader: FileReader, limits: Limits) -> tuple[bytes, list[tuple[int, int]]]:
    """Return the basic offset table, and place and length of each fragment."""
    table: bytes | None = None
    fragments: list[tuple[int, int]] = []
    while True:
        head = reader.read(8)
        if len(head) < 8:
            break  # some writers leave out the end
        group, element, length = struct.unpack("<HHI", head)
        tag = group << 16 | element
        if tag == _END_OF_SEQUENCE:
            break
        if tag != _ITEM:
            raise ImageError("unreadable", "the fragments of the pixels are damaged")
        if table is None:
            if length > 4 * limits.max_frames:
                raise ImageError(
                    "too_many_frames", "the table of frames is longer than pool.limits.max_frames"
                )
            table = reader.read(length)
            continue
        if len(fragments) >= _FRAGMENTS_A_FRAME * limits.max_frames:
            raise ImageError("unreadable", "the pixels come in more fragments than any real ones")
        fragments.append((reader.position, length))
        reader.skip(length)
    return table or b"", fragments


def _starts(table: bytes, offsets: tuple[bytes, bytes] | None, num_frames: int) -> tuple[int, ...]:
    """Return where frames begin, counted from the first fragment; empty where the file does not say."""
    if offsets is not None and len(offsets[0]) == 8 * num_frames:
        return struct.unpack(f"<{num_frames}Q", offsets[0])
    if len(table) == 4 * num_frames:
        return struct.unpack(f"<{num_frames}I", table)
    return ()


def _up_to_marks(reader: FileReader, fragments: list[tuple[int, int]], frame: int) -> list[tuple[int, int]]:
    """Return the fragments of a frame, where only the mark at the end of each image tells them apart."""
    number, own = 0, []
    for position, length in fragments:
        own.append((position, length))
        tail = min(length, _LONGEST_MARK)
        reader.seek(position + length - tail)
        if _END_OF_IMAGE in reader.read(tail):
            if number == frame:
                return own
            number, own = number + 1, []
    raise ImageError("truncated", "the file holds fewer frames than its header says")
