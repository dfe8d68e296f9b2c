"""A CSV, TSV or Parquet manifest: a row an image, or a row a box."""

from __future__ import annotations

import csv
import difflib
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from xal_ray.config import Columns, Pool
from xal_ray.errors import SourceError
from xal_ray.places import is_remote
from xal_ray.pool.manifest import Row, manifest_of
from xal_ray.pool.schema import ATTRIBUTES
from xal_ray.pool.sources.listing import Listing
from xal_ray.pool.sources.paths import SourceRoot, image_id_of_path

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_BOX = ("box_x0", "box_y0", "box_x1", "box_y1")

Cells = dict[str, list[str | None]]


@dataclass(frozen=True)
class _Origin:
    """Where a row came from, for messages."""

    path: Path
    first_line: int  # 2 below a CSV's header; 1 for Parquet, which has no lines

    def of(self, position: int) -> str:
        return f"{self.path}, row {self.first_line + position}"


def read(pool: Pool) -> Listing:
    """Read a manifest file.

    Rows with the same image_id are the boxes of one image, if they agree in everything else.

    Args:
        pool: `source.path` is the file, `source.columns` says which column holds what. `group_by: group_id`:
            the column must be there. `header`: each file's header names its patient. `image`: every image is
            a group of its own.

    Returns:
        The manifest. `roi_state` is `present` where there is a mask or a box, else `not_annotated`: an empty
        cell does not say that somebody looked.

    Raises:
        SourceError: The file can't be read, lacks a column, or a row is wrong.
    """
    source, path = pool.source, pool.source.path
    if path is None:
        raise SourceError("a manifest needs a path", next_step="--set pool.source.path=PATH")
    cells = _read_cells(path, source.columns, pool.group_by)
    origin = _Origin(path, 1 if path.suffix.lower() == ".parquet" else 2)
    rows: dict[str, Row] = {}
    positions: dict[str, int] = {}
    for position, row in enumerate(_rows(cells, pool.group_by, origin)):
        image_id = row["image_id"]
        if image_id in rows:
            _add_box(rows[image_id], row, positions[image_id], position, origin)
        else:
            rows[image_id] = row
            positions[image_id] = position
    numbers = [origin.first_line + position for position in positions.values()]
    return Listing(manifest_of(list(rows.values())), row_numbers=numbers)


def _rows(cells: Cells, group_by: str, origin: _Origin) -> Iterator[Row]:
    """Yield a manifest row for every row of the file."""
    root = SourceRoot(origin.path.parent)
    for position, image in enumerate(cells["image"]):
        cell = {name: column[position] for name, column in cells.items()}
        where = origin.of(position)
        if image is None:
            _refuse_empty("image", where)
        uri, relative = root.locate(image, where)
        frame = _frame(cell.get("frame"), where)
        of_path = image_id_of_path(relative if frame is None else f"{relative}#{frame}")
        image_id = cell.get("image_id", of_path)
        if image_id is None:
            _refuse_empty("image_id", where)
        group_id = image_id if group_by == "image" else cell.get("group_id")
        if group_id is None and group_by == "group_id":
            _refuse_empty("group_id", where)
        mask = cell.get("mask")
        box = _box(cell, where)
        yield {
            "image_id": image_id,
            "uri": uri,
            "group_id": group_id,
            "label": cell.get("label"),
            "split": cell.get("split"),
            "mask_uri": root.locate(mask, where)[0] if mask is not None else None,
            "boxes": [box] if box is not None else [],
            "roi_state": "present" if mask is not None or box is not None else "not_annotated",
            "frame": frame,
            **{name: cell.get(name) for name in ATTRIBUTES},
        }


def _frame(text: str | None, where: str) -> int | None:
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    raise SourceError(
        "a frame is malformed",
        expected="a whole number from 0, or an empty cell",
        found=text[:24],
        where=where,
    )


def _box(cell: dict[str, str | None], where: str) -> list[float] | None:
    """The box of a row: x0, y0, x1, y1; None where all four cells are empty."""
    texts = [cell.get(name) for name in _BOX]
    if all(text is None for text in texts):
        return None
    try:
        x0, y0, x1, y1 = box = [float(text) for text in texts if text is not None]
    except ValueError:
        box = [math.nan]
    if len(box) != 4 or not all(map(math.isfinite, box)) or not (x0 < x1 and y0 < y1):
        raise SourceError(
            "a box is malformed",
            expected="four numbers with x0 < x1 and y0 < y1, or four empty cells",
            found=", ".join("(empty)" if text is None else text[:24] for text in texts),
            where=where,
        )
    return box


def _add_box(kept: Row, row: Row, first: int, position: int, origin: _Origin) -> None:
    """Add the box of a further row of an image that was seen before."""
    differing = [name for name in row if name not in ("boxes", "roi_state") and row[name] != kept[name]]
    further_box = kept["boxes"] and row["boxes"] and row["boxes"][0] not in kept["boxes"]
    if differing or not further_box:
        first_row, row_again = origin.first_line + first, origin.first_line + position
        raise SourceError(
            "an image_id stands twice",
            expected="one row an image, or rows that differ in their box only",
            found=f"'{row['image_id']}' in rows {first_row} and {row_again}, "
            + (f"which differ in {', '.join(differing)}" if differing else "without a further box"),
            where=str(origin.path),
            next_step="keep one of the rows, or give each image an id of its own",
        )
    kept["boxes"].append(row["boxes"][0])


