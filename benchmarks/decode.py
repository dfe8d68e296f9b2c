"""Decoding by format: images/s of one core from file to 224 px grey, and what a scaled JPEG decode changes.

Each image size is a group of its own: its functions run in turn, and every ratio is between neighbours of the
same turn. The inputs are made here: smooth structure, sharp edges and noise, as in a scan, never flat.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import REAL_MANIFEST, arguments, interleaved_cpu_s, median_ratio, publish, status_mb
from PIL import Image

from xal_ray.config import Limits
from xal_ray.images import decode_image, to_training_size
from xal_ray.storage import read_table, write_table

SIZE = 224
# The slices have 256 px: to 112 px they shrink as 512 px do to 224. At 128 px a scaled decode leaves nothing
# to be resized, and so differs most.
REAL_SIZES = (112, 128)
REAL_STEP = 60  # every so many slices
NUM_PACKED = 512
NUM_IMAGES = {512: 8, 1024: 4, 2048: 2}
NUM_PASSES = 4  # over the files in a turn, so that a turn is long enough to be timed
LIMITS = Limits()

NOTES = (
    "images/s: of one core (1 / CPU seconds an image), median over turns; files are in the page cache",
    "ratio: images/s over those of the row's baseline, median over turns; a baseline has the row's size",
    "peak MB: resident memory that decoding one file adds in a fresh process, libraries loaded",
    "mean, max, PSNR: pixels at training size against the full decode, in grey levels of 255 and dB",
    "box filter: the full decode, resized with another filter than ours; it says what a difference weighs",
)


@dataclass(frozen=True)
class Row:
    """One line of the table: files, and how one of them becomes (to, to) grey."""

    format: str
    decoder: str
    to: int
    files: Sequence[Path]
    decode: Callable[[Path, int], np.ndarray]
    baseline: str
    small: Path  # a file of the same format, to load its libraries
    num_passes: int = NUM_PASSES

    @property
    def name(self) -> str:
        return f"{self.format}, {self.decoder}"


def full(path: Path, size: int) -> np.ndarray:
    return to_training_size(decode_image(path, LIMITS).pixels, size, 1)


def scaled(path: Path, size: int, factor: int = 1) -> np.ndarray:
    decoded = decode_image(path, LIMITS, at_least=factor * size, grey=True)
    return to_training_size(decoded.pixels, size, 1, decoded.box)


def scaled_to_twice(path: Path, size: int) -> np.ndarray:
    return scaled(path, size, 2)


def box_filter(path: Path, size: int) -> np.ndarray:
    picture = Image.fromarray(decode_image(path, LIMITS).pixels).convert("L")
    return np.array(picture.resize((size, size), Image.Resampling.BOX))[:, :, None]


DECODERS = {function.__name__: function for function in (full, scaled, scaled_to_twice, box_filter)}


def read_packed(path: Path) -> np.ndarray:
    """Packed pixels as an array of (n, size, size), without a loop over images."""
    pixels = read_table(path, ["pixels"])["pixels"].combine_chunks()
    return np.frombuffer(pixels.buffers()[2], dtype=np.uint8).reshape(-1, SIZE, SIZE).copy()


def scan(size: int, channels: int, seed: int) -> np.ndarray:
    """A scan-like picture: (size, size) or (size, size, 3) in [0, 1], float32."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    body = 2.0 * ((x - 0.5) ** 2 + (y - 0.45) ** 2 < 0.12) + 1.5 * ((x - 0.6) ** 2 + (y - 0.55) ** 2 < 0.004)
    for octave in range(1, 9):
        body = body + 0.9**octave / octave**1.2 * _smooth(generator, 2**octave, size)
    body = 0.06 + 0.84 * (body - body.min()) / (body.max() - body.min())
    planes = []
    for _ in range(channels):
        tint = 0.08 * _smooth(generator, 6, size) if channels == 3 else 0.0
        noise = generator.normal(scale=4 / 255, size=(size, size)).astype(np.float32)
        planes.append(np.clip(body + tint + noise, 0.0, 1.0))
    return np.stack(planes, axis=-1) if channels == 3 else planes[0]


