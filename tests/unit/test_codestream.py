"""Codestreams: what they state, and what would cost a decoder too much."""

import struct

import image_files as make
import numpy as np
import pytest

from xal_ray.images import ImageError
from xal_ray.images.dicom.codestream import read_j2k, read_jpeg, read_rle, unpack_runs

DEEP = np.random.default_rng(5).integers(0, 4096, (40, 36)).astype(np.uint16)
COLOURS = np.dstack([(DEEP >> 4).astype(np.uint8)] * 3)


def _j2k(
    side: int = 64, *, tile: int = 0, samples: bytes = b"\x07\1\1", coding: bytes = b"", parts: bytes = b""
):
    count = len(samples) // 3
    size = struct.pack(">HIIIIIIIIH", 0, side, side, 0, 0, tile or side, tile or side, 0, 0, count) + samples
    coding = coding or bytes([0, 0, 0, 1, 0, 5, 4, 4, 0, 1])
    packed = b"".join(
        struct.pack(">HH", marker, len(data) + 2) + data
        for marker, data in ((0xFF51, size), (0xFF52, coding))
    )
    return b"\xff\x4f" + packed + parts + b"\xff\xd9"


def _code(read, data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        read(data)
    return caught.value.code


def test_real_codestreams_state_their_size():
    stated, stream = read_j2k(make.compress(DEEP, make.J2K, 12))
    assert (stated.height, stated.width, stated.components, stated.bits) == (40, 36, 1, 12)
    assert stream.startswith(b"\xff\x4f")
    stated, _ = read_j2k(make.compress(COLOURS, make.J2K, 8))
    assert (stated.components, stated.bits) == (3, 8)
    for syntax, pixels, process in ((make.JPEG, COLOURS, 0), (make.JPEG_LS, DEEP, 55)):
        stated = read_jpeg(make.compress(pixels, syntax, 8 * pixels.dtype.itemsize))
        assert (stated.height, stated.width, stated.process) == (40, 36, process)
        assert stated.components == (3 if pixels.ndim == 3 else 1)


def test_a_jp2_file_gives_its_own_codestream_and_no_decoy():
    inner = _j2k(64)
    decoy = struct.pack(">I4s", 8 + len(_j2k(8)), b"free") + _j2k(8)
    signature = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
    for length in (8 + len(inner), 0):
        file = signature + decoy + struct.pack(">I4s", length, b"jp2c") + inner
        stated, stream = read_j2k(file)
        assert (stated.height, stream) == (64, inner)
    wide = signature + struct.pack(">I4sQ", 1, b"jp2c", 16 + len(inner)) + inner
    assert read_j2k(wide)[1] == inner
    assert _code(read_j2k, signature + decoy) == "unreadable"


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (_j2k(8000, tile=8), "header_mismatch"),  # a million tiles
        (
            _j2k(8000, coding=bytes([1, 0, 0, 1, 0, 5, 4, 4, 0, 1]) + b"\0" * 6),
            "header_mismatch",
        ),  # of a pixel
        (
            _j2k(8000, coding=bytes([1, 0, 0xFF, 0xFF, 0, 5, 4, 4, 0, 1]) + b"\x88" * 6),
            "header_mismatch",
        ),  # layers
        (_j2k(64, coding=bytes([0, 0, 0, 1, 0, 40, 4, 4, 0, 1])), "unreadable"),
        (_j2k(64, coding=bytes([1, 0, 0, 1, 0, 5, 4, 4, 0, 1]) + b"\x88"), "unreadable"),
        (_j2k(64, samples=b"\x07\1\1\x07\2\2\x07\2\2"), "unsupported_format"),  # colours of half the size
        (_j2k(64, samples=b"\x07\1\1\x0b\1\1"), "unsupported_format"),
        (_j2k(64, samples=b"\x07\1\1" * 5), "unreadable"),
        (_j2k(0), "unreadable"),
        (b"\xff\x4f\xff\x51", "unreadable"),
        (b"no codestream at all", "unreadable"),
    ],
)
def test_codestreams_that_are_refused(stream, code):
    def read(data: bytes) -> None:
        try:
            read_j2k(data)
        except (struct.error, IndexError):  # `decoding` makes this of them
            raise ImageError("unreadable", "") from None

    assert _code(read, stream) == code


