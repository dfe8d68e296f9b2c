"""A CSV, TSV or Parquet manifest: a row an image, or a row a box."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from xal_ray.config import Columns, Pool
from xal_ray.errors import SourceError
from xal_ray.pool.manifest import Row, manifest_of
from xal_ray.pool.sources.common.faults import Faults
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.pool.sources.common.paths import SourceRoot, image_id_of_path
from xal_ray.pool.sources.common.split_names import split_of_name
from xal_ray.pool.spellings import is_left_out
from xal_ray.roi import sound_boxes
from xal_ray.tables import Written, key_of, open_written

_BOX = ("box_x0", "box_y0", "box_x1", "box_y1")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
# Without a column of this name, one that is nearly called so is refused: passing it by would lose what it
# holds, and taking it might be wrong. Attributes are for counts alone, and are only said to be unread.
_CHECKED = ("image_id", "label", "mask", "split", "frame", *_BOX)
_MAY_BE_MISSING = ("mask", "split", "frame", *_BOX)
_MAY_BE_SPLITS = ("set", "subset", "partition", "fold", "phase", "usage", "dataset", "data_split")
_SYNONYMS: Mapping[str, Sequence[str]] = {
    "image": ("path", "file", "filename", "file_name", "filepath", "file_path", "image_path", "img"),
    "group_id": ("patient_id", "patient", "subject_id", "subject", "group", "case_id", "case", "person_id"),
}

Cells = dict[str, list[str | None]]


@dataclass(frozen=True)
class _Origin:
    """Says where rows came from, for messages."""

    path: Path
    numbers: Sequence[int]  # of each row, as a spreadsheet shows it

    def of(self, position: int) -> str:
        return f"{self.path}, row {self.numbers[position]}"


def read(pool: Pool) -> Listing:
    """Read a manifest file.

    Rows with the same image_id are the boxes of one image, if they agree in everything else.

    Args:
        pool: `source.path` is the file, `source.columns` says which column holds what. `group_by: group_id`:
            the column must be there. `header`: each file's header names its patient. `image`: every image is
            a group of its own.

    Returns:
        The manifest. `roi_state` is `present` where there is a mask or a box, else `not_annotated`: an empty
        cell does not say that somebody looked. A box that can't be meant is dropped, and an image refused
        that has no other.

    Raises:
        SourceError: The file can't be read, lacks a column, or a row is wrong.
    """
    path = pool.source.path
    if path is None:
        raise SourceError("a manifest needs a path", next_step="--set pool.source.path=PATH")
    cells, numbers, notes = _read_cells(path, pool)
    origin = _Origin(path, numbers)
    rows: dict[str, Row] = {}
    positions: dict[str, int] = {}
    for position, row in enumerate(_rows(cells, pool.group_by, origin)):
        image_id = row["image_id"]
        if image_id in rows:
            _add_box(rows[image_id], row, positions[image_id], position, origin)
        else:
            rows[image_id] = row
            positions[image_id] = position
    faults = Faults()
    sound = [
        row for row in rows.values() if _has_sound_boxes(row, origin, positions[row["image_id"]], faults)
    ]
    return Listing(
        manifest_of(sound),
        row_numbers=[numbers[positions[row["image_id"]]] for row in sound],
        notes=tuple(notes),
        refused=faults.refused,
        warned=faults.warned,
    )


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
        box = _box(cell)
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
            "study_id": cell.get("study_id"),
            "site": cell.get("site"),
            "device": cell.get("device"),
            "sex": cell.get("sex"),
            "age_band": cell.get("age_band"),
        }


def _frame(text: str | None, where: str) -> int | None:
    # 1.0 is written by programs that know empty cells among real numbers alone.
    number = re.fullmatch(r"(\d+)(?:\.0+)?", text or "", re.ASCII)
    if text is None or number:
        return int(number.group(1)) if number else None
    raise SourceError(
        "a frame is malformed",
        expected="a whole number from 0, or an empty cell",
        found=text[:24],
        where=where,
        next_step="correct the cell; a column of something else is left out by "
        "--set pool.source.columns.frame=null",
    )


def _box(cell: dict[str, str | None]) -> list[float] | None:
    """The box of a row: x0, y0, x1, y1; None where all four cells are empty; nan for what is no number."""
    texts = [cell.get(name) for name in _BOX]
    if all(text is None for text in texts):
        return None
    return [_number(text) for text in texts]


def _number(text: str | None) -> float:
    try:
        number = float("nan" if text is None else text)
    except ValueError:
        number = math.nan
    return number if math.isfinite(number) else float("nan")  # a nan of its own: no two such boxes are equal


def _has_sound_boxes(row: Row, origin: _Origin, position: int, faults: Faults) -> bool:
    """Leave the boxes of an image that can be meant; whether it can be used with these."""
    sound = sound_boxes(row["boxes"], None)
    if not sound.dropped:
        return True
    place = f"{origin.path.name}, row {origin.numbers[position]}"
    if sound.is_lost and row["mask_uri"] is None:
        detail = (
            f"{place}: none of its boxes can be meant: {sound.faults} (four numbers, x0 < x1 and y0 < y1)"
        )
        faults.refuse(row["image_id"], row["uri"], detail)
        return False
    faults.drop_all(sound, row["image_id"])
    row["boxes"] = sound.shapes
    row["roi_state"] = "present" if sound.shapes or row["mask_uri"] is not None else "not_annotated"
    return True


def _add_box(kept: Row, row: Row, first: int, position: int, origin: _Origin) -> None:
    """Add the box of a further row of an image that was seen before."""
    differing = [
        name for name, value in row.items() if name not in ("boxes", "roi_state") and value != kept.get(name)
    ]
    further_box = kept["boxes"] and row["boxes"] and row["boxes"][0] not in kept["boxes"]
    if differing or not further_box:
        first_row, row_again = origin.numbers[first], origin.numbers[position]
        raise SourceError(
            "an image_id stands twice",
            expected="one row an image, or rows that differ in their box only",
            found=f"'{row['image_id']}' in rows {first_row} and {row_again}, "
            + (f"which differ in {', '.join(differing)}" if differing else "without a further box"),
            where=str(origin.path),
            next_step="keep one of the rows, or give each image an id of its own",
        )
    kept["boxes"] = [*kept["boxes"], row["boxes"][0]]


def _refuse_empty(column: str, where: str) -> NoReturn:
    raise SourceError(f"the cell '{column}' is empty", where=where, next_step="fill it, or leave the row out")


def _read_cells(path: Path, pool: Pool) -> tuple[Cells, list[int], list[str]]:
    """Read the columns that count, as text: ids like 0001 keep their zeros, empty cells are None.

    Returns:
        The cells by our name of their column, the number of each row, and notes.
    """
    columns = pool.source.columns
    names = [name for name in columns.model_dump().values() if name is not None]
    table = open_written(path, "the manifest", SourceError, names)
    places = _find_columns(columns, table, pool.group_by)
    read = table.read(list(places.values()))
    cells = dict(zip(places, read.columns, strict=True))
    if pool.classes and columns.label is not None and not any(cells.get("label", [])):
        _check_no_other_labels(table, pool.classes, places)
    missing = _empty_missing(cells)
    if any("," in text for name in _BOX for text in cells.get(name, []) if text):
        _mend_decimal_commas(cells, places, table)
    respelled = {
        f"'{table.header.names[at]}' as {name}"
        for name, at in places.items()
        if table.header.names[at] != getattr(columns, name)
    }
    notes = [*table.notes, *read.notes, *missing]
    notes += [f"columns: read {', '.join(sorted(respelled))}"] if respelled else []
    # A group column that stands aside on request is no news.
    known = {at for name in names if (at := table.header.find(name)) is not None}
    unread = table.header.unread(known | set(places.values()))
    notes += [unread] if unread else []
    return cells, read.rows, [f"{path.name}: {note}" for note in notes]


def _check_no_other_labels(table: Written, classes: Sequence[str], places: Mapping[str, int]) -> None:
    """Refuse a manifest without labels whose classes stand in another column than they should."""
    others = table.columns_of(classes, set(places.values()))
    if others:
        place = (
            f"all rows are empty in '{table.header.names[places['label']]}'" if "label" in places else None
        )
        raise SourceError(
            "the manifest has labels, but not in the column of the labels",
            expected=f"classes of this pool there: {place}"
            if place
            else "a column for pool.source.columns.label",
            found=f"classes of this pool in '{others[0]}'",
            where=table.header.where,
            next_step=f"--set pool.source.columns.label={_shell_word(others[0])}, or, if it holds something "
            "else, --set pool.source.columns.label=null",
        )


def _empty_missing(cells: Cells) -> list[str]:
    """Empty the cells in which a program wrote that there is nothing, as NA or nan; and say so."""
    counts: dict[str, int] = {}
    for name in _MAY_BE_MISSING:
        column = cells.get(name, [])
        says_nothing = [text is not None and is_left_out(text) for text in column]
        if any(says_nothing):
            counts[name] = sum(says_nothing)
            cells[name] = [None if empty else text for text, empty in zip(column, says_nothing, strict=True)]
    told = ", ".join(f"{count} of {name}" for name, count in counts.items())
    return [f"cells that say that there is nothing (nan, NA, ...) are read as empty: {told}"] if told else []


def _mend_decimal_commas(cells: Cells, places: Mapping[str, int], table: Written) -> None:
    """12,5 is a number where commas don't part cells; where they do, it might be a thousand."""
    if not table.has_decimal_commas:
        return
    for name in _BOX:
        cells[name] = [
            text.replace(",", ".") if text and _DECIMAL_COMMA.fullmatch(text) else text
            for text in cells[name]
        ]


