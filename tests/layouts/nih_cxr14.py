"""NIH ChestX-ray14 by code: several images a patient, joined findings, the malformed header of the boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from layouts import scans

FINDINGS = ("Mass", "Infiltration")
SIDE = 1024  # of the published images: the frame of the boxes

_HEADERS = {
    "v2020": "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]",
    "2017": "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],",
}


def build(
    root: Path, *, num_patients: int = 30, seed: int = 0, edition: str = "v2020", side: int = 64
) -> dict[str, Any]:
    """Write an edition; the settings of a pool that reads it.

    Every third patient has two images, every third image shows nothing; every sixth with a finding shows a
    second one that is not asked for, and one shows both asked ones. Two of three images with a finding have a
    box. Ages 411 and 058Y exist. `v2020` has images/ and the official lists, `2017` images_001/images/ and
    images_002/images/ and none. One row has no file, one file no row.

    Args:
        root: An empty folder.
        num_patients: Patients.
        seed: Of everything drawn.
        edition: `v2020` or `2017`.
        side: Of the copies, pixels.
    """
    rng = np.random.default_rng(seed)
    entries, boxes, lists, number = [], [], {True: [], False: []}, 0
    for patient in range(1, num_patients + 1):
        for visit in range(2 if patient % 3 == 0 else 1):
            name = f"{patient:08d}_{visit:03d}.png"
            look = (0, 1, None)[number % 3]
            values, box = scans.draw(rng, look, (SIDE // 8, SIDE // 8))
            scans.write_copy(_folder(root, edition, number) / name, values, side)
            entries.append(_entry(name, _findings(look, number), patient, visit, number, edition))
            if box is not None and number % 9 < 6:
                boxes.append(_box(name, look, box))
            lists[patient % 6 == 5].append(name)
            number += 1
    entries.append(_entry("00099999_000.png", "Mass", 99999, 0, number, edition))
    scans.write_copy(_folder(root, edition, 0) / "00088888_000.png", np.zeros((8, 8)), side)
    entries_file = "Data_Entry_2017_v2020.csv" if edition == "v2020" else "Data_Entry_2017.csv"
    scans.write_csv(root / entries_file, _HEADERS[edition], entries)
    scans.write_csv(root / "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,", boxes)
    if edition == "v2020":
        (root / "test_list.txt").write_text("\n".join(lists[True]) + "\n")
        (root / "train_val_list.txt").write_text("\n".join(lists[False]) + "\n")
    return {
        "source": {
            "kind": "nih_cxr14",
            "path": str(root),
            "findings": [*FINDINGS, "No Finding"],
        }
    }


def _folder(root: Path, edition: str, number: int) -> Path:
    return root / "images" if edition == "v2020" else root / f"images_{1 + number % 2:03d}" / "images"


def _findings(look: int | None, number: int) -> str:
    if look is None:
        return "No Finding"
    if number == 1:
        return "|".join(FINDINGS)
    return "|".join([FINDINGS[look], *(["Hernia"] if number % 6 == 0 else [])])


def _entry(name: str, findings: str, patient: int, visit: int, number: int, edition: str) -> tuple[Any, ...]:
    years = 411 if number == 2 else 20 + number % 70
    age = years if edition == "v2020" else f"{years:03d}Y"
    row = (name, findings, visit, patient, age, "FM"[patient % 2], "PA", 2048, 2500, 0.168, 0.168)
    return row if edition == "v2020" else (*row, None)


def _box(name: str, look: int, box: scans.Box) -> tuple[Any, ...]:
    x0, y0, x1, y1 = (8 * corner for corner in box)
    finding = ("Mass", "Infiltrate")[look]
    return name, finding, x0, y0, x1 - x0, y1 - y0, None, None, None
