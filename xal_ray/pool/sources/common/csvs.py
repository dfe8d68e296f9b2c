"""CSV files of public sets: named columns as text, checked. No row is quoted: it may tell of a patient."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.errors import SourceError
from xal_ray.pool.sources.common.layouts import read_file
from xal_ray.pool.sources.common.paths import SourceRoot
from xal_ray.tables import open_written

_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_NO_NUMBERS = ("nan", "NaN", "NAN")  # how pandas writes an empty cell


@dataclass(frozen=True)
class Csv:
    """Some columns of a CSV file.

    Attributes:
        where: The file, for messages.
        table: Text columns without surrounding spaces; empty cells are null.
        rows: The number of each row, as a spreadsheet shows it.
    """

    where: str
    table: pa.Table
    rows: Sequence[int]

    @property
    def num_rows(self) -> int:
        """Return how many rows there are below the header."""
        return int(self.table.num_rows)

    @cached_property
    def names(self) -> frozenset[str]:
        """Return the columns that were asked for and are there."""
        return frozenset(self.table.column_names)

    def texts(self, name: str) -> list[str | None]:
        """Return a column, with None for empty cells."""
        column: list[str | None] = self.table[name].to_pylist()
        return column

    def ids(self, name: str) -> list[str]:
        """A column of ids, each of 1 to 100 of the characters A-Z a-z 0-9 . _ -, and not starting with a dot.

        Raises:
            SourceError: A cell is empty or something else, such as a path that leads elsewhere.
        """
        column = self.texts(name)
        sound = {text for text in set(column) if text is not None and _ID.fullmatch(text)}
        ids = [text for text in column if text is not None and text in sound]
        if len(ids) == len(column):
            return ids
        raise self.fault(
            f"an id in the column '{name}' is malformed",
            next(position for position, text in enumerate(column) if text not in sound),
            expected="1 to 100 of the characters A-Z a-z 0-9 . _ -, not starting with a dot",
        )

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """Return a column of numbers, nan for empty cells.

        Raises:
            SourceError: A cell is no number, or infinite.
        """
        column = self.table[name]
        column = pc.if_else(pc.is_in(column, value_set=pa.array(_NO_NUMBERS)), None, column)
        try:
            numbers = pc.cast(column, pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            numbers = np.array([_number(text) for text in column.to_pylist()], dtype=np.float64)
        infinite = np.flatnonzero(np.isinf(numbers))
        if len(infinite):
            raise self.fault(
                f"a cell in the column '{name}' is no number",
                int(infinite[0]),
                expected="a finite number, or none",
            )
        return np.asarray(numbers, dtype=np.float64)

    def boxes(self, names: Sequence[str]) -> list[list[float] | None]:
        """Four columns that hold boxes, one a row: None where all four cells are empty.

        A cell that is empty beside others, or no number, is nan: the box is then one that can't be meant.
        """
        cells = zip(*(self.texts(name) for name in names), strict=True)
        return [
            None
            if all(text is None or text in _NO_NUMBERS for text in texts)
            else [number if math.isfinite(number := _number(text)) else math.nan for text in texts]
            for texts in cells
        ]

    def place(self, position: int) -> str:
        """Return the file's name and the row's number, for what is told of a row."""
        return f"{self.where.rpartition('/')[2]}, row {self.rows[position]}"

    def fault(self, what: str, position: int, *, expected: str | None = None) -> SourceError:
        """Return the error about a row, which is named by its number alone."""
        return SourceError(what, expected=expected, where=f"{self.where}, row {self.rows[position]}")


def read_csv(root: SourceRoot, name: str, required: Sequence[str], optional: Sequence[str] = ()) -> Csv:
    """Read columns of a CSV file with a header, as `open_written` reads what people write.

    Args:
        root: The folder of the set.
        name: The file's path below it.
        required: Columns that must be there.
        optional: Columns that are read where they are there.

    Raises:
        SourceError: The file can't be read, leads out of the folder, or lacks a column.
    """
    path = root.path / name
    table = open_written(path, "a CSV file", SourceError, (*required, *optional), data=read_file(root, name))
    positions = {
        column: at for column in (*required, *optional) if (at := table.header.find(column)) is not None
    }
    missing = [column for column in required if column not in positions]
    if missing:
        near = table.header.nearest(missing[0], set(positions.values()))
        raise SourceError(
            f"a CSV file has no column '{missing[0]}'",
            expected="the columns " + ", ".join(required),
            found=table.header.shown(),
            where=str(path),
            next_step=f"rename its column '{near}'" if near else "give the file as the set publishes it",
        )
    read = table.read(list(positions.values()), whole_rows=True)
    columns = [pa.array(texts, pa.string()) for texts in read.columns]
    return Csv(str(path), pa.table(dict(zip(positions, columns, strict=True))), read.rows)


def _number(text: str | None) -> float:
    """Return the number of a cell; infinity stands for what is none."""
    try:
        return float("nan") if text is None else float(text)
    except ValueError:
        return float("inf")
