"""Which labelled images each training worker gets. Import it after `engine.session.start`, as it imports Ray.

Ray Train's own split gives every worker equally many rows and drops, without a word, what is left over; and
which rows a worker gets depends on the moment. Here every row has its worker. Needs no torch: two processes
of Ray Train load this before a worker gets its first image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.train import DataConfig

from xal_ray.engine.training.reading import read_pixels
from xal_ray.pool.schema import PoolReader


class DealtRows(DataConfig):  # type: ignore[misc]  # mypy does not follow Ray
    """Deals labelled rows to however many workers there are: references go in, each worker reads its pixels.

    Args:
        rows: Labelled rows, sorted by image_id: `image_id, part, row, label`.
        pool: Where their pixels are.
    """

    def __init__(self, rows: pa.Table, pool: PoolReader) -> None:
        super().__init__(datasets_to_split=["train"])
        self.rows, self.pool = rows, pool

    def configure(self, datasets: dict[str, Any], world_size: int, **_: Any) -> list[dict[str, Any]]:
        """For each worker the iterator of its part."""
        return [{"train": self._part(rank, world_size).iterator()} for rank in range(world_size)]

    def _part(self, rank: int, world_size: int) -> Any:
        # Not by `from_arrow`, which looks at its block in a task that wants a whole CPU.
        block = self.rows.take(np.arange(rank, self.rows.num_rows, world_size))
        return ray.data.from_blocks([block]).map_batches(
            read_pixels, fn_kwargs={"pool": self.pool}, batch_format="pyarrow", num_cpus=0.5
        )
