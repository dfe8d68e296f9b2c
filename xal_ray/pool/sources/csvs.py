"""CSV files of public sets: named columns as text, checked. No row is quoted: it may tell of a patient."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from xal_ray.errors import SourceError
from xal_ray.pool.sources.layouts import read_file
from xal_ray.pool.sources.paths import SourceRoot

_FIRST_ROW = 2  # below the header
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_NO_NUMBERS = ("nan", "NaN", "NAN")  # how pandas writes an empty cell


@dataclass(frozen=True)
class Csv:
    """Some columns of a CSV file.

    Attributes:
        where: The file, for messages.
        table: Text columns without surrounding spaces; empty cells are null.
    """

    where: str
    table: pa.Table

    @property
    def num_rows(self) -> int:
        """Rows below the header."""
        return int(self.table.num_rows)

    @cached_property
    def names(self) -> frozenset[str]:
        """The columns that were asked for and are there."""
        return frozenset(self.table.column_names)

    def texts(self, name: str) -> list[str | None]:
        """A column, with None for empty cells."""
        return self.table[name].to_pylist()  # type: ignore[no-any-return]

    def ids(self, name: str) -> list[str]:
        """A column of ids, each of 1 to 100 of the characters A-Z a-z 0-9 . _ -, and not starting with a dot.

        Raises:
            SourceError: A cell is empty or something else, such as a path that leads elsewhere.
        """
        column = self.texts(name)
        sound = {text for text in set(column) if text is not None and _ID.fullmatch(text)}
        for position, text in enumerate(column):
            if text not in sound:
                raise self.fault(
                    f"an id in the column '{name}' is malformed",
                    position,
                    expected="1 to 100 of the characters A-Z a-z 0-9 . _ -, not starting with a dot",
                )
        return column  # type: ignore[return-value]

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """A column of numbers, nan for empty cells.

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

    def fault(self, what: str, position: int, *, expected: str | None = None) -> SourceError:
        """The error about a row, which is named by its number alone."""
        return SourceError(what, expected=expected, where=f"{self.where}, row {position + _FIRST_ROW}")


def read_csv(root: SourceRoot, name: str, required: Sequence[str], optional: Sequence[str] = ()) -> Csv:
    """Read columns of a CSV file with a header, in UTF-8, with or without a byte order mark.

    Args:
        root: The folder of the set.
        name: The file's path below it.
        required: Columns that must be there.
        optional: Columns that are read where they are there.

    Raises:
        SourceError: The file can't be read, leads out of the folder, or lacks a column.
    """
    where = str(root.path / name)
    text = read_file(root, name)
    try:
        header = next(csv.reader(io.StringIO(text.partition(b"\n")[0].decode())), [])
        header = [column.strip() for column in header]
        _check_header(header, required, optional, where)
        wanted = [column for column in (*required, *optional) if column in header]
        table = pacsv.read_csv(
            pa.BufferReader(text),
            read_options=pacsv.ReadOptions(column_names=_unique(header), skip_rows=1),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                include_columns=wanted,
                column_types={column: pa.string() for column in wanted},
                strings_can_be_null=False,
            ),
        )
    except (UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise SourceError(
            "a CSV file can't be read",
            expected="UTF-8 text with equal rows",
            found=_without_content(error),
            where=where,
        ) from None
    return Csv(where, pa.table({column: _trimmed(table[column]) for column in wanted}))


def _check_header(
    header: Sequence[str], required: Sequence[str], optional: Sequence[str], where: str
) -> None:
    missing = [column for column in required if column not in header]
    if missing:
        raise SourceError(
            f"a CSV file has no column '{missing[0]}'",
            expected="the columns " + ", ".join(required),
            found=", ".join(column for column in header if column)[:500] or "no header",
            where=where,
        )
    for column in (*required, *optional):
        if header.count(column) > 1:
            raise SourceError(f"the column '{column}' stands twice", where=where)


def _unique(header: Sequence[str]) -> list[str]:
    """Names by which columns are told apart, where some that don't count have none or share one."""
    return [name if name and header.count(name) == 1 else f"\0{number}" for number, name in enumerate(header)]


def _trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    text = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(text, ""), None, text)


def _number(text: str | None) -> float:
    """The number of a cell; infinity stands for what is none."""
    try:
        return float("nan") if text is None else float(text)
    except ValueError:
        return float("inf")


def _without_content(error: Exception) -> str:
    counts = re.search(r"(Row #\d+: )?Expected \d+ columns, got \d+", str(error))
    return counts.group() if counts else type(error).__name__
