"""CheXlocalize: radiologists' segmentations of ten findings on CheXpert's validation and test images.

root/
  CheXpert/
    val/patient64541/study1/view1_frontal.jpg      (or CheXpert-v1.0/valid/..., or without that folder)
    test/patient64741/study1/view1_frontal.jpg     -> split "test"
    val_labels.csv, test_labels.csv                (or valid.csv): Path, Sex, Age, No Finding, ... 0 and 1
  CheXlocalize/                                    (or without that folder)
    gt_segmentations_val.json, gt_segmentations_test.json
      {"patient64541_study1_view1_frontal": {"Airspace Opacity": {"size": [height, width], "counts": "..."}}}
    gt_annotations_val.json, gt_annotations_test.json      (read where the segmentations are missing)
      {"patient64541_study1_view1_frontal": {"img_size": [height, width],
                                             "Airspace Opacity": [[[x, y], ...], ...]}}

`counts` is COCO's compressed run lengths; an image has all ten findings there, and most masks are empty. The
labels' "Lung Opacity" is the segmentations' "Airspace Opacity". The JSON files' form, their names for "val"
and the columns of valid.csv are those of the authors' documentation; the names of the label files, the two
folders and the test set's files are from memory and from others' code.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xal_ray.config import Pool
from xal_ray.errors import SourceError
from xal_ray.pool.manifest import Attributes, Row
from xal_ray.pool.sources.common.csvs import Csv, read_csv
from xal_ray.pool.sources.common.faults import Faults
from xal_ray.pool.sources.common.findings import Question, ask
from xal_ray.pool.sources.common.grouping import age_band_of, check_group_by, sex_of
from xal_ray.pool.sources.common.layouts import (
    COPY_SUFFIXES,
    find_set,
    has_file,
    list_images,
    match_files,
    read_file,
)
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.pool.sources.common.paths import SourceRoot
from xal_ray.roi import sound_polygons

NO_FINDING = "No Finding"
SEGMENTED = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Airspace Opacity",
    "Edema",
    "Consolidation",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Support Devices",
)
ONLY_LABELLED = ("Pneumonia", "Pleural Other", "Fracture")

_ALIASES = {"Lung Opacity": "Airspace Opacity"}
_JSON_FOLDERS = ("CheXlocalize/", "")
_PLACES = ("CheXpert/", "", "CheXpert-v1.0/", "CheXlocalize/CheXpert/")  # of images and labels
_IMAGE_FOLDERS = {"val": ("val", "valid"), "test": ("test",)}
_LABELS = {"val": ("val_labels.csv", "valid.csv"), "test": ("test_labels.csv",)}
_MARKERS = tuple(
    f"{folder}gt_{what}_{split}.json"
    for what in ("segmentations", "annotations")
    for folder in _JSON_FOLDERS
    for split in ("val", "test")
)
_ACCEPTED = (
    "CheXlocalize/gt_segmentations_val.json and CheXpert/val/patient*/study*/view*.jpg, or the same of test"
)
_VIEW = re.compile(r"(patient\d{1,8})/(study\d{1,4})/(view\d{1,4}_[a-z]{1,16})")
_MAX_SIDE = 20_000  # pixels
_FRAME = "img_size"
_MALFORMED = (ValueError, TypeError, OverflowError, AttributeError, KeyError)
_CONTINUES = 0x20  # of a character of COCO's counts: the number goes on


@dataclass(frozen=True)
class _Region:
    """Holds what was segmented of a finding: runs, or else polygons, in a frame of its own."""

    height: int
    width: int
    counts: str | None
    polygons: list[list[float]]


@dataclass(frozen=True)
class _Lost:
    """Holds what was segmented of a finding, and can't be meant."""

    why: str


_Regions = dict[
    str, dict[str, _Region | _Lost]
]  # by view, then by finding; an image without any is there too


