"""ISIC 2018, task 3 (skin lesions in seven classes), and HAM10000, which it is made of.

    ISIC2018_Task3_Training_Input/ISIC_0024306.jpg ...
    ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv   image,MEL,NV,...: 1.0 or 0.0
    ISIC2018_Task3_Training_LesionGroupings.csv                                   image,lesion_id,...
    ISIC2018_Task3_{Validation,Test}_Input/, ..._GroundTruth/                     the official val and test
    **/ISIC_0024306_segmentation.png                                              masks, where there are any

    HAM10000_images_part_1/ISIC_0024306.jpg ...
    HAM10000_metadata[.csv]                                                       lesion_id,image_id,dx,...

Several images show one lesion: that is the group. The patient is not known.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xal_ray.config import Pool
from xal_ray.errors import SourceError
from xal_ray.pool.manifest import Attributes, Row, manifest_of
from xal_ray.pool.sources.common.csvs import read_csv
from xal_ray.pool.sources.common.findings import ask
from xal_ray.pool.sources.common.grouping import age_band_of, check_group_by, sex_of
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.pool.sources.common.paths import SourceRoot
from xal_ray.pool.sources.common.split_names import settled_split, split_of_name
from xal_ray.pool.sources.common.tree import files_below

CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")

_TRUTH, _LESIONS, _METADATA = "_groundtruth.csv", "_lesiongroupings.csv", "ham10000_metadata"
_MASK = "_segmentation"
_IMAGE = re.compile(r"ISIC_\d+")  # others are masks of attributes and superpixels
_ABSENT = "(none)"  # the sets have no image without a class
_ACCEPTED = (
    "ISIC2018_Task3_Training_Input/ISIC_*.jpg with ISIC2018_Task3_Training_GroundTruth.csv, "
    "or HAM10000_images_part_*/ISIC_*.jpg with HAM10000_metadata.csv"
)


@dataclass
class _Truth:
    """Holds what the CSV files say of images, by image."""

    found: dict[str, tuple[str, ...]] = field(default_factory=dict)  # classes
    split: dict[str, str | None] = field(default_factory=dict)
    lesion: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, Attributes] = field(default_factory=dict)


@dataclass(frozen=True)
class _Files:
    """Holds what lies below the root, by the image's id."""

    images: Mapping[str, str]
    masks: Mapping[str, str]


def read(pool: Pool) -> Listing:
    """List ISIC 2018 (task 3) or HAM10000.

    Args:
        pool: `source.path` is the folder or one above it. `source.findings` are classes, all by default.

    Returns:
        A row an image. The group is the lesion; of the official validation and test images, whose lesions are
        published nowhere, the image. Excluded: `missing_file`, `not_in_csv`, and the reasons of
        `common/findings.py`.

    Raises:
        SourceError: There is no such set, or lesions are asked for and not known.
    """
    assert pool.source.path is not None  # noqa: S101 (resolved_kind has seen to it)
    root = SourceRoot(pool.source.path)
    listed = files_below(root, (".jpg", ".jpeg", ".png", ".csv", _METADATA))
    files, truth = _files(listed), _truth(root, listed)
    if not truth.found:
        raise SourceError(
            "the folder holds none of these sets",
            expected=_ACCEPTED,
            found=f"{len(files.images)} images, and no CSV of their classes",
            where=str(root.path),
        )
    _check_lesions(pool, truth)
    question = ask(pool.source, CLASSES, CLASSES, _ABSENT)
    excluded: Counter[str] = Counter(not_in_csv=len(files.images.keys() - truth.found.keys()))
    rows = []
    for image, found in truth.found.items():
        if image not in files.images:
            excluded["missing_file"] += 1
            continue
        label = question.label(found)
        if label is not None:
            rows.append(_row(image, label, root, files, truth, by_image=pool.group_by == "image"))
    excluded = +(excluded + question.left_out)
    if not rows:
        raise SourceError(
            "no image can be used",
            found=", ".join(f"{count} x {reason}" for reason, count in sorted(excluded.items())),
            where=str(root.path),
            next_step="check where the images lie, and pool.source.findings",
        )
    return Listing(
        manifest_of(rows), question.findings, _notes(rows, files, truth), dict(excluded), data_set="isic2018"
    )


def _files(listed: Sequence[str]) -> _Files:
    images: dict[str, str] = {}
    masks: dict[str, str] = {}
    for name in listed:
        stem, _, suffix = name.rsplit("/", 1)[-1].rpartition(".")
        if stem.endswith(_MASK) and suffix.lower() == "png":
            masks.setdefault(stem.removesuffix(_MASK), name)
        elif _IMAGE.fullmatch(stem) and suffix.lower() in ("jpg", "jpeg", "png"):
            images.setdefault(stem, name)
    return _Files(images, masks)


