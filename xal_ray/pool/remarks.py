"""Counts what reading noticed of images that it could read, for the card: said once, not for each."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.pool.card_content import Remark

# What follows the number of images.
REMARKS: Mapping[str, str] = {
    "one_grey": "images hold different values, and became one grey: look at their window or rescale in the "
    "header, or set pool.dicom.window (DICOM) or pool.raster.window (PNG, TIFF)",
    "few_greys": "images keep fewer than 32 greys of more values than that: set pool.raster.window (PNG and "
    "TIFF of 16 bits: range, or centre and width) or pool.dicom.window (DICOM), and prepare the pool again",
    "high_bits": "images had bits above those that their header counts, and these were left out: an overlay, "
    "or a header that is wrong",
    "soft_mask": "images have a mask with more values than black and white, which was cut at half of its "
    "maximum: if these are labels, write them as whole numbers below 64",
    "whole_mask": "images lie wholly within their mask: is it inverted, or without a value for outside?",
}


def count_remarks(attributes: pa.Table) -> dict[str, Remark]:
    """Return how many images each remark was made of, and the first of them.

    Args:
        attributes: `ATTRIBUTE_SCHEMA`, sorted by image_id.

    Returns:
        By remark, in the order of `REMARKS`: `num_images`, `example` and `warning`.
    """
    parents = pc.list_parent_indices(attributes["remarks"].combine_chunks())
    made = pc.list_flatten(attributes["remarks"].combine_chunks())
    found: dict[str, Remark] = {}
    for remark, words in REMARKS.items():
        rows = parents.filter(pc.equal(made, remark))
        if len(rows):
            example = attributes["image_id"][rows[0].as_py()].as_py()
            found[remark] = {
                "num_images": len(rows),
                "example": example,
                "warning": f"{len(rows)} {words} (the first: {example})",
            }
    return found
