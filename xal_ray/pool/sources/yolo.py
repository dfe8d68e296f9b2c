"""YOLO: a text file of labels beside each image, and a YAML file that names the classes.

    data.yaml                        names: [cat, dog] or {0: cat, 1: dog}; train, val, test: folders or lists
    images/train/0001.jpg            "images" may also stand below the split: train/images/0001.jpg
    labels/train/0001.txt            a line an object: class cx cy w h, or a polygon: class x0 y0 x1 y1 x2 ...
                                     With kpt_shape: [K, D] in the YAML file: class cx cy w h and K D numbers

Numbers are fractions of the image's width and height. An empty file of labels says that nothing was found; a
file that is missing says nothing, and the image is left without a label.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from xal_ray.config import Pool
from xal_ray.errors import SourceError
from xal_ray.pool.manifest import Row
from xal_ray.pool.sources.annotation_files.yolo import Settings, YoloLabels, parse_labels, read_settings
from xal_ray.pool.sources.common.faults import Faults
from xal_ray.pool.sources.common.findings import Question, ask
from xal_ray.pool.sources.common.grouping import check_group_by
from xal_ray.pool.sources.common.image_files import SUFFIXES
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.pool.sources.common.paths import SourceRoot, image_id_of_path
from xal_ray.pool.sources.common.split_names import settled_split
from xal_ray.pool.sources.common.tree import files_below, read_below
from xal_ray.roi import NORMALISED_SIDE, Sound

NO_FINDING = "No finding"

_LARGEST_LABELS = 16 << 20


@dataclass(frozen=True)
class _Source:
    """Holds what all rows share."""

    root: SourceRoot
    files: frozenset[str]
    settings: Settings
    question: Question
    group_by: str
    counts: Counter[str]
    faults: Faults


def read(pool: Pool) -> Listing:
    """List the images of a YOLO data set.

    Args:
        pool: `source.path` is its folder or its YAML file. `source.findings` are classes, all by default.
            `group_by` must be `image`, or `header` for DICOM files: nothing says whose an image is.

    Returns:
        A row an image, with the shapes of its label as ROI. Images without a file of labels have no label
        and stay in the pool; of the splits val and test they are left out (`not_annotated`). Excluded also:
        the reasons of `common/findings.py`. Shapes that can't be meant are dropped, and an image is refused
        where nothing else is left of its label's, or a line names no known class.

    Raises:
        SourceError: There is no such set, or a file is no text.
    """
    check_group_by(pool, ["image", "header"], "files of YOLO do not say which images show the same patient")
    assert pool.source.path is not None  # noqa: S101 (resolved_kind has seen to it)
    is_file = pool.source.path.name.lower().endswith((".yaml", ".yml"))
    root = SourceRoot(pool.source.path.parent if is_file else pool.source.path)
    listed = files_below(root, (*SUFFIXES, ".txt", ".yaml", ".yml"))
    settings = read_settings(root, listed, pool.source.path.name if is_file else None)
    known = list(dict.fromkeys(settings.names.values()))
    source = _Source(
        root,
        frozenset(listed),
        settings,
        ask(pool.source, known, known, NO_FINDING),
        pool.group_by,
        Counter(),
        Faults(),
    )
    rows: list[Row] = []
    all_splits = list(settings.images)
    for split, images in settings.images.items():
        rows += _rows(images, settled_split(split, all_splits), source)
    excluded = source.question.left_out
    excluded.update({name: source.counts[name] for name in ("missing_file", "not_annotated")})
    excluded = +excluded
    if not rows:
        refused = source.faults.refused
        excluded += source.faults.counts()
        raise SourceError(
            "no image can be used",
            expected="images/0001.jpg with labels/0001.txt",
            found=", ".join(f"{count} x {reason}" for reason, count in sorted(excluded.items()))
            + (f"; the first: {refused[0].detail}" if refused else "")
            or "no image",
            where=str(root.path),
            next_step="check the paths in the YAML file, and pool.source.findings",
        )
    notes = [
        f"YOLO: {len(settings.names)} classes in {posixpath.basename(settings.where)}; "
        + ", ".join(
            f"{len(images)} images of {split or 'no split'}" for split, images in settings.images.items()
        )
        + f"; {len(rows)} are used.",
    ]
    if source.counts["unlabelled"]:
        notes.append(
            f"Images without a file of labels, which stay unlabelled: {source.counts['unlabelled']}."
        )
    return source.faults.listing(rows, notes, excluded, classes=source.question.findings)


def _rows(images: Sequence[str], split: str | None, source: _Source) -> list[Row]:
    rows = []
    for image in images:
        if image not in source.files:
            source.counts["missing_file"] += 1
            continue
        image_id = image_id_of_path(image)
        row: Row = {
            "image_id": image_id,
            "uri": str(source.root.path / image),
            "group_id": image_id if source.group_by == "image" else None,
            "split": split,
            "boxes": [],
            "roi_state": "not_annotated",
        }
        labels = _labels_of(image, source)
        if labels is None and split in ("val", "test"):
            source.counts["not_annotated"] += 1
        elif labels is None:
            source.counts["unlabelled"] += 1
            rows.append(row)
        else:
            rows += _labelled(row, labels, source)
    return rows


def _labelled(row: Row, labels: YoloLabels, source: _Source) -> list[Row]:
    """Return the row of an image with labels; none where it has no usable label or shape."""
    if labels.unknown:
        source.faults.refuse(row["image_id"], row["uri"], labels.unknown, "unknown_label")
        return []
    names = source.settings.names
    label = source.question.label({names[number] for number in labels.classes} or {NO_FINDING})
    if label is None:
        return []
    numbers = [number for number in sorted(labels.classes) if names[number] == label]
    boxes = [box for number in numbers for box in labels.boxes[number]]
    polygons = [polygon for number in numbers for polygon in labels.polygons[number]]
    dropped = Sound(boxes + polygons)
    for number in numbers:
        dropped.dropped += labels.dropped[number].dropped
    if dropped.is_lost:
        detail = (
            f"none of its shapes can be meant: {dropped.faults}; numbers are fractions of the image's sides"
        )
        source.faults.refuse(row["image_id"], row["uri"], detail)
        return []
    source.faults.drop_all(dropped, row["image_id"])
    is_empty = not labels.classes
    return [
        {
            **row,
            "label": label,
            "boxes": boxes,
            "polygons": polygons or None,
            # A square that stands for fractions of any image.
            "roi_width": NORMALISED_SIDE,
            "roi_height": NORMALISED_SIDE,
            "roi_state": "present"
            if boxes or polygons
            else "absent_confirmed"
            if is_empty
            else "not_annotated",
        }
    ]


def _labels_of(image: str, source: _Source) -> YoloLabels | None:
    """Return the objects of an image, each with its class; None: it has no file of labels."""
    folders, name = image.split("/")[:-1], posixpath.splitext(posixpath.basename(image))[0] + ".txt"
    # As everybody does: the last folder "images" becomes "labels".
    if "images" in folders:
        last = len(folders) - 1 - folders[::-1].index("images")
        folders[last] = "labels"
    file = "/".join([*folders, name])
    if file not in source.files:
        return None
    try:
        data = read_below(source.root, file, _LARGEST_LABELS)
        return parse_labels(data, source.settings, str(source.root.path / file))
    except SourceError as error:  # too large, or no text: it costs its image
        return YoloLabels(unknown=f"{file}: {error.what}")
