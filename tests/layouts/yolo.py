"""YOLO by code: labels as boxes and polygons, empty and missing label files, a path of another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from layouts.drawn import LOOKS, box_of, outline, picture
from PIL import Image

FRAME = (64, 96)


def build(root: Path, *, num_patients: int = 30, seed: int = 0) -> dict[str, Any]:
    """An image a patient, of which every sixth shows nothing; the settings of a pool that reads them.

    The second training image has no file of labels.
    """
    rng = np.random.default_rng(seed)
    first, second = num_patients * 6 // 10, num_patients * 8 // 10
    for number in range(num_patients):
        part = "train" if number < first else "valid" if number < second else "test"
        look = None if number % 6 == 5 else LOOKS[number % 3]
        grey, mask = picture(rng, look, FRAME)
        images, labels = root / part / "images", root / part / "labels"
        for folder in (images, labels):
            folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey).save(images / f"{number:04d}.jpg", quality=95)
        line = "" if look is None else label_line(LOOKS.index(look), mask, as_polygon=number % 2 == 1)
        if number != 1:
            (labels / f"{number:04d}.txt").write_text(line)
    names = "\n".join(f"  {number}: {look}" for number, look in enumerate(LOOKS))
    (root / "data.yaml").write_text(
        f"path: ../datasets/lesions\ntrain: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
        f"nc: 3\nnames:\n{names}\n"
    )
    return {
        "source": {"kind": "yolo", "path": str(root), "findings": [*LOOKS, "No finding"]},
        "group_by": "image",
    }


def label_line(number: int, mask: np.ndarray, *, as_polygon: bool = False) -> str:
    """One object: fractions of the picture's width and height."""
    height, width = mask.shape
    if as_polygon:
        points = np.array(outline(mask)).reshape(-1, 2) / (width, height)
        return " ".join([str(number), *(f"{value:.6f}" for value in points.reshape(-1))]) + "\n"
    x0, y0, x1, y1 = box_of(mask)
    values = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height
    return f"{number} " + " ".join(f"{value:.6f}" for value in values) + "\n"
