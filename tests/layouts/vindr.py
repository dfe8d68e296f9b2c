"""VinDr-CXR by code: the layouts of PhysioNet and Kaggle, with readers who disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from layouts import scans

FINDINGS = ("Nodule/Mass", "Pulmonary fibrosis")
LABEL_COLUMNS = [
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
    "Other lesion",
    "COPD",
    "Lung tumor",
    "Pneumonia",
    "Tuberculosis",
    "Other diseases",
    "No finding",
]
COPY_SIDE = 64

Drawn = tuple[str, str, str, scans.Box | None]  # image, reader, finding, box


def build(
    root: Path, *, num_patients: int = 30, seed: int = 0, layout: str = "physionet", no_finding: bool = True
) -> dict[str, Any]:
    """Write a layout; the settings of a pool that reads it.

    Three of the readers R1 to R5 see each training image; of every fourth image with a finding one of them
    saw nothing, and of every ninth two did. One row has no file, one file no row. `physionet` has a test set
    with a consensus and a column of another name, and empty labels; it lies below the folders of a download.
    `png` are square copies with 16 bits and the sizes of their originals.

    Args:
        root: An empty folder.
        num_patients: Of the training set; every fifth has two images.
        seed: Of everything drawn.
        layout: `physionet`, `kaggle` or `png`.
        no_finding: "No finding" is one of the asked findings.
    """
    rng = np.random.default_rng(seed)
    base = root / "physionet.org/files/vindr-cxr/1.0.0" if layout == "physionet" else root
    drawn: list[Drawn] = []
    number = 0
    for patient in range(num_patients):
        for _ in range(2 if patient % 5 == 4 else 1):
            image = f"{number:032x}"
            box = _write_image(base / "train", image, number, patient, rng, layout)
            drawn += _read_by_three(rng, image, number, box)
            number += 1
    missing = f"{number:032x}"
    drawn += [(missing, reader, "No finding", None) for reader in ("R1", "R2", "R3")]
    _write_image(base / "train", f"{number + 1:032x}", 2, num_patients, rng, layout)  # a file without a row
    if layout == "physionet":
        _write_physionet(base, drawn)
        _write_test_set(base, rng, num_patients)
    else:
        _write_kaggle(base, drawn, number)
    return {
        "source": {
            "kind": "vindr",
            "path": str(root),
            "findings": [*FINDINGS, "No finding"] if no_finding else list(FINDINGS),
        },
        "group_by": "image" if layout == "png" else "header",
    }


def look_of(number: int) -> int | None:
    """Every third image shows a nodule, every third a fibrosis, every third nothing."""
    return (0, 1, None)[number % 3]


def _write_image(
    folder: Path, image: str, number: int, patient: int, rng: np.random.Generator, layout: str
) -> scans.Box | None:
    values, box = scans.draw(rng, look_of(number))
    if layout == "png":
        scans.write_copy(folder / f"{image}.png", values, COPY_SIDE)
    else:
        scans.write_dicom(folder / f"{image}.dicom", values, number, patient=f"canary-{patient}")
    return box


def _read_by_three(rng: np.random.Generator, image: str, number: int, box: scans.Box | None) -> list[Drawn]:
    readers = [f"R{1 + (number + step) % 5}" for step in range(3)]
    if box is None:
        return [(image, reader, "No finding", None) for reader in readers]
    blind = 2 if number % 9 == 4 else 1 if number % 4 == 0 else 0
    finding = FINDINGS[number % 3]
    rows: list[Drawn] = [(image, reader, "No finding", None) for reader in readers[:blind]]
    for reader in readers[blind:]:
        jitter = rng.uniform(-1.5, 1.5, 4)
        rows.append((image, reader, finding, tuple(np.round(np.add(box, jitter), 2).tolist())))
        if number % 7 == 0:  # a second finding in the same place, by one reader only
            rows.append((image, reader, "Calcification", box)) if reader == readers[-1] else None
    return rows


def _write_kaggle(base: Path, drawn: list[Drawn], num_images: int) -> None:
    ids = {"Nodule/Mass": 8, "Pulmonary fibrosis": 13, "Calcification": 2, "No finding": 14}
    rows = [(image, name, ids[name], reader, *(box or [None] * 4)) for image, reader, name, box in drawn]
    header = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
    scans.write_csv(base / "train.csv", header, rows, mark=True)
    height, width = scans.FRAME
    sizes = [(f"{number:032x}", height, width) for number in range(num_images)]
    scans.write_csv(base / "train_meta.csv", "image_id,dim0,dim1", sizes)


def _write_physionet(base: Path, drawn: list[Drawn]) -> None:
    header = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max"
    rows = [(image, reader, name, *(box or [None] * 4)) for image, reader, name, box in drawn]
    scans.write_csv(base / "annotations/annotations_train.csv", header, rows)
    named: dict[tuple[str, str], set[str]] = {}
    for image, reader, name, _ in drawn:
        named.setdefault((image, reader), set()).add(name)
    rows = [
        (*who, *("" if name == "COPD" else int(name in names) for name in LABEL_COLUMNS))
        for who, names in named.items()
    ]
    header = ",".join(["image_id", "rad_id", *LABEL_COLUMNS])
    scans.write_csv(base / "annotations/image_labels_train.csv", header, rows)


def _write_test_set(base: Path, rng: np.random.Generator, num_patients: int) -> None:
    boxes, labels = [], []
    for number in range(6):
        image = f"{0xF00 + number:032x}"
        box = _write_image(base / "test", image, number, 1000 + num_patients + number, rng, "physionet")
        finding = "No finding" if box is None else FINDINGS[number % 3]
        boxes.append((image, finding, *(box or [None] * 4)))
        labels.append((image, *(float(name == finding) for name in LABEL_COLUMNS)))
    header = "image_id,class_name,x_min,y_min,x_max,y_max"
    scans.write_csv(base / "annotations/annotations_test.csv", header, boxes)
    columns = ["Other disease" if name == "Other diseases" else name for name in LABEL_COLUMNS]
    header = ",".join(["image_id", *columns])
    scans.write_csv(base / "annotations/image_labels_test.csv", header, labels)
