"""What a pool's warnings are about, image by image and file by file: `POOL/warnings.parquet`.

The card names counts and the first few; here all of them stand. A row is a file that was passed by, a mask
without an image, a shape that was cut or dropped, two pictures that look alike, or an image of which reading
noticed something.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import pyarrow as pa

from xal_ray.pool.remarks import REMARKS

FILE = "warnings.parquet"

WARNED_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),  # one of `WORDS`
        pa.field("image_id", pa.string()),
        pa.field("other_id", pa.string()),  # the second of two images
        pa.field("path", pa.string()),  # below the source's folder
        pa.field("detail", pa.string()),
    ]
)

# In words, after "12 ".
WORDS: Mapping[str, str] = {
    "passed_by": "files are of a kind that is not read",
    "hidden": "hidden files and folders are passed by",
    "mask_without_image": "masks have no image, and are not used",
    "made_of_image": "files were made of an image (superpixels, an overlay), and are not used",
    "deeper": "images lie deeper than their class's folder",
    "shape_cut": "shapes reach out of their image, and are cut at its edge",
    "shape_dropped": "shapes can't be meant (no area, too few points, no numbers), and are not used",
    "box_instead": "shapes can't be meant, and the box beside them is used instead",
    "look_alike": "images of val or test look nearly like one of another split and another group",
    "two_classes": "images look nearly like one of another class",
    **REMARKS,
}


@dataclass(frozen=True)
class Warned:
    """One image or file that a warning is about.

    Attributes:
        kind: One of `WORDS`.
        detail: What about it; nothing that a file holds is quoted.
        image_id: Whose, where an image is meant.
        other_id: The second of two images.
        path: A file, below the source's folder.
    """

    kind: str
    detail: str | None = None
    image_id: str | None = None
    other_id: str | None = None
    path: str | None = None


def warned_table(warned: Iterable[Warned]) -> pa.Table:
    """The rows as `WARNED_SCHEMA`."""
    return pa.Table.from_pylist([asdict(each) for each in warned], schema=WARNED_SCHEMA)


def warned_of_reading(attributes: pa.Table) -> list[Warned]:
    """The images of which reading noticed something (`ATTRIBUTE_SCHEMA`)."""
    rows = attributes.select(["image_id", "remarks"]).to_pylist()
    return [Warned(remark, image_id=row["image_id"]) for row in rows for remark in row["remarks"]]


def count_kinds(table: pa.Table) -> dict[str, int]:
    """How many rows there are of each kind, in the order of `WORDS`."""
    counts = Counter(table["kind"].to_pylist())
    return {kind: counts[kind] for kind in WORDS if counts[kind]}
