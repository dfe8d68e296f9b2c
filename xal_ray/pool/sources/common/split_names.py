"""Splits that a source's own names tell: instances_val2017.json, Testing/, ISIC2018_Task3_Test_Input."""

from __future__ import annotations

import re
from collections.abc import Collection

_SPLITS = {
    "train": "pool",
    "training": "pool",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
    "holdout": "test",
    "hold_out": "test",
    "hold-out": "test",
}
_WORD = re.compile(
    rf"(?<![a-z])({'|'.join(sorted(_SPLITS, key=len, reverse=True))})(?:set|data)?(?:20\d\d)?(?![a-z0-9])"
)


def split_of_name(name: str) -> str | None:
    """Return the split that a name of a file, folder or key tells; None: it tells none."""
    found = _WORD.search(name.lower())
    return _SPLITS[found.group(1)] if found else None


def settled_split(split: str | None, all_splits: Collection[str | None]) -> str | None:
    """Return the split of rows that a source calls by one.

    What is only called training is dealt as if nothing was said: else nothing would be left to evaluate on.

    Args:
        split: The rows' own.
        all_splits: Those of all rows of the source.
    """
    return split if {"val", "test"} & set(all_splits) else None
