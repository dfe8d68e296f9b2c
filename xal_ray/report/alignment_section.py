"""The words for what the permutation test found: does the model look where the expert looks?"""

from __future__ import annotations

from dataclasses import dataclass

from xal_ray.report.numbers import format_number, p_words, signed
from xal_ray.report.reader import AlignmentTest, MeasureResult

MEASURES = {
    "soft_dice": "soft Dice",
    "pointing_game": "pointing game",
    "energy_in_roi": "energy in ROI",
    "lift": "lift",
}
PRIMARY = "soft_dice"  # its test gives the verdict: four measures of the same maps are not four proofs


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
