"""Damages image files at random and reads them in a capped child: only `ImageError` may come of it.

    python tests/fuzz/fuzz_decoders.py dicom --seconds 600 --seed 1

Mutations are bit flips, numbers overwritten with extreme ones, pieces cut, doubled or exchanged between
files, and ends cut off; compressed layers (deflate, gzip) are also opened, damaged and closed again. Findings
are other exceptions, crashes, timeouts and too much memory. Each is kept as a file, and makes the exit
status 1.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import os
import random
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import image_files

from xal_ray.config import Limits
from xal_ray.images import ImageError
from xal_ray.images.sandbox import Sandbox

ENTRIES = ("raster", "dicom", "nifti", "matlab", "mask")
LIMITS = Limits(
    max_pixels=1_000_000,
    max_voxels=4_000_000,
    max_frames=64,
    max_file_bytes=8 * 1024**2,
    max_memory_mb=256,
    decode_timeout_s=20,
)
# What a decoder of hostile files must never do; an allocation that is refused is the cap at work, but counts.
FINDINGS = ("decoder_crashed", "timeout", "out_of_memory")
_EXTREMES = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
)


def read(entry: str, path: Path) -> str:
    """What is done with a file, in the child; a word for the result."""
    from xal_ray.images import decode_image, decode_mask, matlab, nifti

    os.environ.pop("XAL_RAY_CAPPED", None)  # as in an actor, where some decoders have a process of their own
    if entry == "matlab":
        found = matlab.read_cheng(path, LIMITS)
        return f"read {found.image.dtype}"
    if entry == "mask":
        return f"read {decode_mask(path, LIMITS, frame=0).dtype}"
    if entry == "nifti":
        from xal_ray.config import Nifti

        volume = nifti.open_volume(path, LIMITS, Nifti(plane="coronal", scale="volume"))
        return f"read {volume.plane_in_8_bits(volume.slices // 2).dtype}"
    decoded = decode_image(path, LIMITS, at_least=16, grey=True, frame=0 if entry == "dicom" else None)
    return f"read {decoded.pixels.dtype}"


def seeds(entry: str) -> list[bytes]:
    """Small honest files, one of each variety."""
    made = {"raster": _rasters, "dicom": _dicoms, "nifti": _niftis, "matlab": _matlabs}
    if entry == "mask":
        return [*_rasters(), *_dicoms()[:4], *_niftis()[:2]]
    return made[entry]()


def _rasters() -> list[bytes]:
    grey = np.random.default_rng(0).integers(0, 255, (40, 36)).astype(np.uint8)
    colours = np.dstack([grey, grey[::-1], grey[:, ::-1]])
    files = [
        image_files.raster(colours, kind, **options)
        for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
        for options in ({},)
    ]
    files += [image_files.raster(grey, kind) for kind in ("PNG", "JPEG", "TIFF")]
    files += [image_files.raster(grey.astype(np.uint16) * 257, kind) for kind in ("PNG", "TIFF")]
    files += [
        image_files.raster(grey, "TIFF", compression=name)
        for name in ("tiff_lzw", "tiff_deflate", "packbits")
    ]
    files += [image_files.raster(colours, "TIFF", compression="jpeg")]
    files += [image_files.raster(colours, "JPEG", progressive=True)]
    files += [image_files.raster(colours, "WEBP", lossless=True)]
    return files


def _dicoms() -> list[bytes]:
    deep = np.random.default_rng(0).integers(0, 4096, (40, 36)).astype(np.uint16)
    grey, colours = (deep >> 4).astype(np.uint8), np.dstack([(deep >> 4).astype(np.uint8)] * 3)
    table = {0x00283002: (4096, 0, 8), 0x00283006: (np.arange(4096) // 16).astype("<u2").tobytes()}
    palette = (np.arange(256) * 257).astype("<u2").tobytes()
    colour_table = dict.fromkeys(("red", "green", "blue"), (256, 0, 16))
    colour_data = dict.fromkeys(("red_data", "green_data", "blue_data"), palette)
    syntaxes = (
        *(image_files.EXPLICIT, image_files.IMPLICIT, image_files.BIG, image_files.DEFLATED),
        *(image_files.J2K, image_files.JPEG_LS, image_files.JPEG_LOSSLESS, image_files.RLE),
    )
    window = {"center": (2048, 100), "width": (4096, 10), "intercept": -1024, "slope": "1.0", "age": "045Y"}
    files = [image_files.dicom(deep, syntax, stored=12, **window) for syntax in syntaxes]
    files += [image_files.dicom(grey, image_files.JPEG), image_files.dicom(colours, image_files.JPEG)]
    files += [image_files.dicom(colours, syntax) for syntax in (image_files.J2K, image_files.RLE)]
    files += [image_files.dicom(np.stack([grey] * 3), image_files.JPEG_LS, frames=3)]
    files += [image_files.dicom(np.stack([deep] * 3), image_files.J2K_LOSSY, frames=3, stored=12)]
    files += [image_files.dicom(deep, modality_lut=[table], voi_lut=[table], stored=12)]
    files += [image_files.dicom(grey, photometric="PALETTE COLOR", **colour_table, **colour_data)]
    groups = [{0x00289132: [{"center": 10, "width": 20}], 0x00289145: [{"slope": 2, "intercept": 1}]}]
    files += [image_files.dicom(np.stack([deep] * 2), frames=2, shared=groups, per_frame=groups * 2)]
    return files


def _niftis() -> list[bytes]:
    voxels = np.random.default_rng(0).integers(0, 900, (9, 8, 7)).astype(np.int16)
    return [
        image_files.nifti(voxels),
        image_files.nifti(voxels, packed=True),
        image_files.nifti(voxels.astype(np.float32), np.diag([-1.0, 2, 3, 1]), slope=2.0, intercept=-3.0),
        image_files.nifti(voxels.astype(np.uint8), packed=True),
        image_files.nifti(voxels[:, :, 0].astype(np.float64)),
    ]


def _matlabs() -> list[bytes]:
    image = np.random.default_rng(0).integers(0, 900, (16, 12)).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1.mat"
        image_files.cheng(path, image, image > 500)
        return [path.read_bytes()]


def mutate(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Damage a file in one to four ways."""
    opened = _opened(data) if chance.random() < 0.5 else None
    damaged = bytearray(opened[1] if opened else data)
    for _ in range(chance.randint(1, 4)):
        _damage(damaged, others, chance)
    return opened[0] + _closed(opened[0], bytes(damaged)) if opened else bytes(damaged)