def _find_columns(columns: Columns, table: Written, group_by: str) -> dict[str, int]:
    """Which of our columns are in the file, and where.

    Raises:
        SourceError: A column is missing that is required or was named in the configuration, or one of ours
            stands twice, or is nearly there.
    """
    header = table.header
    names: dict[str, str | None] = columns.model_dump()
    if group_by != "group_id":
        names["group_id"] = None
    defaults = Columns().model_dump()
    places = {
        name: at for name, column in names.items() if column and (at := header.find(column)) is not None
    }
    required = {
        name for name, column in names.items() if name == "image" or column not in (None, defaults[name])
    }
    required |= {"group_id"} if group_by == "group_id" else set()
    required |= set(_BOX) if any(name in places for name in _BOX) else set()
    for name, column in names.items():
        if name in places or (column is None and name not in required):
            continue
        near = header.nearest(column or name, set(places.values()), _SYNONYMS.get(name, ()))
        if name in required or (near is not None and name in _CHECKED):
            raise _missing_column(name, column or name, near, table, optional=name not in required)
    _check_no_other_boxes(names, places, table)
    if names["split"] and "split" not in places:
        _check_no_other_splits(table, places)
    return places


def _check_no_other_boxes(names: Mapping[str, str | None], places: Mapping[str, int], table: Written) -> None:
    """Refuse boxes under names that are not ours: passed by, the regions would be lost."""
    corners = table.header.corners()
    if not corners or set(_BOX) & set(places) or not all(names[name] for name in _BOX):
        return
    settings = zip(_BOX, corners, strict=True)
    raise SourceError(
        "the manifest may have boxes, but not in the columns of boxes",
        expected=", ".join(_BOX),
        found=", ".join(corners),
        where=table.header.where,
        next_step=" ".join(f"--set pool.source.columns.{name}={_shell_word(word)}" for name, word in settings)
        + " (corners in pixels); or, if they hold something else, --set pool.source.columns.box_x0=null",
    )


