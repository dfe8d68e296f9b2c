"""A folder of images: `root/<class>/**`, with masks of the same names below `root/masks`.

root/                    or, split already:      root/
  glioma/a/0001.png                                train/glioma/0001.png   -> split "pool"
  pituitary/0002.jpg                               val/glioma/0002.png     -> split "val"
  0003.png               (unlabelled)              test/glioma/0003.png    -> split "test"
  masks/glioma/a/0001.png                          masks/train/glioma/0001.png
  masks/0002.png         (by name alone)
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from xal_ray.config import Pool
from xal_ray.errors import SourceError
from xal_ray.places import is_remote
from xal_ray.pool.manifest import Row, manifest_of
from xal_ray.pool.sources.listing import Listing
from xal_ray.pool.sources.paths import SourceRoot, image_id_of_path
from xal_ray.storage import names_below

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".dcm", ".dicom"})

_MASKS = "masks"
_SPLIT_FOLDERS = {
    "train": "pool",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def read(pool: Pool) -> Listing:
    """List a folder of images.

    Args:
        pool: `source.path` is the folder. `group_by` must be `image`, or `header` for DICOM files: a folder
            does not say which images show one patient.

    Returns:
        A manifest, sorted by path. The label is the class folder's name, null directly below the root or a
        split folder. Hidden files and files of other kinds are skipped.

    Raises:
        SourceError: There is no image, a link leads out of the folder, or a mask fits two images or none.
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
    files = _list_images(root)
    images = [file for file in files if file.parts[0] != _MASKS]
    if not images:
        raise SourceError(
            "the folder holds no image",
            expected="files ending in " + ", ".join(sorted(SUFFIXES)),
            where=str(source.path),
        )
    masks = _match_masks(images, [file for file in files if file.parts[0] == _MASKS], source.path)
    top_folders = {file.parts[0] for file in images if len(file.parts) > 1}
    has_splits = "train" in top_folders and top_folders <= _SPLIT_FOLDERS.keys()
    rows = [_row(root, file, masks.get(file), has_splits=has_splits) for file in images]
    if pool.group_by == "header":
        rows = [{**row, "group_id": None} for row in rows]
    return Listing(manifest_of(rows))


def _row(root: SourceRoot, file: PurePosixPath, mask: PurePosixPath | None, *, has_splits: bool) -> Row:
    folders = file.parts[:-1]
    split = None
    if has_splits and folders:
        split, folders = _SPLIT_FOLDERS[folders[0]], folders[1:]
    image_id = image_id_of_path(str(file))
    return {
        "image_id": image_id,
        "uri": str(root.path / file),
        "group_id": image_id,
        "label": folders[0] if folders else None,
        "split": split,
        "mask_uri": str(root.path / mask) if mask is not None else None,
        "boxes": [],
        "roi_state": "present" if mask is not None else "not_annotated",
    }


def _list_images(root: SourceRoot) -> list[PurePosixPath]:
    """All image files below the root, as sorted relative paths."""
    if is_remote(root.path):
        return _list_remote(root.path)
    found = []
    for folder, subfolders, names in os.walk(root.path):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in subfolders:
            if (Path(folder) / name).is_symlink():  # walk would pass it by without a word
                raise SourceError(
                    "a subfolder is a link",
                    where=str(Path(folder) / name),
                    next_step="put the folder itself there, or write a manifest",
                )
        for name in names:
            path = Path(folder) / name
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                root.check_link(str(path))
                found.append(PurePosixPath(path.relative_to(root.path)))
    return sorted(found)


def _list_remote(folder: Path) -> list[PurePosixPath]:
    """The same of an object store, in one recursive listing."""
    files = [PurePosixPath(name) for name in names_below(folder)]
    return sorted(
        file
        for file in files
        if file.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in file.parts)
    )


def _match_masks(
    images: Sequence[PurePosixPath], masks: Sequence[PurePosixPath], where: Path
) -> dict[PurePosixPath, PurePosixPath]:
    """Pair masks with images: by the same path below `masks`, or by name alone if it lies directly there."""
    by_key: dict[PurePosixPath, list[PurePosixPath]] = {}
    for image in images:
        # A set: for an image directly below the root, both keys are one.
        for key in {image.with_suffix(""), PurePosixPath(image.stem)}:
            by_key.setdefault(key, []).append(image)
    pairs = []
    for mask in masks:
        fitting = by_key.get(mask.relative_to(_MASKS).with_suffix(""), [])
        if len(fitting) > 1:
            raise _ambiguous(f"the mask {mask} fits {fitting[0]} and {fitting[1]}", where)
        pairs += [(image, mask) for image in fitting]
    twice = [image for image, count in Counter(image for image, _ in pairs).items() if count > 1]
    if twice:
        raise _ambiguous(f"two masks fit {twice[0]}", where)
    if masks and not pairs:
        raise SourceError(
            "no mask fits an image",
            expected=f"{_MASKS}/{images[0].with_suffix('')}.png for {images[0]}",
            found=str(masks[0]),
            where=str(where),
            next_step="name each mask as its image is named; the suffix may differ",
        )
    return dict(pairs)


def _ambiguous(found: str, where: Path) -> SourceError:
    return SourceError(
        "masks and images can't be paired",
        found=found,
        where=str(where),
        next_step=f"put the masks below {_MASKS} in the same subfolders as the images",
    )