def _damage(data: bytearray, others: list[bytes], chance: random.Random) -> None:
    if not data:
        return
    # Headers stand first, and decide most.
    place = chance.randrange(len(data) if chance.random() < 0.5 else min(len(data), 800))
    way = chance.randrange(7)
    if way == 0:
        data[place] ^= 1 << chance.randrange(8)
    elif way == 1:
        data[place] = chance.randrange(256)
    elif way in (2, 3):
        size = chance.choice((1, 2, 4))
        number = chance.choice(_EXTREMES) & (1 << 8 * size) - 1
        data[place : place + size] = number.to_bytes(size, chance.choice(("little", "big")))
    elif way == 4:
        del data[place : place + chance.randint(1, 64)]
    elif way == 5:
        piece = data[place : place + chance.randint(1, 128)]
        data[place:place] = piece * chance.randint(1, 8)
    else:
        other = chance.choice(others)
        start = chance.randrange(len(other))
        if chance.random() < 0.3:
            del data[place:]
        else:
            data[place : place + 64] = other[start : start + chance.randint(1, 256)]


def _opened(data: bytes) -> tuple[bytes, bytes] | None:
    """What lies before a compressed layer, and what is in it."""
    if data[:2] == b"\x1f\x8b":
        return b"", gzip.decompress(data)
    head = image_files.head_of(image_files.DEFLATED)
    if data.startswith(head):
        return head, zlib.decompressobj(-15).decompress(data[len(head) :])
    return None


def _closed(head: bytes, content: bytes) -> bytes:
    if not head:
        return gzip.compress(content, 1)
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def fuzz(
    entry: str, folder: Path, *, seed: int, seconds: float = float("inf"), inputs: int = sys.maxsize
) -> dict[str, object]:
    """Read damaged files until the time is up or so many have been read.

    Returns:
        Numbers of inputs by result, and the findings' files.
    """
    chance, honest = random.Random(seed), seeds(entry)
    counts: collections.Counter[str] = collections.Counter()
    findings: list[str] = []
    path, end, peak_mb = folder / f"{entry}-{seed}.dcm", time.monotonic() + seconds, 0.0
    with Sandbox(LIMITS) as sandbox:
        for data in honest:
            path.write_bytes(data)
            counts["honest files read"] += sandbox.call(f"{__name__}:read", entry, path).startswith("read")
        begin_mb = sandbox.memory_peak_mb()
        number = 0
        while number < inputs and time.monotonic() < end:
            data = mutate(chance.choice(honest), honest, chance)
            path.write_bytes(data)
            result = _result(sandbox, entry, path)
            peak_mb = max(peak_mb, sandbox.memory_peak_mb() - begin_mb)
            counts[result] += 1
            number += 1
            if result.split(":")[0] in FINDINGS or result.startswith("not an ImageError"):
                kept = folder / f"finding-{entry}-{seed}-{number}.bin"
                kept.write_bytes(data)
                findings.append(kept.name)
    path.unlink()
    return {"entry": entry, "inputs": number, "peak_mb": round(peak_mb, 1), "findings": findings, **counts}


def _result(sandbox: Sandbox, entry: str, path: Path) -> str:
    try:
        return str(sandbox.call(f"{__name__}:read_or_say", entry, path))
    except ImageError as error:
        return error.code


def read_or_say(entry: str, path: Path) -> str:
    """As `read`; an exception that is no `ImageError` is told, since the child would make one of it."""
    try:
        return read(entry, path)
    except (ImageError, MemoryError):
        raise
    except BaseException as error:
        return f"not an ImageError: {type(error).__name__}"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("entry", choices=ENTRIES)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("fuzz-findings"), help="where findings are kept")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    result = fuzz(args.entry, args.folder, seed=args.seed, seconds=args.seconds)
    result["seconds"] = round(time.monotonic() - begin)
    print(json.dumps(result))
    return 1 if result["findings"] else 0


if __name__ == "__main__":
    # The child imports what it runs by name: this file must be a module there.
    import fuzz_decoders

    sys.exit(fuzz_decoders.main())
