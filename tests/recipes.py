"""CONTRIBUTING's recipes for plug-ins, as they stand, and images for them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

TEXT = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
TITLES = ("Add a strategy", "Add a source", "Add a backbone")


def blocks(title: str, language: str) -> list[str]:
    """The contents of the fenced blocks of a language in a section."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, title
    return re.findall(rf"^```{language}\n(.*?)^```$", found.group(1), re.MULTILINE | re.DOTALL)


def write_modules(title: str, folder: Path) -> None:
    """Write a section's modules, under the names in their first lines; each has at most ten lines of code."""
    for block in blocks(title, "python"):
        name, *lines = block.splitlines()
        assert sum(bool(line) for line in lines) <= 10, name
        (folder / name.removeprefix("# ")).write_text(block)


def write_scans(folder: Path, num_patients: int, images_per_patient: int) -> None:
    """Write noise as the source of the recipe reads it: a folder a patient, names begin with the class."""
    noise = np.random.default_rng(0)
    for patient in range(num_patients):
        own = folder / f"p{patient:03d}"
        own.mkdir(parents=True)
        for number in range(images_per_patient):
            pixels = noise.integers(0, 256, (40, 40), dtype=np.uint8)
            Image.fromarray(pixels).save(own / f"{'ab'[patient % 2]}-{patient:03d}-{number}.png")
