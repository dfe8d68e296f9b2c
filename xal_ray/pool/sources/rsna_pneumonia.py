"""RSNA Pneumonia Detection chest X-rays: boxes of lung opacities.

root/
  stage_2_train_images/<patientId>.dcm      or copies in PNG or JPEG; all originals have 1024 x 1024 px
  stage_2_train_labels.csv                  patientId, x, y, width, height, Target: a row a box
  stage_2_detailed_class_info.csv           patientId, class: Lung Opacity, No Lung Opacity / Not Normal,
                                              Normal
  stage_2_test_images/                      (without labels: not used)

`patientId` is one an image, not one a patient, and the header's patient is the same id. All images are part
of NIH ChestX-ray14. (That the originals have 1024 px, and what the header holds, is from memory.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from xal_ray.config import Pool
from xal_ray.errors import SourceError
from xal_ray.pool.manifest import Row
from xal_ray.pool.sources.common.annotators import Box
from xal_ray.pool.sources.common.csvs import Csv, read_csv
from xal_ray.pool.sources.common.faults import Faults
from xal_ray.pool.sources.common.findings import Question, ask
from xal_ray.pool.sources.common.grouping import check_group_by
from xal_ray.pool.sources.common.layouts import by_stem, find_set, has_file, is_copy, list_images, match_files
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.pool.sources.common.paths import SourceRoot
from xal_ray.roi import sound_boxes

PNEUMONIA, NO_PNEUMONIA = "Pneumonia", "No pneumonia"
OPACITY, NOT_NORMAL, NORMAL = "Lung Opacity", "No Lung Opacity / Not Normal", "Normal"

_LABELS = "stage_2_train_labels.csv"
_CLASSES = "stage_2_detailed_class_info.csv"
_IMAGES = "stage_2_train_images"
_TEST_IMAGES = "stage_2_test_images"
_SIDES = ("x", "y", "width", "height")
_SIDE_OF_ORIGINALS = 1024  # pixels
_ACCEPTED = f"{_LABELS} and {_IMAGES}/<patientId>.dcm"


def read(pool: Pool) -> Listing:
    """List the training images.

    Args:
        pool: `group_by` must be `image` or `header`. `source.findings` defaults to Pneumonia and No
            pneumonia; the three classes of the detailed file can be asked for instead.

    Returns:
        A manifest in the order of the CSV.

    Raises:
        SourceError: The set is not there, or a row is malformed.
    """
    root = find_set(pool.source.path, (_LABELS,), (_IMAGES, _TEST_IMAGES), _ACCEPTED)
    check_group_by(pool, ("image", "header"), "the patientId of this set is one an image, not one a patient")
    question = ask(
        pool.source, (PNEUMONIA, NO_PNEUMONIA), (PNEUMONIA, NO_PNEUMONIA, OPACITY, NOT_NORMAL), NORMAL
    )
    faults = Faults()
    columns = read_csv(root, _LABELS, ["patientId", *_SIDES, "Target"])
    boxes, findings, lost = _boxes_and_targets(columns, faults)
    notes = [f"RSNA Pneumonia: read {_LABELS}"]
    if not set(question.findings) <= {PNEUMONIA, NO_PNEUMONIA}:
        findings = _detailed(root, question)
        notes = [f"RSNA Pneumonia: read {_LABELS}, {_CLASSES}"]
    excluded: Counter[str] = Counter()
    files = by_stem(root, _IMAGES, list_images(root, _IMAGES))
    notes.append(match_files(boxes, files, _IMAGES, excluded))
    rows = _rows(boxes, findings, files, pool, question, excluded, faults, lost)
    notes += _warnings(root, rows)
    return faults.listing(rows, notes, excluded + question.left_out, data_set="rsna_pneumonia")


def _boxes_and_targets(
    columns: Csv, faults: Faults
) -> tuple[dict[str, list[Box]], dict[str, set[str]], set[str]]:
    """The boxes of each image, whether it shows pneumonia, and images with boxes that can't be meant."""
    sides = columns.boxes(_SIDES)
    lost: set[str] = set()
    targets = columns.numbers("Target")
    boxes: dict[str, list[Box]] = {}
    findings: dict[str, set[str]] = {}
    for position, image in enumerate(columns.ids("patientId")):
        own = boxes.setdefault(image, [])
        if (box := sides[position]) is not None:
            x, y, width, height = box
            sound = sound_boxes([[x, y, x + width, y + height]], None)
            own += [(x0, y0, x1, y1) for x0, y0, x1, y1 in sound.shapes]
            if sound.dropped:
                faults.drop(f"{columns.place(position)}: {sound.faults}", image)
            if sound.is_lost:
                lost.add(image)
        if targets[position] not in (0, 1):
            raise columns.fault("the cell 'Target' is malformed", position, expected="0 or 1")
        findings.setdefault(image, set()).add(PNEUMONIA if targets[position] else NO_PNEUMONIA)
    return boxes, findings, lost


