"""Files that promise or inflate to far more than they are: what refuses each, and what it costs until then.

Each file is written by code and read in a process of its own, once as by default and once in strict mode (a
child process whose memory is capped). Memory is the peak of resident memory above that before the file.
"""

from __future__ import annotations

import gzip
import importlib
import json
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

EXPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
JPEG, J2K, JPEG_LS, RLE = (f"1.2.840.10008.1.2.{last}" for last in ("4.50", "4.90", "4.80", "5"))
PIECE = bytes(1 << 20)


def element(tag: int, vr: bytes, value: bytes, *, length: int | None = None) -> bytes:
    """A DICOM element, explicit and little endian; its length may lie."""
    size = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in (b"OB", b"OW", b"UN"):
        return head + b"\0\0" + struct.pack("<I", size) + value
    return head + struct.pack("<H", size) + value


def header(rows: int, columns: int, *, frames: int = 1, bits: int = 8, samples: int = 1) -> bytes:
    """The elements that describe grey pixels, or colours."""
    number = str(frames).encode() + b" " * (len(str(frames)) % 2)
    values = [
        element(0x00280002, b"US", struct.pack("<H", samples)),
        element(0x00280004, b"CS", b"MONOCHROME2 " if samples == 1 else b"RGB "),
        element(0x00280008, b"IS", number),
        element(0x00280010, b"US", struct.pack("<H", rows)),
        element(0x00280011, b"US", struct.pack("<H", columns)),
        element(0x00280100, b"US", struct.pack("<H", bits)),
        element(0x00280101, b"US", struct.pack("<H", bits)),
        element(0x00280102, b"US", struct.pack("<H", bits - 1)),
        element(0x00280103, b"US", struct.pack("<H", 0)),
    ]
    return b"".join(values)


def preamble(syntax: str) -> bytes:
    """What stands before a DICOM data set."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    named = element(0x00020010, b"UI", uid)
    return bytes(128) + b"DICM" + element(0x00020000, b"UL", struct.pack("<I", len(named))) + named


def fragments(*frames: bytes) -> bytes:
    """Compressed pixels."""
    items = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame for frame in (b"", *frames))
    return element(0x7FE00010, b"OB", b"", length=0xFFFFFFFF) + items + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def deflated(before: bytes, num_bytes: int, after: bytes) -> bytes:
    """Deflated bytes with so many zeros between."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    parts = [packer.compress(before)]
    parts += [packer.compress(PIECE) for _ in range(num_bytes >> 20)]
    return b"".join([*parts, packer.compress(after), packer.flush()])


