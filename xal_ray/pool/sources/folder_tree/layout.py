"""Which folders of an image folder are its classes, and which its splits."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from xal_ray.errors import SourceError
from xal_ray.pool.sources.common.split_names import settled_split
from xal_ray.pool.sources.folder_tree.names import holds_images, is_labelled, is_unlabelled, split_of_folder

Folders = tuple[str, ...]

# Names below two folders that make these no parts of one set: sides, planes and views of each class.
_VIEW = re.compile(
    r"left|right|axial|coronal|sagittal|frontal|lateral|ap|pa|flair|dwi|adc|ct|mri?|pet|us|xray"
    r"|female|male|png|jpg|dicom|raw|processed|original|augmented",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class FolderLayout:
    """Says how folders are read.

    Attributes:
        depth: Folders at the start that hold all of it, and say nothing.
        level: Where the split stands after these: 0 above the classes, 1 below; None: nowhere.
        splits: What each folder at that level means; None: to be dealt.
        classes: Names that are classes whatever they say.
        notes: How the folders were taken, for people.
    """

    depth: int
    level: int | None
    splits: Mapping[str, str | None]
    classes: Collection[str]
    notes: tuple[str, ...]

    def read(self, folders: Folders) -> tuple[str | None, str | None, Folders]:
        """Split and class of an image, and the folders below its class; None: none is told.

        Args:
            folders: Those above the image, from the root on.
        """
        left = _plain(folders, self.classes)[self.depth :]
        split = None
        if self.level is not None and len(left) > self.level and left[self.level] in self.splits:
            name = left[self.level]
            split, left = self.splits[name], left[: self.level] + left[self.level + 1 :]
            while self.level == 0 and left and _repeats(left[0], name, self.classes):
                left = left[1:]
        if left and (left[0] in self.classes or not is_unlabelled(left[0])):
            return split, left[0], left[1:]
        return split, None, left[1:]


def layout_of(all_folders: Iterable[Folders], classes: Collection[str], where: Path) -> FolderLayout:
    """Find out how the folders of images are meant.

    Args:
        all_folders: Those above each image, folders of masks left out.
        classes: `pool.classes`; none where they are not given.
        where: The root, for messages.

    Raises:
        SourceError: Some folders are called like splits, and others beside them are not.
    """
    paths = {_plain(folders, classes) for folders in all_folders}
    depth = _depth(paths, classes)
    paths = {path[depth:] for path in paths}
    tops = {path[0] for path in paths if path and (path[0] in classes or not is_unlabelled(path[0]))}
    splits, level, notes = _splits(paths, tops, classes, where)
    settled = {name: settled_split(split, splits.values()) for name, split in splits.items()}
    if splits:
        told = ", ".join(f"{name} ({settled[name] or 'to be dealt'})" for name in sorted(settled))
        notes = [f"Folders that are splits: {told}.", *notes]
    unlabelled = sorted({name for path in paths for name in path[:2] if is_unlabelled(name)} - set(classes))
    if unlabelled:
        notes.append(f"Folders whose images have no class, by their names: {', '.join(unlabelled)}.")
    return FolderLayout(depth, level if splits else None, settled, frozenset(classes), tuple(notes))


def _plain(folders: Folders, classes: Collection[str]) -> Folders:
    """Return the folders less those that only say that images or classes lie in them."""
    return tuple(name for name in folders if name in classes or not (holds_images(name) or is_labelled(name)))


def _depth(paths: Collection[Folders], classes: Collection[str]) -> int:
    """Count the folders at the start that hold all, where splits stand below them; else there are none."""
    depth, left = 0, set(paths)
    while len({path[:1] for path in left}) == 1 and all(left):
        if next(iter(left))[0] in classes:
            return 0
        depth, left = depth + 1, {path[1:] for path in left}
        names = {path[0] for path in left if path}
        if _are_splits({name for name in names if not is_unlabelled(name)}):
            return depth
    return 0


def _splits(
    paths: Collection[Folders], tops: Collection[str], classes: Collection[str], where: Path
) -> tuple[dict[str, str | None], int, list[str]]:
    in_tops = {path[1] for path in paths if len(path) > 1 and path[0] in tops} - set(classes)
    is_split_below = _are_splits(in_tops) and all(path[1:] for path in paths if path and path[0] in tops)
    if tops and set(tops) <= set(classes):
        return dict(_told(in_tops)) if is_split_below else {}, 1, []
    _check_no_copy(paths, tops, where)
    told = _told(tops)
    if _are_splits(tops):
        return dict(told), 0, []
    if is_split_below:
        _check_no_classes_below(paths, tops, where)
        return dict(_told(in_tops)), 1, []
    _check_no_deeper_splits(paths, where)
    parts = _parts(paths, tops, classes)
    if parts:
        known = "pool" if told else None
        named, below = ", ".join(sorted(tops)), ", ".join(sorted(parts))
        note = (
            f"The folders {named} hold folders of the same names ({below}): they are taken for parts of the "
            f"set, and not for classes; if they are the classes, name them: --set 'pool.classes=[{named}]'."
        )
        return {name: told.get(name, known) for name in tops}, 0, [note]
    if len(set(told.values())) > 1:
        raise SourceError(
            "some folders are called like splits, and others beside them are not",
            expected="splits (train, val, test) alone, with the classes below them; or classes alone",
            found=f"{', '.join(sorted(told))}, and beside them {', '.join(sorted(set(tops) - set(told)))}",
            where=str(where),
            next_step="set pool.source.path to a folder that holds one kind, or move the others out; if all "
            "are classes, name them: --set 'pool.classes=[...]'",
        )
    return {}, 0, []


def _check_no_copy(paths: Collection[Folders], tops: Collection[str], where: Path) -> None:
    """Refuse a folder that holds folders of the names beside it: archives often hold all of a set twice."""
    for top in sorted(tops):
        below = {path[1] for path in paths if len(path) > 1 and path[0] == top}
        named_alike = sorted(below & (set(tops) - {top}))
        if len(named_alike) > 1:
            raise SourceError(
                "a folder holds folders of the same names as those beside it: is it a copy of the set?",
                expected="classes, or splits with classes below them",
                found=f"{top}, and in it {', '.join(named_alike)}",
                where=str(where),
                next_step=f"set pool.source.path to {where / top}, or move that folder out",
            )


def _check_no_classes_below(paths: Collection[Folders], tops: Collection[str], where: Path) -> None:
    """Refuse set/split/class, where several sets lie side by side: the sets would be the classes."""
    below = {top: {path[2] for path in paths if len(path) > 2 and path[0] == top} for top in tops}
    shared = set.intersection(*below.values())
    if len(tops) > 1 and len(shared) > 1 and _may_be_classes(shared):
        named = ", ".join(sorted(tops))
        raise SourceError(
            "above the splits and below them are folders that may be the classes",
            expected="classes on one side of the splits",
            found=f"{named}, and below each of them the same names: {', '.join(sorted(shared))}",
            where=str(where),
            next_step=f"if the lower ones are the classes, set pool.source.path to {where / min(tops)}, or "
            f"write a manifest of all; if the upper ones are: --set 'pool.classes=[{named}]'",
        )


def _check_no_deeper_splits(paths: Collection[Folders], where: Path) -> None:
    """Refuse splits that lie below more than the classes: what is above them would be the classes."""
    for level in range(2, max(map(len, paths), default=0)):
        names = {path[level] for path in paths if len(path) > level}
        if _are_splits(names) and len(names) > 1:
            above = min(path[:level] for path in paths if len(path) > level)
            raise SourceError(
                "folders that are called like splits lie too deep",
                expected="splits above the classes, or directly below them",
                found=f"{', '.join(sorted(names))} in {'/'.join(above)}",
                where=str(where),
                next_step=f"set pool.source.path to {where.joinpath(*above)}; if the first folders are the "
                "classes, name them: --set 'pool.classes=[...]'",
            )


def _told(names: Collection[str]) -> dict[str, str]:
    """Return the splits that folders tell; beside a validation and no test set, an evaluation is the test."""
    told = {name: split for name in names if (split := split_of_folder(name))}
    evaluations = [name for name in told if "eval" in name.lower()]
    if evaluations and "test" not in told.values():
        others = {split for name, split in told.items() if name not in evaluations}
        told |= dict.fromkeys(evaluations, "test") if "val" in others else {}
    return told


def _are_splits(names: Collection[str]) -> bool:
    """Return whether names are those of splits: all tell one, and one is for training or two differ."""
    told = {split_of_folder(name) for name in names}
    return None not in told and ("pool" in told or len(told) > 1)


def _parts(paths: Collection[Folders], tops: Collection[str], classes: Collection[str]) -> frozenset[str]:
    """The names below two folders or more that all hold folders of the same names: then these are classes."""
    below: dict[str, set[str]] = {name: set() for name in tops}
    for path in paths:
        if path and path[0] in below:
            if len(path) == 1:
                return frozenset()
            below[path[0]].add(path[1])
    names = max(below.values(), key=len, default=set())
    if names and names <= set(classes) and all(each <= names for each in below.values()):
        return frozenset(names)
    is_same = len(below) > 1 and all(len(each) > 1 and each <= names for each in below.values())
    return frozenset(names) if is_same and _may_be_classes(names) else frozenset()


def _may_be_classes(names: Collection[str]) -> bool:
    """Tell whether names below several folders may be classes: no patients, slices, planes, views."""
    are_numbers = any(any(map(str.isdigit, name)) for name in names)
    return not are_numbers and not all(map(_VIEW.fullmatch, names))


def _repeats(name: str, split: str, classes: Collection[str]) -> bool:
    """Return whether a folder below a split says the same again: seg_train/seg_train."""
    told = split_of_folder(split)
    return told is not None and split_of_folder(name) == told and name not in classes
