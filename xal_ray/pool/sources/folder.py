"""A folder of images: `root/<class>/**`, with masks among them, and splits above or below the classes.

root/                    or, split already:      root/
  glioma/a/0001.png                                Training/glioma/0001.png   -> split "pool"
  pituitary/0002.jpg                               val/glioma/0002.png        -> split "val"
  unlabelled/0003.png    (no class)                Test_set/glioma/0003.png   -> split "test"
  0004.dcm               (no class)
  masks/glioma/a/0001.png                          masks/train/glioma/0001.png

What names mean is told by `folder_tree/names.py`: masks by `folder_tree/masks.py`, classes and splits by
`folder_tree/layout.py`, and which files are images by `common/image_files.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path as SystemPath

from xal_ray.config import Pool
from xal_ray.errors import SourceError
from xal_ray.pool.manifest import Row, manifest_of
from xal_ray.pool.sources.common.image_files import SUFFIXES, VOLUMES, Path, find_images
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.pool.sources.common.paths import SourceRoot, image_id_of_path
from xal_ray.pool.sources.folder_tree.layout import FolderLayout, layout_of
from xal_ray.pool.sources.folder_tree.masks import Masks, find_masks
from xal_ray.pool.warnings_table import Warned

_MOST_NAMES = 8  # of folders that a message names


def read(pool: Pool) -> Listing:
    """List a folder of images.

    Args:
        pool: `source.path` is the folder. `group_by` must be `image`, or `header` for DICOM files: a folder
            does not say which images show one patient. `classes` settles what a folder is, where given.

    Returns:
        A manifest, sorted by path. The label is the class folder's name; null directly below the root or a
        split folder, and in folders called `unlabelled` and the like. What is passed by is noted.

    Raises:
        SourceError: There is no image, a link leads out of the folder, a name is not UTF-8, or masks or
            splits can't be told.
    """
    source = pool.source
    if source.path is None or not source.path.is_dir():
        raise SourceError("there is no such folder", where=str(source.path), next_step="set pool.source.path")
    if pool.group_by == "group_id":
        raise SourceError(
            "a folder of images does not say which images show the same patient",
            where=str(source.path),
            next_step="--set pool.group_by=image if no two images do; pool.group_by=header if they are DICOM "
            "files that name theirs; else write a manifest with a group_id",
        )
    root = SourceRoot(source.path)
    files = find_images(root)
    classes = pool.classes or ()
    masks = find_masks(files.images, classes, source.path)
    if not masks.images:
        raise SourceError(
            "the folder holds no image",
            expected="files ending in " + ", ".join(sorted({*SUFFIXES, *VOLUMES})),
            found="; ".join(files.notes) or "no file",
            where=str(source.path),
            next_step="check pool.source.path, or write a manifest",
        )
    layout = layout_of((image.folders for image in masks.images), classes, source.path)
    rows, deeper = [], []
    above: dict[str, set[str | None]] = defaultdict(set)  # the classes over each folder below one
    for image in masks.images:
        row, folders = _row(root, image, masks, layout)
        rows.append(row if pool.group_by == "image" else {**row, "group_id": None})
        if folders:
            deeper.append(Warned("deeper", image_id=row["image_id"], path=image.name))
            above[folders[0]].add(row["label"])
    if not classes:
        _check_classes(rows, masks, layout, source.path)
    warned = [*files.warned, *_warned_of(masks), *deeper]
    notes = (*layout.notes, *masks.notes, *files.notes, *_notes(deeper, above))
    return Listing(manifest_of(rows), notes=notes, warned=warned)


def _row(root: SourceRoot, image: Path, masks: Masks, layout: FolderLayout) -> tuple[Row, tuple[str, ...]]:
    """Return the row of an image, and the folders between its class and it."""
    split, label, deeper = layout.read(image.folders)
    image_id = image_id_of_path(image.name)
    uris = [f"{root.path}/{mask}" for mask in masks.of.get(image.name, [])]
    row: Row = {
        "image_id": image_id,
        "uri": f"{root.path}/{image.name}",
        "group_id": image_id,
        "label": label,
        "split": split,
        "mask_uri": uris[0] if uris else None,
        "more_mask_uris": uris[1:] or None,
        "boxes": [],
        "roi_state": "present" if uris else "not_annotated",
    }
    return row, deeper


def _check_classes(rows: list[Row], masks: Masks, layout: FolderLayout, where: SystemPath) -> None:
    """Refuse a folder that lies between the root and the classes.

    Raises:
        SourceError: All images lie in one folder, and that holds several.
    """
    labels = {row["label"] for row in rows if row["label"] is not None}
    below = {deeper[0] for image in masks.images if (deeper := layout.read(image.folders)[2])}
    if len(labels) == 1 and len(below) > 1:
        (label,) = labels
        raise SourceError(
            "there must be at least two classes, and all images lie below one folder",
            found=f"'{label}' only, with the folders {', '.join(sorted(below)[:_MOST_NAMES])}"
            + (" and others" if len(below) > _MOST_NAMES else ""),
            where=str(where),
            next_step=f"if these are the classes, set pool.source.path to the folder '{label}'; else name "
            "all classes in pool.classes",
        )


def _warned_of(masks: Masks) -> list[Warned]:
    alone = [Warned("mask_without_image", path=mask.name) for mask in masks.alone]
    return alone + [Warned("made_of_image", path=file.name) for file in masks.made]


def _notes(deeper: list[Warned], above: Mapping[str, Collection[str | None]]) -> list[str]:
    if not deeper:
        return []
    note = f"Images in folders below that of their class, which count for it: {len(deeper)}"
    shared = sorted(name for name, classes in above.items() if len(classes) > 1)
    if 1 < len(shared) <= _MOST_NAMES:
        named = ", ".join(shared)
        note += f", in {named} of several; if these are the classes: --set 'pool.classes=[{named}]'"
    return [note + "."]
