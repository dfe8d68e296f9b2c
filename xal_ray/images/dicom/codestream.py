"""Says what compressed pixels say of themselves: their size must be the header's before a decoder sees them.

A codestream of two kilobytes can promise 400 million pixels whatever the DICOM header says, and decoders set
memory aside for what it promises.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from xal_ray.images.errors import ImageError

_SOC_SIZ = b"\xff\x4f\xff\x51"
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_SIZ, _COD, _COC, _SOT, _SOD, _EOC = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9
_WHOLE_NUMBERS = 1  # of the two kernels
_MAX_TILES = 4096
_MAX_PRECINCTS = 250_000  # a decoder takes some hundred bytes for each
_MAX_PACKETS = 16_000_000
_MAX_MARKERS = 100_000
_J2K = -1  # no process of JPEG's
_LOSSLESS = (3, 7, 11, 15, 55)  # of JPEG's; the last, JPEG-LS, may lose as much as its scans say
_NOT_FRAMES = frozenset({0xC4, 0xC8, 0xCC})  # markers among those of frames that begin none
_JPEG_LS_FRAME, _JPEG_LS_PARAMETERS = 0xF7, 0xF8
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True)
class Stated:
    """Holds what a codestream says of its pixels.

    Attributes:
        process: JPEG's SOF number (0 baseline, 3 lossless, 55 JPEG-LS); -1 for JPEG 2000.
        colours: "ybr" or "rgb" where markers or names of components settle it, else None. Of JPEG 2000: "rgb"
            where a transform is undone in decoding.
        signed: Values may be negative (JPEG 2000).
        exact: Coded without loss, as far as the headers tell.
        halvings: How often a decoder may leave out the finest waves, and so halve both sides (JPEG 2000).
    """

    height: int
    width: int
    components: int
    bits: int
    process: int
    colours: str | None = None
    signed: bool = False
    exact: bool = False
    halvings: int = 0


def read_j2k(data: bytes) -> tuple[Stated, bytes]:
    """Read the headers of a JPEG 2000 codestream (HTJ2K too), and bound what its coding asks of a decoder.

    Returns:
        What it states, and the codestream without a JP2 file around it.

    Raises:
        ImageError: It is damaged, or its tiles, precincts or components are no image's.
    """
    stream = _unwrap_jp2(data)
    if not stream.startswith(_SOC_SIZ):
        raise ImageError("unreadable", "the pixels are no JPEG 2000 codestream")
    length, _, x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components = struct.unpack_from(
        ">HHIIIIIIIIH", stream, 4
    )
    if not (0 < components <= 4) or length != 38 + 3 * components or len(stream) < 4 + length:
        raise ImageError("unreadable", "the size of the JPEG 2000 codestream is damaged")
    width, height = x1 - x0, y1 - y0
    if min(width, height, tile_x, tile_y) < 1 or tile_x0 > x0 or tile_y0 > y0:
        raise ImageError("unreadable", "the size of the JPEG 2000 codestream is damaged")
    depths = {stream[42 + 3 * number : 45 + 3 * number] for number in range(components)}
    depth = depths.pop()
    if depths or depth[1:] != b"\1\1":
        raise ImageError(
            "unsupported_format", "components of the JPEG 2000 codestream differ in size or depth"
        )
    tiles = -(-(x1 - tile_x0) // tile_x) * -(-(y1 - tile_y0) // tile_y)
    if tiles > _MAX_TILES:
        raise ImageError("header_mismatch", "the JPEG 2000 codestream has more tiles than any image")
    coding = _check_coding(stream, width, height, components)
    halvings = coding.levels if (x0, y0) == (0, 0) else 0  # else the halves do not begin where the image does
    bits, signed = (depth[0] & 0x7F) + 1, depth[0] >= 0x80
    colours = "rgb" if coding.transformed else None
    stated = Stated(height, width, components, bits, _J2K, colours, signed, coding.exact, halvings)
    return stated, stream


def read_jpeg(data: bytes) -> Stated:
    """Read a JPEG or JPEG-LS codestream up to its frame header.

    Raises:
        ImageError: It is damaged.
    """
    if not data.startswith(b"\xff\xd8"):
        raise ImageError("unreadable", "the pixels are no JPEG codestream")
    jfif, adobe = False, None
    for marker, start, end in _jpeg_segments(data):
        if marker == 0xE0 and data[start : start + 5] == b"JFIF\0":
            jfif = True
        elif marker == 0xEE and data[start : start + 5] == b"Adobe" and end - start >= 12:
            adobe = data[start + 11]
        elif marker == _JPEG_LS_PARAMETERS and data[start : start + 1] == b"\x04":
            raise ImageError("unsupported_format", "a JPEG-LS codestream with a size in a place of its own")
        elif (0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES) or marker == _JPEG_LS_FRAME:
            bits, height, width, components = struct.unpack_from(">BHHB", data, start)
            names = bytes(data[start + 6 + 3 * number] for number in range(components))
            process = 55 if marker == _JPEG_LS_FRAME else marker - 0xC0
            if not 0 < components <= 4 or end - start < 6 + 3 * components or min(height, width) < 1:
                break
            exact = process in _LOSSLESS
            return Stated(height, width, components, bits, process, _colours(jfif, adobe, names), exact=exact)
    raise ImageError("unreadable", "the JPEG codestream gives no size")


def _colours(jfif: bool, adobe: int | None, names: bytes) -> str | None:
    if jfif:
        return "ybr"
    if adobe is not None:
        return "ybr" if adobe == 1 else "rgb"
    return "rgb" if names in (b"RGB", b"rgb") else None


def unpack_runs(data: bytes, num_bytes: int) -> bytes:
    """Undo PackBits, as far as so many bytes: a run of 128 comes from two.

    Raises:
        ImageError: It holds fewer, or more.
    """
    unpacked = bytearray()
    position, end = 0, len(data)
    while position < end and len(unpacked) < num_bytes:
        control = data[position]
        position += 1
        if control < 128:
            unpacked += data[position : position + control + 1]
            position += control + 1
        elif control > 128:
            unpacked += data[position : position + 1] * (257 - control)
            position += 1
    if len(unpacked) < num_bytes:
        raise ImageError("truncated", "the runs end before the pixels do")
    if len(unpacked) > num_bytes + 1:  # segments of odd length may be padded
        raise ImageError("header_mismatch", "the runs hold more pixels than the header says")
    return bytes(unpacked[:num_bytes])


def read_rle(data: bytes, num_segments: int, num_bytes: int) -> list[bytes]:
    """Split and unpack the segments of an RLE frame.

    Args:
        data: The frame.
        num_segments: Samples times bytes of each.
        num_bytes: Pixels of the frame.

    Raises:
        ImageError: It is damaged, or of another size.
    """
    if len(data) < 64:
        raise ImageError("truncated", "the file ends before its pixels do")
    count, *offsets = struct.unpack_from("<16I", data)
    if count != num_segments:
        raise ImageError("header_mismatch", "the pixels have another number of segments than the header says")
    borders = [*offsets[:count], len(data)]
    if borders[0] != 64 or any(one >= other for one, other in pairwise(borders)):
        raise ImageError("unreadable", "the segments of the pixels are damaged")
    return [unpack_runs(data[start:end], num_bytes) for start, end in pairwise(borders)]


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, first byte and end of each segment's content, up to the first scan."""
    position = 2
    for _ in range(_MAX_MARKERS):
        if position + 4 > len(data) or data[position] != 0xFF:
            return
        marker = data[position + 1]
        if marker == 0xFF:  # filling
            position += 1
            continue
        if marker in _BARE_MARKERS:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        end = position + 2 + length
        if length < 2 or end > len(data) or marker == 0xDA:
            return
        yield marker, position + 4, end
        position = end


