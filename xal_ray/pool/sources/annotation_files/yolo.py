"""The two kinds of files of a YOLO data set: the YAML file, and the labels of an image."""

from __future__ import annotations

import math
import posixpath
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from xal_ray.errors import SourceError
from xal_ray.pool.sources.common.image_files import SUFFIXES
from xal_ray.pool.sources.common.paths import SourceRoot
from xal_ray.pool.sources.common.tree import read_below
from xal_ray.roi import NORMALISED_SIDE, Sound, sound_boxes, sound_polygons

_LARGEST_SETTINGS = 4 << 20
_LARGEST_LIST = 256 << 20
_SPLITS = {"train": "pool", "val": "val", "valid": "val", "test": "test"}
_CLASS_FILES = ("classes.txt", "obj.names")
_TOLERANCE = 0.01  # of the image, by which shapes are rounded or drawn over its edge


@dataclass(frozen=True)
class Settings:
    """Holds what a data set says of itself.

    Attributes:
        where: The file, for messages.
        names: Classes by number.
        images: Relative paths by split; None: no split is told.
        num_keypoints: Numbers of key points after the box on each line (`kpt_shape`); None: there are none.
    """

    where: str
    names: dict[int, str]
    images: dict[str | None, list[str]]
    num_keypoints: int | None = None


@dataclass
class YoloLabels:
    """The objects of an image, in a frame of `NORMALISED_SIDE` squared.

    Attributes:
        classes: Those that are named.
        boxes: x0, y0, x1, y1 each, by class.
        polygons: x0, y0, x1, y1, ... each, by class.
        dropped: Shapes that can't be meant, by class.
        unknown: Why the image's classes are not known: a line that names none, or one that is not listed.
    """

    classes: set[int] = field(default_factory=set)
    boxes: dict[int, list[list[float]]] = field(default_factory=lambda: defaultdict(list))
    polygons: dict[int, list[list[float]]] = field(default_factory=lambda: defaultdict(list))
    dropped: dict[int, Sound] = field(default_factory=lambda: defaultdict(Sound))
    unknown: str | None = None


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
    return Settings(where, names, _each_once(images, where), _keypoints(content.get("kpt_shape"), where))


def parse_labels(data: bytes, settings: Settings, where: str) -> YoloLabels:
    """Read the labels of an image. A line that can't be meant costs its shape, or else the image.

    Args:
        data: The file's content.
        settings: Classes by number, and what follows a box.
        where: The file, for messages.

    Raises:
        SourceError: The file is no text.
    """
    labels = YoloLabels()
    for number, line in enumerate(_decoded(data, where).splitlines(), 1):
        if line.strip():
            _add_object(labels, line.split(), settings, f"line {number}")
    return labels


def _add_object(labels: YoloLabels, words: Sequence[str], settings: Settings, where: str) -> None:
    """Add a line: class cx cy w h, with key points after it where the settings say so, or class x0 y0 ..."""
    try:
        number = float(words[0])
    except ValueError:
        number = math.nan
    if number not in settings.names:
        labels.unknown = labels.unknown or f"{where} names no class of the YAML file"
        return
    which = int(number)
    labels.classes.add(which)
    numbers = [_number(word) for word in words[1:]]
    tolerance = _TOLERANCE * NORMALISED_SIDE
    square = (NORMALISED_SIDE, NORMALISED_SIDE)
    if len(numbers) in (4, 4 + (settings.num_keypoints or 0)):
        x, y, width, height = numbers[:4]
        corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        sound = sound_boxes([_scaled(corners)], square, tolerance)
        labels.boxes[which] += sound.shapes
    elif settings.num_keypoints is None and len(numbers) >= 6 and len(numbers) % 2 == 0:
        sound = sound_polygons([_scaled(numbers)], square, tolerance)
        labels.polygons[which] += sound.shapes
    else:
        sound = Sound()
        sound.dropped[f"{len(words)} words on its line"] += 1
    labels.dropped[which].dropped += sound.dropped


