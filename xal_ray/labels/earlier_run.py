"""Labels that people made for one run, for another one: what was paid for is never lost with its settings."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.errors import LabelError, RunError
from xal_ray.pool.schema import PoolReader, rows_of_splits
from xal_ray.record.layout import RECEIVED_SCHEMA, RunLayout
from xal_ray.storage import read_table


def labels_of_run(run: Path, pool: PoolReader) -> pa.Table:
    """Return all labels that a run has received, those of a round that still waits included.

    Args:
        run: The run's folder; it may be of another pool with the same image_ids.
        pool: The pool that they are for.

    Returns:
        `RECEIVED_SCHEMA`, sorted by image_id: of images in the split `pool`. A drawn region of another size
        than that of the pool is left out.

    Raises:
        RunError: There is no run.
        LabelError: No label is of an image of the pool, or one is not among its classes.
    """
    layout = run_with_labels(run)
    tables = [read_table(part.labels) for part in [layout.initial, *layout.rounds()] if part.labels.is_file()]
    received = pa.concat_tables(tables) if tables else RECEIVED_SCHEMA.empty_table()
    inside = rows_of_splits(pool.index(), "pool")["image_id"].combine_chunks()
    usable = received.filter(pc.is_in(received["image_id"], value_set=inside)).sort_by("image_id")
    if not usable.num_rows:
        raise LabelError(
            "none of the labels that were to be taken over is of an image in the pool",
            expected="image_ids of the split 'pool'",
            found=f"{received.num_rows} labels of other images",
            where=f"labels.from_run={run}",
            next_step="give a run on this pool, or leave labels.from_run out",
        )
    strange = [label for label in usable["label"].unique().to_pylist() if label not in pool.classes]
    if strange:
        raise LabelError(
            "a label that was to be taken over is not one of the pool's classes",
            expected=", ".join(pool.classes),
            found=repr(strange[0]),
            where=f"labels.from_run={run}",
            next_step="give a run on a pool with these classes, or leave labels.from_run out",
        )
    fits = pc.equal(pc.binary_length(usable["roi"]), pool.image_size**2)
    regions = pc.if_else(pc.fill_null(fits, False), usable["roi"], pa.scalar(None, pa.binary()))
    return usable.set_column(2, RECEIVED_SCHEMA.field("roi"), regions)


def run_with_labels(run: Path) -> RunLayout:
    """Return the run whose labels are to be taken over.

    Raises:
        RunError: There is none.
    """
    layout = RunLayout(run)
    if not layout.ledger.is_file():
        raise RunError(
            "there is no run whose labels could be taken over",
            expected="a folder with a ledger.jsonl, made by `xal-ray run`",
            where=f"labels.from_run={run}",
            next_step="give the folder of the run that has the labels, or leave labels.from_run out",
        )
    return layout
