"""A COCO file, read within limits and checked: what is not as it should be is named by its place alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeGuard

from xal_ray.config import Limits
from xal_ray.errors import SourceError
from xal_ray.pool.sources.common.paths import SourceRoot
from xal_ray.pool.sources.common.tree import read_below

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
        num_strays: Those whose image is not there, or which name none.
        unknown: Ids of images with an annotation whose category is not listed.
        num_unnamed: Images without an id or a file name, which are left out.
    """

    name: str
    images: list[Item]
    categories: dict[int | str, str]
    by_image: dict[int | str, list[Item]]
    num_annotations: int
    num_strays: int
    unknown: frozenset[int | str]
    num_unnamed: int

    def annotations_of(self, position: int) -> list[Item]:
        """Return the annotations of an image."""
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
            next_step="export instances as COCO JSON, or move other JSON files out of the folder",
        )
    categories = {
        _id(item, "id", f"{where}, categories[{number}]"): _category_name(
            item, f"{where}, categories[{number}]"
        )
        for number, item in enumerate(content["categories"])
    }
    images = [image for item in content["images"] if (image := _image(item)) is not None]
    by_image: dict[int | str, list[Item]] = {image["id"]: [] for image in images}
    if len(by_image) < len(images):
        raise SourceError(
            "two images have one id",
            expected="an id of its own for each image",
            where=where,
            next_step="remove one of them where they are one image; else give one another id, and its "
            "annotations too",
        )
    num_strays, unknown = 0, set()
    for item in content["annotations"]:
        image = item.get("image_id") if isinstance(item, dict) else None
        if not _is_id(image) or image not in by_image:
            num_strays += 1
        elif not _is_id(item.get("category_id")) or item["category_id"] not in categories:
            unknown.add(image)
        else:
            by_image[image].append(item)
    number = len(content["annotations"])
    return Document(
        name,
        images,
        categories,
        by_image,
        number,
        num_strays,
        frozenset(unknown),
        len(content["images"]) - len(images),
    )


def _load(root: SourceRoot, name: str, limits: Limits) -> Any:
    try:
        return json.loads(read_below(root, name, limits.max_file_bytes))
    except (ValueError, RecursionError):
        where = str(root.path / name)
        raise SourceError(
            "a JSON file can't be read",
            expected="JSON in UTF-8",
            where=where,
            next_step="export or download it again",
        ) from None


def _image(item: Any) -> Item | None:
    """Return an image with what is used of it; None: it has no id or no file name."""
    if not isinstance(item, dict) or not _is_id(item.get("id")):
        return None
    if not isinstance(item.get("file_name"), str) or not item["file_name"].strip():
        return None
    sides = {key: _side(item.get(key)) for key in ("width", "height")}
    # Without both the picture's own frame counts.
    return {**item, **(sides if all(sides.values()) else dict.fromkeys(sides))}


def _side(value: Any) -> int | None:
    """Return a width or height, pixels; None for what can be none: 0, -1, a text."""
    is_whole = type(value) in (int, float) and 1 <= value <= _LONGEST_SIDE and value == int(value)
    return int(value) if is_whole else None


def _category_name(item: Item, where: str) -> str:
    name = item.get("name")
    if not isinstance(name, str) or not name.strip():
        raise SourceError("a category has no name", where=where, next_step="give it one")
    return name.strip()


def _id(item: Any, key: str, where: str) -> int | str:
    value = item.get(key) if isinstance(item, dict) else None
    if _is_id(value):
        return value
    raise SourceError(
        f"an item has no sound '{key}'",
        expected="a whole number or a text",
        where=where,
        next_step="correct it, or remove the item",
    )


def _is_id(value: Any) -> TypeGuard[int | str]:
    return isinstance(value, str) or (type(value) is int and abs(value) < _LARGEST_ID)
