"""Reads the names of folders and files: masks, pictures, splits, images without a class.

Sets are named by many hands: `x_mask.png`, `x_mask_1.png`, `x-Segmentation.png`, `mask/`, `lung masks/`;
`images/`; `Training/`, `Test_set/`; `unlabelled/`. A name alone decides nothing that its neighbours could
contradict: a file counts as a mask where the image that it is named after is there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import lru_cache

from xal_ray.pool.sources.common.split_names import split_of_name

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_MASKS = frozenset({"mask", "masks", "segmentation", "segmentations", "groundtruth", "trimap", "trimaps"})
# Of folders that hold masks where there are images of the same names, and else something else.
_PERHAPS_MASKS = frozenset(
    {"seg", "segs", "gt", "label", "labels", "annotation", "annotations", "roi", "rois"}
)
_BESIDE_PERHAPS = frozenset(
    {"tr", "ts", "train", "test", "val", "png", "image", "images", "manual", "binary"}
)
# Of classes such as with_mask, no_mask; and of folders such as "Infection Segmentation Data".
_NO_MASKS = frozenset(
    {"with", "without", "no", "non", "not", "face", "worn", "wearing", "incorrect", "correct"}
)
_UNMASKED = frozenset({"nomask", "nomasks", "nonmask", "withoutmask", "unmasked", "maskless"})
_WHOLE_SETS = frozenset({"data", "dataset", "set", "task"})
_IMAGES = frozenset({"image", "images", "img", "imgs"})
_BESIDE_IMAGES = frozenset(
    {"original", "originals", "raw", "png", "jpg", "jpeg", "dicom", "tr", "ts", "input"}
)
_UNLABELLED = re.compile(
    r"un(label+ed|known|sorted|classified|annotated|assigned)(images?|imgs?|data|set|pool|videos?|class)?"
    r"|(no|to)labels?|(seg)?pred(ict(ions?)?)?"
)
_LABELLED = re.compile(r"(label+ed|sorted|classified|annotated)(images?|imgs?|data|set)?|classes")
_MASK_WORDS = re.compile(r"[ ._-]*(masks?|segmentations?|ground[ _-]?truth)[ ._-]*", re.IGNORECASE)
_SIDES = frozenset({"left", "right", "l", "r"})

_SUFFIX = re.compile(
    r"(?P<of>.+?)[ ._-]+"
    r"(?P<word>masks?|segm?|segmentations?|ground[ _-]?truth|gt|rois?|labels?|anno(?:tations?)?|lesion"
    r"|tumou?r)"
    r"(?P<number>[ ._-]*\(?\d+\)?)?",
    re.IGNORECASE,
)
_JOINED = re.compile(r"(?P<of>.*[a-z0-9])(?P<word>Masks?|Segmentations?|Seg|GT)")  # im1Mask
_PREFIX = re.compile(r"(?P<word>masks?|segm?|segmentation|gt)[ ._-]+(?P<of>.+)", re.IGNORECASE)
_LAST_WORD = re.compile(r"(?P<of>.+)[ ._-]+(?P<word>[A-Za-z]+)")
_NUMBERED = re.compile(r"(?P<of>.+)[ ._-]+\(?\d+\)?")
_OF_PICTURE = re.compile(r"(?P<of>.+)[ ._-]+(image|img|original|orig|raw|0000)", re.IGNORECASE)  # nnU-Net's
_PICTURE_OF = re.compile(r"(image|img)[ ._-]+(?P<of>.+)", re.IGNORECASE)
_MADE = re.compile(
    r"(?P<of>.+?)[ ._-]+(superpixels?|overlay|overlaid|heatmap|attribute_[a-z_]+)", re.IGNORECASE
)


@lru_cache(maxsize=4096)
def words_of(name: str) -> frozenset[str]:
    """Return the words of a name, in small letters: `leftMask` has left and mask."""
    return frozenset(word.lower() for word in _WORDS.findall(name))


def holds_masks(folder: str) -> bool:
    """Return whether a folder's name says that masks lie in it."""
    words = words_of(folder)
    if words & _NO_MASKS:
        return False
    says = bool(words & _MASKS) or {"ground", "truth"} <= words
    return says and not (words & _WHOLE_SETS and not words & {"mask", "masks"})


