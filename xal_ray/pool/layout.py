"""Says where things lie in a pool's folder.

POOL/
  card.json              counts, classes, exclusions, hashes, how it was made; written last
  index.parquet          a row an image, without pixels
  parts/00000.parquet    pixels and ROIs, `rows_per_part` images each
  origins.parquet        where each image came from; apart, since a folder's name may be a label
  attributes.parquet     what a breakdown may count: study, site, device, sex, age band; and its likeness
  hidden_labels.parquet  labels of the unlabelled rows, where known; only `labels/oracle.py` opens it
  quarantine.parquet     rows left out, each with a reason
  warnings.parquet       what warnings are about, one by one (`pool/warnings_table.py`)
  activations/           what frozen backbones make of the images, where asked for (`pool/activations.py`)

While it grows, it also has plan.json, which says what it is made with, and for each part a table in each of
the folders rows, refused, origins and attributes, which are merged at the end (`pool/assemble.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WARNINGS = "warnings.parquet"  # the card and its sentences name it


@dataclass(frozen=True)
class PoolLayout:
    """The files of a pool.

    Attributes:
        path: The pool's folder.
    """

    path: Path

    @property
    def card(self) -> Path:
        """Return the card, which is written last: where it exists, there is a pool."""
        return self.path / "card.json"

    @property
    def index(self) -> Path:
        """Return the table with a row for each image, without pixels."""
        return self.path / "index.parquet"

    @property
    def parts(self) -> Path:
        """Return the folder of pixels and ROIs, in parts."""
        return self.path / "parts"

    def part(self, number: int) -> Path:
        """Return the file of part `number`, from 0."""
        return self.parts / f"{number:05d}.parquet"

    @property
    def origins(self) -> Path:
        """Return the table of where each image came from."""
        return self.path / "origins.parquet"

    @property
    def attributes(self) -> Path:
        """Return the table of what a breakdown may count of each image, and of what it looks like."""
        return self.path / "attributes.parquet"

    @property
    def hidden_labels(self) -> Path:
        """Return the labels of the unlabelled rows."""
        return self.path / "hidden_labels.parquet"

    @property
    def quarantine(self) -> Path:
        """Return the rows that were left out."""
        return self.path / "quarantine.parquet"

    @property
    def warnings(self) -> Path:
        """Return the table of what warnings are about, one by one."""
        return self.path / WARNINGS

    @property
    def activations(self) -> Path:
        """Return the folder that holds one for each frozen backbone that was run over the pool."""
        return self.path / "activations"

    @property
    def plan(self) -> Path:
        """Return what a growing pool is bound to: a part made under other settings must not be reused."""
        return self.path / "plan.json"

    @property
    def rows_of_parts(self) -> Path:
        """Return the folder of each finished part's index, before splits are dealt."""
        return self.path / "rows"

    @property
    def refused_of_parts(self) -> Path:
        """Return the folder of each part's quarantine."""
        return self.path / "refused"

    @property
    def origins_of_parts(self) -> Path:
        """Return the folder of each part's origins."""
        return self.path / "origins"

    @property
    def attributes_of_parts(self) -> Path:
        """Return the folder of each part's attributes."""
        return self.path / "attributes"
