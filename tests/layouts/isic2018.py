"""ISIC 2018, task 3, by code: JPEG files, one-hot classes, lesions of several images, some masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from layouts.drawn import picture
from PIL import Image

CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
_LOOK_OF = {"MEL": "dark", "NV": "bright", "BCC": "ring"}
_FIRST = 24306


def build(root: Path, *, num_patients: int = 30, seed: int = 0, official: bool = False) -> dict[str, Any]:
    """Write the set; the settings of a pool that reads it.

    Each lesion has one or two images, every other image a mask. The last image of the CSV has no file, and
    one file no row. `official`: the validation and test folders too, with their classes and without lesions.
    """
    rng = np.random.default_rng(seed)
    lesions = [number for number in range(num_patients) for _ in range(1 + number % 2)]
    images = [(f"ISIC_{_FIRST + number:07d}", lesion) for number, lesion in enumerate(lesions)]
    _write_part(root, "Training", [(name, lesion % 3) for name, lesion in images], rng)
    rows = [f"{name},HAM_{lesion:07d},histopathology" for name, lesion in images]
    _write_lines(
        root / "ISIC2018_Task3_Training_LesionGroupings.csv", "image,lesion_id,diagnosis_confirm_type", rows
    )
    _input(root, "Training", images[-1][0]).unlink()
    Image.fromarray(picture(rng, "dark")[0]).save(_input(root, "Training", "ISIC_9999999"))
    (root / "ISIC2018_Task3_Training_Input" / "LICENSE.txt").write_text("CC BY-NC")
    if official:
        for part, first in (("Validation", 34321), ("Test", 34524)):
            _write_part(root, part, [(f"ISIC_{first + number:07d}", number % 3) for number in range(9)], rng)
    return {"source": {"kind": "isic2018", "path": str(root), "findings": list(_LOOK_OF)}, "channels": 3}


def build_ham10000(root: Path, *, num_patients: int = 12, seed: int = 0) -> dict[str, Any]:
    """The same pictures as HAM10000 has them."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(2 * num_patients):
        name = f"ISIC_{_FIRST + number:07d}"
        kind = list(_LOOK_OF)[number // 2 % 3]
        folder = root / f"HAM10000_images_part_{1 + number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(rng, _LOOK_OF[kind])[0]).convert("RGB").save(folder / f"{name}.jpg")
        age, sex = (
            ("", "unknown") if number == 0 else (f"{30 + number}.0", "male" if number % 3 else "female")
        )
        rows.append(f"HAM_{number // 2:07d},{name},{kind.lower()},histo,{age},{sex},back")
    _write_lines(root / "HAM10000_metadata.csv", "lesion_id,image_id,dx,dx_type,age,sex,localization", rows)
    return {"source": {"kind": "isic2018", "path": str(root), "findings": list(_LOOK_OF)}, "channels": 3}


def _write_part(root: Path, part: str, images: list[tuple[str, int]], rng: np.random.Generator) -> None:
    rows = []
    masks = root / "ISIC2018_Task1_Training_GroundTruth"
    masks.mkdir(parents=True, exist_ok=True)
    _input(root, part, "x").parent.mkdir(parents=True)
    for number, (name, kind) in enumerate(images):
        grey, mask = picture(rng, _LOOK_OF[CLASSES[kind]], (60, 80))
        skin = np.stack([np.clip(grey * scale, 0, 255) for scale in (1.1, 0.8, 0.7)], axis=2).astype(np.uint8)
        Image.fromarray(skin).save(_input(root, part, name), quality=95)
        if number % 2 == 0:
            Image.fromarray(mask.astype(np.uint8) * 255).save(masks / f"{name}_segmentation.png")
        rows.append(f"{name}," + ",".join("1.0" if column == kind else "0.0" for column in range(7)))
    truth = root / f"ISIC2018_Task3_{part}_GroundTruth"
    truth.mkdir()
    _write_lines(truth / f"{truth.name}.csv", "image," + ",".join(CLASSES), rows)


def _input(root: Path, part: str, name: str) -> Path:
    return root / f"ISIC2018_Task3_{part}_Input" / f"{name}.jpg"


def _write_lines(path: Path, header: str, rows: list[str]) -> None:
    path.write_text("\n".join([header, *rows]) + "\n")
