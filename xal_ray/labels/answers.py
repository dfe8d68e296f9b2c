"""Undoes what tools for labelling make of ids and labels: files for ids, JSON for choices, 1.0 for 1."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from functools import cached_property
from pathlib import PurePosixPath
from urllib.parse import unquote

from xal_ray.nearest_name import nearest_name
from xal_ray.pool.manifest import name_key

# What `labels/export.py` calls an image, and what Label Studio puts before the name of an upload.
_EXPORTED = re.compile(r"(?:[0-9a-f]{8}-)?\d{4,}_(.+)")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


class Ids:
    """The ids of a pool, as they come back from tools.

    Args:
        known: All ids of the pool.
        awaited: Those that may be labelled now.
    """

    def __init__(self, known: Collection[str], awaited: Collection[str]) -> None:
        self.known = known
        self.awaited = awaited

    def of(self, cell: str) -> str | None:
        """The id that a cell names, as it is or as the path of an image; None: none, or one of several."""
        text = cell.removeprefix("'")  # what keeps a spreadsheet from taking a cell for a formula
        if text in self.known:
            return text
        # An address may hold a slash as %2F, and end in a signature: x.png?token=...
        text = unquote(re.sub(r"(\.\w{2,5})\?.*", r"\1", text)) if "://" in text or "?" in text else text
        name = PurePosixPath(text.replace("\\", "/")).name
        exported = _EXPORTED.fullmatch(name)
        for said in (name, exported.group(1) if exported else name):
            for form in (said, PurePosixPath(said).stem):
                found = self._by_form.get(form)
                if found is not None:
                    return found
        return None

    def nearest(self, cell: str) -> str | None:
        """Return the awaited id that a wrong one may have been."""
        same = [image_id for image_id in self.awaited if name_key(image_id) == name_key(cell)]
        return same[0] if same else nearest_name(cell, self.awaited, cutoff=0.8)

    @cached_property
    def _by_form(self) -> dict[str, str | None]:
        """Ids by their last part, with its suffix and without, and as the name of an exported file has it."""
        forms: dict[str, str | None] = {}
        for image_id in self.known:
            last = image_id.rpartition("/")[2]
            for form in {_UNSAFE.sub("_", image_id)[:80], last, PurePosixPath(last).stem}:
                forms[form] = image_id if form not in forms else None
        return forms


def chosen(cell: str) -> list[str]:
    """Return the classes that a cell names: itself, or the choices that it holds as JSON.

    `{"choices": ["cat"]}`, `["cat"]`, `[{"choices": ["cat"]}]` and `"cat"` all name `cat`.
    """
    if cell[:1] not in ('"', "[", "{"):
        return [cell]
    try:
        return list(_texts(json.loads(cell))) or [cell]
    except ValueError:
        return [cell]


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, str | int | float):
        yield str(value).strip()
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)
    elif isinstance(value, dict):
        for key in ("choices", "choice", "label", "labels"):
            if key in value:
                yield from _texts(value[key])
                return


def as_class(label: str, classes: Collection[str]) -> str | None:
    """The class that a label is: by its name, or as the same number or truth value; None: none of them.

    A program that has read `1` may write `1.0`, and a spreadsheet makes `TRUE` of `true`.
    """
    if label in classes:
        return label
    same = [name for name in classes if name_key(name) == name_key(label)]
    if len(same) == 1 and (_is_number(same[0], label) or label.casefold() == same[0].casefold() in _TRUTH):
        return same[0]
    return None


def nearest_class(label: str, classes: Collection[str]) -> str | None:
    """Return the class that a wrong label may have been."""
    same = [name for name in classes if name_key(name) == name_key(label)]
    return same[0] if same else nearest_name(label, classes)


_TRUTH = ("true", "false")


def _is_number(*texts: str) -> bool:
    try:
        return all(float(text) is not None for text in texts)
    except ValueError:
        return False
