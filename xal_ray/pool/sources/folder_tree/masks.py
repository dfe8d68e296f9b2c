"""Masks of an image folder: each finds its image by name, in folders of masks and beside the image.

masks/glioma/a/0001.png       glioma/a/0001.jpg           the same path below a folder of masks
masks/0002.png                glioma/0002.jpg             by name alone, where it lies directly there
glioma/masks/3.png            glioma/images/3.png         at any depth; images/glioma and masks/glioma too
train_masks/glioma/4.png      train/glioma/4.png
glioma/5_mask.png             glioma/5.png                beside it; 5_mask_1.png too: several are united
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path as SystemPath

from xal_ray.errors import SourceError
from xal_ray.pool.sources.common.image_files import Path
from xal_ray.pool.sources.folder_tree.names import (
    denies_masks,
    holds_images,
    holds_masks,
    images_of_mask,
    is_called_mask,
    kind_of_masks,
    may_hold_masks,
    names_of_picture,
    side_of_masks,
    source_of_made,
    split_of_folder,
    without_masks,
)

_Key = tuple[str | None, tuple[str, ...], str]


@dataclass
class Masks:
    """Images and their masks.

    Attributes:
        images: What is left when masks are taken away.
        of: The masks of each image that has any, by its path.
        alone: Masks without an image.
        made: Pictures that were made of an image, such as superpixels.
        notes: For people.
    """

    images: list[Path]
    of: dict[str, list[str]] = field(default_factory=dict)
    alone: list[Path] = field(default_factory=list)
    made: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Fit:
    """A mask that fits an image, and what its names say that it marks."""

    mask: Path
    kind: frozenset[str]


def find_masks(files: Sequence[Path], classes: Sequence[str], where: SystemPath) -> Masks:
    """Tell masks from images, and pair them.

    Args:
        files: All images of the folder.
        classes: `pool.classes`: folders of these names hold no masks.
        where: The root, for messages.

    Raises:
        SourceError: A mask fits two images, two masks of different kinds fit one, or no mask fits any.
    """
    worn = {
        path.folders[:depth]
        for path in files
        for depth, name in enumerate(path.folders)
        if denies_masks(name)
    }

    def role(test: Callable[[str], bool], path: Path) -> bool:
        return any(
            test(name) and name not in classes and path.folders[:depth] not in worn
            for depth, name in enumerate(path.folders)
        )

    in_folders = [path for path in files if role(holds_masks, path)]
    if len(in_folders) == len(files):  # then the name of all of it says nothing
        in_folders = []
    others = _without(files, in_folders)
    perhaps = [path for path in others if role(may_hold_masks, path)]
    fits: dict[str, list[_Fit]] = defaultdict(list)
    found = _beside(_without(others, perhaps), fits)
    by_key = _Index(found.images)
    in_folders += _of_same_names(perhaps, by_key, found)
    for mask in in_folders:
        image, kind = _image_in_folders(mask, by_key, where)
        if image is None:
            found.alone.append(mask)
        else:
            fits[image.name].append(_Fit(mask, kind | kind_of_masks(mask.folders)))
    if in_folders and not fits:
        raise _nothing_fits(found.images, in_folders, where)
    for name, masks in fits.items():
        _check_united(name, masks, where)
        found.of[name] = [fit.mask.name for fit in masks]
    found.notes += _notes(found)
    return found


def _without(files: Sequence[Path], those: Sequence[Path]) -> list[Path]:
    gone = {path.name for path in those}
    return [path for path in files if path.name not in gone]


def _beside(files: Sequence[Path], fits: dict[str, list[_Fit]]) -> Masks:
    """Masks in no folder of masks: what is named after an image in its folder. Fills `fits`."""
    by_key = _Index(files)
    masks: list[Path] = []
    made: list[Path] = []
    for path in files:
        image, kind = by_key.first(path, images_of_mask(path.stem, in_folder=False))
        if image is not None and image.name != path.name:
            fits[image.name].append(_Fit(path, kind))
            masks.append(path)
        elif (of := source_of_made(path.stem)) and by_key.exact(path, of):
            made.append(path)
    images = _without(files, [*masks, *made])
    # Where masks lie beside images, one whose image is missing is no image either. Where none does, a
    # name that ends so is just a name: with_mask_1.jpg.
    alone = [path for path in images if masks and is_called_mask(path.stem)]
    called = [path for path in images if not masks and is_called_mask(path.stem)]
    notes = [f"Images that are called like masks of no image: {len(called)}."] if called else []
    return Masks(_without(images, alone), alone=alone, made=made, notes=notes)


def _of_same_names(perhaps: Sequence[Path], by_key: _Index, found: Masks) -> list[Path]:
    """Return those of the folders called `labels`, `gt` and the like that hold masks; others hold images."""
    by_folder: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for path in perhaps:
        by_folder[path.folders].append(path)
    masks: list[Path] = []
    for paths in by_folder.values():
        fitting = sum(
            any(
                by_key.fitting(path, stem) or by_key.by_name(path, stem)
                for stem, _ in images_of_mask(path.stem, in_folder=True)
            )
            for path in paths
        )
        if 2 * fitting >= len(paths) or by_key.has_images_beside(paths[0]):
            masks += paths
        else:
            found.images += paths
    found.images.sort()
    return masks


class _Index:
    """Images by what a mask may say of where its image lies."""

    def __init__(self, images: Sequence[Path]) -> None:
        self._by_place: dict[_Key, list[Path]] = defaultdict(list)
        self._by_split: dict[_Key, list[Path]] = defaultdict(list)
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._above_images = {
            folders[:depth]
            for folders in {image.folders for image in images}
            for depth, name in enumerate(folders)
            if holds_images(name)
        }
        names = [(image, name) for image in images for name in names_of_picture(image.stem)]
        # Own names first: x.png is the image of x_mask.png, though x_image.png lies there too.
        for image, name in sorted(names, key=lambda each: each[0].stem != each[1]):
            for key, index in zip(_keys(image, name), (self._by_place, self._by_split), strict=True):
                if name == image.stem or key not in index:
                    index[key].append(image)
            if name == image.stem or name not in self._by_name:
                self._by_name[name].append(image)

    def exact(self, path: Path, stem: str) -> list[Path]:
        """Images of a name in the folder of a file, or in that of images beside it."""
        return self._by_place.get(_keys(path, stem)[0], [])

    def fitting(self, mask: Path, stem: str) -> list[Path]:
        """Images of a name at the mask's place: beside or below its folder of masks."""
        # glioma_masks/1.png belongs to glioma/1.png, though other folders have a 1.png, too.
        named = [without_masks(name) if holds_masks(name) else name for name in mask.folders]
        beside = _keys(mask._replace(folders=tuple(name for name in named if name)), stem)[0]
        place, split = _keys(mask, stem)
        return self._by_place.get(beside) or self._by_place.get(place) or self._by_split.get(split) or []

    def by_name(self, mask: Path, stem: str) -> list[Path]:
        """Images of a name anywhere beside the folder of masks that the mask lies directly in."""
        first = _first_of_masks(mask)
        if first is None or not all(map(_says_no_place, mask.folders[first:])):
            return []
        return [
            image for image in self._by_name.get(stem, []) if image.folders[:first] == mask.folders[:first]
        ]

    def has_images_beside(self, mask: Path) -> bool:
        """Tell whether a folder beside that of a mask holds the pictures by its name: `images`."""
        first = _first_of_masks(mask)
        return first is not None and mask.folders[:first] in self._above_images

    def first(
        self, path: Path, stems: Iterator[tuple[str, frozenset[str]]]
    ) -> tuple[Path | None, frozenset[str]]:
        """Return the first image in the folder of a file that has one of some names."""
        for stem, kind in stems:
            found = [image for image in self.exact(path, stem) if image.name != path.name]
            if found:
                return found[0], kind
        return None, frozenset()


