"""One reader for the tables that people write: text of any usual kind, or Parquet."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xal_ray.errors import InputError
from xal_ray.tables.decoding import NotTextError, TextLayout, decoded, laid_out, records
from xal_ray.tables.header import TableHeader

_USUAL_DELIMITER = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t", ".psv": "|"}
_PARQUET = (".parquet", ".pq")
_CSV_OF = "a spreadsheet saves it as 'CSV UTF-8' (File, Save As): give that file"
_INSTEAD = {
    **dict.fromkeys((".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers"), _CSV_OF),
    **dict.fromkeys((".gz", ".zip", ".bz2", ".xz", ".zst", ".7z"), "unpack it, and give the file in it"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson", ".xml"), "export it as CSV, a row an image"),
    **dict.fromkeys((".feather", ".arrow", ".pkl", ".sqlite", ".db"), "save it as CSV or Parquet"),
}
_MAGIC = (
    (b"PK\x03\x04", ".xlsx", "an Excel workbook or another archive"),
    (b"\xd0\xcf\x11\xe0", ".xls", "an old Excel workbook"),
    (b"\x1f\x8b", ".gz", "a packed file"),
    (b"{\\rtf", ".xls", "a document"),
    (b"<", ".xls", "a page of HTML or XML"),
)


@dataclass(frozen=True)
class Cells:
    """Some columns of a table.

    Attributes:
        columns: Texts without surrounding spaces, None for empty cells; in the order that was asked for.
        rows: The number of each row as a spreadsheet shows it; of Parquet, from 1.
        lines: The line of the file that each row begins on; of Parquet, as `rows`.
        notes: What was passed by or made good, for people.
    """

    columns: tuple[list[str | None], ...]
    rows: list[int]
    lines: list[int]
    notes: tuple[str, ...]


class Written:
    """A table whose header is known, and whose columns can be read.

    Attributes:
        header: The columns.
        notes: How the file was understood, for people; no cell is quoted.
        has_decimal_commas: Whether a comma may stand for the point of a number.
    """

    header: TableHeader
    notes: tuple[str, ...] = ()
    has_decimal_commas: bool = False

    def read(self, positions: Sequence[int], *, whole_rows: bool = False) -> Cells:
        """Read columns.

        Args:
            positions: Which of the header's.
            whole_rows: Rows that end before the last column are refused. A spreadsheet writes such rows, a
                program does not.

        Raises:
            InputError: A row holds more cells than there are columns, or the file is damaged. No cell is
                quoted: it may name a patient.
        """
        raise NotImplementedError

    def columns_of(
        self,
        words: Collection[str],
        besides: Collection[int] = (),
        plain: Callable[[str], str | None] = str,
        *,
        share: float = 1.0,
    ) -> list[str]:
        """Return the columns that hold some of these words, and little else.

        Args:
            words: The words.
            besides: Positions of columns that are not asked.
            plain: What a cell says; None: no word.
            share: How much of what a column holds, each kind of cell counted once, must be such words.
        """
        others = [at for at, name in enumerate(self.header.names) if name and at not in besides]
        kinds = [{cell for cell in column if cell is not None} for column in self.read(others).columns]
        held = [sum(plain(cell) in words for cell in cells) for cells in kinds]
        return [
            self.header.names[at]
            for at, cells, count in zip(others, kinds, held, strict=True)
            if count and count >= share * len(cells)
        ]


def open_written(
    path: Path,
    noun: str,
    error: type[InputError],
    known: Collection[str],
    *,
    data: bytes | None = None,
) -> Written:
    """Open a table of any usual kind: CSV, TSV and their like, or Parquet.

    Text may be UTF-8, UTF-16 or Windows-1252, with a byte order mark or without, with any line ends, parted
    by commas, semicolons, tabs or bars, with Excel's line `sep=;`, with blank lines, and with lines that
    begin with # above the header or alone in their row.

    Args:
        path: The file, here or in an object store.
        noun: What messages call it: "the manifest".
        error: What is raised.
        known: Names of columns that may be there: they tell which delimiter it is.
        data: The file's bytes, where they were read already.

    Raises:
        InputError: The file can't be read, or is of another kind.
    """
    if data is None:
        _check_suffix(path, noun, error)
        try:
            data = path.read_bytes()
        except OSError as problem:
            raise error(
                f"{noun} can't be read",
                expected="a file ending in .csv, .tsv or .parquet",
                found=problem.strerror or type(problem).__name__,
                where=str(path),
                next_step="check the path: it is relative to the folder that you call from",
            ) from None
    if path.suffix.lower() in _PARQUET or data.startswith(b"PAR1"):
        return _Parquet(path, noun, error, data)
    return _Text(path, noun, error, data, known)


def _check_suffix(path: Path, noun: str, error: type[InputError]) -> None:
    suffix = path.suffix.lower()
    if suffix not in (*_USUAL_DELIMITER, *_PARQUET):
        raise error(
            f"{noun} is of an unknown kind",
            expected="a file ending in .csv, .tsv or .parquet",
            found=path.name,
            where=str(path.parent),
            next_step=_INSTEAD.get(suffix, "if it is such a file, name it so"),
        )


class _Text(Written):
    def __init__(
        self, path: Path, noun: str, error: type[InputError], data: bytes, known: Collection[str]
    ) -> None:
        self._path, self._noun, self._error = path, noun, error
        for magic, suffix, words in _MAGIC:
            if data.startswith(magic):
                raise self._unreadable(words, _INSTEAD[suffix])
        try:
            self._text, note = decoded(data)
        except NotTextError as problem:
            raise self._unreadable(str(problem), _CSV_OF) from None
        self._layout: TextLayout = laid_out(self._text, known, _USUAL_DELIMITER.get(path.suffix.lower(), ","))
        self.header = TableHeader(str(path), self._layout.header, error)
        self.has_decimal_commas = self._layout.delimiter != ","
        self.notes = (*([note] if note else []), *self._layout.notes)

    def _unreadable(self, found: str, next_step: str) -> InputError:
        return self._error(
            f"{self._noun} can't be read",
            expected="text in UTF-8, UTF-16 or Windows-1252 with equal rows",
            found=found,
            where=str(self._path),
            next_step=next_step,
        )

    def read(self, positions: Sequence[int], *, whole_rows: bool = False) -> Cells:
        columns: tuple[list[str | None], ...] = tuple([] for _ in positions)
        rows: list[int] = []
        lines: list[int] = []
        short: list[int] = []
        comments = 0
        width = len(self.header.names)
        try:
            for number, line, cells in records(self._text, self._layout):
                filled = [cell for cell in cells if cell and not cell.isspace()]
                if not filled:
                    continue
                if len(filled) == 1 and cells[0].lstrip().startswith("#"):
                    comments += 1
                    continue
                if len(cells) > width or (whole_rows and len(cells) < width):
                    self._check_width(cells, width, number)
                elif len(cells) < width:
                    short.append(number)
                    cells += [""] * (width - len(cells))
                rows.append(number)
                lines.append(line)
                for column, position in zip(columns, positions, strict=True):
                    column.append(_cell(cells[position]))
        except csv.Error as problem:
            last = f" behind row {rows[-1]}" if rows else ""
            raise self._unreadable(
                f"{problem}{last}", "close all quotes, and double those in a quoted cell"
            ) from None
        return Cells(columns, rows, lines, tuple(_notes_on(short, comments)))

    def _check_width(self, cells: Sequence[str], width: int, number: int) -> None:
        """Empty cells behind the last column are a spreadsheet's; others shift what stands in the row."""
        if len(cells) > width and not any(cell and not cell.isspace() for cell in cells[width:]):
            return
        mark = "a tab" if self._layout.delimiter == "\t" else f"'{self._layout.delimiter}'"
        raise self._unreadable(
            f"Expected {width} columns, got {len(cells)} in row {number}",
            f"quote cells that hold {mark}; or, if all rows have one more, name the column that the header "
            "lacks"
            if len(cells) > width
            else "fill the row up, or remove it",
        )