def _detailed(root: SourceRoot, question: Question) -> dict[str, set[str]]:
    """Return the class of each image in the detailed file."""
    if not set(question.findings) <= {OPACITY, NOT_NORMAL, NORMAL}:
        raise SourceError(
            "findings of two files of this set can't be mixed",
            expected=f"{PNEUMONIA}, {NO_PNEUMONIA}; or some of {OPACITY}, {NOT_NORMAL}, {NORMAL}",
            found=", ".join(question.findings),
            where="pool.source.findings",
        )
    if not has_file(root, _CLASSES):
        raise SourceError(
            f"{_CLASSES} is missing",
            expected=f"it beside {_LABELS}, for the findings that were asked for",
            where=str(root.path),
            next_step=f"put it there, or leave pool.source.findings out for {PNEUMONIA} and {NO_PNEUMONIA}",
        )
    columns = read_csv(root, _CLASSES, ["patientId", "class"])
    findings: dict[str, set[str]] = {}
    for image, name in zip(columns.ids("patientId"), columns.texts("class"), strict=True):
        findings.setdefault(image, set()).update([name] if name else [])
    return findings


def _rows(
    boxes: Mapping[str, Sequence[Box]],
    findings: Mapping[str, set[str]],
    files: Mapping[str, str],
    pool: Pool,
    question: Question,
    excluded: Counter[str],
    faults: Faults,
    lost: Collection[str],
) -> list[Row]:
    rows = []
    for image, own in boxes.items():
        if image not in files:
            continue
        if image not in findings:
            excluded["not_in_csv"] += 1
            continue
        label = question.label(findings[image])
        if label in (PNEUMONIA, OPACITY) and not own and image in lost:
            faults.refuse(image, files[image], "none of its boxes can be meant")
        elif label is not None:
            rows.append(_row(image, files[image], label, own, pool))
    return rows


def _row(image: str, path: str, label: str, boxes: Sequence[Box], pool: Pool) -> Row:
    is_positive = label in (PNEUMONIA, OPACITY)
    if is_copy(path):
        check_group_by(pool, ("image",), "copies in PNG or JPEG have no header that names a patient")
    has_frame = is_copy(path) and is_positive and bool(boxes)
    return {
        "image_id": image,
        "uri": path,
        "group_id": image if pool.group_by == "image" else None,
        "label": label,
        "boxes": boxes if is_positive else (),
        "roi_state": ("present" if boxes else "not_annotated") if is_positive else "absent_confirmed",
        "roi_width": _SIDE_OF_ORIGINALS if has_frame else None,
        "roi_height": _SIDE_OF_ORIGINALS if has_frame else None,
    }


def _warnings(root: SourceRoot, rows: Sequence[Row]) -> list[str]:
    notes = [
        "all images of this set are part of NIH ChestX-ray14: don't train on one and test on the other",
        "patients are not known: several images of one may stand on both sides of the split",
    ]
    unboxed = sum(row["roi_state"] == "not_annotated" for row in rows)
    if unboxed:
        notes.append(f"{unboxed} positive images have no box")
    if num_unlabelled := len(list_images(root, _TEST_IMAGES)):
        notes.append(f"{_TEST_IMAGES}/ holds {num_unlabelled} images without labels: not used")
    return notes