def _first_of_masks(mask: Path) -> int | None:
    """Return where the first folder stands that holds masks, or may."""
    return next(
        (depth for depth, name in enumerate(mask.folders) if holds_masks(name) or may_hold_masks(name)), None
    )


def _says_no_place(name: str) -> bool:
    return holds_masks(name) or may_hold_masks(name) or holds_images(name)


def _keys(path: Path, stem: str) -> tuple[_Key, _Key]:
    """By the folders without those of masks and images; and by the split and the rest of these."""
    plain = tuple(
        name for name in path.folders if not (holds_masks(name) or holds_images(name) or may_hold_masks(name))
    )
    splits = [split for name in path.folders if (split := split_of_folder(name))]
    rest = tuple(name for name in plain if not split_of_folder(name))
    return (None, plain, stem), (splits[0] if splits else None, rest, stem)


def _image_in_folders(mask: Path, by_key: _Index, where: SystemPath) -> tuple[Path | None, frozenset[str]]:
    for look in (by_key.fitting, by_key.by_name):
        for stem, kind in images_of_mask(mask.stem, in_folder=True):
            images = look(mask, stem)
            if len({image.name for image in images}) > 1:
                raise _ambiguous(f"the mask {mask.name} fits {images[0].name} and {images[1].name}", where)
            if images:
                return images[0], kind
    return None, frozenset()


def _check_united(image: str, fits: Sequence[_Fit], where: SystemPath) -> None:
    """Check that the masks of an image are parts of one: of one kind, in one folder or of two sides."""
    first, *further = fits
    stems = [(fit.mask.folders, fit.mask.stem) for fit in fits]
    for fit in further:
        sides = side_of_masks(fit.mask.folders) ^ side_of_masks(first.mask.folders)
        is_part = fit.mask.folders == first.mask.folders or sides
        if fit.kind != first.kind or not is_part or len(set(stems)) < len(stems):
            raise _ambiguous(f"two masks fit {image}: {first.mask.name} and {fit.mask.name}", where)


def _notes(found: Masks) -> list[str]:
    several = sum(len(masks) > 1 for masks in found.of.values())
    notes = {
        f"Masks: {sum(map(len, found.of.values()))}, of {len(found.of)} of {len(found.images)} images"
        + (f"; of {several} several, which are united." if several else "."): len(found.of),
        f"Masks without an image, which are not used: {len(found.alone)}.": len(found.alone),
        f"Pictures that were made of an image, which are not used: {len(found.made)}.": len(found.made),
    }
    return [note for note, count in notes.items() if count]


def _ambiguous(found: str, where: SystemPath) -> SourceError:
    return SourceError(
        "masks and images can't be paired",
        found=found,
        where=str(where),
        next_step="put one kind of masks below masks, in the same subfolders as the images, or "
        "write a manifest with a column mask",
    )


def _nothing_fits(images: Sequence[Path], masks: Sequence[Path], where: SystemPath) -> SourceError:
    first = images[0]
    return SourceError(
        "no mask fits an image",
        expected=f"masks/{'/'.join([*first.folders, first.stem])}.png for {first.name}",
        found=masks[0].name,
        where=str(where),
        next_step="name each mask as its image is named (the suffix may differ); if the folder is a class, "
        "name all classes in pool.classes",
    )