def read(pool: Pool) -> Listing:
    """List the images that show exactly one of the asked findings.

    Args:
        pool: `group_by: group_id` takes the patients of the paths. `source.findings` defaults to the ten that
            were segmented.

    Returns:
        A manifest in the order of the paths; runs or polygons are those of the label.

    Raises:
        SourceError: The set is not there, or a file of it is malformed.
    """
    root = find_set(
        pool.source.path, _MARKERS, ("val", "test", "valid", "CheXpert", "CheXlocalize"), _ACCEPTED
    )
    check_group_by(pool, ("group_id", "image"), "the images are JPEG files, which have no header")
    question = ask(pool.source, SEGMENTED, (*SEGMENTED, *ONLY_LABELLED), NO_FINDING)
    notes, excluded, faults = ["CheXlocalize"], Counter[str](), Faults()
    rows = [
        row
        for split in ("val", "test")
        for row in _rows_of_split(root, split, pool, question, notes, excluded, faults)
    ]
    unmarked = sum(row["roi_state"] == "not_annotated" for row in rows)
    if unmarked:
        notes.append(f"{unmarked} labelled images have no segmentation of their label")
    return faults.listing(rows, notes, excluded + question.left_out, data_set="chexlocalize")


def _rows_of_split(
    root: SourceRoot,
    split: str,
    pool: Pool,
    question: Question,
    notes: list[str],
    excluded: Counter[str],
    faults: Faults,
) -> Iterator[Row]:
    regions, of = _read_regions(root, split, faults)
    folder = next((name for name in _below(_IMAGE_FOLDERS[split]) if (root.path / name).is_dir()), None)
    if of is None or folder is None:
        notes.append(f"{split}: {'no segmentations' if of is None else 'no images'} there: not used")
        return
    prefix = str(root.path / folder) + "/"
    views = {name.rpartition(".")[0]: prefix + name for name in list_images(root, folder, COPY_SUFFIXES)}
    views = {view: path for view, path in views.items() if _VIEW.fullmatch(view)}
    labels = next((name for name in _below(_LABELS[split]) if has_file(root, name)), None)
    people: dict[str, Attributes] = {}
    if labels is not None:
        findings, people = _read_labels(root, labels)
        notes.append(match_files(findings, views, f"{split}, {of}, {labels}", excluded))
    else:
        findings = {view: set(own) for view, own in regions.items()}
        notes.append(f"{split}: no file of labels, so that a finding counts where it is segmented")
        notes.append(match_files(findings, views, f"{split}, {of} in place of a CSV", excluded))
    for view in sorted(findings.keys() & views.keys()):
        label = question.label(findings[view])
        region = regions.get(view, {}).get(label) if label is not None else None
        if isinstance(region, _Lost):
            faults.refuse(_id_of(view), views[view], f"its segmentation can't be meant: {region.why}")
        elif label is not None:
            row = _row(view, views[view], label, region, split, pool)
            yield {**row, **people.get(view, {})}


def _below(names: Collection[str]) -> list[str]:
    return [place + name for place in _PLACES for name in names]


def _row(view: str, path: str, label: str, region: _Region | None, split: str, pool: Pool) -> Row:
    patient, study, _ = view.split("/")
    image_id = _id_of(view)
    row: Row = {
        "image_id": image_id,
        "uri": path,
        "group_id": image_id if pool.group_by == "image" else patient,
        "study_id": f"{patient}/{study}",
        "label": label,
        "split": "test" if split == "test" else None,
        "boxes": [],
        "roi_state": "absent_confirmed" if label == NO_FINDING else "not_annotated",
    }
    if region is not None:
        row |= {"roi_state": "present", "roi_height": region.height, "roi_width": region.width}
        if region.counts is None:
            row["polygons"] = region.polygons
        else:
            row["rle"] = {"height": region.height, "width": region.width, "counts": region.counts}
    return row


def _id_of(view: str) -> str:
    return view.replace("/", "_")


def _read_labels(root: SourceRoot, name: str) -> tuple[dict[str, set[str]], dict[str, Attributes]]:
    """Return the findings of each view, and its patient's sex and age where told."""
    columns_of = [NO_FINDING, *SEGMENTED, *ONLY_LABELLED, *_ALIASES]
    columns = read_csv(root, name, ["Path"], ["Sex", "Age", *columns_of])
    views = _views(columns)
    findings: dict[str, set[str]] = {view: set() for view in views}
    for finding in columns_of:
        if finding in columns.names:
            for view, value in zip(views, columns.numbers(finding), strict=True):
                if value == 1:
                    findings[view].add(_ALIASES.get(finding, finding))
    people: dict[str, Attributes] = {view: {} for view in views}
    if "Sex" in columns.names:
        for view, sex in zip(views, columns.texts("Sex"), strict=True):
            people[view]["sex"] = sex_of(sex)
    if "Age" in columns.names:
        for view, age in zip(views, columns.numbers("Age"), strict=True):
            people[view]["age_band"] = age_band_of(age)
    return findings, people


