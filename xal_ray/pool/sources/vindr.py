"""VinDr-CXR chest X-rays: findings and boxes of several radiologists an image.

PhysioNet 1.0.0                              Kaggle (VinBigData)
root/                                        root/
  train/<image_id>.dicom                       train/<image_id>.dicom
  test/<image_id>.dicom     -> split "test"    test/           (without labels: not used)
  annotations/annotations_train.csv            train.csv       image_id, class_name, class_id, rad_id,
    image_id, rad_id, class_name,                              x_min, y_min, x_max, y_max
    x_min, y_min, x_max, y_max
  annotations/annotations_test.csv           Resized copies of either: train/<image_id>.png or .jpg, with
    (a consensus: no rad_id)                   train_meta.csv (and test_meta.csv)  image_id, dim0, dim1
  annotations/image_labels_train.csv           (height and width of the originals), or the columns width
    image_id, rad_id, 28 columns of 0 and 1    and height in train.csv
  annotations/image_labels_test.csv

An annotator who saw nothing has a row "No finding" without a box. Three annotators saw each training image.
What several of them say together is settled by `pool.source.readers`; an image's ROI is its label's boxes.
The global findings (COPD, Tuberculosis, ...) have no boxes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from xal_ray.config import Pool
from xal_ray.pool.manifest import Row
from xal_ray.pool.sources.common.annotators import Box, Marks, agreed_findings, agreement, combined_boxes
from xal_ray.pool.sources.common.csvs import Csv, read_csv
from xal_ray.pool.sources.common.faults import Faults
from xal_ray.pool.sources.common.findings import Question, ask
from xal_ray.pool.sources.common.grouping import check_group_by
from xal_ray.pool.sources.common.layouts import by_stem, find_set, has_file, is_copy, list_images, match_files
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.pool.sources.common.originals import Sizes, no_sizes, read_sizes, sizes_of
from xal_ray.pool.sources.common.paths import SourceRoot
from xal_ray.roi import sound_boxes

NO_FINDING = "No finding"
LOCAL_FINDINGS = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
    "Other lesion",
)
GLOBAL_FINDINGS = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases")
USUAL = ("Nodule/Mass", "Pulmonary fibrosis", "Lung Opacity")

_ALIASES = {"Other disease": "Other diseases"}  # the same column in the test set
_CONSENSUS = "consensus"
_CORNERS = ("x_min", "y_min", "x_max", "y_max")
_ANNOTATIONS = "annotations/annotations_{}.csv"
_IMAGE_LABELS = "annotations/image_labels_{}.csv"
_MARKERS = (
    _IMAGE_LABELS.format("train"),
    _ANNOTATIONS.format("train"),
    _IMAGE_LABELS.format("test"),
    _ANNOTATIONS.format("test"),
    "train.csv",
)
_ACCEPTED = (
    "PhysioNet: train/, test/ and annotations/image_labels_train.csv, annotations_train.csv; or "
    "Kaggle: train/ and train.csv; or resized copies (.png, .jpg) of either with train_meta.csv"
)


@dataclass
class _Tally:
    """Holds what is told of all images together."""

    notes: list[str] = field(default_factory=list)
    excluded: Counter[str] = field(default_factory=Counter)
    faults: Faults = field(default_factory=Faults)
    lost: set[tuple[str, str]] = field(default_factory=set)  # image and finding of boxes that are no boxes
    without_box: int = 0  # images with a label and no box of it
    without_agreed_pixel: int = 0


@dataclass(frozen=True)
class _Split:
    """One folder of images and what is known of them."""

    root: SourceRoot
    name: str
    marks: Marks
    sizes: Sizes  # of originals, where a file tells
    files: dict[str, str]


def read(pool: Pool) -> Listing:
    """List the images of VinDr-CXR that show exactly one of the asked findings.

    Args:
        pool: `group_by` must be `header` (DICOM files) or `image`: the set names no patients.
            `source.findings` defaults to the three of the paper; `source.readers` settles disagreement.

    Returns:
        A manifest in the order of the CSV. Images of the test set stand in the split `test`.

    Raises:
        SourceError: The set is not there, a row names no image or finding, or sizes of originals are needed
            and missing.
    """
    root = find_set(pool.source.path, _MARKERS, ("train", "test", "annotations"), _ACCEPTED)
    check_group_by(pool, ("header", "image"), "VinDr-CXR does not say which images show the same patient")
    question = ask(pool.source, USUAL, (*LOCAL_FINDINGS, *GLOBAL_FINDINGS), NO_FINDING)
    is_kaggle = not any(has_file(root, name) for name in _MARKERS[:-1])
    tally = _Tally([f"VinDr-CXR in the layout of {'Kaggle' if is_kaggle else 'PhysioNet'}"])
    rows, marks = [], Marks()
    for name in ("train",) if is_kaggle else ("train", "test"):
        split = _read_split(root, name, tally, is_kaggle=is_kaggle)
        rows += _rows(split, pool, question, tally)
        marks.named.update(split.marks.named)
        marks.boxes.update(split.marks.boxes)
    _tell(root, tally, pool, rows, is_kaggle=is_kaggle)
    listing = tally.faults.listing(rows, tally.notes, tally.excluded + question.left_out, data_set="vindr")
    return replace(listing, agreement=agreement(marks, question.findings))


def _read_split(root: SourceRoot, name: str, tally: _Tally, *, is_kaggle: bool) -> _Split:
    """Read what annotators said of a split's images, the originals' sizes where told, and the images."""
    marks = Marks()
    labels, annotations = _IMAGE_LABELS.format(name), "train.csv" if is_kaggle else _ANNOTATIONS.format(name)
    sizes, found = read_sizes(root, [f"{name}_meta.csv"])
    if not is_kaggle and has_file(root, labels):
        found.append(labels)
        _add_labels(marks, read_csv(root, labels, ["image_id"], ["rad_id", *_label_columns()]))
    if has_file(root, annotations):
        found.append(annotations)
        optional = ["rad_id", "width", "height", "dim0", "dim1"]
        columns = read_csv(root, annotations, ["image_id", "class_name", *_CORNERS], optional)
        sizes |= _add_boxes(marks, columns, tally)
    files = by_stem(root, name, list_images(root, name))
    if found:
        lacking = "" if annotations in found else f"; {annotations} is missing, so there are no boxes"
        tally.notes.append(f"{name}: read {', '.join(found)}{lacking}")
    if found or files:
        tally.notes.append(match_files(marks.named, files, name, tally.excluded))
    else:
        tally.notes.append(f"{name}: not there")
    return _Split(root, name, marks, sizes, files)


def _label_columns() -> tuple[str, ...]:
    return (*LOCAL_FINDINGS, *GLOBAL_FINDINGS, *_ALIASES, NO_FINDING)


def _add_labels(marks: Marks, columns: Csv) -> None:
    """Add a file with a column a finding; an empty cell and NaN count as 0."""
    named = [marks.named[image][annotator] for image, annotator in _who(columns)]
    for finding in _label_columns():
        if finding in columns.names:
            for row in np.flatnonzero(columns.numbers(finding) > 0):
                named[row].add(_ALIASES.get(finding, finding))


def _add_boxes(marks: Marks, columns: Csv, tally: _Tally) -> Sizes:
    """Add a file with a row a box; returns the sizes that it holds."""
    who = _who(columns)
    boxes = columns.boxes(_CORNERS)
    for position, (finding, box) in enumerate(zip(columns.texts("class_name"), boxes, strict=True)):
        if finding is None:
            raise columns.fault("the cell 'class_name' is empty", position)
        finding = _ALIASES.get(finding, finding)
        image, annotator = who[position]
        marks.named[image][annotator].add(finding)
        if box is None:
            continue
        sound = sound_boxes([box], None)
        if sound.shapes:
            x0, y0, x1, y1 = sound.shapes[0]
            marks.boxes[image, finding][annotator].append((x0, y0, x1, y1))
        else:
            tally.faults.drop(f"{columns.place(position)}: {sound.faults}", image)
            if sound.is_lost:
                tally.lost.add((image, finding))
    return sizes_of(columns, [image for image, _ in who])


def _who(columns: Csv) -> list[tuple[str, str]]:
    """Image and annotator of each row; a file without annotators is the consensus, which counts as one."""
    images = columns.ids("image_id")
    annotators = columns.ids("rad_id") if "rad_id" in columns.names else [_CONSENSUS] * len(images)
    return list(zip(images, annotators, strict=True))


def _rows(split: _Split, pool: Pool, question: Question, tally: _Tally) -> list[Row]:
    rows = []
    for image, named in split.marks.named.items():
        if image not in split.files:
            continue
        label = question.label(agreed_findings(named, pool.source.readers.labels))
        if label is None:
            continue
        if (image, label) in tally.lost and not split.marks.boxes.get((image, label)):
            tally.faults.refuse(image, split.files[image], "none of the boxes of its label can be meant")
            continue
        boxes = _boxes(image, label, split.marks, pool, tally)
        row = _row(image, label, boxes, split, pool)
        if is_copy(split.files[image]) and boxes:
            if not split.sizes:
                raise no_sizes(split.root, f"{split.name}_meta.csv")
            if image not in split.sizes:
                tally.excluded["no_original_size"] += 1
                continue
            row["roi_height"], row["roi_width"] = split.sizes[image]
        rows.append(row)
    return rows


def _row(image: str, label: str, boxes: Sequence[Box], split: _Split, pool: Pool) -> Row:
    path = split.files[image]
    if is_copy(path):
        check_group_by(pool, ("image",), "copies in PNG or JPEG have no header that names a patient")
    return {
        "image_id": image,
        "uri": path,
        "group_id": image if pool.group_by == "image" else None,
        "label": label,
        "split": "test" if split.name == "test" else None,
        "boxes": boxes,
        "roi_state": "absent_confirmed" if label == NO_FINDING else "present" if boxes else "not_annotated",
    }


def _boxes(image: str, label: str, marks: Marks, pool: Pool, tally: _Tally) -> Sequence[Box]:
    if label == NO_FINDING:  # some copies of the CSV give it a box of one pixel
        return ()
    drawn = marks.boxes.get((image, label), {})
    boxes = combined_boxes(drawn, len(marks.named[image]), pool.source.readers.boxes)
    if not boxes:
        tally.without_box += not drawn
        tally.without_agreed_pixel += bool(drawn)
    return boxes


def _tell(root: SourceRoot, tally: _Tally, pool: Pool, rows: Sequence[Row], *, is_kaggle: bool) -> None:
    """Add what is to be said in the end."""
    policies = pool.source.readers
    tally.notes.append(f"readers: a label needs {policies.labels}, boxes are the {policies.boxes}")
    counts = {
        f"{tally.without_box} labelled images have no box of their label": tally.without_box,
        f"{tally.without_agreed_pixel} labelled images have no pixel that readers agree on": (
            tally.without_agreed_pixel
        ),
    }
    tally.notes += [note for note, count in counts.items() if count]
    if any(row["split"] == "test" for row in rows):
        tally.notes.append("test/ is the official test set; pool.splits.test=0 adds nothing to it")
    if is_kaggle and (num_unlabelled := len(list_images(root, "test"))):
        tally.notes.append(f"test/ holds {num_unlabelled} images without labels: not used")
