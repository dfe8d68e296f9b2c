"""COCO by code: boxes, polygons and runs in all their forms, images of several categories and of none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from layouts.drawn import LOOKS, box_of, outline, picture
from PIL import Image

from xal_ray.roi import compress_counts, mask_to_counts

FRAME = (72, 96)


def build(root: Path, *, num_patients: int = 30, seed: int = 0) -> dict[str, Any]:
    """Two images a patient, split by file (train, val, test); the settings of a pool that reads them.

    Of every six images one shows nothing. Annotations take turns in their form: box, polygon, runs as a list
    (a crowd), runs as a compressed text. The first image shows two categories, the second has a box without
    area beside its own; one image has no file.
    """
    rng = np.random.default_rng(seed)
    categories = [{"id": 10 + number, "name": look} for number, look in enumerate(LOOKS)]
    for part, patients in _parts(num_patients).items():
        content: dict[str, Any] = {"info": {}, "categories": categories, "images": [], "annotations": []}
        for patient in patients:
            for view in range(2):
                _add_image(root, part, content, patient, 2 * patient + view, rng)
        if part == "train":
            _add_oddities(content)
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(content))
    (root / "annotations" / "captions_train2017.json").write_text('{"images": [], "annotations": []}')
    return {
        "source": {"kind": "coco", "path": str(root), "findings": [*LOOKS, "No finding"]},
        "group_by": "group_id",
    }


def _parts(num_patients: int) -> dict[str, range]:
    first, second = num_patients * 6 // 10, num_patients * 8 // 10
    return {"train": range(first), "val": range(first, second), "test": range(second, num_patients)}


def _add_image(
    root: Path, part: str, content: dict[str, Any], patient: int, number: int, rng: np.random.Generator
) -> None:
    look = None if number % 6 == 5 else LOOKS[number // 2 % 3]
    grey, mask = picture(rng, look, FRAME)
    folder = root / f"{part}2017"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{number:012d}.png"
    Image.fromarray(grey).save(folder / name)
    content["images"].append(
        {
            "id": number,
            "file_name": name,
            "width": FRAME[1],
            "height": FRAME[0],
            "patient_id": f"patient-{patient}",
        }
    )
    if look is not None:
        annotation = annotation_of(mask, ("box", "polygon", "list", "text")[number % 4])
        content["annotations"].append(
            {"id": number, "image_id": number, "category_id": 10 + LOOKS.index(look), **annotation}
        )


def annotation_of(mask: np.ndarray, form: str) -> dict[str, Any]:
    """What COCO says of a mask's place."""
    x0, y0, x1, y1 = box_of(mask)
    annotation: dict[str, Any] = {"bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0, "segmentation": []}
    counts = mask_to_counts(mask)
    if form == "polygon":
        annotation["segmentation"] = [outline(mask)]
    elif form == "list":
        annotation |= {"iscrowd": 1, "segmentation": {"size": list(mask.shape), "counts": counts}}
    elif form == "text":
        annotation["segmentation"] = {"size": list(mask.shape), "counts": compress_counts(counts)}
    return annotation


def _add_oddities(content: dict[str, Any]) -> None:
    extra = {"iscrowd": 0, "segmentation": []}
    content["annotations"] += [
        {"id": 9001, "image_id": 0, "category_id": 12, "bbox": [1, 1, 5, 5], **extra},
        {"id": 9002, "image_id": 1, "category_id": 10, "bbox": [3.5, 4, 7, 0], **extra},
        {"id": 9003, "image_id": 777, "category_id": 10, "bbox": [1, 1, 5, 5], **extra},
    ]
    missing = {
        "id": 9999,
        "file_name": "000000009999.png",
        "width": 96,
        "height": 72,
        "patient_id": "patient-0",
    }
    content["images"].append(missing)
