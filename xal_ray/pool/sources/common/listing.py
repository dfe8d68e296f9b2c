"""Defines what a source yields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from xal_ray.pool.warnings_table import Warned


@dataclass(frozen=True)
class Refused:
    """An image that a source leaves out: a row of the pool's quarantine.

    Attributes:
        image_id: Its id.
        uri: Where it lies.
        error_code: As in reading.
        detail: What is wrong, without a word of what a file holds.
    """

    image_id: str
    uri: str
    error_code: str
    detail: str


@dataclass(frozen=True)
class Listing:
    """The images of a source, and what it knows of itself.

    Attributes:
        manifest: A row an image, or a case of many (`MANIFEST_SCHEMA`); splits may be null.
        classes: The class names, where the rows do not show them all before they are read.
        notes: What was found and what is missing, for people; no ids.
        excluded: Images that were left out already, by reason.
        refused: Images that were left out for a fault of their own, as if they could not be decoded.
        warned: Files and images that a warning is about, one by one.
        agreement: How far several annotators agree, by finding.
        data_set: The public set that it is, by which sets that share images are known.
        row_numbers: The number by which the user knows each row; None: they count from 1.
    """

    manifest: pa.Table
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    excluded: Mapping[str, int] = field(default_factory=dict)
    refused: Sequence[Refused] = ()
    warned: Sequence[Warned] = ()
    agreement: Mapping[str, Any] = field(default_factory=dict)
    data_set: str | None = None
    row_numbers: Sequence[int] | None = None
