"""The two kinds of files of a YOLO data set: the YAML file, and the labels of an image."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from xal_ray.errors import SourceError
from xal_ray.pool.sources.folder_files import SUFFIXES
from xal_ray.pool.sources.paths import SourceRoot
from xal_ray.pool.sources.tree import read_below
from xal_ray.roi import NORMALISED_SIDE

_LARGEST_SETTINGS = 4 << 20
_LARGEST_LIST = 256 << 20
_SPLITS = {"train": "pool", "val": "val", "valid": "val", "test": "test"}
_CLASS_FILES = ("classes.txt", "obj.names")
_TOLERANCE = 0.01  # of the image, by which shapes are rounded or drawn over its edge


@dataclass(frozen=True)
class Settings:
    """What a data set says of itself.

    Attributes:
        where: The file, for messages.
        names: Classes by number.
        images: Relative paths by split; None: no split is told.
    """

    where: str
    names: dict[int, str]
    images: dict[str | None, list[str]]


@dataclass(frozen=True)
class Shapes:
    """One object, in a frame of `NORMALISED_SIDE` squared: a box (x0, y0, x1, y1) or a polygon."""

    box: list[float] | None = None
    polygon: list[float] | None = None


def read_settings(root: SourceRoot, files: Sequence[str], named: str | None) -> Settings:
    """Read the YAML file of a data set or, where there is none, its list of classes.

    Paths start from the YAML file, or from its key `path` if that leads below its folder. Tools that write
    `../train/images` mean train/images: leading `..` are dropped where they would lead out.

    Args:
        root: The source's folder.
        files: What lies below it.
        named: The YAML file that was asked for; None: the one in the folder.

    Raises:
        SourceError: There is none, or several; it is malformed, or has no classes.
    """
    found = [name for name in files if "/" not in name and name.lower().endswith((".yaml", ".yml"))]
    chosen = named or next(
        (name for name in found if name in ("data.yaml", "dataset.yaml", "data.yml")), None
    )
    chosen = chosen or (found[0] if len(found) == 1 else None)
    if chosen is None:
        return _of_class_list(root, files, found)
    where = str(root.path / chosen)
    content = _load(root, chosen, where)
    names = _names(content.get("names"), where)
    images: dict[str | None, list[str]] = {}
    prefix = _prefix(content.get("path"), files)
    for key, split in _SPLITS.items():
        listed = _images(content.get(key), prefix, root, files, f"{where}, {key}")
        if listed:
            images.setdefault(split, []).extend(listed)
    if not images:
        images[None] = [file for file in files if _is_image(file)]
    return Settings(where, names, _each_once(images, where))


def parse_labels(data: bytes, names: dict[int, str], where: str) -> list[tuple[int, Shapes]]:
    """Read the labels of an image: class and shape of each object.

    Args:
        data: The file's content.
        names: Classes by number.
        where: The file, for messages.

    Raises:
        SourceError: A line is malformed, names no class, or leads out of the image.
    """
    objects = []
    for number, line in enumerate(_decoded(data, where).splitlines(), 1):
        if line.strip():
            objects.append(_object(line.split(), names, f"{where}, line {number}"))
    return objects


def _object(words: Sequence[str], names: dict[int, str], where: str) -> tuple[int, Shapes]:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = [math.nan]
    is_box, is_polygon = len(numbers) == 5, len(numbers) >= 7 and len(numbers) % 2 == 1
    if not (is_box or is_polygon) or not all(map(math.isfinite, numbers)):
        raise SourceError(
            "a line of labels is malformed",
            expected="class cx cy w h, or class x0 y0 x1 y1 x2 y2 ...: numbers in [0, 1]",
            found=f"{len(words)} words",
            where=where,
        )
    if numbers[0] not in names:
        raise SourceError("a label names a class that the YAML file lacks", where=where)
    if is_box:
        x, y, width, height = numbers[1:]
        corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        if not (width > 0 and height > 0):
            raise SourceError("a box has no area", where=where)
    else:
        corners = numbers[1:]
    if min(corners) < -_TOLERANCE or max(corners) > 1 + _TOLERANCE:
        raise SourceError(
            "a label leads out of its image", expected="fractions of width and height in [0, 1]", where=where
        )
    scaled = [min(max(value, 0.0), 1.0) * NORMALISED_SIDE for value in corners]
    return int(numbers[0]), Shapes(box=scaled) if is_box else Shapes(polygon=scaled)


def _of_class_list(root: SourceRoot, files: Sequence[str], found: Sequence[str]) -> Settings:
    """A set without a YAML file: a class a line, and images that no split tells apart."""
    lists = [name for name in _CLASS_FILES if name in files]
    if not lists:
        raise SourceError(
            "the folder has no YAML file that names the classes"
            if not found
            else "which YAML file is meant?",
            expected="data.yaml with names, train and val; or classes.txt with a class a line",
            found=", ".join(found) or "none",
            where=str(root.path),
            next_step="set pool.source.path to the YAML file",
        )
    where = str(root.path / lists[0])
    names = [line.strip() for line in _text(root, lists[0], _LARGEST_SETTINGS).splitlines() if line.strip()]
    return Settings(where, _names(names, where), {None: [file for file in files if _is_image(file)]})


def _load(root: SourceRoot, name: str, where: str) -> dict[str, Any]:
    text = _text(root, name, _LARGEST_SETTINGS)
    # A few aliases of aliases would become gigabytes.
    has_alias = any(isinstance(token, yaml.AliasToken) for token in _tokens(text, where))
    try:
        content = None if has_alias else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise SourceError(
            "a YAML file can't be read", expected="keys names, train, val; no aliases", where=where
        )
    return content


def _tokens(text: str, where: str) -> list[Any]:
    try:
        return list(yaml.scan(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError):
        raise SourceError(
            "a YAML file can't be read", expected="keys names, train, val", where=where
        ) from None


def _names(names: Any, where: str) -> dict[int, str]:
    numbered = dict(enumerate(names)) if isinstance(names, list) else names
    if (
        not isinstance(numbered, dict)
        or not numbered
        or not all(type(number) is int and number >= 0 for number in numbered)
        or not all(type(name) in (str, int, float) and str(name).strip() for name in numbered.values())
    ):
        raise SourceError(
            "the classes are malformed",
            expected="names: [cat, dog], or names: {0: cat, 1: dog}; with quotes around yes, no, on and off",
            where=where,
        )
    return {number: str(name).strip() for number, name in numbered.items()}


def _prefix(path: Any, files: Sequence[str]) -> str:
    """The key `path`, where it leads to a folder below; elsewhere it speaks of another machine."""
    if not isinstance(path, str):
        return ""
    inside = posixpath.normpath(path)
    if inside == "." or inside.startswith(("/", "..")):
        return ""
    return f"{inside}/" if any(file.startswith(f"{inside}/") for file in files) else ""


def _images(value: Any, prefix: str, root: SourceRoot, files: Sequence[str], where: str) -> list[str]:
    """The images that a key of the YAML file means: of folders, or of text files that list them."""
    texts = [value] if isinstance(value, str) else value or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise SourceError("a split is malformed", expected="a folder, or a list of folders", where=where)
    images: list[str] = []
    for text in texts:
        below = _below(prefix + text, root, where)
        if below.endswith(".txt"):
            folder = posixpath.dirname(below)
            lines = _text(root, below, _LARGEST_LIST).splitlines()
            images += [
                _below(posixpath.join(folder, line.strip()), root, where) for line in lines if line.strip()
            ]
        else:
            start = "" if below == "" else f"{below}/"
            inside = [file for file in files if file.startswith(start) and _is_image(file)]
            with_images = [file for file in inside if file.startswith(f"{start}images/")]
            images += with_images or inside
    return images


def _below(path: str, root: SourceRoot, where: str) -> str:
    """A path as one below the root."""
    relative = posixpath.normpath(path)
    while relative.startswith("../"):
        relative = relative.removeprefix("../")
    return "" if relative in (".", "..") else root.locate(relative, where)[1]


def _each_once(images: dict[str | None, list[str]], where: str) -> dict[str | None, list[str]]:
    seen: dict[str, str | None] = {}
    for split, names in images.items():
        for name in names:
            if seen.setdefault(name, split) != split:
                raise SourceError("an image stands in two splits", where=where)
    return {split: sorted(set(names)) for split, names in images.items()}


def _is_image(file: str) -> bool:
    return posixpath.splitext(file)[1].lower() in SUFFIXES


def _text(root: SourceRoot, name: str, limit: int) -> str:
    return _decoded(read_below(root, name, limit), str(root.path / name))


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SourceError("a file can't be read", expected="UTF-8 text", where=where) from None
