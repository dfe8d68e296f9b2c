"""Words of the page's sections: what the permutation test found, and who is in the pool.

The test asks whether the model looks where the expert looks. Of the pool it is said who is in it, who was
left out, and what its card warns of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xal_ray.pool.card_content import BreakdownTable, PoolCard
from xal_ray.report.numbers import format_number, p_words, signed
from xal_ray.report.reader import AlignmentTest, MeasureResult

MEASURES = {
    "soft_dice": "soft Dice",
    "pointing_game": "pointing game",
    "energy_in_roi": "energy in ROI",
    "lift": "lift",
}
PRIMARY = "soft_dice"  # its test gives the verdict: four measures of the same maps are not four proofs
_TITLES = {"class": "class", "site": "site", "device": "device", "sex": "sex", "age_band": "age"}


@dataclass(frozen=True)
class MeasureRow:
    """A measure as the table shows it."""

    name: str
    found: MeasureResult
    p: str


def tested_rows(test: AlignmentTest | None) -> list[MeasureRow]:
    """Return the measures that the test has, in the order of `MEASURES`."""
    if test is None:
        return []
    return [
        MeasureRow(name, found, "–" if found.p is None else p_words(found.p).removeprefix("p "))  # noqa: RUF001
        for key, name in MEASURES.items()
        if (found := test.measures.get(key)) is not None
    ]


def describe_alignment(test: AlignmentTest | None) -> str:
    """Return the reading of the test in one to three sentences; empty without any."""
    if test is None:
        return ""
    found, name = test.measures[PRIMARY], MEASURES[PRIMARY]
    effect = f"{signed(found.effect)}"
    if found.ci95 is not None:
        effect += f" [{format_number(found.ci95[0])}, {format_number(found.ci95[1])}]"
    compared = (
        f"{name} is {format_number(found.own)} with the true ROI and {format_number(found.donors)} with ROIs "
        f"of similar size of other groups, a difference of {effect}"
    )
    if found.verdict == "cannot be shown":
        return (
            f"Whether maps find their own ROI cannot be shown with {test.num_groups} groups: no permutation "
            f"of so few gives a p-value below .05 (the smallest is {format_number(test.smallest_p, 2)}). In "
            f"the last round {compared}."
        )
    evidence = f"{p_words(found.p or 0.0)}, permutations of {test.num_groups} groups"
    if found.verdict == "not shown":
        return (
            f"In the last round it is not shown that maps find their own ROI: {compared} ({evidence}). That "
            "does not show that they do not: every difference within the interval is possible."
        )
    tie = ""
    if found.ci95 is not None and found.ci95[0] <= 0.0:
        tie = " The interval, which is the coarser of the two, reaches nought all the same."
    return f"In the last round maps find their own ROI: {compared} ({evidence}).{tie}"


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