def _views(columns: Csv) -> list[str]:
    """patient/study/view of each row, whatever folder its path begins with."""
    views = []
    for position, path in enumerate(columns.texts("Path")):
        view = "/".join((path or "").rpartition(".")[0].split("/")[-3:])
        if not _VIEW.fullmatch(view):
            raise columns.fault(
                "a path is malformed", position, expected=".../patient1/study1/view1_frontal.jpg"
            )
        views.append(view)
    return views


def _read_regions(root: SourceRoot, split: str, faults: Faults) -> tuple[_Regions, str | None]:
    """Return the segmentations of a split, and the file that they are from."""
    for what in _PARSERS:
        for folder in _JSON_FOLDERS:
            name = f"{folder}gt_{what}_{split}.json"
            if has_file(root, name):
                return _parse(root, name, what, faults), name
    return {}, None


def _parse(root: SourceRoot, name: str, what: str, faults: Faults) -> _Regions:
    fault = SourceError(
        "a file of segmentations is malformed", expected=_FORMS[what], where=str(root.path / name)
    )
    data = read_file(root, name)
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError):
        raise fault from None
    if not isinstance(entries, dict):
        raise fault
    regions: _Regions = {}
    for key, entry in entries.items():
        view = key.replace("_", "/", 2)
        if _VIEW.fullmatch(view):
            regions[view] = _of_view(entry, _PARSERS[what], view, faults)
        else:
            faults.drop(f"{name}: an entry that names no view")
    return regions


def _of_view(entry: Any, parse: _Parser, view: str, faults: Faults) -> dict[str, _Region | _Lost]:
    """Return the regions of a view by finding; a finding whose region is empty is left out."""
    if not isinstance(entry, dict):
        faults.drop("an entry without findings", _id_of(view))
        return {}
    regions: dict[str, _Region | _Lost] = {}
    for name in entry.keys() - {_FRAME}:
        finding = _ALIASES.get(name, name)
        if finding not in SEGMENTED:
            continue
        try:
            region = parse(entry, name, faults, view)
        except _MALFORMED:
            region = _Lost("it is not of the form that the set describes")
        if region is not None:
            regions[finding] = region
    return regions


def _segmented(entry: Mapping[str, Any], name: str, faults: Faults, view: str) -> _Region | _Lost | None:
    height, width = _size(entry[name]["size"])
    counts = entry[name]["counts"]
    if not isinstance(counts, str):
        raise ValueError
    return _Region(height, width, counts, []) if _has_pixels(counts) else None


def _annotated(entry: Mapping[str, Any], name: str, faults: Faults, view: str) -> _Region | _Lost | None:
    height, width = _size(entry[_FRAME])
    if not isinstance(entry[name], list):
        raise ValueError
    contours = [[side for x, y in contour for side in (x, y)] for contour in entry[name]]
    sound = sound_polygons(contours, (height, width))
    if sound.is_lost:
        return _Lost(sound.faults)
    faults.drop_all(sound, _id_of(view))
    return _Region(height, width, None, sound.shapes) if sound.shapes else None


_Parser = Callable[[Mapping[str, Any], str, Faults, str], _Region | _Lost | None]
_PARSERS: dict[str, _Parser] = {"segmentations": _segmented, "annotations": _annotated}
_FORMS = {
    "segmentations": '{"VIEW": {"Edema": {"size": [height, width], "counts": "..."}}}',
    "annotations": '{"VIEW": {"img_size": [height, width], "Edema": [[[x, y], ...]]}}',
}


def _size(size: Collection[int]) -> tuple[int, int]:
    height, width = size
    if not (type(height) is type(width) is int and 0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
        raise ValueError
    return height, width


def _has_pixels(counts: str) -> bool:
    """Return whether a mask is not empty: its runs begin with one outside, and it has a second one.

    Each number of the counts ends with the first character whose bit 0x20, less 48, is not set.
    """
    numbers = 0
    for character in counts:
        numbers += not (ord(character) - 48) & _CONTINUES
        if numbers == 2:
            return True
    return False
