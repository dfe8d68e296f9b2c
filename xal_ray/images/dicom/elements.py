"""The elements of a DICOM file that are asked for, and the place of its pixels; all others are stepped over.

A walk of our own, because it is bounded: it steps forward through the file, holds no more than the elements
on its list, and never inflates a deflated file further than its limit.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

from xal_ray.images.errors import ImageError

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"

PIXEL_DATA, FLOAT_PIXELS, DOUBLE_PIXELS = 0x7FE00010, 0x7FE00008, 0x7FE00009
PER_FRAME_GROUPS = 0x52009230

_SYNTAX = 0x00020010
_ITEM, _END_OF_ITEM, _END_OF_SEQUENCE = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_MAX_KEPT_BYTES = 4 * 1024**2  # three palettes and two tables take one
_MAX_STEPS = 300_000  # a second or two; 4,096 frames with groups of their own take 250,000
_MAX_DEPTH = 8
_PIECE = 1 << 20

Value = Any  # bytes, or of a sequence the items that are asked for: list[Dataset]
Dataset = dict[int, Value]


class Reader(Protocol):
    """Bytes, forwards."""

    position: int

    def read(self, num_bytes: int) -> bytes:
        """Read as a `Reader` does."""

    def skip(self, num_bytes: int) -> None:
        """Skip as a `Reader` does."""


class FileReader:
    """A file's bytes.

    Args:
        stream: A seekable file.
        num_bytes: Its length.
    """

    def __init__(self, stream: BinaryIO, num_bytes: int) -> None:
        self._stream, self._num_bytes = stream, num_bytes
        self.position = 0

    def read(self, num_bytes: int) -> bytes:
        """Read as a `Reader` does."""
        data = self._stream.read(num_bytes)
        self.position += len(data)
        return data

    def skip(self, num_bytes: int) -> None:
        """Skip as a `Reader` does."""
        if num_bytes > self._num_bytes - self.position:
            raise ImageError("truncated", "the file ends before its pixels do")
        self.seek(self.position + num_bytes)

    def seek(self, position: int) -> None:
        """Go to a place in the file."""
        self._stream.seek(position)
        self.position = position


class InflatedReader:
    """Holds what a deflated file holds, inflated piece by piece.

    Args:
        stream: The file, at the first deflated byte.
        limit: As many bytes may come out.
    """

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream, self._limit = stream, limit
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self.position = 0

    def read(self, num_bytes: int) -> bytes:
        """Read as a `Reader` does."""
        self._check(num_bytes)
        data = bytearray()
        while len(data) < num_bytes:
            piece = self._more(num_bytes - len(data))
            if not piece:
                break
            data += piece
        self.position += len(data)
        return bytes(data)

    def skip(self, num_bytes: int) -> None:
        """Skip as a `Reader` does."""
        self._check(num_bytes)
        while num_bytes:
            count = len(self._more(min(num_bytes, _PIECE)))
            if not count:
                raise ImageError("truncated", "the file ends before its pixels do")
            self.position += count
            num_bytes -= count

    def _check(self, num_bytes: int) -> None:
        if self.position + num_bytes > self._limit:
            raise ImageError(
                "file_too_large", f"it inflates to more than pool.limits.max_file_bytes, {self._limit}"
            )

    def _more(self, most: int) -> bytes:
        while not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._stream.read(1 << 16)
            data = self._inflater.decompress(packed, most)
            if data or not packed:
                return data
        return b""


@dataclass(frozen=True)
class PixelElement:
    """Says where the pixels are: the reader stands at their first byte.

    Attributes:
        tag: `PIXEL_DATA`, `FLOAT_PIXELS` or `DOUBLE_PIXELS`.
        is_words: Written as 16-bit words, which matters to big endian bytes.
        length: Bytes; None where they come in fragments.
    """

    tag: int
    is_words: bool
    length: int | None


@dataclass(frozen=True)
class Elements:
    """Holds what a walk found.

    Attributes:
        kept: Values of the elements asked for, as written; of a sequence the items asked for.
        syntax: The transfer syntax's UID; where the file has none, as its bytes tell it.
        pixels: None where there are none.
        reader: At the first byte of the pixels.
        file: The same where the file is not deflated.
    """

    kept: Dataset = field(repr=False)
    syntax: str
    pixels: PixelElement | None
    reader: Reader
    file: FileReader


def read_elements(
    stream: BinaryIO, num_bytes: int, kept: frozenset[int], frame: int, inflated_limit: int
) -> Elements:
    """Walk through a DICOM file up to its pixels.

    Args:
        stream: The file, at its start.
        num_bytes: Its length.
        kept: Tags to keep, at any depth.
        frame: Of the groups that hold an item a frame, the item to keep; of other sequences it is the first.
        inflated_limit: What a deflated file may inflate to, bytes.

    Raises:
        ImageError: It is no DICOM file, or too large, or damaged.
    """
    reader = FileReader(stream, num_bytes)
    if reader.read(132)[128:] != b"DICM":
        reader.seek(0)
    meta = _Walk(reader, implicit=False, little=True, kept=frozenset({_SYNTAX}), frame=0).file_meta(reader)
    syntax = text_of(meta.get(_SYNTAX))
    if not syntax or syntax in (IMPLICIT_LITTLE, EXPLICIT_LITTLE):
        syntax = _told_by_bytes(reader)
    content: Reader = InflatedReader(stream, inflated_limit) if syntax == DEFLATED else reader
    walk = _Walk(content, syntax == IMPLICIT_LITTLE, syntax != EXPLICIT_BIG, kept, frame)
    values = walk.dataset(None, depth=0)
    return Elements(values, syntax, walk.pixels, content, reader)


def text_of(value: Value | None) -> str:
    """Return a text value without its padding; empty where there is none."""
    return value.decode("latin-1").strip("\0 ") if isinstance(value, bytes) else ""


def numbers_of(value: Value | None, *, little: bool, signed: bool = False) -> tuple[int, ...]:
    """Return a value of 16-bit integers; empty where there is none."""
    if not isinstance(value, bytes):
        return ()
    count = len(value) // 2
    return struct.unpack(f"{'<' if little else '>'}{count}{'h' if signed else 'H'}", value[: 2 * count])


def _told_by_bytes(reader: FileReader) -> str:
    """Return the syntax of the element that comes next; writers err, and some files name none."""
    start = reader.position
    head = reader.read(6)
    reader.seek(start)
    group = int.from_bytes(head[:2], "little")
    if not (head[4:6].isalpha() and head[4:6].isupper()):
        if not 0x0001 <= group <= 0x7FE0:
            raise ImageError("unsupported_format", "the file is no DICOM file")
        return IMPLICIT_LITTLE
    # Groups in use are below 0x0400, so that bytes in the wrong order show.
    return EXPLICIT_BIG if group >= 0x0400 and group & 0xFF == 0 else EXPLICIT_LITTLE


class _Walk:
    """Steps through elements, and counts its steps."""

    def __init__(
        self, reader: Reader, implicit: bool, little: bool, kept: frozenset[int], frame: int
    ) -> None:
        self._reader, self._implicit, self._kept, self._frame = reader, implicit, kept, frame
        self._order = "<" if little else ">"
        self._steps = 0
        self._kept_bytes = 0
        self.pixels: PixelElement | None = None

    def file_meta(self, reader: FileReader) -> Dataset:
        """Return the elements of group 2, which is always explicit; the reader is left behind them."""
        values: Dataset = {}
        while True:
            start = reader.position
            header = self._header()
            if header is None or header[0] >> 16 != 2:
                reader.seek(start)
                return values
            self._keep_or_skip(values, *header, depth=0)

    def dataset(self, end: int | None, depth: int) -> Dataset:
        """Elements up to a place, or to the end of an item, or of the file, or to the pixels."""
        values: Dataset = {}
        while end is None or self._reader.position < end:
            header = self._header()
            if header is None:
                if depth:
                    raise ImageError("truncated", "the file ends within its header")
                break
            tag, vr, length = header
            if tag == _END_OF_ITEM:
                break
            if depth == 0 and tag in (PIXEL_DATA, FLOAT_PIXELS, DOUBLE_PIXELS):
                self.pixels = PixelElement(tag, vr == b"OW", None if length == _UNDEFINED else length)
                break
            self._keep_or_skip(values, tag, vr, length, depth)
        return values

    def _keep_or_skip(self, values: Dataset, tag: int, vr: bytes | None, length: int, depth: int) -> None:
        is_sequence = vr == b"SQ" or length == _UNDEFINED or (tag in self._kept and tag in SEQUENCES)
        if tag not in self._kept:
            if length == _UNDEFINED:
                self._skip_undefined(implicit=self._implicit or vr == b"UN")
            else:
                self._reader.skip(length)
        elif is_sequence:
            values[tag] = self._items(length, self._frame if tag == PER_FRAME_GROUPS else 0, depth)
        else:
            self._kept_bytes += length
            if self._kept_bytes > _MAX_KEPT_BYTES:
                raise ImageError("unreadable", "an element of the header is larger than any real one")
            value = self._reader.read(length)
            if len(value) < length:
                raise ImageError("truncated", "the file ends within its header")
            values[tag] = value

    def _items(self, length: int, wanted: int, depth: int) -> list[Dataset]:
        """Return the item of a sequence that is wanted, if it has so many."""
        if depth >= _MAX_DEPTH:
            raise ImageError("unreadable", "sequences lie in sequences without end")
        found: list[Dataset] = []
        end = None if length == _UNDEFINED else self._reader.position + length
        number = 0
        while end is None or self._reader.position < end:
            tag, item_length = self._item_header()
            if tag == _END_OF_SEQUENCE:
                break
            if tag != _ITEM:
                raise ImageError("unreadable", "a sequence of the header is damaged")
            undefined = item_length == _UNDEFINED
            if number == wanted:
                item_end = None if undefined else self._reader.position + item_length
                found.append(self.dataset(item_end, depth + 1))
            elif undefined:
                self._skip_undefined(implicit=self._implicit)
            else:
                self._reader.skip(item_length)
            number += 1
        return found

    def _skip_undefined(self, *, implicit: bool) -> None:
        """Step over a sequence or item that ends with a delimiter, and over all within."""
        open_ones = [implicit]
        before, length = self._implicit, 0
        while open_ones:
            self._implicit = open_ones[-1]
            header = self._header()
            if header is None:
                raise ImageError("truncated", "the file ends within its header")
            tag, vr, length = header
            if tag in (_END_OF_ITEM, _END_OF_SEQUENCE):
                open_ones.pop()
            elif length == _UNDEFINED:
                if len(open_ones) >= 4 * _MAX_DEPTH:
                    raise ImageError("unreadable", "sequences lie in sequences without end")
                open_ones.append(open_ones[-1] or vr == b"UN")
            else:
                self._reader.skip(length)
        self._implicit = before

    def _header(self) -> tuple[int, bytes | None, int] | None:
        """Tag, VR (None where it is implied) and length of the next element; None at the end."""
        self._count()
        head = self._reader.read(8)
        if len(head) < 8:
            return None
        group, element = struct.unpack(f"{self._order}HH", head[:4])
        tag = group << 16 | element
        vr = head[4:6]
        # Items and delimiters have no VR, and some writers forget it.
        if self._implicit or group == 0xFFFE or not (vr.isalpha() and vr.isupper()):
            return tag, None, struct.unpack(f"{self._order}I", head[4:])[0]
        if vr not in _LONG_VRS:
            return tag, vr, struct.unpack(f"{self._order}H", head[6:])[0]
        more = self._reader.read(4)
        if len(more) < 4:
            return None
        return tag, vr, struct.unpack(f"{self._order}I", more)[0]

    def _item_header(self) -> tuple[int, int]:
        header = self._header()
        if header is None:
            raise ImageError("truncated", "the file ends within its header")
        return header[0], header[2]

    def _count(self) -> None:
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise ImageError("unreadable", "the header has more elements than any real one")


# Sequences that are asked for: in implicit syntax nothing else tells them.
SEQUENCES: Mapping[int, str] = {
    0x00283000: "modality LUT",
    0x00283010: "VOI LUT",
    0x52009229: "shared functional groups",
    PER_FRAME_GROUPS: "per-frame functional groups",
    0x00289145: "pixel value transformation",
    0x00289132: "frame VOI LUT",
}
