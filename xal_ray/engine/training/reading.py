"""Does Ray Data's part of a training.

Three of its processes load this, one after the other, before a worker gets its first image. None needs torch:
beside what does, each would wait seconds for its import.
"""

from __future__ import annotations

import pyarrow as pa

from xal_ray.pool.schema import PoolReader


def read_pixels(rows: pa.Table, pool: PoolReader) -> pa.Table:
    """Return the columns `image_id, label, pixels` of labelled rows; a task of Ray Data."""
    pixels = [image.tobytes() for image in pool.read_rows(rows).pixels]
    return rows.select(["image_id", "label"]).append_column("pixels", pa.array(pixels, pa.binary()))
