"""The oracle: reveals the hidden labels of selected images. Nothing else opens the hidden labels."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.errors import LabelError
from xal_ray.pool.schema import PoolReader
from xal_ray.record.layout import RECEIVED_SCHEMA
from xal_ray.storage import read_table


def known_images(pool: PoolReader) -> pa.Array:
    """Return the ids of the images whose label is known; what the labels are is not read."""
    return read_table(pool.layout.hidden_labels, ["image_id"])["image_id"].combine_chunks()


def reveal(pool: PoolReader, image_ids: Sequence[str]) -> pa.Table:
    """Reveal the labels of the named images, and of no others.

    Args:
        pool: The pool.
        image_ids: Selected ids.

    Returns:
        `RECEIVED_SCHEMA`, in the order of `image_ids`; `roi` is null: the pool holds it already.

    Raises:
        LabelError: The pool holds no label for some of them.
    """
    hidden = read_table(pool.layout.hidden_labels)
    asked = hidden.filter(pc.is_in(hidden["image_id"], pa.array(image_ids, pa.string())))
    known = dict(zip(asked["image_id"].to_pylist(), asked["label"].to_pylist(), strict=True))
    missing = [image_id for image_id in image_ids if image_id not in known]
    if missing:
        raise LabelError(
            "the oracle knows no label for some of the selected images",
            expected=f"a label for each of {len(image_ids)}",
            found=f"{len(missing)} without, the first: {missing[0]}",
            where=str(pool.path),
            next_step="label them yourself: labels.source=export (a new run: another --out)",
        )
    labels = [known[image_id] for image_id in image_ids]
    return pa.table(
        {"image_id": list(image_ids), "label": labels, "roi": pa.nulls(len(labels), pa.binary())},
        schema=RECEIVED_SCHEMA,
    )
