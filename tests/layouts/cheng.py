"""Cheng's brain tumours by code: MATLAB 7.3 files, nested as the zip files nest them, and `cvind.mat`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from layouts.drawn import box_of, picture

_LOOK_OF = {1: "bright", 2: "ring", 3: "dark"}  # meningioma, glioma, pituitary


def build(root: Path, *, num_patients: int = 30, seed: int = 0) -> dict[str, Any]:
    """Two files a patient, in two folders; the settings of a pool that reads them."""
    rng = np.random.default_rng(seed)
    for number in range(1, 2 * num_patients + 1):
        patient = (number - 1) // 2
        label = patient % 3 + 1
        grey, mask = picture(rng, _LOOK_OF[label])
        folder = root / (
            "brainTumorDataPublic_1-766" if number <= num_patients else "brainTumorDataPublic_767-1532"
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_case(folder / f"{number}.mat", grey.astype(np.int16) * 9 - 40, mask, label, f"MR{patient:05d}")
    _write_matlab(root / "cvind.mat", {"cvind": np.ones((1, 2 * num_patients))})
    return {"source": {"kind": "cheng", "path": str(root)}}


def write_case(path: Path, image: np.ndarray, mask: np.ndarray, label: int, patient: str) -> None:
    """Write one file as MATLAB does: arrays column by column, which HDF5 shows turned over."""
    x0, y0, x1, y1 = box_of(mask)
    _write_matlab(
        path,
        {
            "cjdata/PID": np.array([[ord(character)] for character in patient], dtype=np.uint16),
            "cjdata/image": image.T,
            "cjdata/label": np.array([[float(label)]]),
            "cjdata/tumorBorder": np.array(
                [[x0], [y0], [x1], [y0], [x1], [y1], [x0], [y1]], dtype=np.float64
            ).T,
            "cjdata/tumorMask": mask.T.astype(np.uint8),
        },
    )


def _write_matlab(path: Path, arrays: dict[str, np.ndarray]) -> None:
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: PCWIN, Created by code".ljust(124) + b"\0\2IM")
