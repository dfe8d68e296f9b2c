"""The files of an image folder: which are images, by name or by DICOM's mark, and which are passed by."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from xal_ray.places import place
from xal_ray.pool.sources.common.paths import SourceRoot
from xal_ray.pool.sources.common.tree import check_names, list_below
from xal_ray.pool.warnings_table import Warned

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".dcm", ".dicom"}
)
VOLUMES = (".nii.gz", ".nii")

_DICOM_MARK, _MARK_AT = b"DICM", 128
_PERHAPS_DICOM = frozenset({"", ".ima", ".dic", ".img"})  # and numbers: files called by their UID
_MOST_KINDS = 8  # that a note names
_NO_IMAGES = frozenset({"dicomdir", "readme", "license", "licence", "version", "makefile"})


class Path(NamedTuple):
    """A file below the root.

    Attributes:
        name: Its path relative to it.
        folders: Those above it.
        stem: Its name without suffix.
    """

    name: str
    folders: tuple[str, ...]
    stem: str


@dataclass(frozen=True)
class Files:
    """Holds what lies in the folder.

    Attributes:
        images: All files that are read; masks are among them.
        notes: What was passed by, for people.
        warned: The same, one by one.
    """

    images: list[Path]
    notes: list[str]
    warned: list[Warned]


def find_images(root: SourceRoot) -> Files:
    """List the images of a folder.

    A file is one by its suffix; where it has none, or a number or one of some scanners, by DICOM's mark.

    Raises:
        SourceError: As for `list_below`, or the name of an image is not UTF-8.
    """
    below = list_below(root)
    images, passed = [], []
    read: Counter[str] = Counter()
    for name in below.files:
        stem, suffix = split_suffix(name.rpartition("/")[2])
        if suffix in SUFFIXES or suffix in VOLUMES or _is_marked(root, name, stem, suffix):
            is_known = suffix in SUFFIXES or suffix in VOLUMES
            read[suffix if is_known else "DICOM by its mark"] += 1
            file = stem if is_known else name.rpartition("/")[2]
            images.append(Path(name, tuple(name.split("/")[:-1]), file))
        else:
            passed.append(name)
    check_names(root, [image.name for image in images])
    kinds = Counter(split_suffix(name.rpartition("/")[2])[1] or "no suffix" for name in passed)
    notes = [f"Files of several kinds are read: {_listed(read)}."] if len(read) > 1 else []
    if passed:
        notes.append(f"Passed by, as files of a kind that is not read: {_listed(kinds)}.")
    if below.hidden:
        notes.append(f"Passed by, as hidden or left by a system: {len(below.hidden)}.")
    warned = [Warned("passed_by", path=_shown(name)) for name in passed]
    warned += [Warned("hidden", path=_shown(name)) for name in below.hidden]
    return Files(images, notes, warned)


def split_suffix(file: str) -> tuple[str, str]:
    """Return a file's name without its suffix, and the suffix in small letters, `.nii.gz` being one."""
    lower = file.lower()
    if lower.endswith(VOLUMES[0]) and len(file) > len(VOLUMES[0]):
        return file[: -len(VOLUMES[0])], VOLUMES[0]
    stem, dot, suffix = file.rpartition(".")
    return (stem, f".{suffix.lower()}") if dot and stem else (file, "")


def _is_marked(root: SourceRoot, name: str, stem: str, suffix: str) -> bool:
    """Return whether a file that its name does not call an image is a DICOM file."""
    if not (suffix in _PERHAPS_DICOM or suffix[1:].isdecimal()) or stem.lower() in _NO_IMAGES:
        return False
    try:
        with place(f"{root.path}/{name}").open("rb") as stream:
            return stream.read(_MARK_AT + len(_DICOM_MARK))[_MARK_AT:] == _DICOM_MARK
    except OSError:  # not ours to read: then it is passed by, and listed
        return False


def _listed(kinds: Counter[str]) -> str:
    """Return the most frequent kinds with their numbers."""
    listed = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common(_MOST_KINDS))
    further = len(kinds) - _MOST_KINDS
    return _shown(listed) + (f" and {further} other kinds" if further > 0 else "")


def _shown(text: str) -> str:
    """Text that can be stored, whatever bytes a name has."""
    return text.encode("utf-8", "surrogateescape").decode(errors="backslashreplace")