def deflated_header(path: Path, scale: int) -> None:
    """A private element of 2 GB of zeros before a small image."""
    size = (2048 // scale) << 20
    before = element(0x00090010, b"UN", b"", length=size)
    after = header(64, 64) + element(0x7FE00010, b"OW", bytes(64 * 64))
    path.write_bytes(preamble(DEFLATED) + deflated(before, size, after))


def deflated_pixels(path: Path, scale: int) -> None:
    """Pixels within the limits, followed by 2 GB of zeros that the file calls pixels too."""
    size = (2048 // scale) << 20
    before = header(64, 64) + element(0x7FE00010, b"OW", b"", length=size)
    path.write_bytes(preamble(DEFLATED) + deflated(before, size, b""))


def j2k_codestream(side: int, *, precinct: int = 15, components: int = 1) -> bytes:
    """A JPEG 2000 codestream of an image with nothing in it: a header and one empty tile."""
    size = struct.pack(">HIIIIIIIIH", 0, side, side, 0, 0, side, side, 0, 0, components)
    size += b"\x07\1\1" * components
    coding = bytes([0 if precinct == 15 else 1, 0, 0, 1, 0, 5, 4, 4, 0, 1])
    coding += b"" if precinct == 15 else bytes([precinct << 4 | precinct]) * 6
    steps = bytes([0x40]) + bytes([0x48] * 16)
    tile = b"\xff\x90" + struct.pack(">HHIBB", 10, 0, 14 + 6, 0, 1) + b"\xff\x93" + bytes(6)
    segments = ((0xFF51, size), (0xFF52, coding), (0xFF5C, steps))
    packed = b"".join(struct.pack(">HH", marker, len(data) + 2) + data for marker, data in segments)
    return b"\xff\x4f" + packed + tile + b"\xff\xd9"


def j2k_lying(path: Path, scale: int) -> None:
    """The header says 64 x 64; the codestream 20,000 x 20,000."""
    path.write_bytes(preamble(J2K) + header(64, 64) + fragments(j2k_codestream(20_000)))


def j2k_honest(path: Path, scale: int) -> None:
    """Header and codestream both say 20,000 x 20,000."""
    path.write_bytes(preamble(J2K) + header(20_000, 20_000) + fragments(j2k_codestream(20_000)))


def j2k_large(path: Path, scale: int) -> None:
    """62 megapixels of colour, honestly: below `max_pixels`, and a gigabyte to a decoder."""
    side = 7_900
    stream = j2k_codestream(side, components=3)
    path.write_bytes(
        preamble(J2K) + header(side, side, samples=3) + fragments(stream + bytes(len(stream) % 2))
    )


def j2k_precincts(path: Path, scale: int) -> None:
    """An image within the limits, in precincts of one pixel: a decoder's books would take gigabytes."""
    path.write_bytes(preamble(J2K) + header(8_000, 8_000) + fragments(j2k_codestream(8_000, precinct=0)))


def jpeg_lying(path: Path, scale: int) -> None:
    """The header says 64 x 64; the JPEG's frame 60,000 x 60,000."""
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, 60_000, 60_000, 1) + b"\1\x11\0"
    path.write_bytes(preamble(JPEG) + header(64, 64) + fragments(b"\xff\xd8" + frame + b"\xff\xd9\0"))


def jpeg_ls_lying(path: Path, scale: int) -> None:
    """The header says 64 x 64; the JPEG-LS frame 60,000 x 60,000."""
    frame = b"\xff\xf7" + struct.pack(">HBHHB", 11, 8, 60_000, 60_000, 1) + b"\1\x11\0"
    path.write_bytes(preamble(JPEG_LS) + header(64, 64) + fragments(b"\xff\xd8" + frame + b"\xff\xd9\0"))


def rle_bomb(path: Path, scale: int) -> None:
    """Runs of 128 pixels out of two bytes each, a gigabyte of them, for an image of 64 x 64."""
    runs = b"\x81\0" * (8_000_000 // scale)
    path.write_bytes(preamble(RLE) + header(64, 64) + fragments(struct.pack("<16I", 1, 64, *[0] * 14) + runs))


def rle_short_bomb(path: Path, scale: int) -> None:
    """The same, as few bytes as an image of 4,000 x 4,000 could have."""
    runs = b"\x81\0" * (16_000_000 // scale)
    side = 4_000
    path.write_bytes(
        preamble(RLE) + header(side, side) + fragments(struct.pack("<16I", 1, 64, *[0] * 14) + runs)
    )


def many_frames(path: Path, scale: int) -> None:
    """The header says a million frames."""
    path.write_bytes(
        preamble(EXPLICIT) + header(64, 64, frames=1_000_000) + element(0x7FE00010, b"OW", bytes(4096))
    )


def many_elements(path: Path, scale: int) -> None:
    """A sequence that never ends, of millions of empty elements: gigabytes as Python objects."""
    nested = element(0x00090010, b"UN", b"", length=0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    empty = struct.pack("<HHI", 0x0009, 0x0011, 0) * (8_000_000 // scale)
    path.write_bytes(preamble(EXPLICIT) + nested + empty)


def png_of(path: Path, width: int, height: int, bits: int, scale: int) -> None:
    """A PNG of zeros, its rows deflated."""
    packer = zlib.compressobj(9)
    num_bytes = height * (1 + width * bits // 8) // scale
    parts = [packer.compress(PIECE) for _ in range(num_bytes >> 20)]
    rows = b"".join([*parts, packer.compress(bytes(num_bytes % (1 << 20))), packer.flush()])
    chunks = b""
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)),
        (b"IDAT", rows),
        (b"IEND", b""),
    ):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def png_huge(path: Path, scale: int) -> None:
    """40,000 x 40,000 pixels."""
    png_of(path, 40_000, 40_000, 8, scale)


def png_deep(path: Path, scale: int) -> None:
    """20,000 x 20,000 pixels of 16 bits."""
    png_of(path, 20_000, 20_000, 16, scale)


def png_text(path: Path, scale: int) -> None:
    """A small PNG with a compressed text of a gigabyte."""
    text = zlib.compressobj(9)
    data = b"Comment\0\0" + b"".join([text.compress(PIECE) for _ in range(1024 // scale)] + [text.flush()])
    chunks = b""
    rows = zlib.compress(bytes(64 * 65))
    for kind, content in (
        (b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0)),
        (b"zTXt", data),
        (b"IDAT", rows),
        (b"IEND", b""),
    ):
        chunks += struct.pack(">I", len(content)) + kind + content
        chunks += struct.pack(">I", zlib.crc32(kind + content))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def tiff_huge(path: Path, scale: int) -> None:
    """A TIFF whose header says 100,000 x 100,000, in one deflated strip."""
    data = zlib.compress(bytes(1 << 20), 9)
    entries = (
        *((256, 4, 1, 100_000), (257, 4, 1, 100_000), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1)),
        *((273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, 100_000), (279, 4, 1, len(data))),
    )
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *one) for one in entries)
    path.write_bytes((b"II*\0" + struct.pack("<I", 8) + directory + bytes(4)).ljust(200, b"\0") + data)


def nifti_header(shape: tuple[int, int, int]) -> bytes:
    """A NIfTI header of 16-bit voxels that lie as the body does."""
    data = bytearray(352)
    struct.pack_into("<i", data, 0, 348)
    struct.pack_into("<8h", data, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<hh", data, 70, 4, 16)
    struct.pack_into("<8f", data, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<f", data, 108, 352)
    struct.pack_into("<h", data, 254, 1)
    struct.pack_into("<12f", data, 280, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    data[344:348] = b"n+1\0"
    return bytes(data)


def nifti_promise(path: Path, scale: int) -> None:
    """A compressed NIfTI whose header says 30,000 x 30,000 x 30,000."""
    path.write_bytes(gzip.compress(nifti_header((30_000, 30_000, 30_000)) + bytes(1 << 20)))


def nifti_tail(path: Path, scale: int) -> None:
    """A compressed NIfTI of 64 x 64 x 64 with 4 GB behind its voxels."""
    with gzip.open(path, "wb", compresslevel=9) as stream:
        stream.write(nifti_header((64, 64, 64)) + bytes(2 * 64**3))
        for _ in range(4096 // scale):
            stream.write(PIECE)


def matlab_with(path: Path, write_image: Callable[[Any], None]) -> None:
    """A file of the Cheng set whose image is something else."""
    import h5py
    import numpy as np

    with h5py.File(path, "w", userblock_size=512) as file:
        group = file.create_group("cjdata")
        group["label"] = np.array([[1.0]])
        group["PID"] = np.array([[65]], dtype=np.uint16)
        group.create_dataset("tumorMask", shape=(512, 512), dtype="u1")
        write_image(group)


def hdf5_huge(path: Path, scale: int) -> None:
    """A data set of 100,000 x 100,000 zeros, in chunks of which none is written."""
    matlab_with(
        path,
        lambda group: group.create_dataset(
            "image", shape=(100_000, 100_000), dtype="i2", chunks=(1000, 1000), compression="gzip"
        ),
    )


def hdf5_chunk(path: Path, scale: int) -> None:
    """A data set of 512 x 512 whose one chunk inflates to a gigabyte."""

    def write(group: Any) -> None:
        image = group.create_dataset(
            "image", shape=(512, 512), dtype="i2", chunks=(512, 512), compression="gzip"
        )
        packer = zlib.compressobj(9)
        parts = [packer.compress(PIECE) for _ in range(1024 // scale)]
        image.id.write_direct_chunk((0, 0), b"".join([*parts, packer.flush()]))

    matlab_with(path, write)


BOMBS: list[tuple[str, str, Callable[[Path, int], None]]] = [
    ("DICOM, deflated, 2 GB in its header", "deflated-header.dcm", deflated_header),
    ("DICOM, deflated, 2 GB of pixels for 64 x 64", "deflated-pixels.dcm", deflated_pixels),
    ("DICOM, JPEG 2000, 64 x 64 that is 20,000 x 20,000", "j2k-lying.dcm", j2k_lying),
    ("DICOM, JPEG 2000, honest 400 megapixels", "j2k-honest.dcm", j2k_honest),
    ("DICOM, JPEG 2000, 62 megapixels, allowed", "j2k-large.dcm", j2k_large),
    ("DICOM, JPEG 2000, precincts of a pixel", "j2k-precincts.dcm", j2k_precincts),
    ("DICOM, JPEG, 64 x 64 that is 60,000 x 60,000", "jpeg-lying.dcm", jpeg_lying),
    ("DICOM, JPEG-LS, 64 x 64 that is 60,000 x 60,000", "jpeg-ls-lying.dcm", jpeg_ls_lying),
    ("DICOM, RLE, 1 GB for 64 x 64", "rle.dcm", rle_bomb),
    ("DICOM, RLE, 2 GB for 4,000 x 4,000", "rle-16mp.dcm", rle_short_bomb),
    ("DICOM, a million frames", "frames.dcm", many_frames),
    ("DICOM, 8 million elements in a sequence", "elements.dcm", many_elements),
    ("PNG, 40,000 x 40,000", "huge.png", png_huge),
    ("PNG, 16 bits, 20,000 x 20,000", "deep.png", png_deep),
    ("PNG, 64 x 64 with 1 GB of text", "text.png", png_text),
    ("TIFF, 100,000 x 100,000", "huge.tif", tiff_huge),
    ("NIfTI .gz, 30,000 x 30,000 x 30,000", "promise.nii.gz", nifti_promise),
    ("NIfTI .gz, 64 x 64 x 64 and 4 GB behind", "tail.nii.gz", nifti_tail),
    ("MATLAB, 100,000 x 100,000", "huge.mat", hdf5_huge),
    ("MATLAB, a chunk of 1 GB for 512 x 512", "chunk.mat", hdf5_chunk),
]


HONEST: dict[str, Callable[[Path], None]] = {
    ".dcm": lambda path: plain_dicom(path),
    ".png": lambda path: png_of(path, 64, 64, 8, 1),
    ".tif": lambda path: png_of(path, 64, 64, 8, 1),
    ".gz": lambda path: nifti_tail(path, 1 << 20),
    ".mat": lambda path: matlab_with(
        path, lambda group: group.create_dataset("image", shape=(512, 512), dtype="i2")
    ),
}
SMOKE = ("deflated-header.dcm", "j2k-lying.dcm", "huge.png", "tail.nii.gz", "chunk.mat")


def plain_dicom(path: Path) -> None:
    """64 x 64 plain pixels."""
    path.write_bytes(preamble(EXPLICIT) + header(64, 64) + element(0x7FE00010, b"OW", bytes(4096)))


def function_of(path: Path) -> str:
    """What reads a file."""
    if path.suffix == ".mat":
        return "xal_ray.images.matlab:read_cheng"
    return "bombs:read_slice" if path.suffix == ".gz" else "xal_ray.images:decode_image"


def read_slice(path: Path, limits: Any) -> Any:
    """The first slice of a volume, as a pool would have it."""
    from xal_ray.images import decode_image

    return decode_image(path, limits, frame=0)


def read(call: Callable[..., Any]) -> str:
    """What reading comes to."""
    from xal_ray.images import ImageError

    try:
        call()
    except ImageError as error:
        return str(error)
    return "read, as far as its header goes"


def measure(path: Path, honest: Path, *, strict: bool) -> dict[str, Any]:
    """Read a file in this process, or in strict mode's, after an honest one of its kind."""
    from xal_ray.config import Limits
    from xal_ray.images.sandbox import Sandbox

    limits = Limits(strict=strict, max_memory_mb=512)
    said: list[str] = []
    if strict:
        with Sandbox(limits) as sandbox:
            sandbox.call(function_of(path), honest, limits)
            before, begin = sandbox.memory_peak_mb(), time.monotonic()
            said.append(read(lambda: sandbox.call(function_of(path), path, limits)))
            after = sandbox.memory_peak_mb()  # 0: the child hit its cap, and is gone
            peak_mb = max(0.0, after - before) if after else float(limits.max_memory_mb)
    else:
        module, _, name = function_of(path).partition(":")
        function = getattr(importlib.import_module(module), name)
        function(honest, limits)
        begin = time.monotonic()
        peak_mb = common.peak_above_now_mb(lambda: said.append(read(lambda: function(path, limits))))
    return {"said": said[0], "peak_mb": round(peak_mb, 1), "seconds": round(time.monotonic() - begin, 2)}


def row_of(title: str, path: Path, honest: Path) -> dict[str, Any]:
    """A row of the table: each mode in a process of its own."""
    modes = {}
    for mode in ("normal", "strict"):
        command = [sys.executable, __file__, "--read", str(path), str(honest), mode]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        modes[mode] = json.loads(done.stdout)
    code, text = split(modes["normal"]["said"])
    return {
        "file": title,
        "kB on disk": round(path.stat().st_size / 1000, 1),
        "limit hit": code,
        "peak MB": modes["normal"]["peak_mb"],
        "peak MB, strict": modes["strict"]["peak_mb"],
        "limit hit, strict": split(modes["strict"]["said"])[0],
        "s": modes["normal"]["seconds"],
        "error": text,
    }


def split(said: str) -> tuple[str, str]:
    """The code of an error and its text; none and what was said instead of an error."""
    code, colon, text = said.partition(": ")
    return (code, text) if colon else ("none", said)


def main() -> None:
    """The command line."""
    if sys.argv[1:2] == ["--read"]:
        sys.path.insert(0, str(Path(__file__).parent))
        print(json.dumps(measure(Path(sys.argv[2]), Path(sys.argv[3]), strict=sys.argv[4] == "strict")))
        return
    args = common.arguments("bombs", __doc__ or "").parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for title, name, write in BOMBS:
            if args.smoke and name not in SMOKE:
                continue
            path = Path(folder) / name
            honest = path.with_name(f"honest{path.suffix}")
            HONEST[path.suffix](honest)
            write(path, 64 if args.smoke else 1)
            rows.append(row_of(title, path, honest))
            path.unlink()
    notes = [
        "Limits are the defaults of `pool.limits`; strict mode's `max_memory_mb` is 512 here.",
        "Peak: resident memory above that after an honest file of the same kind; "
        "strict: of the child, or its cap.",
    ]
    common.publish(args, "Files that promise or inflate to more than they are", rows, notes)


if __name__ == "__main__":
    main()