def _refuse_empty(column: str, where: str) -> NoReturn:
    raise SourceError(f"the cell '{column}' is empty", where=where, next_step="fill it, or leave the row out")


def _read_cells(path: Path, columns: Columns, group_by: str) -> Cells:
    """Read the columns that count, as text: ids like 0001 keep their zeros, empty cells are None."""
    suffix = path.suffix.lower()
    if suffix not in (*_DELIMITERS, ".parquet"):
        raise SourceError(
            "the manifest is of an unknown kind",
            expected="a file ending in .csv, .tsv or .parquet",
            found=path.name,
            where=str(path.parent),
        )
    try:
        # What lies in an object store is got once, and read from memory.
        got = pa.py_buffer(path.read_bytes()) if is_remote(path) else None
        header = _csv_header(path, got) if suffix in _DELIMITERS else pq.read_schema(_input(path, got)).names
        wanted = _wanted_columns(columns, header, group_by, path)
        found = list(wanted.values())
        if suffix in _DELIMITERS:
            table = _read_csv(_input(path, got), _DELIMITERS[suffix], found)
        else:
            table = pq.read_table(_input(path, got), columns=found, partitioning=None)
        texts = {name: _as_text(table[column]) for name, column in wanted.items()}
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise SourceError(
            "the manifest can't be read",
            expected="a readable Parquet file" if suffix == ".parquet" else "UTF-8 text with equal rows",
            found=_without_content(error),
            where=str(path),
        ) from None
    return texts


def _input(path: Path, got: pa.Buffer | None) -> Path | pa.BufferReader:
    return path if got is None else pa.BufferReader(got)


def _csv_header(path: Path, got: pa.Buffer | None) -> list[str]:
    source = path.open("rb") if got is None else io.BytesIO(got)
    with source, io.TextIOWrapper(source, encoding="utf-8-sig", newline="") as stream:
        return next(csv.reader(stream, delimiter=_DELIMITERS[path.suffix.lower()]), [])


def _read_csv(source: Path | pa.BufferReader, delimiter: str, found: list[str]) -> pa.Table:
    return pacsv.read_csv(
        source,
        parse_options=pacsv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=True
        ),
        convert_options=pacsv.ConvertOptions(
            include_columns=found,
            column_types={name: pa.string() for name in found},
            strings_can_be_null=False,
        ),
    )


def _as_text(column: pa.ChunkedArray) -> list[str | None]:
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    return pc.if_else(pc.equal(text, ""), None, text).to_pylist()  # type: ignore[no-any-return]


def _without_content(error: Exception) -> str:
    """What went wrong, less the row that pyarrow quotes: it may name a patient."""
    counts = re.search(r"(Row #\d+: )?Expected \d+ columns, got \d+", str(error))
    if counts:
        return counts.group()
    return getattr(error, "strerror", None) or type(error).__name__


def _wanted_columns(columns: Columns, header: list[str], group_by: str, path: Path) -> dict[str, str]:
    """Which of our columns are in the file, and by which name.

    Raises:
        SourceError: A column is missing that is required or was named in the configuration, or one of ours
            stands twice.
    """
    names: dict[str, Any] = columns.model_dump()
    defaults = Columns().model_dump()
    required = {name for name, column in names.items() if name == "image" or column != defaults[name]}
    required |= {"group_id"} if group_by == "group_id" else set()
    if any(names[name] in header for name in _BOX):
        required |= set(_BOX)
    wanted = {}
    for name, column in names.items():
        if name == "group_id" and group_by != "group_id":
            continue
        if header.count(column) > 1:
            raise SourceError(f"the column '{column}' stands twice", where=str(path))
        if column in header:
            wanted[name] = column
        elif name in required:
            raise _missing_column(name, column, header, path)
    return wanted


def _missing_column(name: str, column: str, header: list[str], path: Path) -> SourceError:
    taken = set(Columns().model_dump().values())  # a column that has its use already is no candidate
    by_lower_case = {found.lower(): found for found in header if found not in taken}
    near = difflib.get_close_matches(column.lower(), by_lower_case, n=1, cutoff=0.5)
    key = f"pool.source.columns.{name}"
    next_step = f"--set {key}={by_lower_case[near[0]] if near else 'COLUMN'}"
    if name == "group_id":
        next_step += (
            ", or --set pool.group_by=image if no two images show the same patient"
            ", or pool.group_by=header if they are DICOM files that name theirs"
        )
    return SourceError(
        f"the manifest has no column '{column}'",
        expected=f"a column for {key}",
        found=", ".join(header) or "no header",
        where=str(path),
        next_step=next_step,
    )
