"""RSNA Pneumonia Detection by code: several rows an image, and its three detailed classes."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
from layouts import scans


def build(root: Path, *, num_patients: int = 30, seed: int = 0, detailed: bool = False) -> dict[str, Any]:
    """Write the layout; the settings of a pool that reads it.

    Every third image shows pneumonia, of which every second with two boxes. One row has no file, one file no
    row.

    Args:
        root: An empty folder.
        num_patients: Images.
        seed: Of everything drawn.
        detailed: The three classes of the detailed file are asked for.
    """
    rng = np.random.default_rng(seed)
    labels, classes = [], []
    for number in range(num_patients + 2):
        image = str(uuid.UUID(int=0xABC0000 + number))
        look = (0, 2, None)[number % 3]
        values, box = scans.draw(rng, look)
        if number != num_patients:  # this one is missing
            path = root / "stage_2_train_images" / f"{image}.dcm"
            scans.write_dicom(path, values, number, patient=image)
        if number == num_patients + 1:  # this one has no row
            continue
        if look != 0:
            labels.append((image, None, None, None, None, 0))
            classes.append((image, "Normal" if look is None else "No Lung Opacity / Not Normal"))
            continue
        x0, y0, x1, y1 = box
        boxes = [(x0, y0, x1 - x0, y1 - y0)]
        boxes += [(4.0, 5.0, 10.5, 12.0)] if number % 2 else []
        labels += [(image, *own, 1) for own in boxes]
        classes += [(image, "Lung Opacity")] * len(boxes)
    scans.write_csv(root / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", labels)
    scans.write_csv(root / "stage_2_detailed_class_info.csv", "patientId,class", classes)
    source: dict[str, Any] = {"kind": "rsna_pneumonia", "path": str(root)}
    if detailed:
        source["findings"] = ["Lung Opacity", "No Lung Opacity / Not Normal", "Normal"]
    return {"source": source, "group_by": "image"}