def denies_masks(folder: str) -> bool:
    """Return whether it names what wears no mask: the folder `mask` beside `no_mask` is a class as well."""
    words = words_of(folder)
    return bool(words & _UNMASKED or (words & _NO_MASKS and words & {"mask", "masks"}))


def may_hold_masks(folder: str) -> bool:
    """Return whether it may be one, if its files have the names of images elsewhere: `labels`, `gt`."""
    words = words_of(folder)
    return bool(words & _PERHAPS_MASKS) and words <= _PERHAPS_MASKS | _BESIDE_PERHAPS


def holds_images(folder: str) -> bool:
    """Return whether a folder's name says that pictures lie in it, and nothing else."""
    words = words_of(folder)
    return bool(words & _IMAGES) and words <= _IMAGES | _BESIDE_IMAGES


def is_unlabelled(folder: str) -> bool:
    """Return whether a folder's name says that nobody has said what its images show."""
    return _UNLABELLED.fullmatch(re.sub(r"[^a-z]", "", folder.lower())) is not None


def is_labelled(folder: str) -> bool:
    """Return whether a folder's name says that classes lie in it, and nothing else: `labelled`, `sorted`."""
    return _LABELLED.fullmatch(re.sub(r"[^a-z]", "", folder.lower())) is not None


def without_masks(folder: str) -> str:
    """Return what else the name of a folder of masks says: `glioma` of `glioma_masks`; it may be nothing."""
    return _MASK_WORDS.sub("", folder)


def split_of_folder(folder: str) -> str | None:
    """Return the split that a folder's name tells: `Training`, `test_set`, `seg_train`, `test1`."""
    return split_of_name(folder.rstrip("0123456789"))


def images_of_mask(stem: str, *, in_folder: bool) -> Iterator[tuple[str, frozenset[str]]]:
    """The names that the image of a mask may have, likeliest first, each with what the mask's own name adds.

    Args:
        stem: The mask's file name without suffix.
        in_folder: Whether its folder says that it is a mask: then it may have its image's very name.
    """
    if in_folder:
        yield stem, frozenset()
    for pattern in (_SUFFIX, _PREFIX, _JOINED):
        if found := pattern.fullmatch(stem):
            word = frozenset({found["word"].lower().rstrip("s")})
            yield found["of"], word
            number = (found.groupdict().get("number") or "").strip(" ._-()")
            if number:
                yield from ((f"{found['of']}{joint}{number}", word) for joint in ("_", "-", " ", ""))
            if shorter := _LAST_WORD.fullmatch(found["of"]):
                yield shorter["of"], word | {shorter["word"].lower()}
    if in_folder and (found := _NUMBERED.fullmatch(stem)):
        yield found["of"], frozenset()


def is_called_mask(stem: str) -> bool:
    """Return whether a file's name leaves little doubt: `x_mask`, `x_segmentation_2`."""
    found = _SUFFIX.fullmatch(stem)
    return found is not None and found["word"].lower().startswith(("mask", "segmentation"))


def names_of_picture(stem: str) -> Iterator[str]:
    """Yield the names by which masks may call an image: its own, and that without `_image`."""
    yield stem
    for pattern in (_OF_PICTURE, _PICTURE_OF):
        if found := pattern.fullmatch(stem):
            yield found["of"]


def source_of_made(stem: str) -> str | None:
    """The image that a picture was made of, by its name: superpixels, an overlay; None: it is none such."""
    found = _MADE.fullmatch(stem)
    return found["of"] if found else None


def kind_of_masks(folders: Collection[str]) -> frozenset[str]:
    """Return what the folders of a mask say that it marks, sides left out: {lung}, {infection}."""
    words = frozenset().union(*(words_of(folder) for folder in folders if holds_masks(folder)))
    return words - _SIDES - _MASKS


def side_of_masks(folders: Collection[str]) -> frozenset[str]:
    """Return the sides of the body that the folders of a mask name: left, right."""
    return frozenset().union(*(words_of(folder) for folder in folders)) & _SIDES
