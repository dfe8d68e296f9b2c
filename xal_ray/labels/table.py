"""Labels from a CSV file: `image_id, label`, and where a reader drew one, `mask` or `box_x0 .. box_y1`."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from xal_ray import config
from xal_ray.errors import InputError, LabelError
from xal_ray.images import ImageError, decode_mask
from xal_ray.layout import RECEIVED_SCHEMA
from xal_ray.places import is_remote
from xal_ray.pool.schema import PoolReader
from xal_ray.roi import boxes_to_grid, check_boxes, check_mask, mask_to_grid, pack_coverage

_BOX = ("box_x0", "box_y0", "box_x1", "box_y1")


def read_labels(path: Path, pool: PoolReader, awaited: Collection[str]) -> pa.Table:
    """Read labels; rows whose label is still empty are skipped.

    Args:
        path: The CSV file. Masks are relative to its folder.
        pool: The pool: its classes, and the frames of its images.
        awaited: The ids that may be labelled now.

    Returns:
        `RECEIVED_SCHEMA`, sorted by image_id.

    Raises:
        LabelError: A column is missing; or a line names an unknown id, an id that is not awaited, an unknown
            class, two labels for one image, or a mask or box that does not fit. The line is named.
    """
    rows = _read_rows(path)
    frames = {row["image_id"]: (row["height"], row["width"]) for row in _frames(pool).to_pylist()}
    received: dict[str, dict[str, Any]] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        image_id = (row.get("image_id") or "").strip().removeprefix("'")
        label = (row.get("label") or "").strip()
        if image_id not in frames:
            raise LabelError("an image_id is not in the pool", found=repr(image_id), where=where)
        if image_id not in awaited:
            raise LabelError(
                "an image is not one of those that wait for labels",
                found=repr(image_id),
                where=where,
                next_step="label the images of to_label/selection.csv of the round that waits",
            )
        if not label:
            continue
        if label not in pool.classes:
            raise LabelError(
                "a label is not one of the pool's classes",
                expected=", ".join(pool.classes),
                found=repr(label),
                where=where,
            )
        entry = {"image_id": image_id, "label": label, "roi": _roi(row, path, frames[image_id], pool, where)}
        if received.setdefault(image_id, entry) != entry:
            raise LabelError("an image has two different labels", found=repr(image_id), where=where)
    ordered = [received[image_id] for image_id in sorted(received)]
    return pa.Table.from_pylist(ordered, schema=RECEIVED_SCHEMA)


def merge(known: pa.Table, received: pa.Table) -> pa.Table:
    """Add received labels to the known ones; the same label again changes nothing.

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
                next_step="remove the line, or correct it",
            )
    return pa.Table.from_pylist([rows[image_id] for image_id in sorted(rows)], schema=RECEIVED_SCHEMA)


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or [])
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(
            "the labels can't be read", expected="a CSV file in UTF-8", found=str(error), where=str(path)
        ) from error
    missing = [name for name in ("image_id", "label") if name not in columns]
    if missing:
        raise LabelError(
            f"the labels lack the column '{missing[0]}'",
            expected="image_id, label, and optionally mask or " + ", ".join(_BOX),
            found=", ".join(columns) or "an empty file",
            where=str(path),
        )
    return rows


def _frames(pool: PoolReader) -> pa.Table:
    return pool.index().select(["image_id", "width", "height"])


def _roi(
    row: dict[str, str], path: Path, frame: tuple[int, int], pool: PoolReader, where: str
) -> bytes | None:
    """The drawn region as coverage 0..255 at the pool's size, or None where none was drawn."""
    grid = (pool.image_size, pool.image_size)
    mask_name = (row.get("mask") or "").strip()
    corners = [(row.get(name) or "").strip() for name in _BOX]
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
            "a mask can't be read", found=f"{error.code}: {error.detail}", where=where
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
    outside = LabelError("a mask lies outside the folder of its CSV file", found=repr(name), where=where)
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
        raise LabelError("a box corner is not a number", found=repr(text), where=where)
    return value
