"""Finds where a public set lies below a folder that a user names, and which of its files are there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from xal_ray.errors import SourceError
from xal_ray.places import is_remote
from xal_ray.pool.sources.common.paths import SourceRoot
from xal_ray.pool.sources.common.tree import files_below, read_below

DICOM_SUFFIXES = frozenset({".dicom", ".dcm"})
COPY_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
IMAGE_SUFFIXES = DICOM_SUFFIXES | COPY_SUFFIXES
_FILE_SUFFIXES = IMAGE_SUFFIXES | {".csv", ".txt", ".json", ".zip"}  # not asked whether they are folders
MAX_BYTES = 256 << 20  # of a CSV or JSON file: the largest of the public sets have some tens of megabytes

_MAX_FOLDERS = 400  # that are looked into before a set counts as not found
_MAX_DEPTH = 8


def find_set(
    given: Path | None, markers: Sequence[str], inside: Collection[str], accepted: str
) -> SourceRoot:
    """Find the folder of a set: the one given, one above it (if that is a folder of the set), or one below.

    Args:
        given: A folder, or a file in one.
        markers: Paths below the set's folder, one of which must be there.
        inside: Names of folders that the set consists of: not searched, and left upwards.
        accepted: The layouts that would do, for the message.

    Raises:
        SourceError: There is no such folder, no set in it, or several.
    """
    if given is None or not given.exists():
        raise SourceError("there is no such folder", where=str(given), next_step="set pool.source.path")
    start = given.absolute() if given.is_dir() else given.absolute().parent
    if start.name in inside and _is_set(start.parent, markers):
        return SourceRoot(start.parent)
    if _is_set(start, markers):
        return SourceRoot(start)
    for level in _levels_below(start, inside):
        found = [folder for folder in level if _is_set(folder, markers)]
        if len(found) == 1:
            return SourceRoot(found[0])
        if found:
            raise SourceError(
                "the folder holds several such sets",
                found=", ".join(str(folder.relative_to(start)) for folder in found[:4]),
                where=str(start),
                next_step="set pool.source.path to one of them",
            )
    raise SourceError(
        "the folder does not hold this set", expected=accepted, found=_seen(start), where=str(start)
    )


def has_file(root: SourceRoot, name: str) -> bool:
    """Return whether a set has a file of this path."""
    return (root.path / name).is_file()


def read_file(root: SourceRoot, name: str) -> bytes:
    """Return all of a small file of a set, less a byte order mark.

    Raises:
        SourceError: It is missing, too large or not readable, or a link that leads out of the folder.
    """
    return read_below(root, name, MAX_BYTES).removeprefix(b"\xef\xbb\xbf")


def list_images(root: SourceRoot, folder: str, suffixes: Collection[str] = IMAGE_SUFFIXES) -> list[str]:
    """Return the images in a folder of a set and below, found with one walk and without a stat for each.

    Args:
        root: The set's folder.
        folder: Below it.
        suffixes: Of the names that count, in small letters.

    Returns:
        Paths relative to the folder, with forward slashes, sorted; none where there is no such folder. Hidden
        files are skipped.

    Raises:
        SourceError: A subfolder is a link, or a file a link that leads out of the set's folder.
    """
    start = root.path / folder
    if not start.is_dir():
        return []
    if not is_remote(start):
        root.check_link(str(start))
    return files_below(SourceRoot(start), sorted(suffixes))


def by_stem(root: SourceRoot, folder: str, names: Sequence[str]) -> dict[str, str]:
    """Absolute paths by file name without suffix; of several the DICOM original, then the first.

    Args:
        root: The set's folder.
        folder: Below it.
        names: What `list_images` gave of it.
    """
    prefix = str(root.path / folder) + "/"
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda name: is_copy(name)):
        found.setdefault(name.rpartition("/")[2].rpartition(".")[0], prefix + name)
    return found


def is_copy(name: str) -> bool:
    """Return whether an image is no DICOM file, but a copy in a format that knows no header."""
    return os.path.splitext(name)[1].lower() not in DICOM_SUFFIXES  # noqa: PTH122


def match_files(images: Collection[str], files: Collection[str], what: str, excluded: Counter[str]) -> str:
    """Compare the images of a CSV file with those on disk.

    Args:
        images: Ids in the CSV file.
        files: Ids of the files.
        what: What is compared, for the note.
        excluded: `missing_file` and `not_in_csv` are counted here.

    Returns:
        A note for people.
    """
    missing = sum(1 for image in images if image not in files)
    unknown = len(files) - (len(images) - missing)
    excluded["missing_file"] += missing
    excluded["not_in_csv"] += unknown
    note = f"{what}: {len(images)} images in the CSV, {len(files)} on disk"
    note += f"; {missing} without a file" if missing else ""
    note += f"; {unknown} files without a row" if unknown else ""
    return note


def _is_set(folder: Path, markers: Sequence[str]) -> bool:
    return any((folder / marker).is_file() for marker in markers)


def _levels_below(start: Path, inside: Collection[str]) -> Iterator[list[Path]]:
    """Folders below, level by level."""
    level, num_folders = [start], 0
    for _ in range(_MAX_DEPTH):
        below: list[Path] = []
        for folder in level:
            below += _subfolders(folder, inside)
            if num_folders + len(below) > _MAX_FOLDERS:
                return
        num_folders += len(below)
        yield below
        level = below


def _subfolders(folder: Path, inside: Collection[str]) -> list[Path]:
    """Folders directly below that may hold a set; links may lead anywhere, and are passed by."""
    try:
        names = [path for path in folder.iterdir() if path.suffix.lower() not in _FILE_SUFFIXES]
    except OSError:  # not ours to read: then no set is found there
        return []
    candidates = [path for path in names if path.name not in inside and not path.name.startswith(".")]
    return sorted(path for path in candidates if path.is_dir() and (is_remote(path) or not path.is_symlink()))


def _seen(folder: Path) -> str:
    """Return what a folder holds, for a message: the names of folders only, as files may name people."""
    names = [path.name for path in _subfolders(folder, ())]
    return "folders " + ", ".join(names[:8]) if names else "no folder"
