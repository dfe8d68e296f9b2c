"""SIIM-FISABIO-RSNA COVID-19 by code: boxes as Python literals, the sentinel, studies of several images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from layouts import scans

CLASSES = (
    "Negative for Pneumonia",
    "Typical Appearance",
    "Indeterminate Appearance",
    "Atypical Appearance",
)
COPY_SIDE = 64


def build(root: Path, *, num_patients: int = 30, seed: int = 0, layout: str = "dicom") -> dict[str, Any]:
    """Write a layout; the settings of a pool that reads it.

    Every fifth study has two images, of which the second has no box; every fourth patient has two studies.
    One row has no file, one file no row, one study has no class. `png` are square copies beside the sizes of
    their originals.

    Args:
        root: An empty folder.
        num_patients: Classes follow each other patient by patient.
        seed: Of everything drawn.
        layout: `dicom` or `png`.
    """
    rng = np.random.default_rng(seed)
    studies, images, sizes, number = [], [], [], 0
    for patient in range(num_patients):
        look = patient % len(CLASSES)
        for visit in range(2 if patient % 4 == 3 else 1):
            study = f"{0xA00000000000 + patient * 16 + visit:012x}"
            studies.append((f"{study}_study", *(int(look == position) for position in range(len(CLASSES)))))
            for view in range(2 if patient % 5 == 4 else 1):
                image = f"{0xB00000000000 + number:012x}"
                values, box = scans.draw(rng, look - 1 if look else None)
                _write_image(root, study, image, values, number, patient, layout)
                images.append((f"{image}_image", *_cells(box if view == 0 else None), study))
                sizes.append((image, *scans.FRAME, "train"))
                number += 1
    images.append((f"{0xBFFFFFFFFFFF:012x}_image", *_cells(None), studies[0][0].removesuffix("_study")))
    values, _ = scans.draw(rng, None)
    _write_image(root, f"{0xA00000000000:012x}", f"{0xBEEEEEEEEEEE:012x}", values, number, 0, layout)
    studies.append((f"{0xAFFFFFFFFFFF:012x}_study", 0, 0, 0, 0))
    scans.write_csv(root / "train_study_level.csv", ",".join(["id", *CLASSES]), studies)
    scans.write_csv(root / "train_image_level.csv", "id,boxes,label,StudyInstanceUID", images)
    if layout == "png":
        scans.write_csv(root / "meta.csv", "image_id,dim0,dim1,split", sizes)
    return {"source": {"kind": "siim_covid", "path": str(root)}}


def _cells(box: scans.Box | None) -> tuple[str, str]:
    """`boxes` and `label` as the public CSV writes them; every comma needs quotes around the cell."""
    if box is None:
        return "", "none 1 0 0 1 1"
    x0, y0, x1, y1 = box
    literal = f"[{{'x': {x0}, 'y': {y0}, 'width': {x1 - x0}, 'height': {y1 - y0}}}]"
    return f'"{literal}"', f"opacity 1 {x0} {y0} {x1} {y1}"


def _write_image(
    root: Path, study: str, image: str, values: np.ndarray, number: int, patient: int, layout: str
) -> None:
    if layout == "png":
        scans.write_copy(root / "train" / f"{image}.png", values, COPY_SIDE)
        return
    path = root / "train" / study / f"{0xC00000000000 + number:012x}" / f"{image}.dcm"
    scans.write_dicom(path, values, number, patient=f"canary-{patient}", study=study)
