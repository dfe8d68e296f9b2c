"""Metrics of a model: the scores of a holdout split, joined with its labels."""

from __future__ import annotations

from collections import Counter
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.acquire.fullsize import Regions, fine_cells
from xal_ray.metrics.alignment_test import PermutationFigures, alignment_test
from xal_ray.metrics.evaluate import (
    AlignmentFigures,
    alignment_metrics,
    classification_metrics,
    group_intervals,
)
from xal_ray.metrics.intervals import Interval

ClassOfSplit = TypedDict(  # a call, since one of the keys is a word of Python's
    "ClassOfSplit",
    {
        "class": str,
        "recall": float | None,
        "precision": float | None,
        "f1": float | None,
        "support": int,
        "num_groups": int,
    },
)


class AlignmentOfSplit(AlignmentFigures):
    """Says how far the maps of a split agree with its ROIs.

    Attributes:
        test: Whether they agree more with their own; None with fewer than two groups.
    """

    test: PermutationFigures | None


class SplitFigures(TypedDict):
    """Holds what `metrics.json` says of a split: see `evaluate`."""

    accuracy: float | None
    balanced_accuracy: float | None
    macro_f1: float | None
    auroc: float | None
    ece: float | None
    per_class: list[ClassOfSplit]
    num_images: int
    num_groups: int
    ci95: dict[str, Interval | None]
    alignment: AlignmentOfSplit | None


def holdout_metrics(
    scores: pa.Table, rows: pa.Table, classes: tuple[str, ...], image_size: int, seed: int
) -> SplitFigures | None:
    """Measure what a model did on one split.

    Args:
        scores: A score table that covers the split, among others.
        rows: The split's index rows, labelled.
        classes: The class names.
        image_size: Height and width of the packed images, pixels.
        seed: Of the shuffled twin and of the permutations.

    Returns:
        JSON-ready metrics, or None where the split holds no scored image.
    """
    positions = pc.index_in(rows["image_id"], scores["image_id"].combine_chunks())
    scored = scores.take(positions)
    valid = pc.is_valid(scored["predicted"])
    scored, rows = scored.filter(valid), rows.filter(valid)
    if not rows.num_rows:
        return None
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[label] for label in rows["label"].to_pylist()], dtype=np.int64)
    probs = _matrix(scored["probs"], len(classes))
    groups = rows["group_id"].to_pylist()
    metrics = classification_metrics(probs, labels)
    per_class: list[ClassOfSplit] = [
        {"class": classes[number], **entry, "num_groups": count}
        for number, (entry, count) in enumerate(
            zip(metrics["per_class"], _groups_per_class(labels, groups, len(classes)), strict=True)
        )
    ]
    return {
        "accuracy": metrics["accuracy"],
        "balanced_accuracy": metrics["balanced_accuracy"],
        "macro_f1": metrics["macro_f1"],
        "auroc": metrics["auroc"],
        "ece": metrics["ece"],
        "per_class": per_class,
        "num_images": rows.num_rows,
        "num_groups": len(set(groups)),
        "ci95": group_intervals(probs, labels, groups),
        "alignment": _alignment(scored, rows["group_id"], image_size, seed),
    }


def _alignment(
    scored: pa.Table, group_ids: pa.ChunkedArray, image_size: int, seed: int
) -> AlignmentOfSplit | None:
    is_aligned = pc.and_(pc.is_valid(scored["saliency"]), pc.is_valid(scored["roi_fine"]))
    aligned, groups = scored.filter(is_aligned), group_ids.filter(is_aligned).to_pylist()
    if not aligned.num_rows:
        return None
    length = len(aligned["saliency"][0])
    side = round(length**0.5)
    shape = (aligned.num_rows, side, side)
    fine = np.frombuffer(b"".join(aligned["roi_fine"].to_pylist()), dtype=np.uint8)
    regions = Regions(
        _matrix(aligned["roi_adjoint"], length).reshape(shape).astype(np.float32),
        fine.reshape(-1, fine_cells(side), fine_cells(side)),
        (image_size, image_size),
    )
    cams = _matrix(aligned["saliency"], length).reshape(shape)
    metrics = alignment_metrics(cams, regions, aligned["image_id"].to_pylist(), groups, seed)
    if metrics is None:
        return None
    return {**metrics, "test": alignment_test(cams, regions, groups, seed)}


def _matrix(column: pa.ChunkedArray, width: int) -> npt.NDArray[np.float64]:
    flat: npt.NDArray[np.float64] = pc.list_flatten(column).to_numpy().astype(np.float64)
    return flat.reshape(-1, width)


def _groups_per_class(labels: npt.NDArray[np.int64], groups: list[str], num_classes: int) -> list[int]:
    counts = Counter(label for label, _ in set(zip(labels.tolist(), groups, strict=True)))
    return [counts[number] for number in range(num_classes)]
