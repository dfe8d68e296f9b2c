"""Labels from a table: `image_id, label`, and where an annotator drew one, `mask` or `box_x0 .. box_y1`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from xal_ray import config
from xal_ray.errors import InputError, LabelError
from xal_ray.images import ImageError, decode_mask
from xal_ray.labels.answers import Ids, as_class, chosen, nearest_class
from xal_ray.labels.columns import BOX, OPTIONAL, check_filled, find_columns, respelled
from xal_ray.places import is_remote
from xal_ray.pool.schema import PoolReader
from xal_ray.pool.spellings import is_left_out
from xal_ray.record.layout import RECEIVED_SCHEMA
from xal_ray.roi import boxes_to_grid, check_mask, mask_to_grid, pack_coverage, sound_boxes
from xal_ray.tables import open_written

_EMPTY = "leave the cell empty: the image then still waits (`labels import --close` passes it over)"


class _RegionError(Exception):
    """A mask or box of a line that can't be meant: what is wrong with it, what was found, what to do."""

    def __init__(self, what: str, found: str, next_step: str) -> None:
        super().__init__(what)
        self.what, self.found, self.next_step = what, found, next_step


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
        `RECEIVED_SCHEMA`, sorted by image_id. An image whose mask or box can't be meant is left out, and
        still waits; boxes that reach out of their image are cut. Both are told, by line.

    Raises:
        LabelError: A column is missing, or another one holds the classes; or a line names an unknown id, an
            id that is not awaited, an unknown class, two labels for one image, or a mask elsewhere; or no
            line is left. The line is named. Then nothing is read.
    """
    table = open_written(path, "the labels", LabelError, ("image_id", label_column, *OPTIONAL))
    frames = {row["image_id"]: (row["height"], row["width"]) for row in _frames(pool).to_pylist()}
    ids = Ids(frames, awaited)
    positions = find_columns(table, ids, pool, label_column)
    cells = table.read(list(positions.values()))
    check_filled(table, cells, positions, pool)
    for note in (*table.notes, *cells.notes, *respelled(table, positions)):
        tell(note)
    received: dict[str, dict[str, Any]] = {}
    lines: dict[str, int] = {}
    changed: dict[str, str] = {}
    bad: list[tuple[int, _RegionError]] = []
    cut: list[int] = []
    for line, *texts in zip(cells.lines, *cells.columns, strict=True):
        row = dict(zip(positions, texts, strict=True))
        where = f"{path}, line {line}"
        image_id = _awaited_id(row["image_id"] or "", ids, where)
        if row["label"] is None:
            continue
        label = _class_of(row["label"], pool.classes, where)
        changed |= {row["label"]: label} if label != row["label"] else {}
        try:
            roi, is_cut = _roi(row, path, frames[image_id], pool, decimal_commas=table.has_decimal_commas)
        except _RegionError as fault:
            bad.append((line, fault))
            continue
        cut += [line] if is_cut else []
        entry = {"image_id": image_id, "label": label, "roi": roi}
        if received.setdefault(image_id, entry) != entry:
            is_label = received[image_id]["label"] != label
            raise LabelError(
                f"an image has two different {'labels' if is_label else 'regions'}",
                found=repr(image_id),
                where=f"{where}, and line {lines[image_id]}",
                next_step="keep the line that is right, and remove the other"
                if is_label
                else "write one line: with a mask of both regions, or a box around them",
            )
        lines.setdefault(image_id, line)
    if bad and not received:
        line, first = bad[0]
        raise LabelError(
            first.what, found=first.found, where=f"{path}, line {line}", next_step=first.next_step
        )
    _tell_of_regions(bad, cut, tell)
    if changed:
        tell(
            "labels: " + ", ".join(f"{cell} is read as {label}" for cell, label in list(changed.items())[:5])
        )
    if not received:
        tell(f"all {len(cells.lines)} rows are empty in '{table.header.names[positions['label']]}'")
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
            next_step=f"write one class; or {_EMPTY}"
            if len(set(answers)) > 1 or near is None
            else f"did you mean '{near}'? Write it so; or {_EMPTY}",
        )
    return label


def _frames(pool: PoolReader) -> pa.Table:
    return pool.index().select(["image_id", "width", "height"])


def _roi(
    row: Mapping[str, str | None],
    path: Path,
    frame: tuple[int, int],
    pool: PoolReader,
    *,
    decimal_commas: bool,
) -> tuple[bytes | None, bool]:
    """The drawn region as coverage 0..255 at the pool's size, None where none was drawn; and if it was cut.

    Raises:
        _RegionError: It can't be meant.
        LabelError: A mask lies elsewhere.
    """
    grid = (pool.image_size, pool.image_size)
    mask_name = row.get("mask")
    if mask_name and is_left_out(mask_name):  # nan or NA, as programs write empty cells
        mask_name = None
    corners = ["" if is_left_out(text := row.get(name) or "") else text for name in BOX]
    if decimal_commas:
        corners = [text.replace(",", ".") for text in corners]
    if mask_name:
        mask = _mask(_beside(path, mask_name), frame)
        # There may be no region: one of nothing would be ranked and drawn as one.
        return (pack_coverage(mask_to_grid(mask.astype(np.float32), grid)) if mask.any() else None), False
    if not any(corners):
        return None, False
    sound = sound_boxes([[_number(text) for text in corners]], frame)
    if not sound.shapes:
        raise _RegionError(
            "a box can't be meant",
            sound.faults.removeprefix("1 with "),
            "correct the box (corners x0, y0, x1, y1 in pixels of the image, not width and height), or empty "
            "its four cells",
        )
    return pack_coverage(boxes_to_grid(sound.shapes, frame, grid)), sound.num_cut > 0


def _mask(path: Path, frame: tuple[int, int]) -> npt.NDArray[np.bool_]:
    try:
        mask = decode_mask(path, config.Limits())
        check_mask(mask, frame)
    except ImageError as error:
        raise _RegionError(
            "a mask can't be read",
            f"{error.code}: {error.detail}",
            "give the path of a mask relative to the file's folder, or empty the cell",
        ) from None
    except InputError as error:
        expected, found = error.details["expected"], error.details["found"]
        raise _RegionError(error.what, f"{found}, not {expected}", str(error.details["next"])) from None
    return mask


def _tell_of_regions(
    bad: Sequence[tuple[int, _RegionError]], cut: Sequence[int], tell: Callable[[str], None]
) -> None:
    """Tell of each line whose region was cut, or whose image is left out for its region."""
    for line, fault in bad:
        tell(f"warning: line {line}: {fault.what} ({fault.found}): the image is left out, and still waits")
    if cut:
        lines = ", ".join(map(str, cut))
        tell(f"warning: boxes that reach out of their image are cut at its edge: lines {lines}")


def _beside(path: Path, name: str) -> Path:
    """Return a mask's path, which must lie in the folder of the CSV file or below."""
    outside = LabelError(
        "a mask lies outside the folder of its CSV file",
        found=repr(name),
        where=str(path),
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


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
