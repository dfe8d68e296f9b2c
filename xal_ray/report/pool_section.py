"""Says what the page says of the pool: who is in it, who was left out, and what its card warns of."""

from __future__ import annotations

from typing import Any

from xal_ray.pool.card_content import BreakdownTable, PoolCard

_TITLES = {"class": "class", "site": "site", "device": "device", "sex": "sex", "age_band": "age"}


def describe_pool(card: PoolCard) -> dict[str, Any]:
    """Return the values of the page's section on the pool; small cells are marked in the card already.

    Args:
        card: The content of the pool's `card.json`.

    Returns:
        `breakdown` (tables with a title), `unknown_of_all` (titles of what is known of no image), `excluded`
        (entries of the card) and `pool_notes` (sentences).
    """
    found = card.get("breakdown") or {}
    return {
        "breakdown": [_table(title, found[key]) for key, title in _TITLES.items() if found.get(key)],
        "unknown_of_all": [title for key, title in _TITLES.items() if found and not found.get(key)],
        "excluded": card.get("excluded") or [],
        "pool_notes": _notes(card),
    }


def _table(title: str, table: BreakdownTable) -> dict[str, Any]:
    rows = [
        {
            "name": f"{row['others']} others" if row["others"] else row["value"] or "not known",
            "cells": row["cells"],
        }
        for row in table["rows"]
    ]
    return {"title": title, "columns": table["columns"], "rows": rows}


def _notes(card: PoolCard) -> list[str]:
    found = []
    near, burned_in = card.get("near_duplicates_across_splits"), card.get("burned_in")
    num_near = near["num_images"] if near else 0
    if num_near:
        looks = "image of val or test looks" if num_near == 1 else "images of val or test look"
        found.append(f"{num_near} {looks} nearly like one of another split and another group")
    warning = burned_in["warning"] if burned_in else None
    if warning:
        found.append(warning)
    found += card.get("overlaps") or []
    return [f"{text[0].upper()}{text[1:]}." for text in found]
