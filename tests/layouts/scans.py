"""Chest-like scans by code, and the files that public sets keep them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FRAME = (96, 80)  # height and width of an original, pixels

Box = tuple[float, float, float, float]


def draw(
    rng: np.random.Generator, look: int | None, frame: tuple[int, int] = FRAME
) -> tuple[np.ndarray, Box | None]:
    """A scan in [0, 1] and the box of its finding.

    Args:
        rng: Where noise and places come from.
        look: None for nothing; 0 a bright disc, 1 bright stripes, 2 a bright haze.
        frame: Height and width.
    """
    height, width = frame
    y, x = np.mgrid[0:height, 0:width]
    values = np.full(frame, 0.28)
    for centre in (0.3, 0.7):
        values[((x / width - centre) / 0.16) ** 2 + ((y / height - 0.5) / 0.36) ** 2 < 1] = 0.1
    values += rng.normal(0, 0.03, frame)
    if look is None:
        return np.clip(values, 0, 1), None
    half = int(rng.integers(9, 12))
    centre_x = int(rng.choice([0.3, 0.7]) * width) + int(rng.integers(-2, 3))
    centre_y = int(rng.uniform(0.35, 0.65) * height)
    box = (centre_x - half, centre_y - half, centre_x + half, centre_y + half)
    inside = (slice(box[1], box[3]), slice(box[0], box[2]))
    rows, columns = y[inside] - centre_y, x[inside] - centre_x
    if look == 0:
        values[inside] += 0.6 * (rows**2 + columns**2 < half**2)
    elif look == 1:
        values[inside] += 0.6 * (columns // 2 % 2 == 0)
    else:
        values[inside] += 0.3
    return np.clip(values, 0, 1), tuple(map(float, box))


def write_dicom(path: Path, values: np.ndarray, number: int, *, patient: str, study: str = "") -> None:
    """Write a scan with 12 of 16 bits; every fifth is MONOCHROME1, some are compressed, by its number.

    The header names a patient who must never be seen again: `Canary`.
    """
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, generate_uid

    stored = np.round(values * 4095).astype(np.uint16)
    inverted = number % 5 == 1
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(number), "instance"])
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[study or str(number), "study"])
    dataset.PatientName, dataset.PatientID = "Canary^Name", patient
    dataset.PatientSex, dataset.PatientAge = "FM"[number % 2], f"{20 + number % 70:03d}Y"
    dataset.InstitutionName, dataset.Manufacturer = "Canary Hospital", "Maker"
    dataset.Modality, dataset.SamplesPerPixel = "DX", 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = (4095 - stored if inverted else stored).tobytes()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if number % 7 in (2, 3):
        dataset.compress(JPEG2000Lossless if number % 7 == 2 else JPEGLSLossless, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def write_copy(path: Path, values: np.ndarray, side: int | None = None) -> None:
    """Write a resized copy: a PNG with 16 bits, or a JPEG.

    Args:
        path: Ends in .png or .jpg.
        values: The original in [0, 1].
        side: Of the square copy, pixels; None keeps the size.
    """
    picture = Image.fromarray(values.astype(np.float32))
    if side is not None:
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(np.round(np.asarray(picture) * 65535).astype(np.uint16)).save(path)
    else:
        Image.fromarray(np.round(np.asarray(picture) * 255).astype(np.uint8)).save(path, quality=95)


def write_csv(path: Path, header: str, rows: list[Any], *, mark: bool = False) -> None:
    """Write a CSV file of rows of cells; `mark` adds the byte order mark that spreadsheets write."""
    lines = [header, *(",".join("" if cell is None else str(cell) for cell in row) for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig" if mark else "utf-8")
