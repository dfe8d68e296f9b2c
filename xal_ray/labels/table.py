"""Labels from a table: `image_id, label`, and where a reader drew one, `mask` or `box_x0 .. box_y1`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from xal_ray import config
from xal_ray.errors import InputError, LabelError
from xal_ray.images import ImageError, decode_mask
from xal_ray.labels.answers import Ids, as_class, chosen, nearest_class
from xal_ray.labels.columns import BOX, OPTIONAL, check_filled, find_columns, respelled
from xal_ray.layout import RECEIVED_SCHEMA
from xal_ray.places import is_remote
from xal_ray.pool.schema import PoolReader
from xal_ray.roi import boxes_to_grid, check_boxes, check_mask, mask_to_grid, pack_coverage
from xal_ray.tables import open_written


def read_labels(
    path: Path,
    pool: PoolReader,
    awaited: Collection[str],
    *,
    label_column: str = "label",
    tell: Callable[[str], None] = lambda _: None,
) -> pa.Table:
    """Read labels; rows whose label is still empty are skipped.

    Args:
        path: The table, of any kind that `open_written` reads. Masks are relative to its folder.
        pool: The pool: its classes, and the frames of its images.
        awaited: The ids that may be labelled now.
        label_column: The column with the classes.
        tell: Hears how the file was understood, where that is not plain.

    Returns:
        `RECEIVED_SCHEMA`, sorted by image_id.

    Raises:
        LabelError: A column is missing, or another one holds the classes; or a line names an unknown id, an
            id that is not awaited, an unknown class, two labels for one image, or a mask or box that does
            not fit. The line is named. Then nothing is read.
    """
    table = open_written(path, "the labels", LabelError, ("image_id", label_column, *OPTIONAL))
    frames = {row["image_id"]: (row["height"], row["width"]) for row in _frames(pool).to_pylist()}
    ids = Ids(frames, awaited)
    places = find_columns(table, ids, pool, label_column)
    cells = table.read(list(places.values()))
    check_filled(table, cells, places, pool)
    for note in (*table.notes, *cells.notes, *respelled(table, places)):
        tell(note)
    received: dict[str, dict[str, Any]] = {}
    lines: dict[str, int] = {}
    changed: dict[str, str] = {}
    for line, *texts in zip(cells.lines, *cells.columns, strict=True):
        row = dict(zip(places, texts, strict=True))
        where = f"{path}, line {line}"
        image_id = _awaited_id(row["image_id"] or "", ids, where)
        if row["label"] is None:
            continue
        label = _class_of(row["label"], pool.classes, where)
        changed |= {row["label"]: label} if label != row["label"] else {}
        roi = _roi(row, path, frames[image_id], pool, where, decimal_commas=table.has_decimal_commas)
        entry = {"image_id": image_id, "label": label, "roi": roi}
        if received.setdefault(image_id, entry) != entry:
            raise LabelError(
                "an image has two different labels",
                found=repr(image_id),
                where=f"{where}, and line {lines[image_id]}",
                next_step="keep the line that is right, and remove the other",
            )
        lines.setdefault(image_id, line)
    if changed:
        tell(
            "labels: " + ", ".join(f"{cell} is read as {label}" for cell, label in list(changed.items())[:5])
        )
    if not received:
        tell(f"all {len(cells.lines)} rows are empty in '{table.header.names[places['label']]}'")
    ordered = [received[image_id] for image_id in sorted(received)]
    return pa.Table.from_pylist(ordered, schema=RECEIVED_SCHEMA)


def merge(known: pa.Table, received: pa.Table, kept: Path | None = None) -> pa.Table:
    """Add received labels to the known ones; the same label again changes nothing.

    Args:
        known: What was imported before.
        received: What comes in.
        kept: Where the known ones are kept, for messages.

    Raises:
        LabelError: A label differs from the one that is known.
    """
    rows = {row["image_id"]: row for row in known.to_pylist()}
    for row in received.to_pylist():
        before = rows.setdefault(row["image_id"], row)
        if before["label"] != row["label"]:
            raise LabelError(
                "an image was already imported with another label",
                expected=before["label"],
                found=row["label"],
                where=f"image_id {row['image_id']}",
                next_step="remove the line to keep what was imported; or, to replace it while the round "
                f"still waits, remove {kept or 'its labels'} and import all labels of the round again",
            )
    return pa.Table.from_pylist([rows[image_id] for image_id in sorted(rows)], schema=RECEIVED_SCHEMA)


def _awaited_id(cell: str, ids: Ids, where: str) -> str:
    image_id = ids.of(cell)
    if image_id is None:
        near = ids.nearest(cell)
        raise LabelError(
            "an image_id is not in the pool",
            found=repr(cell[:130]),
            where=where,
            next_step=f"did you mean '{near}'? Write ids as they were exported: spreadsheets drop zeros"
            if near
            else "keep the ids of to_label/selection.csv, or leave the line out",
        )
    if image_id not in ids.awaited:
        raise LabelError(
            "an image is not one of those that wait for labels",
            found=repr(image_id),
            where=where,
            next_step="label the images of to_label/selection.csv of the round that waits",
        )
    return image_id


def _class_of(cell: str, classes: Collection[str], where: str) -> str:
    answers = chosen(cell)
    label = as_class(answers[0], classes) if len(set(answers)) == 1 else None
    if label is None:
        near = nearest_class(answers[0], classes)
        raise LabelError(
            "a label is not one of the pool's classes",
            expected=", ".join(classes),
            found=repr(cell[:130]),
            where=where,
            next_step="write one class; or leave the cell empty: the image then still waits"
            if len(set(answers)) > 1 or near is None
            else f"did you mean '{near}'? Write it so; or leave the cell empty: the image then still waits",
        )
    return label


def _frames(pool: PoolReader) -> pa.Table:
    return pool.index().select(["image_id", "width", "height"])


def _roi(
    row: Mapping[str, str | None],
    path: Path,
    frame: tuple[int, int],
    pool: PoolReader,
    where: str,
    *,
    decimal_commas: bool,
) -> bytes | None:
    """The drawn region as coverage 0..255 at the pool's size, or None where none was drawn."""
    grid = (pool.image_size, pool.image_size)
    mask_name = row.get("mask")
    corners = [row.get(name) or "" for name in BOX]
    if decimal_commas:
        corners = [text.replace(",", ".") for text in corners]
    try:
        if mask_name:
            mask = decode_mask(_beside(path, mask_name, where), config.Limits())
            check_mask(mask, frame, where=where)
            if not mask.any():
                return None  # there is no region: one of nothing would be ranked and drawn as one
            coverage = mask_to_grid(mask.astype(np.float32), grid)
        elif any(corners):
            box = np.array([[_number(text, where) for text in corners]])
            check_boxes(box, frame, where=where)
            coverage = boxes_to_grid(box, frame, grid)
        else:
            return None
    except ImageError as error:
        raise LabelError(
            "a mask can't be read",
            found=f"{error.code}: {error.detail}",
            where=where,
            next_step="give the path of a mask relative to the file's folder, or empty the cell",
        ) from error
    except InputError as error:
        raise LabelError(
            error.what,
            expected=error.details["expected"],
            found=error.details["found"],
            where=where,
            next_step=error.details["next"],
        ) from error
    return pack_coverage(coverage)


def _beside(path: Path, name: str, where: str) -> Path:
    """A mask's path, which must lie in the folder of the CSV file or below."""
    outside = LabelError(
        "a mask lies outside the folder of its CSV file",
        found=repr(name),
        where=where,
        next_step="copy the masks beside the file or below, and give their paths from there",
    )
    if is_remote(path):
        if name.startswith("/") or ".." in name.split("/") or "://" in name:
            raise outside
        return path.parent / name
    folder = path.resolve().parent
    mask = (folder / name).resolve()
    if not mask.is_relative_to(folder):
        raise outside
    return mask


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise LabelError(
            "a box corner is not a number",
            found=repr(text),
            where=where,
            next_step="give four numbers, with points, or empty all four cells",
        )
    return value
