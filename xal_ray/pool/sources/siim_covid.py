"""SIIM-FISABIO-RSNA COVID-19 chest X-rays: a class a study, boxes of opacities an image.

root/
  train/<study>/<series>/<image>.dcm   or copies: train/<image>.png or .jpg, with train_meta.csv or meta.csv
  train_study_level.csv                  (image_id, dim0, dim1: height and width of the originals)
    id ("<study>_study"), Negative for Pneumonia, Typical Appearance, Indeterminate Appearance,
    Atypical Appearance (one of them 1)
  train_image_level.csv
    id ("<image>_image"), boxes, label, StudyInstanceUID
  test/                                (without labels: not used)

`boxes` is a Python literal, [{'x': 789.2, 'y': 582.4, 'width': 1026.6, 'height': 1917.3}], or empty; `label`
repeats "opacity 1 x0 y0 x1 y1", or is "none 1 0 0 1 1", which is no region. A study may hold several images:
each takes the study's class, and boxes may lie on one of them only.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from xal_ray.config import Pool
from xal_ray.errors import SourceError
from xal_ray.pool.manifest import Row
from xal_ray.pool.sources.common.annotators import Box
from xal_ray.pool.sources.common.csvs import Csv, read_csv
from xal_ray.pool.sources.common.faults import Faults
from xal_ray.pool.sources.common.findings import Question, ask
from xal_ray.pool.sources.common.grouping import check_group_by
from xal_ray.pool.sources.common.layouts import by_stem, find_set, is_copy, list_images, match_files
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.pool.sources.common.originals import Sizes, no_sizes, read_sizes
from xal_ray.pool.sources.common.paths import SourceRoot
from xal_ray.roi import Sound, sound_boxes

NEGATIVE = "Negative for Pneumonia"
POSITIVE = ("Typical Appearance", "Indeterminate Appearance", "Atypical Appearance")

_STUDIES = "train_study_level.csv"
_IMAGES = "train_image_level.csv"
_SIZES = ("train_meta.csv", "meta.csv")
_ACCEPTED = f"{_STUDIES}, {_IMAGES} and train/<study>/<series>/<image>.dcm, or copies train/<image>.png"
_LONGEST_CELL = 4_000  # characters; an image has a handful of boxes of 100 characters each
_NOT_BOXES = (ValueError, TypeError, OverflowError, SyntaxError, MemoryError, RecursionError)
_SIDES = ("x", "y", "width", "height")


def read(pool: Pool) -> Listing:
    """List the images of the studies with one of the asked classes.

    Args:
        pool: With `group_id` or `header`, DICOM files are grouped by the patient in their header, and else by
            study; copies by study (`group_id` only). `source.findings` defaults to all four classes.

    Returns:
        A manifest in the order of the CSV.

    Raises:
        SourceError: The set is not there, a row names no image or study, or sizes of originals are needed and
            missing.
    """
    root = find_set(pool.source.path, (_IMAGES, _STUDIES), ("train", "test"), _ACCEPTED)
    question = ask(pool.source, (NEGATIVE, *POSITIVE), POSITIVE, NEGATIVE)
    classes = _classes_of_studies(read_csv(root, _STUDIES, ["id", NEGATIVE, *POSITIVE]))
    images = read_csv(root, _IMAGES, ["id", "StudyInstanceUID"], ["boxes", "label"])
    sizes, found = read_sizes(root, _SIZES)
    notes = ["SIIM-FISABIO-RSNA COVID-19: read " + ", ".join([_STUDIES, _IMAGES, *found])]
    excluded: Counter[str] = Counter()
    faults = Faults()
    rows = _rows(root, images, classes, sizes, pool, question, notes, excluded, faults)
    if num_unlabelled := len(list_images(root, "test")):
        notes.append(f"test/ holds {num_unlabelled} images without labels: not used")
    return faults.listing(rows, notes, excluded + question.left_out, data_set="siim_covid")


def _classes_of_studies(columns: Csv) -> dict[str, set[str]]:
    studies = _ids(columns, "_study")
    classes: dict[str, set[str]] = {study: set() for study in studies}
    for name in (NEGATIVE, *POSITIVE):
        for row in np.flatnonzero(columns.numbers(name) > 0):
            classes[studies[row]].add(name)
    return classes


def _rows(
    root: SourceRoot,
    columns: Csv,
    classes: dict[str, set[str]],
    sizes: Sizes,
    pool: Pool,
    question: Question,
    notes: list[str],
    excluded: Counter[str],
    faults: Faults,
) -> list[Row]:
    images = _ids(columns, "_image")
    files = by_stem(root, "train", list_images(root, "train"))
    notes.append(match_files(set(images), files, "train", excluded))
    studies = columns.ids("StudyInstanceUID")
    rows, contradictions = [], 0
    for image, study, sound in zip(images, studies, boxes_of(columns), strict=True):
        if image not in files:
            continue
        if study not in classes:
            excluded["not_in_csv"] += 1
            continue
        label = question.label(classes[study])
        if label is None:
            continue
        own = [(x0, y0, x1, y1) for x0, y0, x1, y1 in sound.shapes]
        if sound.is_lost and label != NEGATIVE:
            faults.refuse(image, files[image], f"none of its boxes can be meant: {sound.faults}")
            continue
        faults.drop_all(sound, image)
        contradictions += bool(own or sound.is_lost) and label == NEGATIVE
        row = _row(image, study, files[image], label, own, pool, is_contradicted=sound.is_lost)
        if is_copy(files[image]) and row["boxes"]:
            if not sizes:
                raise no_sizes(root, _SIZES[0])
            if image not in sizes:
                excluded["no_original_size"] += 1
                continue
            row["roi_height"], row["roi_width"] = sizes[image]
        rows.append(row)
    _tell(rows, contradictions, notes)
    return rows


def _row(
    image: str, study: str, path: str, label: str, boxes: Sequence[Box], pool: Pool, *, is_contradicted: bool
) -> Row:
    group = None  # the header's patient, else the study: settled when the file is read
    if is_copy(path):
        check_group_by(
            pool, ("group_id", "image"), "copies in PNG or JPEG have no header that names a patient"
        )
        group = study
    state = "present" if boxes else "not_annotated"
    if label == NEGATIVE:
        # A negative study with a box contradicts itself: neither is believed.
        state, boxes = "not_annotated" if boxes or is_contradicted else "absent_confirmed", ()
    return {
        "image_id": image,
        "uri": path,
        "group_id": image if pool.group_by == "image" else group,
        "label": label,
        "boxes": boxes,
        "roi_state": state,
        "study_id": study,
    }


def _tell(rows: Sequence[Row], contradictions: int, notes: list[str]) -> None:
    unboxed = sum(row["roi_state"] == "not_annotated" and row["label"] != NEGATIVE for row in rows)
    num_studies = len({row["study_id"] for row in rows})
    notes.append(f"{len(rows)} images of {num_studies} studies; each image has its study's class")
    if unboxed:
        notes.append(
            f"{unboxed} images of positive studies have no box: their region counts as not annotated"
        )
    if contradictions:
        notes.append(f"{contradictions} images of negative studies have boxes, which are not used")


def boxes_of(columns: Csv) -> list[Sound]:
    """The boxes of each row of the image CSV: of `boxes`, else of `label`; what can't be meant is dropped.

    Raises:
        SourceError: The CSV has neither column.
    """
    nothing: list[str | None] = [None] * columns.num_rows
    literals = columns.texts("boxes") if "boxes" in columns.names else nothing
    labels = columns.texts("label") if "label" in columns.names else nothing
    if columns.names.isdisjoint({"boxes", "label"}):
        raise SourceError(
            "the CSV of the images has no boxes", expected="a column boxes or label", where=columns.where
        )
    return [_of_cells(literal, label) for literal, label in zip(literals, labels, strict=True)]


def _of_cells(literal: str | None, label: str | None) -> Sound:
    """Return the boxes of `boxes`; of `label` where there are none, or none that can be meant."""
    of_literal = _sound(_of_literal, literal) if literal else Sound()
    if of_literal.shapes or (literal and not of_literal.dropped):
        return of_literal
    of_label = _sound(_of_label, label)
    return Sound(of_label.shapes, dropped=of_literal.dropped + of_label.dropped)


def _sound(parse: Callable[[str | None], list[list[float]]], cell: str | None) -> Sound:
    try:
        with warnings.catch_warnings(action="ignore"):  # of Python's parser, which quote the cell
            return sound_boxes(parse(cell), None)
    except _NOT_BOXES:
        return Sound(dropped=Counter({"a cell that holds no boxes": 1}))


def _of_literal(text: str | None) -> list[list[float]]:
    if text is None or text.lower() == "nan":
        return []
    if len(text) > _LONGEST_CELL:
        raise ValueError
    found = ast.literal_eval(text)
    if not isinstance(found, list):
        raise ValueError
    boxes = []
    for entry in found:
        is_box = isinstance(entry, dict) and set(entry) == set(_SIDES)
        x, y, width, height = (_finite(entry[side] if is_box else None) for side in _SIDES)
        boxes.append([x, y, x + width, y + height])
    return boxes


def _of_label(text: str | None) -> list[list[float]]:
    words = (text or "").split()
    if len(words) % 6 or len(text or "") > _LONGEST_CELL:
        raise ValueError
    boxes = []
    for start in range(0, len(words), 6):
        name, _, *corners = words[start : start + 6]
        if name == "opacity":
            boxes.append([_finite(float(corner)) for corner in corners])
        elif name != "none":  # "none 1 0 0 1 1" says that there is no region
            raise ValueError
    return boxes


def _finite(number: object) -> float:
    """Return a number, nan for what is none or not finite: then the box can't be meant."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return math.nan
    return float(number) if math.isfinite(number) else math.nan


def _ids(columns: Csv, ending: str) -> list[str]:
    """Return the column `id` without the ending that says what it is the id of."""
    ids = [text.removesuffix(ending) for text in columns.ids("id")]
    if "" in ids:
        raise columns.fault("an id is malformed", ids.index(""), expected=f"something before {ending}")
    return ids