def _check_no_other_splits(table: Written, places: Mapping[str, int]) -> None:
    """Refuse splits in a column of another name: passed by, others would be dealt."""
    words = {key_of(word) for word in _MAY_BE_SPLITS}
    called = [at for at, name in enumerate(table.header.names) if key_of(name) in words]
    if not set(called) - set(places.values()):
        return
    others = set(range(len(table.header.names))) - set(called)
    for name in table.columns_of({"pool", "val", "test"}, others | set(places.values()), split_of_name):
        raise _missing_column("split", "split", name, table, optional=True)


def _missing_column(
    name: str, column: str, near: str | None, table: Written, *, optional: bool
) -> SourceError:
    key = f"pool.source.columns.{name}"
    next_step = f"--set {key}={_shell_word(near) if near else 'COLUMN'}"
    if name == "image" and near is None:
        next_step += ", where the first row names the columns; else write such a row: image, group_id, label"
    if optional:
        next_step += f", or, if it holds something else, --set {key}=null"
    if name == "group_id":
        next_step += (
            ", or --set pool.group_by=image if no two images show the same patient"
            ", or pool.group_by=header if they are DICOM files that name theirs"
        )
    found = table.header.shown()
    return SourceError(
        f"the manifest has no column '{column}'",
        expected=f"a column for {key}",
        found=f"'{near}' among {found}" if optional else found,
        where=table.header.where,
        next_step=next_step,
    )


def _shell_word(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]+", name) else f"'{name}'"
