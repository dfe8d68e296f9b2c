"""The compressed bytes of one frame of a DICOM file, out of the fragments that it lies in."""

from __future__ import annotations

import struct

from xal_ray.config import Limits
from xal_ray.images.dicom.elements import FileReader
from xal_ray.images.dicom.shape import FrameShape
from xal_ray.images.errors import ImageError

_ITEM, _END_OF_SEQUENCE = 0xFFFEE000, 0xFFFEE0DD
_FRAGMENTS_A_FRAME = 4
_SLACK_BYTES = 1 << 20  # of a compressed frame beside twice its pixels: profiles, comments
_LONGEST_MARK = 10
_END_OF_IMAGE = b"\xff\xd9"


def bytes_of_frame(
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
