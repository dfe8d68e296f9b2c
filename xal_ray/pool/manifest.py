"""The manifest: what every source yields, a row an image (or a case of many), before a pixel is read."""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Required, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.errors import SourceError
from xal_ray.nearest_name import nearest_name
from xal_ray.pool.schema import ATTRIBUTES, ROI_STATES, SPLITS

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),  # an absolute local path, or `phantom:<index>`
        pa.field("group_id", pa.string()),  # null = the patient in the file's header, else `study_id`
        pa.field("label", pa.string()),  # null = unlabelled, unless reading tells
        pa.field("split", pa.string()),  # null = to be dealt by `assign_splits`
        pa.field("mask_uri", pa.string()),
        pa.field("more_mask_uris", pa.list_(pa.string())),  # further parts of the mask: they are united
        # x0, y0, x1, y1: pixel corners in the original's frame, half-open; empty = no box
        pa.field("boxes", pa.list_(pa.list_(pa.float32(), 4)), nullable=False),
        pa.field("roi_state", pa.string(), nullable=False),
        # Who makes images of the row, where it is not one image in one file: see `pool/reading`.
        pa.field("reader", pa.string()),
        pa.field("channel_uris", pa.list_(pa.string())),  # grey files, one a channel
        pa.field("frame", pa.int32()),  # of a file that holds several, from 0
        # The frame of boxes, polygons and rle, where it is not the image's own: resized copies.
        pa.field("roi_width", pa.int32()),
        pa.field("roi_height", pa.int32()),
        pa.field("polygons", pa.list_(pa.list_(pa.float32()))),  # x0, y0, x1, y1, ...: pixel corners
        pa.field("rle", pa.struct([("height", pa.int32()), ("width", pa.int32()), ("counts", pa.string())])),
        *(pa.field(name, pa.string()) for name in ATTRIBUTES),
    ]
)

_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
_BAD_ID_CHARACTER = re.compile(r"[^A-Za-z0-9._:/-]")

_ROWS_AT_ONCE = 4096  # as Python objects, which take many times a column's memory

# What stands for a number or a truth value in some programs and not in others.
_AS_NUMBER = {"true": "1", "yes": "1", "false": "0", "no": "0"}


class RunLengths(TypedDict):
    """A mask as COCO's run lengths, compressed or as a list in words.

    Attributes:
        height: Rows of the mask, pixels.
        width: Columns of it.
        counts: The runs, as COCO writes them.
    """

    height: int
    width: int
    counts: str


class Attributes(TypedDict, total=False):
    """Holds what a breakdown may count (`ATTRIBUTES`); a key that is missing or None is not known.

    Attributes:
        study_id: The examination.
        site: The hospital, or another place of its kind.
        device: What took the image.
        sex: F, M or O.
        age_band: Ten years, as in "30-39".
    """

    study_id: str | None
    site: str | None
    device: str | None
    sex: str | None
    age_band: str | None


class Shapes(TypedDict, total=False):
    """An ROI as shapes.

    Attributes:
        boxes: x0, y0, x1, y1 each: pixel corners in the original's frame, half-open.
        polygons: x0, y0, x1, y1, ... each: pixel corners.
        rle: A mask as run lengths.
    """

    boxes: Sequence[Sequence[float]]
    polygons: Sequence[Sequence[float]] | None
    rle: RunLengths | None


class Row(Attributes, Shapes, total=False):
    """A row of `MANIFEST_SCHEMA`; a source leaves out what it does not know, and what is read back is whole.

    Attributes:
        image_id: Unique in the manifest.
        uri: An absolute path, or `phantom:<index>`.
        group_id: What must not stand in two splits, a patient say; None: the header or `study_id` tells.
        label: The class; None where it is not known, or where reading tells it.
        split: One of `SPLITS`; None: to be dealt.
        mask_uri: A file with the ROI.
        more_mask_uris: Further parts of the mask.
        roi_state: One of `ROI_STATES`.
        reader: A module of `pool/reading`, where the row is not one image in one file.
        channel_uris: Grey files, one a channel.
        frame: Which one of a file that holds several, from 0.
        roi_width: The width of the frame that the shapes were drawn in, where it is not the image's own.
        roi_height: Its height.
    """

    image_id: Required[str]
    uri: Required[str]
    group_id: str | None
    label: str | None
    split: str | None
    mask_uri: str | None
    more_mask_uris: Sequence[str] | None
    roi_state: Required[str]
    reader: str | None
    channel_uris: Sequence[str] | None
    frame: int | None
    roi_width: int | None
    roi_height: int | None


