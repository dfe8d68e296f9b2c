"""The area under a run's learning curve, and how far it depends on who is in the split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.metrics.evaluate import area_over_rounds
from xal_ray.metrics.intervals import Interval, share_interval
from xal_ray.report.reader import Round
from xal_ray.storage import read_shards

_PREDICTED = pa.schema([("image_id", pa.string()), ("predicted", pa.int32())])


def area(rounds: Sequence[Round], split: str) -> float | None:
    """Area under balanced accuracy; None where a round lacks it, or two rounds have equally many labels."""
    metrics = [a_round.splits.get(split) for a_round in rounds]
    num_labels = [a_round.num_labels or 0 for a_round in rounds]
    return area_over_rounds(num_labels, [found.balanced_accuracy if found else None for found in metrics])


def area_interval(
    rounds: Sequence[Round], split: str, index: pa.Table, classes: Sequence[str]
) -> Interval | None:
    """Return its 95 % interval over groups.

    The area under balanced accuracy is the balanced mean of the areas under each image's own curve, which is
    1 where a round's model is right. So an image counts as right by its area, as `share_interval` allows.

    Args:
        rounds: The committed ones.
        split: `val` or `test`.
        index: The pool's.
        classes: Its class names.

    Returns:
        (low, high); None where there is no area, a class has a single group, or a round failed on an image.
    """
    if area(rounds, split) is None:
        return None
    rows = index.filter(pc.equal(index["split"], split)).select(["image_id", "group_id", "label"])
    labels = pc.index_in(rows["label"], pa.array(classes)).to_numpy(zero_copy_only=False)
    right = [_is_right(a_round, rows, labels) for a_round in rounds]
    if any(column is None for column in right):
        return None
    num_labels = [a_round.num_labels or 0 for a_round in rounds]
    weights = [area_over_rounds(num_labels, unit.tolist()) for unit in np.eye(len(rounds))]
    areas = np.array(weights, dtype=np.float64) @ np.array(right, dtype=np.float64)
    _, groups = np.unique(rows["group_id"].to_numpy(zero_copy_only=False), return_inverse=True)
    shape = (int(groups.max()) + 1, len(classes))
    hits, support = np.zeros(shape), np.zeros(shape)
    np.add.at(hits, (groups, labels), areas)
    np.add.at(support, (groups, labels), 1.0)
    return share_interval(hits, support)


def _is_right(a_round: Round, rows: pa.Table, labels: np.ndarray) -> np.ndarray | None:
    scores = read_shards(a_round.files.holdout, _PREDICTED, _PREDICTED.names)
    positions = pc.index_in(rows["image_id"], scores["image_id"].combine_chunks())
    predicted = scores["predicted"].take(positions)
    if predicted.null_count:
        return None
    right: np.ndarray = predicted.to_numpy() == labels
    return right
