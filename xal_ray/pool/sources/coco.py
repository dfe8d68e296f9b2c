"""COCO: a JSON file with images, annotations (bbox, polygons or runs) and categories.

    annotations/instances_train2017.json, train2017/*.jpg      and the same for val, test
    train/_annotations.coco.json, train/*.jpg                  and the same for valid, test
    any.json beside, or in `annotations` below, the folder that its file names start from

An image's label is one of its categories (see `common/findings.py`); "No finding" is an image without
annotations. Each image may carry patient_id, group_id or lesion_id: then that is its group.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xal_ray.config import Pool
from xal_ray.errors import SourceError
from xal_ray.pool.manifest import Row
from xal_ray.pool.sources.annotation_files.coco import Document, read_document
from xal_ray.pool.sources.annotation_files.coco_shapes import shapes_of
from xal_ray.pool.sources.common.faults import Faults
from xal_ray.pool.sources.common.findings import Question, ask
from xal_ray.pool.sources.common.grouping import check_group_by
from xal_ray.pool.sources.common.image_files import SUFFIXES
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.pool.sources.common.paths import SourceRoot
from xal_ray.pool.sources.common.split_names import settled_split, split_of_name
from xal_ray.pool.sources.common.tree import files_below

NO_FINDING = "No finding"

_GROUP_KEYS = ("patient_id", "group_id", "lesion_id")  # the coarsest first
_FOLDER = "annotations"
_ACCEPTED = (
    "annotations/instances_*.json beside the image folders, <split>/_annotations.coco.json among the images, "
    "or a JSON file with the keys images, annotations and categories"
)


@dataclass(frozen=True)
class _Source:
    """Holds what all rows share."""

    root: SourceRoot
    files: frozenset[str]
    question: Question
    group_by: str
    group_key: str | None
    excluded: Counter[str]
    faults: Faults
    several_documents: bool


def read(pool: Pool) -> Listing:
    """List the images of COCO files.

    Args:
        pool: `source.path` is the folder or one JSON file. `source.findings` are categories, all by default.

    Returns:
        A row an image, with the annotations of its label as ROI, in the frame of the image's width and
        height. Ids are those of the images, after the file's name where there are several files. Excluded:
        `missing_file`, and the reasons of `common/findings.py`. Shapes that can't be meant are dropped, and
        an image is refused where nothing else is left of its label's, or an annotation's category is not
        listed.

    Raises:
        SourceError: There is no such file, it is malformed, or no image tells its group although `group_by`
            asks for it.
    """
    path = pool.source.path
    assert path is not None  # noqa: S101 (resolved_kind has seen to it)
    root, chosen = _root(path)
    listed = files_below(root, (*SUFFIXES, ".json"))
    documents = _documents(root, [chosen] if chosen else listed, pool)
    categories = list(dict.fromkeys(name for document in documents for name in document.categories.values()))
    group_key = _group_key(documents, pool)
    source = _Source(
        root,
        frozenset(listed),
        ask(pool.source, categories, categories, NO_FINDING),
        pool.group_by,
        group_key,
        Counter(),
        Faults(),
        len(documents) > 1,
    )
    all_splits = [split_of_name(document.name) for document in documents]
    rows: list[Row] = []
    notes = []
    for document, split in zip(documents, all_splits, strict=True):
        before = len(rows)
        rows += _rows(document, source, settled_split(split, all_splits))
        notes.append(
            f"COCO: {document.name}: {len(document.images)} images, {document.num_annotations} annotations, "
            f"{len(document.categories)} categories; {len(rows) - before} images are used."
        )
        source.excluded["no_file_name"] += document.num_unnamed
        if document.num_strays:
            notes.append(f"{document.name}: {document.num_strays} annotations belong to no image.")
    excluded = +(source.excluded + source.question.left_out)
    if not rows:
        raise _nothing_left(excluded + source.faults.counts(), source.faults, root)
    if group_key:
        notes.append(f"Images are grouped by their key {group_key}.")
    return source.faults.listing(rows, notes, excluded, classes=source.question.findings)


def _root(path: Path) -> tuple[SourceRoot, str | None]:
    """Return the folder that images may lie in, and the JSON file below it, if one was named."""
    is_file = path.name.lower().endswith(".json") and not path.is_dir()
    folder = path.parent if is_file else path
    if folder.name == _FOLDER:
        folder = folder.parent
    root = SourceRoot(folder)
    if not is_file:
        return root, None
    below = f"{_FOLDER}/{path.name}" if path.parent.name == _FOLDER else path.name
    return root, below


def _documents(root: SourceRoot, files: Sequence[str], pool: Pool) -> list[Document]:
    """Return the files that hold annotations: those that are named like it, else all that have the keys."""
    names = [name for name in files if name.lower().endswith(".json")]
    instances = [name for name in names if name.rsplit("/", 1)[-1].startswith("instances")]
    exported = [name for name in names if name.endswith("_annotations.coco.json")]
    names = instances or exported or names
    found = [read_document(root, name, pool.limits, needed=len(names) == 1) for name in names]
    documents = [document for document in found if document is not None]
    if not documents:
        raise SourceError(
            "the folder holds no COCO file",
            expected=_ACCEPTED,
            found=f"{len(names)} other JSON files",
            where=str(root.path),
        )
    return documents


def _group_key(documents: Sequence[Document], pool: Pool) -> str | None:
    """Return the key by which images are grouped; None: by `pool.group_by`.

    Raises:
        SourceError: Groups are asked for, and no key stands at every image.
    """
    if pool.group_by != "group_id":
        return None
    for key in _GROUP_KEYS:
        if all(str(image.get(key) or "").strip() for document in documents for image in document.images):
            return key
    why = f"not every image says whose it is: none of the keys {', '.join(_GROUP_KEYS)} stands at all of them"
    check_group_by(pool, ["image", "header"], why)
    return None


def _rows(document: Document, source: _Source, split: str | None) -> list[Row]:
    base = _base(document, source.files)
    rows: list[Row] = []
    for position, image in enumerate(document.images):
        at = f"{document.name}, images[{position}]"
        name = posixpath.join(base, image["file_name"])
        uri, relative = source.root.locate(name, f"{source.root.path}/{at}")
        if relative not in source.files:
            source.excluded["missing_file"] += 1
            continue
        image_id = f"{image['id']}"
        if source.several_documents:
            image_id = f"{document.name.removesuffix('.json')}/{image_id}"
        if image["id"] in document.unknown:
            source.faults.refuse(
                image_id, uri, "an annotation has a category that is not listed", "unknown_label"
            )
            continue
        annotations = document.annotations_of(position)
        names = [document.categories[annotation["category_id"]] for annotation in annotations]
        label = source.question.label(set(names) or {NO_FINDING})
        if label is None:
            continue
        of_label = [each for each, name in zip(annotations, names, strict=True) if name == label]
        shapes = shapes_of(of_label, image)
        if shapes.is_lost:
            source.faults.refuse(
                image_id, uri, f"none of its shapes can be meant: {shapes.dropped.faults} ({at})"
            )
            continue
        source.faults.drop_all(shapes.dropped, image_id)
        for fault in shapes.boxes_instead:
            source.faults.box_instead(image_id, fault)
        without = "absent_confirmed" if label == NO_FINDING else "not_annotated"
        row: Row = {
            "image_id": image_id,
            "uri": uri,
            "group_id": _group(image, image_id, source),
            "label": label,
            "split": split,
            "roi_state": "present" if shapes else without,
            "roi_width": image.get("width"),
            "roi_height": image.get("height"),
        }
        rows.append({**row, **shapes.columns()})
    return rows


def _group(image: dict[str, Any], image_id: str, source: _Source) -> str | None:
    if source.group_key:
        return str(image[source.group_key]).strip()
    return image_id if source.group_by == "image" else None


def _base(document: Document, files: Collection[str]) -> str:
    """The folder that the file names start from: of those that could be meant, the one that has most."""
    folder = posixpath.dirname(document.name)
    above = posixpath.dirname(folder)
    split = split_of_name(document.name)
    named = {posixpath.dirname(file) for file in files} if split else set()
    like_split = sorted(
        (name for name in named if split_of_name(name) == split), key=lambda name: (len(name), name)
    )
    candidates = [
        folder,
        posixpath.join(folder, "images"),
        above,
        posixpath.join(above, "images"),
        *like_split,
    ]
    names = [image["file_name"] for image in document.images]

    def hits(base: str) -> int:
        return sum(posixpath.normpath(posixpath.join(base, name)) in files for name in names)

    return max(dict.fromkeys(candidates), key=hits)


def _nothing_left(excluded: Counter[str], faults: Faults, root: SourceRoot) -> SourceError:
    counts = ", ".join(f"{count} x {reason}" for reason, count in sorted(excluded.items())) or "no image"
    return SourceError(
        "no image can be used",
        found=counts + (f"; the first: {faults.refused[0].detail}" if faults.refused else ""),
        where=str(root.path),
        next_step="check pool.source.findings and pool.source.several, or where the images lie",
    )