def test_the_coding_of_a_tile_part_is_bounded_too():
    bad = bytes([1, 0, 0, 1, 0, 5, 4, 4, 0, 1]) + b"\0" * 6
    part = struct.pack(">HH", 0xFF52, len(bad) + 2) + bad + b"\xff\x93"
    tile = struct.pack(">HHHIBB", 0xFF90, 10, 0, 12 + len(part), 0, 2)
    empty = struct.pack(">HHHIBB", 0xFF90, 10, 0, 14, 0, 2) + b"\xff\x93"
    assert _code(read_j2k, _j2k(8000, parts=tile + part)) == "header_mismatch"
    assert _code(read_j2k, _j2k(8000, parts=empty + tile + part)) == "header_mismatch"
    assert read_j2k(_j2k(8000, parts=empty + empty))[0].height == 8000


def test_jpeg_markers_settle_its_colours():
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 9, 7, 3)
    plain, named = (frame + ids for ids in (b"\1\x11\0\2\x11\0\3\x11\0", b"R\x11\0G\x11\0B\x11\0"))
    jfif = b"\xff\xe0\x00\x07JFIF\0"
    adobe = [b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0" + bytes([way]) for way in (0, 1)]
    for before, last, colours in (
        (b"", plain, None),
        (b"", named, "rgb"),
        (jfif, plain, "ybr"),
        (adobe[0], plain, "rgb"),
        (adobe[1], plain, "ybr"),
        (b"\xff\xff\xff" + jfif[1:], plain, "ybr"),  # filling before a marker
    ):
        stated = read_jpeg(b"\xff\xd8" + before + last)
        assert (stated.height, stated.width, stated.bits, stated.colours) == (9, 7, 8, colours)
    # A thumbnail within a segment is no frame.
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(frame) + 2) + b"\xff\xd8" + frame
    assert (
        read_jpeg(b"\xff\xd8" + thumbnail + plain.replace(b"\x00\x09\x00\x07", b"\x00\x0b\x00\x0d")).height
        == 11
    )
    for bad in (b"", b"\xff\xd8", b"\xff\xd8" + frame[:6], b"\xff\xd8\xff\xda\0\4\0\0" + plain):
        assert _code(read_jpeg, bad) == "unreadable"
    oversize = b"\xff\xd8\xff\xf8\0\5\4\2\0" + plain
    assert _code(read_jpeg, oversize) == "unsupported_format"


def test_runs_are_unpacked_as_far_as_they_may():
    packed = b"\x02abc" + b"\xfex" + b"\x80" + b"\x00y"
    assert unpack_runs(packed, 7) == b"abcxxxy"
    assert unpack_runs(packed + b"\0", 7) == b"abcxxxy"
    assert _code(lambda data: unpack_runs(data, 8), packed) == "truncated"
    assert _code(lambda data: unpack_runs(data, 64), b"\x81a" * 50_000_000) == "header_mismatch"


def test_rle_frames_give_their_planes():
    frame = make.run_lengths(DEEP)
    high, low = read_rle(frame, 2, DEEP.size)
    joined = np.frombuffer(high, np.uint8).astype(int) * 256 + np.frombuffer(low, np.uint8)
    np.testing.assert_array_equal(joined, DEEP.ravel())
    assert _code(lambda data: read_rle(data, 1, DEEP.size), frame) == "header_mismatch"
    assert _code(lambda data: read_rle(data, 2, DEEP.size), frame[:60]) == "truncated"
    crossed = struct.pack("<16I", 2, 64, 64, *[0] * 13) + frame[64:]
    assert _code(lambda data: read_rle(data, 2, DEEP.size), crossed) == "unreadable"
    far = struct.pack("<16I", 2, 64, 1 << 31, *[0] * 13) + frame[64:]
    assert _code(lambda data: read_rle(data, 2, DEEP.size), far) == "unreadable"
