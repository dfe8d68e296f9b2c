"""The label stage: picks to labels, from the oracle or from people. It alone may ask the oracle."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from xal_ray.errors import LabelError
from xal_ray.labels.oracle import reveal
from xal_ray.layout import INITIAL, RoundLayout
from xal_ray.loop.state import Run
from xal_ray.storage import read_table, write_table


def label_images(run: Run, files: RoundLayout) -> bool:
    """Picks to `labels.parquet`; False while a reader still has some of them."""
    picked = read_table(files.selection)["image_id"].to_pylist()
    if run.config.labels.source == "oracle" and not files.labels.exists():
        labels = reveal(run.pool, picked)
        check_classes(run, files, labels)
        write_table(files.labels, labels)
    if missing_labels(files):
        return False
    if run.config.labels.source == "export":
        check_classes(run, files, read_table(files.labels))
    return True


def missing_labels(files: RoundLayout) -> list[str]:
    """The picks of a round that have no label yet, in rank order."""
    picked: list[str] = read_table(files.selection)["image_id"].to_pylist()
    received = set(read_table(files.labels)["image_id"].to_pylist()) if files.labels.exists() else set()
    return [image_id for image_id in picked if image_id not in received]


def check_classes(run: Run, files: RoundLayout, received: pa.Table) -> None:
    """Refuse an initial set in which a class has no example: the model could never predict it.

    Raises:
        LabelError: A class has none.
    """
    if files.number != INITIAL:
        return
    known = Counter(run.labels().values()) + Counter(received["label"].to_pylist())
    absent = [name for name in run.pool.classes if not known[name]]
    if absent:
        raise LabelError(
            f"class '{absent[0]}' has no example in the initial set",
            expected="at least one of each class: " + ", ".join(run.pool.classes),
            found=", ".join(f"{name} {known[name]}" for name in run.pool.classes),
            where="select.initial_labels, seed",
            next_step="raise select.initial_labels, or give examples as rows with split 'labeled'",
        )