def _smooth(generator: np.random.Generator, cells: int, size: int) -> np.ndarray:
    coarse = generator.normal(size=(cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def write_files(folder: Path, size: int, count: int) -> dict[str, list[Path]]:
    """Write the same pictures in every format: paths by format."""
    files: dict[str, list[Path]] = {}
    folder.mkdir()
    for number in range(count):

        def place(kind: str, suffix: str, number: int = number) -> Path:
            files.setdefault(kind, []).append(folder / f"{kind}-{number}{suffix}")
            return files[kind][-1]

        grey, colour = scan(size, 1, number), scan(size, 3, number)
        deep = np.rint(grey * 65535).astype(np.uint16)
        byte = Image.fromarray(np.rint(grey * 255).astype(np.uint8))
        byte.save(place("JPEG grey", ".jpg"), quality=92)
        Image.fromarray(np.rint(colour * 255).astype(np.uint8)).save(place("JPEG colour", ".jpg"), quality=92)
        byte.save(place("PNG 8-bit", ".png"))
        Image.fromarray(deep).save(place("PNG 16-bit", ".png"))
        Image.fromarray(deep).save(place("TIFF 16-bit", ".tif"))
        if has_dicom():
            write_dicom(place("DICOM uncompressed", ".dcm"), deep, compress=False)
            write_dicom(place("DICOM JPEG 2000 lossless", ".dcm"), deep, compress=True)
    return files


def has_dicom() -> bool:
    """Whether pydicom is here, with a plugin that writes and reads JPEG 2000."""
    try:
        import openjpeg
        import pydicom
    except ImportError:
        return False
    return bool(openjpeg and pydicom)


def write_dicom(path: Path, deep: np.ndarray, *, compress: bool) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import (
        ExplicitVRLittleEndian,
        JPEG2000Lossless,
        SecondaryCaptureImageStorage,
        generate_uid,
    )

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.set_pixel_data(deep, "MONOCHROME2", 16)
    dataset.WindowCenter, dataset.WindowWidth = 32768, 65536
    if compress:
        dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)


def rows_of(files: dict[str, list[Path]], small: dict[str, list[Path]]) -> Iterator[Row]:
    base = "JPEG grey, full"
    for kind in ("JPEG grey", "JPEG colour"):
        yield Row(kind, "full", SIZE, files[kind], full, base, small[kind][0])
        yield from jpeg_rows(kind, SIZE, files[kind], small[kind][0])
    for kind in ("PNG 8-bit", "PNG 16-bit", "TIFF 16-bit"):
        yield Row(kind, "full", SIZE, files[kind], full, base, small[kind][0])
    for kind in ("DICOM uncompressed", "DICOM JPEG 2000 lossless"):
        if kind in files:
            passes = 1 if "2000" in kind else NUM_PASSES
            yield Row(kind, "full", SIZE, files[kind], full, base, small[kind][0], passes)
            if "2000" in kind:
                whole = f"{kind}, full"
                yield Row(kind, "scaled (ours)", SIZE, files[kind], scaled, whole, small[kind][0], passes)


def jpeg_rows(kind: str, to: int, files: Sequence[Path], small: Path) -> Iterator[Row]:
    """What is compared with the full decode of the same JPEG files."""
    base = f"{kind}, full"
    yield Row(kind, "scaled (ours)", to, files, scaled, base, small)
    yield Row(kind, "scaled to 2 x", to, files, scaled_to_twice, base, small)
    yield Row(kind, "full, box filter", to, files, box_filter, base, small)


def measure(
    size: int, rows: Sequence[Row], turns: int, packed: Path | None = None, *, smoke: bool = False
) -> Iterator[dict[str, Any]]:
    """Time a group of rows in turn, and fill in their lines of the table."""
    functions: dict[str, Callable[[], Any]] = {row.name: _all_files(row) for row in rows}
    if packed is not None:
        functions["packed"] = lambda: [read_packed(packed) for _ in range(NUM_PASSES)]
    seconds = interleaved_cpu_s(functions, turns)
    counts = {row.name: len(row.files) * row.num_passes for row in rows} | {"packed": NUM_PACKED * NUM_PASSES}
    each = {name: [value / counts[name] for value in values] for name, values in seconds.items()}
    for number, row in enumerate(rows):
        yield {
            "format": row.format,
            "size": size,
            "decoder": row.decoder,
            "to": row.to,
            "images/s": _three_digits(1 / statistics.median(each[row.name])),
            "ratio": 1 / median_ratio(each[row.name], each[row.baseline]),
            "baseline": row.baseline if row.baseline != row.name else "itself",
            "kB a file": round(statistics.mean(path.stat().st_size for path in row.files) / 1000),
            # At the smallest sizes one shows that it can be apart: a process takes a second to start.
            "peak MB": growth_mb(*child_arguments(row)) if smoke and number else peak_mb(row),
            **differences(row),
        }
    if packed is not None:
        base = rows[0].name
        yield {
            "format": "Parquet uint8",
            "size": SIZE,
            "decoder": "packed, read",
            "to": SIZE,
            "images/s": _three_digits(1 / statistics.median(each["packed"])),
            "ratio": 1 / median_ratio(each["packed"], each[base]),
            "baseline": f"{base}, {size} px",
            "kB a file": round(packed.stat().st_size / NUM_PACKED / 1000),
            **dict.fromkeys(("peak MB", "mean", "max", "PSNR"), ""),
        }


def _all_files(row: Row) -> Callable[[], None]:
    def run() -> None:
        for _ in range(row.num_passes):
            for path in row.files:
                row.decode(path, row.to)

    return run


def differences(row: Row) -> dict[str, Any]:
    """Mean, largest, and PSNR of the pixels against the full decode; only for rows that may differ."""
    if row.decode is full:
        return {"mean": "", "max": "", "PSNR": ""}
    deltas = np.stack(
        [row.decode(path, row.to).astype(int) - full(path, row.to).astype(int) for path in row.files]
    )
    square = float((deltas**2).mean())
    psnr = float(10 * np.log10(255**2 / square)) if square else "same"
    return {"mean": float(np.abs(deltas).mean()), "max": int(np.abs(deltas).max()), "PSNR": psnr}


def peak_mb(row: Row) -> float:
    """Decode the first file in a fresh process."""
    command = [sys.executable, __file__, "--child", *child_arguments(row)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def child_arguments(row: Row) -> tuple[str, str, str, str]:
    return row.decode.__name__, str(row.to), str(row.small), str(row.files[0])


def growth_mb(name: str, to: str, small: str, path: str) -> float:
    """By how many MB the peak grows; the small image loads what is loaded once."""
    DECODERS[name](Path(small), int(to))
    before = status_mb("VmRSS")
    DECODERS[name](Path(path), int(to))
    return max(0.0, status_mb("VmHWM") - before)


def write_packed(path: Path) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (NUM_PACKED, SIZE * SIZE), dtype=np.uint8)
    column = pa.array([row.tobytes() for row in pixels], type=pa.binary())
    write_table(path, pa.table({"pixels": column}), plain=["pixels"], row_group_size=64)


def real_files(smoke: bool) -> list[Path]:
    files = sorted((REAL_MANIFEST.parent / "images").glob("*.jpg"))[::REAL_STEP]
    return files[:2] if smoke else files


def _three_digits(value: float) -> float:
    return round(value) if value >= 100 else value


def options() -> argparse.Namespace:
    parser = arguments("decode", __doc__ or "")
    parser.add_argument("--real", action="store_true", help="the real MRI slices too, where they are")
    parser.add_argument("--turns", type=int, default=5, help="timed turns of every function")
    return parser.parse_args()


def main() -> None:
    args = options()
    turns = 1 if args.smoke else args.turns
    table: list[dict[str, Any]] = []
    notes = list(NOTES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = write_files(folder / "small", 64, 1)
        write_packed(packed := folder / "packed.parquet")
        for size, count in ({512: 2} if args.smoke else NUM_IMAGES).items():
            rows = list(rows_of(write_files(folder / str(size), size, count), small))
            table += measure(size, rows, turns, packed if size == 512 else None, smoke=args.smoke)
            shutil.rmtree(folder / str(size))
        if not has_dicom():
            notes.append("DICOM: left out, pydicom or its JPEG 2000 plugin is missing")
        if args.real and (files := real_files(args.smoke)):
            kind, warm = "JPEG grey, MRI", small["JPEG grey"][0]
            for to in REAL_SIZES:
                first = Row(kind, "full", to, files, full, f"{kind}, full", warm)
                table += measure(256, [first, *jpeg_rows(kind, to, files, warm)], turns, smoke=args.smoke)
            notes.append(f"MRI: {len(files)} slices of 256 px")
        elif args.real:
            notes.append("MRI: left out, the slices are not here")
    publish(args, "Decoding, one core", table, notes)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(growth_mb(*sys.argv[2:]))
    else:
        main()