def _scaled(fractions: Sequence[float]) -> list[float]:
    """Fractions of an image's sides in the square; what is drawn a little over the edge is on it."""
    return [
        NORMALISED_SIDE * (min(max(value, 0.0), 1.0) if -_TOLERANCE <= value <= 1 + _TOLERANCE else value)
        for value in fractions
    ]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def _keypoints(shape: Any, where: str) -> int | None:
    """Count the numbers that describe the key points of an object: `kpt_shape: [points, numbers of each]`."""
    if shape is None:
        return None
    if isinstance(shape, list) and len(shape) == 2 and all(type(side) is int and side > 0 for side in shape):
        return int(shape[0] * shape[1])
    raise SourceError(
        "kpt_shape is malformed",
        expected="kpt_shape: [17, 3], the number of key points and how many numbers describe each",
        where=where,
        next_step="correct it in the YAML file, or leave it out if the labels have no key points",
    )


def _of_class_list(root: SourceRoot, files: Sequence[str], found: Sequence[str]) -> Settings:
    """Return a set without a YAML file: a class a line, and images that no split tells apart."""
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
            "a YAML file can't be read",
            expected="keys names, train, val; no aliases",
            where=where,
            next_step="write it so",
        )
    return content


def _tokens(text: str, where: str) -> list[Any]:
    try:
        return list(yaml.scan(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError):
        raise SourceError(
            "a YAML file can't be read",
            expected="keys names, train, val",
            where=where,
            next_step="correct its YAML: mind colons, indents and quotes",
        ) from None


def _names(names: Any, where: str) -> dict[int, str]:
    numbered = dict(enumerate(names)) if isinstance(names, list) else names
    if isinstance(numbered, dict):  # '0': cat, as some programs write
        numbered = {
            int(key) if isinstance(key, str) and key.isdecimal() else key: name
            for key, name in numbered.items()
        }
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
            next_step="write them so in the YAML file",
        )
    return {number: str(name).strip() for number, name in numbered.items()}


def _prefix(path: Any, files: Sequence[str]) -> str:
    """Return the key `path`, where it leads to a folder below; elsewhere it speaks of another machine."""
    if not isinstance(path, str):
        return ""
    inside = posixpath.normpath(path)
    if inside == "." or inside.startswith(("/", "..")):
        return ""
    return f"{inside}/" if any(file.startswith(f"{inside}/") for file in files) else ""


def _images(value: Any, prefix: str, root: SourceRoot, files: Sequence[str], where: str) -> list[str]:
    """Return the images that a key of the YAML file means: of folders, or of text files that list them."""
    texts = [value] if isinstance(value, str) else value or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise SourceError(
            "a split is malformed",
            expected="a folder, or a list of folders",
            where=where,
            next_step="correct it in the YAML file",
        )
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
    """Return a path as one below the root."""
    relative = posixpath.normpath(path)
    while relative.startswith("../"):
        relative = relative.removeprefix("../")
    return "" if relative in (".", "..") else root.locate(relative, where)[1]


def _each_once(images: dict[str | None, list[str]], where: str) -> dict[str | None, list[str]]:
    seen: dict[str, str | None] = {}
    for split, names in images.items():
        for name in names:
            if seen.setdefault(name, split) != split:
                raise SourceError(
                    "an image stands in two splits",
                    where=where,
                    next_step="name it in one of them only, or take one split out of the YAML file",
                )
    return {split: sorted(set(names)) for split, names in images.items()}


def _is_image(file: str) -> bool:
    return posixpath.splitext(file)[1].lower() in SUFFIXES


def _text(root: SourceRoot, name: str, limit: int) -> str:
    return _decoded(read_below(root, name, limit), str(root.path / name))


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SourceError(
            "a file can't be read", expected="UTF-8 text", where=where, next_step="write it anew, as UTF-8"
        ) from None
