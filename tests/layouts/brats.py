"""BraTS by code: small volumes in the public layouts of 2020, 2021 and 2023, with what is odd about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SHAPE = (48, 48, 24)
# As in the public sets: the first axis runs to the patient's left, the second to the back.
AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 47], [0, 0, 1.0, 0], [0, 0, 0, 1]])

_TISSUE = {"t1": 500, "t1ce": 500, "t2": 450, "flair": 400}
# What necrosis, edema and enhancing tumour add, by modality.
_LOOK = {
    "t1": (-300, -100, 0),
    "t1ce": (-350, -100, 500),
    "t2": (300, 350, 100),
    "flair": (-150, 500, 150),
}
_HYPHENED = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f", "seg": "seg"}
_STRANGE_MASK = "W39_1998.09.19_Segm.nii"  # of case 355 in a common copy


def build(root: Path, *, num_patients: int = 30, seed: int = 0, edition: str = "2020") -> dict[str, Any]:
    """Write an edition; the settings of a pool that reads it.

    2020: below folders as the public copy nests them, uncompressed; the last case is number 355, whose mask
    has a name of its own; one more case lacks a modality; grades with one NA; ages. 2023: hyphens, two time
    points of the first patient, a resection cavity in the second's mask.
    """
    below, names = _names(edition, num_patients)
    rng = np.random.default_rng(seed)
    for number, name in enumerate(names):
        volumes = case(rng, dominant=number % 3, hyphened=edition == "2023")
        if edition == "2023" and number == 2:
            volumes["seg"][30:34, 30:34, 2:6] = 4
        write_case(root / below / name, volumes, edition)
    if edition == "2020":
        _write_oddities(root / below, names)
    slices = {"min_brain": 300, "min_tumor": 40, "stride": 2}
    return {"source": {"kind": "brats", "path": str(root), "slices": slices}, "channels": 3}


def case(rng: np.random.Generator, dominant: int, *, hyphened: bool = False) -> dict[str, np.ndarray]:
    """The volumes of a case (int16 and uint8, axes as stored) with a tumour of shells.

    Args:
        rng: Where noise and places come from.
        dominant: 0 necrosis, 1 edema, 2 enhancing: which shell is by far the thickest.
        hyphened: Enhancing tumour is 3 in the mask instead of 4.
    """
    x, y, z = np.meshgrid(*(np.arange(side) for side in SHAPE), indexing="ij")
    brain = ((x - 24) / 20) ** 2 + ((y - 24) / 22) ** 2 + ((z - 12) / 11) ** 2 < 1
    centre = rng.uniform((17, 17, 10), (31, 31, 14))
    distance = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (2 * (z - centre[2])) ** 2)
    widths = np.full(3, 0.7)
    widths[dominant] = rng.uniform(6, 8)
    ends = np.cumsum(widths[[0, 2, 1]])  # from the middle: necrosis, enhancing, edema
    parts = (0, ends[0]), (ends[1], ends[2]), (ends[0], ends[1])
    inside = [brain & (distance >= low) & (distance < high) for low, high in parts]
    volumes = {}
    for modality, tissue in _TISSUE.items():
        values = tissue + rng.normal(0, 25, SHAPE)
        for part, added in zip(inside, _LOOK[modality], strict=True):
            values += part * added
        volumes[modality] = np.where(brain, np.clip(values, 1, None), 0).astype(np.int16)
    labels = (1, 2, 3 if hyphened else 4)
    volumes["seg"] = sum(part * np.uint8(label) for part, label in zip(inside, labels, strict=True))
    return volumes


def write_case(folder: Path, volumes: dict[str, np.ndarray], edition: str = "2021") -> None:
    """Write a case as an edition names it."""
    folder.mkdir(parents=True)
    suffix = ".nii" if edition == "2020" else ".nii.gz"
    for modality, values in volumes.items():
        word = f"-{_HYPHENED[modality]}" if edition == "2023" else f"_{modality}"
        save(folder / f"{folder.name}{word}{suffix}", values)


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    """Write a NIfTI file."""
    import nibabel

    nibabel.save(nibabel.Nifti1Image(values, affine), path)


def _names(edition: str, num_patients: int) -> tuple[str, list[str]]:
    numbers = range(1, num_patients + 1)
    if edition == "2020":
        names = [f"BraTS20_Training_{number:03d}" for number in [*numbers[:-1], 355]]
        return "BraTS2020_TrainingData/MICCAI_BraTS2020_TrainingData", names
    if edition == "2021":
        return "BraTS2021_Training_Data", [f"BraTS2021_{number:05d}" for number in numbers]
    names = [f"BraTS-GLI-{number:05d}-000" for number in numbers]
    return "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData", ["BraTS-GLI-00001-001", *names]


def _write_oddities(folder: Path, names: list[str]) -> None:
    last = folder / names[-1]
    (last / f"{last.name}_seg.nii").rename(last / _STRANGE_MASK)
    write_case(folder / "BraTS20_Training_356", case(np.random.default_rng(9), 0), "2020")
    (folder / "BraTS20_Training_356" / "BraTS20_Training_356_t1ce.nii").unlink()
    grades = ["HGG" if number % 2 else "LGG" for number in range(len(names))]
    grades[3:4] = ["NA"] * len(grades[3:4])
    rows = [
        f"{grade},Brats17_X_{number}_1,,,,{name}"
        for number, (grade, name) in enumerate(zip(grades, names, strict=True))
    ]
    header = (
        "Grade,BraTS_2017_subject_ID,BraTS_2018_subject_ID,TCGA_TCIA_subject_ID,"
        "BraTS_2019_subject_ID,BraTS_2020_subject_ID"
    )
    (folder / "name_mapping.csv").write_text("\n".join([header, *rows]) + "\n")
    survival = [f"{names[0]},60.463,289,GTR", f"{names[1]},52.263,ALIVE (361 days later),GTR"]
    (folder / "survival_info.csv").write_text(
        "\n".join(["Brats20ID,Age,Survival_days,Extent_of_Resection", *survival]) + "\n"
    )