def manifest_of(rows: Sequence[Row]) -> pa.Table:
    """Build a manifest from rows; a key that a row lacks is null."""
    return pa.Table.from_pylist(list(rows), schema=MANIFEST_SCHEMA)


def fingerprint(table: pa.Table) -> str:
    """Return the SHA-256 of a manifest's rows, in their order; where the files lie does not count."""
    rows = table.drop_columns(["uri", "mask_uri", "more_mask_uris", "channel_uris"])
    sha = hashlib.sha256()
    for start in range(0, rows.num_rows, _ROWS_AT_ONCE):
        piece = rows.slice(start, _ROWS_AT_ONCE).to_pylist()
        sha.update(json.dumps(piece, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
    return sha.hexdigest()


def side_of(split: str) -> str:
    """`train` for `pool` and `labeled`, which may share a group, else the split itself."""
    return "train" if split in ("pool", "labeled") else split


def name_key(name: str) -> str:
    """Fold the spellings of a class name into one: case, spaces, Unicode; 1.0 and True for 1."""
    visible = "".join(mark for mark in name if unicodedata.category(mark) != "Cf")
    folded = " ".join(unicodedata.normalize("NFKC", visible).casefold().split())
    try:
        number = float(_AS_NUMBER.get(folded, folded))
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return repr(number)
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", folded)


def classes_of(table: pa.Table, given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the classes in the order of the probabilities.

    Args:
        table: A manifest.
        given: `pool.classes`: then these, in this order. None: the labels found, sorted.

    Raises:
        SourceError: There are fewer than two classes, or one is given twice.
    """
    found = sorted(label for label in table["label"].unique().to_pylist() if label is not None)
    classes = tuple(found if given is None else given)
    if len(set(classes)) < len(classes):
        raise SourceError(
            "a class is given twice",
            found=", ".join(classes),
            where="pool.classes",
            next_step="name each class once",
        )
    if len(classes) >= 2:
        return classes
    if not classes:
        raise SourceError(
            "no image has a label, so the classes are not known",
            next_step="name the classes: --set 'pool.classes=[normal, lesion]'; or, if a manifest has the "
            "labels, their column: --set pool.source.columns.label=COLUMN",
        )
    raise SourceError(
        "there must be at least two classes",
        found=f"'{classes[0]}' only",
        next_step="check the label column or the class folders, or name all classes in pool.classes",
    )


def check_manifest(
    table: pa.Table,
    classes: Sequence[str] | None = None,
    *,
    where: str | None = None,
    rows: Sequence[int] | None = None,
) -> None:
    """Check what later stages rely on.

    Args:
        table: A manifest (`MANIFEST_SCHEMA`).
        classes: The legal labels; None leaves labels unchecked.
        where: The source, for messages.
        rows: The number by which the user knows each row; else rows count from 1.

    Raises:
        SourceError: There is no row; an id is malformed or stands twice; a split, label or ROI state is
            unknown; an evaluated or labelled row has no label; or a group stands in two splits.
    """
    if not table.schema.equals(MANIFEST_SCHEMA):
        raise ValueError(f"not a manifest: {table.schema}")
    if table.num_rows == 0:
        raise SourceError(
            "the source holds no image",
            expected="a row an image, or image files below the folder",
            where=where,
            next_step="check pool.source.path, or add the images",
        )
    numbers = rows if rows is not None else range(1, table.num_rows + 1)
    _check_ids(table, numbers, where)
    _check_words(table, classes, numbers, where)
    _check_groups(table, numbers, where)


def _check_ids(table: pa.Table, numbers: Sequence[int], where: str | None) -> None:
    first_row: dict[str, int] = {}
    for number, image_id in zip(numbers, table["image_id"].to_pylist(), strict=True):
        if not _ID.fullmatch(image_id):
            bad = _BAD_ID_CHARACTER.search(image_id)
            found = repr(bad.group()) if bad else f"{len(image_id)} characters"
            raise SourceError(
                "an image_id is malformed",
                expected="1 to 128 of the characters A-Z a-z 0-9 . _ : / -",
                found=f"{found} in row {number}",
                where=where,
                next_step="rename the ids, or leave the column out: ids are then made from the paths",
            )
        if image_id in first_row:
            raise SourceError(
                "an image_id stands twice",
                found=f"'{image_id}' in rows {first_row[image_id]} and {number}",
                where=where,
                next_step="give every image an id of its own; rows of one image may differ in their box only",
            )
        first_row[image_id] = number


def _check_words(
    table: pa.Table, classes: Sequence[str] | None, numbers: Sequence[int], where: str | None
) -> None:
    """Check splits, ROI states and labels against the words that are legal."""
    legal: dict[str, tuple[Sequence[str], str]] = {
        "split": (
            SPLITS,
            "what a model learns from is 'labeled' where its labels are known from the start, else 'pool'; "
            "an empty cell leaves the dealing to xal-ray",
        ),
        "roi_state": (ROI_STATES, "correct the source"),
    }
    if classes is not None:
        legal["label"] = (classes, "correct the row, or name the class in pool.classes")
    for column, (words, next_step) in legal.items():
        known = pc.is_in(table[column], value_set=pa.array([*words, None], pa.string()))
        position = _first_true(pc.invert(known))
        if position is not None:
            word = table[column][position].as_py()
            same = [legal_word for legal_word in words if name_key(legal_word) == name_key(word)]
            if column == "split":  # validation, testing
                same = same or [known_word for known_word in words if word.casefold().startswith(known_word)]
            near = same[0] if same else nearest_name(word, words)
            raise SourceError(
                f"a {column} is not known",
                expected="one of " + ", ".join(words),
                found=f"'{word}' in row {numbers[position]}",
                where=where,
                next_step=f"did you mean '{near}'? Then write it so; else {next_step}" if near else next_step,
            )
    _check_labels_are_there(table, numbers, where)


def _check_labels_are_there(table: pa.Table, numbers: Sequence[int], where: str | None) -> None:
    needs_label = pc.is_in(table["split"], value_set=pa.array(["labeled", "val", "test"]))
    has_none = pc.and_(pc.is_null(table["label"]), pc.is_null(table["reader"]))  # a reader may tell it later
    position = _first_true(pc.and_(needs_label, has_none))
    if position is not None:
        raise SourceError(
            f"an image without a label stands in the split '{table['split'][position].as_py()}'",
            found=f"row {numbers[position]}",
            where=where,
            next_step="give it a label, move it to the split 'pool', or leave it out",
        )


def _check_groups(table: pa.Table, numbers: Sequence[int], where: str | None) -> None:
    """Check that no group stands on two sides; group ids may point at patients, so they are not quoted."""
    seen: dict[str, tuple[str, int]] = {}
    for number, group, split in zip(
        numbers, table["group_id"].to_pylist(), table["split"].to_pylist(), strict=True
    ):
        if split is None or group is None:
            continue
        first_split, first_row = seen.setdefault(group, (split, number))
        if side_of(first_split) != side_of(split):
            raise SourceError(
                "a group stands in two splits: a model would be judged on patients that it was trained on",
                found=f"row {first_row} is in '{first_split}', row {number} of the same group in '{split}'",
                where=where,
                next_step="move all images of a group to one split, or leave the split column out",
            )


def _first_true(mask: pa.ChunkedArray) -> int | None:
    position = pc.index(pc.fill_null(mask, False), True).as_py()
    return None if position < 0 else int(position)
