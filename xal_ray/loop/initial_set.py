"""The initial set of a run, known before the run."""

from __future__ import annotations

import pyarrow.compute as pc

from xal_ray.config import Config
from xal_ray.labels.earlier_run import labels_of_run
from xal_ray.loop.labelling import answerable_images, reveal_classes
from xal_ray.loop.query import pick
from xal_ray.loop.selection import everyone, random_query
from xal_ray.pool.schema import PoolReader, rows_of_splits
from xal_ray.record.layout import INITIAL
from xal_ray.seeds import derive_seed


def lacking_classes(config: Config, pool: PoolReader) -> list[str]:
    """Return the classes of which a run would begin without an example, in the pool's order.

    Args:
        config: Of the run; its labels come from the oracle.
        pool: Its pool.
    """
    index = pool.index()
    found = set(rows_of_splits(index, "labeled")["label"].to_pylist())
    rows, answerable = rows_of_splits(index, "pool"), answerable_images(config, pool)
    if answerable is not None:
        rows = rows.filter(pc.is_in(rows["image_id"], answerable))
    count = config.select.initial_labels
    if config.labels.from_run is not None:
        found |= set(labels_of_run(config.labels.from_run, pool)["label"].to_pylist())
    elif count and rows.num_rows:
        seed = derive_seed(config.seed, INITIAL, "select")
        wanted = random_query(config.select, count)
        picks = pick(everyone(rows), wanted, rows.num_rows, seed=seed, index=index)
        found |= reveal_classes(pool, picks.image_ids)
    return [name for name in pool.classes if name not in found]
