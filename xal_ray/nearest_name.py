"""Finds the name that somebody meant who wrote one that there is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest_name(written: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Find the known name that is most like what was written; its case does not matter.

    Args:
        written: What there is not.
        known: What there is.
        cutoff: How much alike two names must be, from 0 (anything) to 1 (the same), as difflib counts it: the
            share of characters that stand in both, in one order.

    Returns:
        The name as it is known; None where none is near.
    """
    by_key = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(written.casefold(), by_key, n=1, cutoff=cutoff)
    return by_key[near[0]] if near else None
