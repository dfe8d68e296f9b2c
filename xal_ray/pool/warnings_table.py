"""Says what a pool's warnings are about, image by image and file by file: `POOL/warnings.parquet`.

The card names counts and the first few; here all of them stand. A row is a file that was passed by, a mask
without an image, a shape that was cut or dropped, two pictures that look alike, or an image of which reading
noticed something.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import pyarrow as pa

from xal_ray.pool.layout import WARNINGS
from xal_ray.pool.remarks import REMARKS

WARNED_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),  # one of `WORDS`
        pa.field("image_id", pa.string()),
        pa.field("other_id", pa.string()),  # the second of two images
        pa.field("path", pa.string()),  # below the source's folder
        pa.field("detail", pa.string()),
    ]
)

# In words, before their number.
WORDS: Mapping[str, str] = {
    "passed_by": "Files of a kind that is not read",
    "hidden": "Hidden files and folders",
    "mask_without_image": "Masks without an image, which are not used",
    "made_of_image": "Pictures that were made of an image (superpixels, an overlay), which are not used",
    "deeper": "Images in folders below that of their class",
    "shape_cut": "Images with shapes that reach out of them, and are cut at the edge (are the numbers pixels "
    "of the image itself, and corners where corners are asked for?)",
    "shape_dropped": "Shapes that can't be meant (no area, too few points, no numbers, wholly outside), and "
    "are not used",
    "box_instead": "Shapes that can't be meant, in whose place their box is used",
    "look_alike": "Images of val or test that look nearly like one of another split and another group",
    "two_classes": "Pairs of images of different classes that look nearly alike",
    **REMARKS,
}
# What is said from here; the others are in the source's notes, or are said with an example.
_SAID = ("shape_cut", "shape_dropped", "box_instead")


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
    """Return the rows as `WARNED_SCHEMA`."""
    return pa.Table.from_pylist([asdict(each) for each in warned], schema=WARNED_SCHEMA)


def warned_of_reading(attributes: pa.Table) -> list[Warned]:
    """Return the images of which reading noticed something (`ATTRIBUTE_SCHEMA`)."""
    rows = attributes.select(["image_id", "remarks"]).to_pylist()
    return [Warned(remark, image_id=row["image_id"]) for row in rows for remark in row["remarks"]]


def count_kinds(table: pa.Table) -> dict[str, int]:
    """Return how many rows there are of each kind, in the order of `WORDS`."""
    counts = Counter(table["kind"].to_pylist())
    return {kind: counts[kind] for kind in WORDS if counts[kind]}


def sentences(counts: Mapping[str, int]) -> list[str]:
    """Return what people should hear of these counts (`count_kinds`)."""
    return [f"{WORDS[kind]}: {counts[kind]} (each in {WARNINGS})" for kind in _SAID if kind in counts]
