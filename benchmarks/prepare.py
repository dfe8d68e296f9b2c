"""How fast `prepare` turns files into a pool, by format, and what memory it takes.

Each format's files are read by a plain loop in this process, then by `prepare` on one actor, on two, and on
two in strict mode (a capped child process reads each file). The plain loop goes first and last, its faster
turn counts. What it costs to start the actors is left out: `prepare` reports it apart.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
from decode import scan, write_dicom
from PIL import Image

from xal_ray import config
from xal_ray.progress import Reporter

SIZE = 224
NUM_DIFFERENT = 8  # pictures; further files are links to these
SAMPLE_EVERY_S = 1.0  # looking costs time, too
# So many files that a plain loop takes about ten seconds.
NUM_FILES = {
    "JPEG 8-bit": 960,
    "PNG 16-bit": 160,
    "DICOM uncompressed": 360,
    "DICOM JPEG 2000": 640,
    "DICOM JPEG-LS": 64,
    "BraTS, gzipped": 16,
}
FORMS = {"1 actor": (1, False), "2 actors": (2, False), "2 actors, strict": (2, True)}


def main() -> None:
    parser = common.arguments("prepare", __doc__ or "")
    parser.add_argument("--side", type=int, default=2048, help="pixels a side of an image (default: 2048)")
    parser.add_argument("--formats", nargs="+", choices=list(WRITERS), default=list(WRITERS))
    args = parser.parse_args()
    forms, kinds = dict(FORMS), args.formats
    if args.smoke:
        args.side = 64
        forms, kinds = {"1 actor": (1, False)}, ["DICOM JPEG-LS", "BraTS, gzipped"]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for kind in kinds:
            folder = Path(name) / kind.replace(" ", "-")
            folder.mkdir()
            num_files = 4 if args.smoke else NUM_FILES[kind]
            settings = WRITERS[kind](folder, num_files, args.side)
            rows.append(measure(kind, num_files, settings, folder.with_suffix(".out"), forms))
    common.publish(
        args,
        "Prepare: files to a pool",
        rows,
        [
            f"files of {args.side} px a side, or BraTS cases of five volumes (240 x 240 x 155); to {SIZE} px",
            "rates are of the steady part, as `prepare` reports it; ratios are to the plain loop of the row",
            "added MB: peak memory of all processes (PSS, shared pages once) above that before `prepare`",
        ],
    )


def measure(
    kind: str, num_files: int, settings: config.Pool, out: Path, forms: dict[str, tuple[int, bool]]
) -> dict[str, Any]:
    loop = plain_loop(settings)
    found = {}
    for number, (form, (num_actors, strict)) in enumerate(forms.items()):
        limits = settings.limits.model_copy(update={"strict": strict})
        changed = settings.model_copy(update={"limits": limits})
        found[form] = through_ray(changed, out / str(number), num_actors)
    rate = max(loop, plain_loop(settings))
    row: dict[str, Any] = {"format": kind, "files": num_files, "plain loop, images or cases/s": rate}
    row |= {f"{form} / loop": one["rate"] / rate for form, one in found.items()}
    return row | {f"{form}, added MB": round(one["added_mb"]) for form, one in found.items()}


def plain_loop(settings: config.Pool) -> float:
    """Read every row in this process: images or cases a second."""
    from xal_ray.pool.reading import read_row
    from xal_ray.pool.sources import read_source

    rows = read_source(settings).manifest.to_pylist()
    read_row(rows[0], settings)  # libraries are loaded
    begin = time.perf_counter()
    for row in rows:
        read_row(row, settings)
    return len(rows) / (time.perf_counter() - begin)


class Listening(Reporter):
    """Keeps what `prepare` says of its pace."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.rate = 0.0

    def line(self, text: str) -> None:
        if pace := re.search(r"decoding: .* s to start, then ([\d.]+) ", text):
            self.rate = float(pace.group(1))


