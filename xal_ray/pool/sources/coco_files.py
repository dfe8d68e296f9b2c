"""A COCO file, read within limits and checked: what is not as it should be is named by its place alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from xal_ray.config import Limits
from xal_ray.errors import SourceError
from xal_ray.pool.sources.paths import SourceRoot
from xal_ray.pool.sources.tree import read_below

_KEYS = ("images", "annotations", "categories")
_LONGEST_SIDE = 100_000  # pixels
_LARGEST_ID = 2**63

Item = dict[str, Any]


@dataclass(frozen=True)
class Document:
    """A COCO file.

    Attributes:
        name: Its path below the source's root.
        images: Each with an id, a file name, and width and height where they are given.
        categories: Names by id.
        by_image: Annotations by the image's id, each of a known category.
        num_annotations: All of them.
        num_strays: Those whose image is not there.
    """

    name: str
    images: list[Item]
    categories: dict[int | str, str]
    by_image: dict[int | str, list[Item]]
    num_annotations: int
    num_strays: int

    def annotations_of(self, position: int) -> list[Item]:
        """The annotations of an image."""
        return self.by_image.get(self.images[position]["id"], [])


def read_document(root: SourceRoot, name: str, limits: Limits, *, needed: bool) -> Document | None:
    """Read a COCO file.

    Args:
        root: The source's folder.
        name: The file's path below it.
        limits: The largest file.
        needed: Whether it is an error that the file is another kind of JSON; else None is returned.

    Raises:
        SourceError: The file is too large, no JSON, or one of its items is malformed.
    """
    where = str(root.path / name)
    content = _load(root, name, limits)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in _KEYS):
        if not needed:
            return None
        raise SourceError(
            "the file is no COCO file of instances",
            expected="an object with the lists images, annotations and categories",
            where=where,
        )
    categories = {
        _id(item, "id", f"{where}, categories[{number}]"): _category_name(
            item, f"{where}, categories[{number}]"
        )
        for number, item in enumerate(content["categories"])
    }
    images = [_image(item, f"{where}, images[{number}]") for number, item in enumerate(content["images"])]
    by_image: dict[int | str, list[Item]] = {image["id"]: [] for image in images}
    if len(by_image) < len(images):
        raise SourceError("two images have one id", expected="an id of its own for each image", where=where)
    num_strays = 0
    for number, item in enumerate(content["annotations"]):
        at = f"{where}, annotations[{number}]"
        if _id(item, "category_id", at) not in categories:
            raise SourceError("an annotation has a category that is not listed", where=at)
        of_image = by_image.get(_id(item, "image_id", at))
        if of_image is None:
            num_strays += 1
        else:
            of_image.append(item)
    return Document(name, images, categories, by_image, len(content["annotations"]), num_strays)


def _load(root: SourceRoot, name: str, limits: Limits) -> Any:
    try:
        return json.loads(read_below(root, name, limits.max_file_bytes))
    except (ValueError, RecursionError):
        where = str(root.path / name)
        raise SourceError("a JSON file can't be read", expected="JSON in UTF-8", where=where) from None


def _image(item: Any, where: str) -> Item:
    """An image with what is used of it."""
    _id(item, "id", where)
    if not isinstance(item.get("file_name"), str) or not item["file_name"]:
        raise SourceError("an image has no file name", where=where)
    for key in ("width", "height"):
        side = item.get(key)
        if side is not None and not (type(side) is int and 1 <= side <= _LONGEST_SIDE):
            raise SourceError(
                f"the {key} of an image is malformed", expected=f"1 to {_LONGEST_SIDE}, whole", where=where
            )
    if (item.get("width") is None) != (item.get("height") is None):
        raise SourceError("an image has a width or a height, and not the other", where=where)
    return item  # type: ignore[no-any-return]


def _category_name(item: Item, where: str) -> str:
    name = item.get("name")
    if not isinstance(name, str) or not name.strip():
        raise SourceError("a category has no name", where=where)
    return name.strip()


def _id(item: Any, key: str, where: str) -> int | str:
    value = item.get(key) if isinstance(item, dict) else None
    if isinstance(value, str) or (type(value) is int and abs(value) < _LARGEST_ID):
        return value
    raise SourceError(f"an item has no sound '{key}'", expected="a whole number or a text", where=where)
