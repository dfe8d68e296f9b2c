"""The label stage: picks to labels, from the oracle or from people. It alone may ask the oracle."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from xal_ray.config import Config
from xal_ray.errors import LabelError
from xal_ray.labels.oracle import known_images, reveal
from xal_ray.loop.state import Run
from xal_ray.pool.schema import PoolReader
from xal_ray.progress import QUIET, Reporter
from xal_ray.record.layout import LEAST_LABELS, RoundLayout
from xal_ray.storage import read_table, write_table


def answerable_images(config: Config, pool: PoolReader, reporter: Reporter = QUIET) -> pa.Array | None:
    """The images that can be labelled: of a pool that knows some labels, those are all that an oracle can.

    Args:
        config: Its key `labels.source`.
        pool: The pool.
        reporter: Hears how many can't be.

    Returns:
        Their ids; None where each image can be labelled.

    Raises:
        LabelError: The oracle knows no label at all.
    """
    if config.labels.source != "oracle":
        return None
    known, num_pool = known_images(pool), pool.card["counts"].get("pool", 0)
    if len(known) == num_pool:
        return None
    if not len(known):
        raise LabelError(
            "no label of the pool's images is known, so there is no oracle to ask",
            expected="labels in the pool's source, which are hidden until an image is chosen",
            found=f"{num_pool} images without",
            where=f"{pool.path}, labels.source",
            next_step="label them yourself: labels.source=export (another --out, where a run has begun)",
        )
    reporter.line(
        f"{num_pool} images in the pool; the labels of {num_pool - len(known)} are not known to the oracle, "
        f"so {len(known)} can be chosen"
    )
    return known


def check_initial_set(run: Run, files: RoundLayout) -> None:
    """Refuse an initial set that is too small to train on, before anybody labels it.

    Raises:
        LabelError: It is.
    """
    count = len(run.labels()) + read_table(files.selection).num_rows
    least = LEAST_LABELS * max(run.config.train.num_workers, 1)
    if count < least:
        lacks_class = count < len(run.pool.classes)
        raise LabelError(
            "there are too few labels to begin with"
            + (": a class has no example in the initial set" if lacks_class else ""),
            expected=f"at least {LEAST_LABELS} for each training worker, {least} in all",
            found=str(count),
            where="select.initial_labels, train.num_workers",
            next_step="raise select.initial_labels, or give labelled images as rows with split 'labeled'",
        )


def label_images(run: Run, files: RoundLayout) -> bool:
    """Picks to `labels.parquet`; False while an annotator still has some of them."""
    if run.config.labels.source == "oracle" and not files.labels.exists():
        picked = read_table(files.selection)["image_id"].to_pylist()
        write_table(files.labels, reveal(run.pool, picked))
    return not missing_labels(files)


def reveal_classes(pool: PoolReader, image_ids: Sequence[str]) -> set[str]:
    """Return the classes among images that an initial set holds; which of them is which is not told."""
    return set(reveal(pool, image_ids)["label"].to_pylist())


def missing_labels(files: RoundLayout) -> list[str]:
    """Return the picks of a round that still wait for a label, in rank order."""
    picked: list[str] = read_table(files.selection)["image_id"].to_pylist()
    settled: set[str] = set()
    for path in (files.labels, files.passed_over):
        if path.exists():
            settled.update(read_table(path, ["image_id"])["image_id"].to_pylist())
    return [image_id for image_id in picked if image_id not in settled]