def _unwrap_jp2(data: bytes) -> bytes:
    """Return the codestream of a JP2 file; other boxes could change what it means."""
    if not data.startswith(_JP2_SIGNATURE):
        return data
    position = 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if length == 1 and position + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = len(data) if length == 0 else position + length
        if end < start or end > len(data):
            break
        if kind == b"jp2c":
            return data[start:end]
        position = end
    raise ImageError("unreadable", "the JP2 file holds no codestream")


class _Coding(NamedTuple):
    """Says how a JPEG 2000 image is coded: the least that holds for all its parts.

    Attributes:
        levels: The fewest levels of waves.
        transformed: Components are colours that were mixed, and that decoding separates.
        exact: With waves of whole numbers.
    """

    levels: int
    transformed: bool
    exact: bool


def _check_coding(stream: bytes, width: int, height: int, components: int) -> _Coding:
    """Bound precincts and layers: each takes a decoder hundreds of bytes, and a precinct could be a pixel."""
    layers, fewest = 1, 32
    transforms, kernels = set[int](), set[int]()
    for marker, start, end in _j2k_segments(stream):
        if marker == _COD:
            custom, levels, sizes = stream[start] & 1, stream[start + 5], stream[start + 10 : end]
            (layers,) = struct.unpack_from(">H", stream, start + 2)
            transforms.add(stream[start + 4])
            kernels.add(stream[start + 9])
        elif marker == _COC:  # one byte names the component: there are four at most
            custom, levels, sizes = stream[start + 1] & 1, stream[start + 2], stream[start + 7 : end]
            kernels.add(stream[start + 6])
        else:
            continue
        if levels > 32:
            raise ImageError("unreadable", "the coding of the JPEG 2000 codestream is damaged")
        fewest = min(fewest, levels)
        precincts = _num_precincts(width, height, levels, sizes if custom else b"\xff" * (levels + 1))
        if precincts * components > _MAX_PRECINCTS or precincts * components * layers > _MAX_PACKETS:
            raise ImageError("header_mismatch", "the JPEG 2000 codestream has more packets than any image")
    if len(transforms) > 1:
        raise ImageError("unsupported_format", "tiles of the JPEG 2000 codestream differ in their colours")
    return _Coding(fewest, any(transforms), kernels == {_WHOLE_NUMBERS})


def _num_precincts(width: int, height: int, levels: int, sizes: bytes) -> int:
    if len(sizes) < levels + 1:
        raise ImageError("unreadable", "the coding of the JPEG 2000 codestream is damaged")
    total = 0
    for resolution in range(levels + 1):
        across, down = sizes[resolution] & 15, sizes[resolution] >> 4
        scale = levels - resolution
        # Two negative numbers rounded down: the product of both rounded up.
        total += (-width >> (scale + across)) * (-height >> (scale + down))
    return total


def _j2k_segments(stream: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, first byte and end of each segment's content, of the main header and those of tile parts."""
    position, tile_end = 2, 0
    for _ in range(_MAX_MARKERS):
        if position + 4 > len(stream):
            return
        marker, length = struct.unpack_from(">HH", stream, position)
        if marker == _EOC:
            return
        if marker == _SOD:
            if tile_end <= position:
                return
            position = tile_end
            continue
        end = position + 2 + length
        if length < 2 or end > len(stream):
            raise ImageError("unreadable", "the header of the JPEG 2000 codestream is damaged")
        if marker == _SOT and length == 10:
            (part_length,) = struct.unpack_from(">I", stream, position + 6)
            tile_end = position + part_length if part_length else len(stream)
        yield marker, position + 4, end
        position = end
    raise ImageError("unreadable", "the header of the JPEG 2000 codestream is damaged")
