"""NIH ChestX-ray14: fourteen findings mined from reports, and boxes for eight of them.

root/
  Data_Entry_2017_v2020.csv      or Data_Entry_2017.csv
    Image Index, Finding Labels (joined by "|"), Patient ID, Patient Age (58 or 058Y), Patient Gender (or Sex)
  BBox_List_2017.csv             984 boxes of 880 images; its header is malformed, so it is read by position:
                                   image, finding ("Infiltrate" for Infiltration), x, y, width, height
  images/<image>.png             or images_001/images/<image>.png ... images_012/images/
  train_val_list.txt, test_list.txt    the official split, where there -> split "test"

Boxes are in pixels of the published images, which have 1024 x 1024: copies of another size take them too. An
image without a box of its label was not annotated.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from xal_ray.config import Pool
from xal_ray.errors import SourceError
from xal_ray.pool.manifest import Row
from xal_ray.pool.sources.common.annotators import Box
from xal_ray.pool.sources.common.csvs import Csv, read_csv
from xal_ray.pool.sources.common.faults import Faults
from xal_ray.pool.sources.common.findings import Question, ask
from xal_ray.pool.sources.common.grouping import age_band_of, check_group_by, sex_of
from xal_ray.pool.sources.common.layouts import (
    by_stem,
    find_set,
    has_file,
    list_images,
    match_files,
    read_file,
)
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.pool.sources.common.paths import SourceRoot
from xal_ray.roi import sound_boxes

NO_FINDING = "No Finding"
WITH_BOXES = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
)
WITHOUT_BOXES = ("Consolidation", "Edema", "Emphysema", "Fibrosis", "Hernia", "Pleural_Thickening")

_ENTRIES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_BOXES = "BBox_List_2017.csv"
_TEST, _TRAIN = "test_list.txt", "train_val_list.txt"
_FOLDERS = ("images", *(f"images_{number:03d}" for number in range(1, 13)))
_ALIASES = {"Infiltrate": "Infiltration"}
_SIDE = 1024  # pixels of the published images
_NUM_FIELDS = 6  # of the box file; others are empty
_AGE = re.compile(r"(\d{1,3})([YMD]?)")
_ACCEPTED = f"{' or '.join(_ENTRIES)}, and images/ or images_001/images/ to images_012/images/"

_BoxesOf = Mapping[tuple[str, str], Sequence[Box]]


def read(pool: Pool) -> Listing:
    """List the images that show exactly one of the asked findings.

    Args:
        pool: `group_by: group_id` takes the set's patients. `source.findings` defaults to the eight
            findings of which some images have boxes.

    Returns:
        A manifest in the order of the CSV.

    Raises:
        SourceError: The set is not there, or a row is malformed.
    """
    root = find_set(pool.source.path, _ENTRIES, _FOLDERS, _ACCEPTED)
    check_group_by(pool, ("group_id", "image"), "the images are PNG files, which have no header")
    question = ask(pool.source, WITH_BOXES, (*WITH_BOXES, *WITHOUT_BOXES), NO_FINDING)
    entries = next(name for name in _ENTRIES if has_file(root, name))
    columns = read_csv(
        root,
        entries,
        ["Image Index", "Finding Labels", "Patient ID"],
        ["Patient Age", "Patient Gender", "Patient Sex"],
    )
    notes = [f"NIH ChestX-ray14: read {entries}"]
    faults = Faults()
    boxes, lost = _read_boxes(root, notes, faults)
    test = _read_test_list(root, notes)
    excluded: Counter[str] = Counter()
    files = _files(root)
    images = [_stem(name) for name in columns.ids("Image Index")]
    notes.append(match_files(set(images), files, "images", excluded))
    rows = [
        row
        for row in _rows(columns, images, files, boxes, test, pool, question)
        if not _is_lost(row, lost, faults)
    ]
    num_boxed = sum(row["roi_state"] == "present" for row in rows)
    notes.append(f"{num_boxed} of {len(rows)} images have a box of their label")
    return faults.listing(rows, notes, excluded + question.left_out, data_set="nih_cxr14")


def _rows(
    columns: Csv,
    images: Sequence[str],
    files: Mapping[str, str],
    boxes: _BoxesOf,
    test: frozenset[str],
    pool: Pool,
    question: Question,
) -> Iterator[Row]:
    nothing: list[str | None] = [None] * columns.num_rows
    patients = columns.ids("Patient ID")
    ages = columns.texts("Patient Age") if "Patient Age" in columns.names else nothing
    sex_column = next((name for name in ("Patient Gender", "Patient Sex") if name in columns.names), None)
    sexes = columns.texts(sex_column) if sex_column else nothing
    seen: set[str] = set()
    for row, (image, findings) in enumerate(zip(images, columns.texts("Finding Labels"), strict=True)):
        if image in seen:
            raise columns.fault("an image stands twice", row)
        seen.add(image)
        if image not in files:
            continue
        label = question.label({name.strip() for name in (findings or "").split("|") if name.strip()})
        if label is None:
            continue
        own = boxes.get((image, label), ())
        yield {
            "image_id": image,
            "uri": files[image],
            "group_id": image if pool.group_by == "image" else patients[row],
            "label": label,
            "split": "test" if image in test else None,
            "boxes": own,
            "roi_state": "absent_confirmed" if label == NO_FINDING else "present" if own else "not_annotated",
            "roi_width": _SIDE if own else None,
            "roi_height": _SIDE if own else None,
            "sex": sex_of(sexes[row]),
            "age_band": _age_band(ages[row]),
        }


def _files(root: SourceRoot) -> dict[str, str]:
    """Return the images of all folders, by name without suffix."""
    files: dict[str, str] = {}
    for folder in _FOLDERS:
        files = by_stem(root, folder, list_images(root, folder)) | files
    return files


def _is_lost(row: Row, lost: Collection[tuple[str, str]], faults: Faults) -> bool:
    """Return whether an image has boxes of its label, and none that can be meant; then it is refused."""
    if row["boxes"] or (row["image_id"], row["label"]) not in lost:
        return False
    faults.refuse(row["image_id"], row["uri"], "none of the boxes of its label can be meant")
    return True


def _read_boxes(root: SourceRoot, notes: list[str], faults: Faults) -> tuple[_BoxesOf, set[tuple[str, str]]]:
    """The boxes of each image and finding, by position in the row; and those with none that can be meant."""
    boxes: dict[tuple[str, str], list[Box]] = defaultdict(list)
    lost: set[tuple[str, str]] = set()
    if not has_file(root, _BOXES):
        notes.append(f"{_BOXES} is missing, so there are no boxes")
        return boxes, lost
    where = str(root.path / _BOXES)
    try:
        rows = list(csv.reader(io.StringIO(read_file(root, _BOXES).decode())))
    except (UnicodeDecodeError, csv.Error):
        raise SourceError("a CSV file can't be read", expected="UTF-8 text", where=where) from None
    for number, row in enumerate(rows[1:], start=2):
        if not any(row):
            continue
        cells = [cell.strip() for cell in row[:_NUM_FIELDS]]
        image, finding, *sides = cells + [""] * (_NUM_FIELDS - len(cells))
        x, y, width, height = map(_side, sides)
        key = _stem(image), _ALIASES.get(finding, finding)
        sound = sound_boxes([[x, y, x + width, y + height]], None)
        for x0, y0, x1, y1 in sound.shapes:
            boxes[key].append((x0, y0, x1, y1))
        if sound.dropped:
            faults.drop(f"{_BOXES}, row {number}: {sound.faults}", key[0] or None)
        if sound.is_lost:
            lost.add(key)
    notes.append(
        f"{_BOXES}: {sum(map(len, boxes.values()))} boxes of {len({key[0] for key in boxes})} images"
    )
    return boxes, lost


def _side(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _read_test_list(root: SourceRoot, notes: list[str]) -> frozenset[str]:
    """Return the images of the official test set; none where the set comes without its lists."""
    if not has_file(root, _TEST):
        notes.append(f"{_TEST} is missing: the official test set is not known, and patients are dealt anew")
        return frozenset()
    names = read_file(root, _TEST).decode(errors="replace").split()
    also = f" and {_TRAIN}" if has_file(root, _TRAIN) else ""
    notes.append(f"{_TEST}{also}: the official test set; pool.splits.test=0 adds nothing to it")
    return frozenset(_stem(name) for name in names)


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _age_band(text: str | None) -> str | None:
    """Ten years of an age such as 58, 058Y, 013M or 003D."""
    match = _AGE.fullmatch((text or "").upper())
    if match is None:
        return None
    return age_band_of(int(match[1]) / {"M": 12, "D": 365}.get(match[2], 1))
