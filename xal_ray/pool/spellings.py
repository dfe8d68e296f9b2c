"""Names that are told apart by their spelling alone: classes and groups that may be meant to be one."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.pool.manifest import name_key

_OF_PROGRAMS = frozenset(
    {"nan", "na", "n/a", "none", "null", "nil", "nat", "<na>", "#n/a", "#na", "undefined", "missing"}
    | {"#ref!", "#value!", "#name?", "#div/0!", "#null!", "#num!"}
)
_MISSING = frozenset(_OF_PROGRAMS | {"unknown", "unlabeled", "unlabelled", "-", "--", "?", "."})
_OF_SPREADSHEET = re.compile(r"\d[.,]\d*e\+\d\d+", re.IGNORECASE)  # 1.23457E+15, of an id of 16 digits
_ZEROS_IN_FRONT = re.compile(r"(?<![\d.])0+(?=\d)")


def class_warnings(classes: Sequence[str], counts: Mapping[str, int]) -> list[str]:
    """Return what is odd about class names.

    Args:
        classes: The names.
        counts: How many images have each, as far as that is known.
    """
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(name_key(name), []).append(name)

    def counted(name: str) -> str:
        return f"'{name}'" + (f" ({counts[name]} images)" if name in counts else "")

    found = [
        f"the classes {' and '.join(map(counted, names))} differ in spelling only, or are one number, and "
        "are classes of their own: if they are one, write their labels alike"
        for names in alike.values()
        if len(names) > 1
    ]
    return found + [
        f"among the classes is {counted(name)}, which reads like a missing label: if it is one, leave those "
        "cells empty"
        for name in classes
        if reads_like_nothing(name)
    ]


def reads_like_nothing(name: str) -> bool:
    """Return whether a name is what programs write for a missing one: `nan`, `NA`, `None`, `-`."""
    return name.strip().casefold() in _MISSING


def is_left_out(cell: str) -> bool:
    """Return whether a cell is what programs write for an empty one: `nan`, `NA`, `None`."""
    return cell.strip().casefold() in _OF_PROGRAMS


def group_warnings(groups: pa.ChunkedArray, numbers: Sequence[int]) -> list[str]:
    """Return what is odd about group ids. They may point at patients, so rows are named, and no id.

    Args:
        groups: Each image's group.
        numbers: The number by which the user knows each row.
    """
    rows = dict(zip(groups.to_pylist()[::-1], list(numbers)[::-1], strict=True))  # the first row of each
    rows.pop(None, None)
    if len(rows) == 1 and len(groups) > 1:
        return [
            f"all {len(groups)} images are of one group: a split never cuts a group, so nothing can be held "
            "out to judge a model. Give each patient an id of its own; or, only if no two images show the "
            "same patient, pool.group_by=image"
        ]
    counts = Counter(groups.to_pylist())
    found = [
        f"{counts[group]} images are of the group '{group}' (the first: row {number}), which reads like a "
        "missing id: they count as one patient. Give each its patient's id, or leave these rows out"
        for group, number in rows.items()
        if reads_like_nothing(group)
    ]
    rounded = [number for group, number in rows.items() if _OF_SPREADSHEET.fullmatch(group)]
    if rounded:
        found.append(
            f"{len(rounded)} group ids are numbers that a spreadsheet has rounded (the first: row "
            f"{min(rounded)}): patients whose ids differ in the last digits are one. Write the ids as text, "
            "from where they come"
        )
    return found + _alike_warnings(rows)


def _alike_warnings(rows: Mapping[str, int]) -> list[str]:
    first: dict[str, int] = {}
    pairs = [
        (kept, number)
        for group, number in sorted(rows.items(), key=lambda entry: entry[1])
        if (kept := first.setdefault(_group_key(group), number)) != number
    ]
    if not pairs:
        return []
    rows_of_pair = "rows {} and {}".format(*pairs[0])
    return [
        f"{len(pairs)} group ids differ from another one only in case, spaces or zeros in front (the "
        f"first: {rows_of_pair}): they are groups of their own, which may stand on two sides of the "
        "splits. If they are one patient, write the id alike"
    ]


def is_group_an_image(groups: pa.ChunkedArray) -> bool:
    """Return whether every image, of at least two, is a group of its own."""
    return 1 < len(groups) == len(pc.unique(groups))


def _group_key(group: str) -> str:
    folded = unicodedata.normalize("NFKC", group).casefold()
    bare = re.sub(r"[\s_-]+", "", folded).removesuffix(".0")
    return _ZEROS_IN_FRONT.sub("", bare)
