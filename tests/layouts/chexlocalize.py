"""CheXlocalize by code: patients' folders, runs for all ten findings, labels under other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from layouts import scans

from xal_ray.roi import compress_counts, mask_to_counts

FINDINGS = ("Airspace Opacity", "Support Devices")
SEGMENTED = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Airspace Opacity",
    "Edema",
    "Consolidation",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Support Devices",
)
_LABELS = [
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
]


def build(root: Path, *, num_patients: int = 30, seed: int = 0) -> dict[str, Any]:
    """Write the layout with its two splits; the settings of a pool that reads it.

    Every third patient shows nothing; every fourth has a lateral view, which is not segmented. One labelled
    image has an empty mask. One row has no file, one file no row.

    Args:
        root: An empty folder.
        num_patients: Of the validation set; the test set has six.
        seed: Of everything drawn.
    """
    rng = np.random.default_rng(seed)
    for split, first, count in (("val", 64540, num_patients), ("test", 64740, 6)):
        rows, masks = [], {}
        for number in range(count):
            look = (0, 1, None)[number % 3]
            for view in ("view1_frontal", "view2_lateral") if number % 4 == 3 else ("view1_frontal",):
                study = f"patient{first + number}/study1"
                values, box = scans.draw(rng, look)
                scans.write_copy(root / "CheXpert" / split / study / f"{view}.jpg", values)
                rows.append(_label_row(f"{split}/{study}/{view}.jpg", look, number))
                is_drawn = view == "view1_frontal" and number != 6
                masks[f"{study}/{view}".replace("/", "_")] = _masks(look, box if is_drawn else None)
        rows.append(_label_row(f"{split}/patient1/study1/view1_frontal.jpg", None, 0))
        scans.write_copy(root / "CheXpert" / split / "patient2/study1/view1_frontal.jpg", np.zeros((8, 8)))
        prefix = "CheXpert/" if split == "val" else ""
        header = ",".join(
            ["Path", *(["Sex", "Age", "Frontal/Lateral", "AP/PA"] if split == "val" else []), *_LABELS]
        )
        rows = [(prefix + row[0], *(row[1:] if split == "val" else row[5:])) for row in rows]
        scans.write_csv(root / "CheXpert" / f"{split}_labels.csv", header, rows)
        (root / "CheXlocalize").mkdir(exist_ok=True)
        (root / "CheXlocalize" / f"gt_segmentations_{split}.json").write_text(json.dumps(masks))
    return {
        "source": {"kind": "chexlocalize", "path": str(root), "findings": [*FINDINGS, "No Finding"]},
    }


def _label_row(path: str, look: int | None, number: int) -> tuple[Any, ...]:
    shown = "No Finding" if look is None else ("Lung Opacity", "Support Devices")[look]
    values = [float(name == shown) for name in _LABELS]
    return (path, ("Male", "Female")[number % 2], 30 + number, "Frontal", "AP", *values)


def _masks(look: int | None, box: scans.Box | None) -> dict[str, Any]:
    masks = {}
    for finding in SEGMENTED:
        mask = np.zeros(scans.FRAME, dtype=bool)
        if box is not None and finding == FINDINGS[look or 0]:
            x0, y0, x1, y1 = map(int, box)
            mask[y0:y1, x0:x1] = True
        masks[finding] = {"size": list(mask.shape), "counts": compress_counts(mask_to_counts(mask))}
    return masks