def _truth(root: SourceRoot, listed: Sequence[str]) -> _Truth:
    truth = _Truth()
    for name in listed:
        lower = name.rsplit("/", 1)[-1].lower()
        if lower.endswith(_TRUTH):
            _read_classes(root, name, truth)
        elif lower.endswith(_LESIONS):
            table = read_csv(root, name, ["image", "lesion_id"])
            lesions = zip(table.ids("image"), table.texts("lesion_id"), strict=True)
            truth.lesion.update((image, lesion) for image, lesion in lesions if lesion)
        elif lower.removesuffix(".csv") == _METADATA:
            _read_metadata(root, name, truth)
    all_splits = set(truth.split.values())
    truth.split = {image: settled_split(split, all_splits) for image, split in truth.split.items()}
    return truth


def _read_classes(root: SourceRoot, name: str, truth: _Truth) -> None:
    """One column a class, 1 or 0."""
    table = read_csv(root, name, ["image", *CLASSES])
    columns = [table.numbers(each) > 0.5 for each in CLASSES]
    split = split_of_name(name.rsplit("/", 1)[-1].replace("_", " "))
    for position, image in enumerate(table.ids("image")):
        marks = zip(CLASSES, columns, strict=True)
        truth.found[image] = tuple(each for each, column in marks if column[position])
        truth.split[image] = split


def _read_metadata(root: SourceRoot, name: str, truth: _Truth) -> None:
    """HAM10000: a row an image, with its lesion."""
    table = read_csv(root, name, ["lesion_id", "image_id", "dx"], ["age", "sex"])
    num_rows = table.num_rows
    ages = table.numbers("age") if "age" in table.names else [float("nan")] * num_rows
    sexes = table.texts("sex") if "sex" in table.names else [None] * num_rows
    images, lesions, classes = table.ids("image_id"), table.texts("lesion_id"), table.texts("dx")
    for image, lesion, name_of_class, age, sex in zip(images, lesions, classes, ages, sexes, strict=True):
        known = (name_of_class or "").upper()
        truth.found.setdefault(image, (known,) if known in CLASSES else ())
        truth.attributes[image] = {"age_band": age_band_of(age), "sex": sex_of(sex)}
        if lesion:
            truth.lesion.setdefault(image, lesion)


def _check_lesions(pool: Pool, truth: _Truth) -> None:
    """Refuse to group by lesions that are not known; official validation and test images are excused."""
    unknown = sum(
        image not in truth.lesion and truth.split.get(image) not in ("val", "test") for image in truth.found
    )
    if pool.group_by == "header" or unknown:
        why = (
            f"ISIC2018_Task3_Training_LesionGroupings.csv is missing, or names no lesion of {unknown} images"
            if unknown
            else "images of this set have no header that names a patient"
        )
        check_group_by(pool, ["image"] if unknown else ["group_id", "image"], why)


def _row(image: str, label: str, root: SourceRoot, files: _Files, truth: _Truth, *, by_image: bool) -> Row:
    mask = files.masks.get(image)
    row: Row = {
        "image_id": image,
        "uri": str(root.path / files.images[image]),
        "group_id": image if by_image else truth.lesion.get(image, image),
        "label": label,
        "split": truth.split.get(image),
        "mask_uri": str(root.path / mask) if mask is not None else None,
        "boxes": [],
        "roi_state": "present" if mask is not None else "not_annotated",
    }
    return {**row, **truth.attributes.get(image, {})}


def _notes(rows: Sequence[Row], files: _Files, truth: _Truth) -> tuple[str, ...]:
    splits = Counter(row["split"] or "to be dealt" for row in rows)
    dealt = ", ".join(f"{count} {split}" for split, count in sorted(splits.items()))
    num_lesions = len(set(truth.lesion.values()))
    num_masks = sum(row["mask_uri"] is not None for row in rows)
    notes = [
        f"ISIC 2018 / HAM10000: {len(truth.found)} images in the CSV files, {len(files.images)} on disk; "
        f"{len(rows)} are used ({dealt}).",
        f"{num_lesions} lesions are named; {num_masks} of the images have a mask.",
    ]
    alone = sum(row["image_id"] not in truth.lesion for row in rows)
    if alone:
        notes.append(f"Images whose lesion is not known: {alone}. Each is a group of its own.")
    return tuple(notes)