def _cell(text: str) -> str | None:
    text = text.strip()
    if text.startswith('="') and text.endswith('"') and len(text) > 2:
        text = text[2:-1]  # how zeros in front are kept from Excel
    return text or None


def _notes_on(short: Sequence[int], comments: int) -> list[str]:
    notes = []
    if short:
        notes.append(
            f"{len(short)} rows end before the last column (the first: row {short[0]}): the cells that they "
            "lack are read as empty"
        )
    if comments:
        notes.append(f"{comments} rows that begin with # are passed by")
    return notes


class _Parquet(Written):
    def __init__(self, path: Path, noun: str, error: type[InputError], data: bytes) -> None:
        self._path, self._noun, self._error = path, noun, error
        try:
            self._file = pq.ParquetFile(pa.BufferReader(data))
            names = self._file.schema_arrow.names
        except (OSError, pa.ArrowException) as problem:
            raise self._damaged(type(problem).__name__) from None
        self.header = TableHeader(str(path), tuple(name.strip() for name in names), error)

    def _damaged(self, found: str) -> InputError:
        return self._error(
            f"{self._noun} can't be read",
            expected="a readable Parquet file",
            found=found,
            where=str(self._path),
            next_step="write it again, as Parquet or as CSV",
        )

    @cached_property
    def _names(self) -> list[str]:
        return list(self._file.schema_arrow.names)

    def read(self, positions: Sequence[int], *, whole_rows: bool = False) -> Cells:
        try:
            table = self._file.read(columns=[self._names[position] for position in positions])
        except (OSError, pa.ArrowException) as problem:
            raise self._damaged(type(problem).__name__) from None
        columns = tuple(self._texts(table, self._names[position]) for position in positions)
        numbers = list(range(1, self._file.metadata.num_rows + 1))
        return Cells(columns, numbers, numbers, ())

    def _texts(self, table: pa.Table, name: str) -> list[str | None]:
        column = table[name]
        try:
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            if pa.types.is_floating(column.type):
                column = _without_nan(column)
            text = pc.utf8_trim_whitespace(column.cast(pa.string()))
        except (pa.ArrowException, UnicodeDecodeError):
            raise self._error(
                f"the column '{name}' holds something other than text and numbers",
                expected="text or numbers",
                found=str(column.type),
                where=str(self._path),
                next_step="write one text or number into each cell",
            ) from None
        texts: list[str | None] = pc.if_else(pc.equal(text, ""), None, text).to_pylist()
        return texts


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Undo how pandas keeps numbers of which some are missing: 1.0 for 1, and not-a-number for none."""
    column = pc.if_else(pc.is_nan(column), None, column)
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        return column