def through_ray(settings: config.Pool, out: Path, num_actors: int) -> dict[str, float]:
    """`prepare` in a Ray of its own."""
    from xal_ray.engine import session
    from xal_ray.engine.context import open_context
    from xal_ray.engine.prepare import prepare

    resources = config.Ray(num_decoders=num_actors)
    session.start(resources)
    before, samples, done = common.tree_memory_mb(os.getpid()), [0.0], threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_EVERY_S):
            samples.append(common.tree_memory_mb(os.getpid()))

    sampler = threading.Thread(target=sample)
    sampler.start()
    heard = Listening()
    try:
        with open_context(resources, heard) as context:
            prepare(settings, out, context)
    finally:
        done.set()
        sampler.join()
        session.stop()
    return {"rate": heard.rate, "added_mb": max(samples) - before}


def folder_of(suffix: str, write: Callable[[Path, np.ndarray], None]) -> Callable[..., config.Pool]:
    """What writes a folder of one format, as two classes."""

    def build(folder: Path, num_files: int, side: int) -> config.Pool:
        originals = []
        for number in range(num_files):
            path = folder / "ab"[number % 2] / f"{number:05d}{suffix}"
            path.parent.mkdir(exist_ok=True)
            if number < NUM_DIFFERENT:
                write(path, np.rint(scan(side, 1, number) * 65535).astype(np.uint16))
                originals.append(path)
            else:
                os.link(originals[number % NUM_DIFFERENT], path)
        return config.Pool(
            source=config.Source(path=folder, kind="folder"),
            group_by="image",
            image_size=SIZE,
            rows_per_part=max(1, num_files // 16),
        )

    return build


def write_jpeg(path: Path, deep: np.ndarray) -> None:
    Image.fromarray((deep >> 8).astype(np.uint8)).save(path, quality=92)


def write_jpeg_ls(path: Path, deep: np.ndarray) -> None:
    import pydicom
    from pydicom.uid import JPEGLSLossless

    write_dicom(path, deep, compress=False)
    dataset = pydicom.dcmread(path)
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)


def brats(folder: Path, num_files: int, side: int) -> config.Pool:
    """Cases of the edition of 2021: five gzipped volumes each."""
    import nibabel

    side, depth = (48, 24) if side == 64 else (240, 155)
    axes = [np.linspace(-1, 1, length) for length in (side, side, depth)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    brain = x**2 + y**2 + z**2 < 0.7
    distance = (x - 0.2) ** 2 + (y + 0.1) ** 2 + z**2
    mask = (2 * (distance < 0.1) + 2 * (distance < 0.04) - 3 * (distance < 0.01)).astype(np.uint8)
    for number in range(num_files):
        name = f"BraTS2021_{number:05d}"
        (folder / name).mkdir()
        for modality in ("flair", "t1", "t1ce", "t2"):
            noise = np.random.default_rng(number).normal(600, 80, brain.shape)
            volume = np.where(brain, noise + 150 * mask, 0).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / name / f"{name}_{modality}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), folder / name / f"{name}_seg.nii.gz")
    return config.Pool(
        source=config.Source(path=folder, kind="brats"),
        image_size=SIZE,
        channels=3,
        rows_per_part=128,
    )


WRITERS: dict[str, Callable[..., config.Pool]] = {
    "JPEG 8-bit": folder_of(".jpg", write_jpeg),
    "PNG 16-bit": folder_of(".png", lambda path, deep: Image.fromarray(deep).save(path)),
    "DICOM uncompressed": folder_of(".dcm", lambda path, deep: write_dicom(path, deep, compress=False)),
    "DICOM JPEG 2000": folder_of(".dcm", lambda path, deep: write_dicom(path, deep, compress=True)),
    "DICOM JPEG-LS": folder_of(".dcm", write_jpeg_ls),
    "BraTS, gzipped": brats,
}


if __name__ == "__main__":
    main()
