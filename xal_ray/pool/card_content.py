"""Says what a pool's `card.json` holds, key by key."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class Cell(TypedDict):
    """Says how many images and groups stand in a cell of a breakdown."""

    images: int
    groups: int


class BreakdownRow(TypedDict):
    """A row of a breakdown.

    Attributes:
        value: What the row is of; None: not known.
        others: How many rare values it stands for, else 0.
        cells: One a column; in words where it would point at people.
    """

    value: str | None
    others: int
    cells: list[Cell | str]


class BreakdownTable(TypedDict):
    """Says how a pool's images are spread over the values of an attribute; `columns` are splits, or "all"."""

    columns: list[str]
    rows: list[BreakdownRow]


class Remark(TypedDict):
    """Holds what reading noticed of some images: how many, the first of them, and a sentence."""

    num_images: int
    example: str
    warning: str


class Excluded(TypedDict):
    """Says how many images were left out for a reason, and the reason in words."""

    reason: str
    count: int
    words: str


class SimilarImages(TypedDict):
    """Says how many pairs of images look alike, and the first few."""

    num_images: int
    examples: list[list[str]]


class BurnedIn(TypedDict):
    """Says how many images say that text is burned into them, and the warning; None without any."""

    num_images: int
    warning: str | None


class WarnedFile(TypedDict):
    """Says where all warnings stand one by one, and how many there are of each kind."""

    file: str
    counts: dict[str, int]


class MadeFrom(TypedDict):
    """Holds what a pool was made from: the kind of source, its last part of a path, and its manifest's hash.

    Where rows were read by code of other packages, `readers` has its versions by the names of it.
    """

    kind: str
    path: str | None
    manifest_sha256: str | None
    readers: NotRequired[dict[str, str]]


class PoolCard(TypedDict):
    """The content of `card.json`: see `card.build_card`."""

    schema_version: int
    classes: list[str]
    image_size: int
    channels: int
    num_rows: int
    counts: dict[str, int]
    num_groups: dict[str, int]
    class_counts: dict[str, int]
    roi: dict[str, int]
    num_quarantined: int
    exclusions: dict[str, int]
    excluded: list[Excluded]
    breakdown: dict[str, Any]
    group_by: str
    pseudonym_key_id: str | None
    data_set: str | None
    notes: list[str]
    remarks: dict[str, Remark]
    warned: WarnedFile
    agreement: dict[str, Any]
    overlaps: list[str]
    duplicates_across_splits: int
    near_duplicates_across_splits: NotRequired[SimilarImages]  # of pools from before: not there
    near_duplicates_of_two_classes: SimilarImages
    burned_in: NotRequired[BurnedIn]  # likewise
    source: MadeFrom
    settings: dict[str, Any]
    content_hash: str
