"""Measures how good a round's model and its maps are, and how sure that is.

Everything here answers in plain floats that JSON can hold; what is undefined is None, never NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypedDict

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from xal_ray.acquire.donors import Donors
from xal_ray.acquire.fullsize import Regions, measure
from xal_ray.metrics.intervals import Interval, share_interval

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

NUM_ECE_BINS = 15

ALIGNMENT_MEASURES = ("soft_dice", "hard_dice", "iou", "pointing_game", "energy_in_roi", "lift")


class ClassFigures(TypedDict):
    """Holds what is measured of one class; a share of nothing is None.

    Attributes:
        recall: Of the images of the class, the share that is predicted as it.
        precision: Of the images that are predicted as it, the share that is of it.
        f1: The harmonic mean of both.
        support: Images of the class.
    """

    recall: float | None
    precision: float | None
    f1: float | None
    support: int


class ClassificationFigures(TypedDict):
    """Holds what `classification_metrics` measures."""

    accuracy: float | None
    balanced_accuracy: float | None
    macro_f1: float | None
    auroc: float | None
    ece: float | None
    per_class: list[ClassFigures]


class Agreements(TypedDict):
    """The mean of each of `ALIGNMENT_MEASURES` over images; None where no image has it."""

    soft_dice: float | None
    hard_dice: float | None
    iou: float | None
    pointing_game: float | None
    energy_in_roi: float | None
    lift: float | None


class AlignmentFigures(Agreements):
    """Holds what `alignment_metrics` measures.

    Attributes:
        num_images: Those with a defined map and an ROI that is not empty.
        shuffled: The same means with the ROIs of images of other groups.
    """

    num_images: int
    shuffled: Agreements


def classification_metrics(
    probs: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]
) -> ClassificationFigures:
    """Measure predictions against labels. The prediction is the class of the largest probability.

    Args:
        probs: (n, c) probabilities, finite; c >= 2.
        labels: (n,) class indices in [0, c).

    Returns:
        `accuracy`; `balanced_accuracy` (mean recall over the classes among the labels); `macro_f1` (over the
        classes among labels or predictions); `auroc` (two classes: of class 1; more: mean of one against the
        rest over the classes that have both); `ece`; `per_class`, a list by class index of `recall`,
        `precision`, `f1` and `support`. Undefined values are None.

    Raises:
        ValueError: Shapes or class indices that do not fit, or probabilities that are not finite.
    """
    values, truth = _checked(probs, labels)
    num_classes = values.shape[1]
    predicted = values.argmax(axis=1)
    support = np.bincount(truth, minlength=num_classes)
    claimed = np.bincount(predicted, minlength=num_classes)
    hits = np.bincount(truth[predicted == truth], minlength=num_classes)
    recall = _ratios(hits, support)
    precision = _ratios(hits, claimed)
    f1 = _ratios(2 * hits, support + claimed)
    return {
        "accuracy": _mean((predicted == truth).astype(np.float64)),
        "balanced_accuracy": _mean(recall),
        "macro_f1": _mean(f1),
        "auroc": _auroc(values, truth),
        "ece": _expected_calibration_error(values.max(axis=1), predicted == truth),
        "per_class": [
            {"recall": _plain(r), "precision": _plain(p), "f1": _plain(f), "support": int(count)}
            for r, p, f, count in zip(recall, precision, f1, support, strict=True)
        ],
    }


def _auroc(probs: FloatArray, labels: IntArray) -> float | None:
    """Area under the ROC curve from ranks; Hanley and McNeil (1982)."""
    num_classes = probs.shape[1]
    areas = []
    for index in (1,) if num_classes == 2 else range(num_classes):
        positive = labels == index
        num_positive = int(positive.sum())
        num_negative = len(labels) - num_positive
        if num_positive and num_negative:
            above = rankdata(probs[:, index])[positive].sum() - num_positive * (num_positive + 1) / 2
            areas.append(above / (num_positive * num_negative))
    return _mean(np.array(areas, dtype=np.float64))


def _expected_calibration_error(confidence: FloatArray, correct: npt.NDArray[np.bool_]) -> float | None:
    """Gap between confidence and accuracy, weighted over equal-width bins (low, high].

    Source:
        Guo et al., "On Calibration of Modern Neural Networks" (2017), equation 3.
    """
    if not len(confidence):
        return None
    bins = np.clip(np.ceil(confidence * NUM_ECE_BINS).astype(np.int64) - 1, 0, NUM_ECE_BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=NUM_ECE_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def alignment_metrics(
    cams: npt.NDArray[np.floating],
    regions: Regions,
    image_ids: Sequence[str],
    group_ids: Sequence[str],
    seed: int,
) -> AlignmentFigures | None:
    """Mean agreement of maps with ROIs, and with the ROIs of images of other groups as a control.

    What a measure keeps under shuffling comes from where lesions usually are, not from looking at this one.

    Args:
        cams: (n, gh, gw) in [0, 1]; undefined maps are NaN.
        regions: The ROIs of the same n images.
        image_ids: n ids.
        group_ids: n groups (patients); no image gets an ROI of its own group.
        seed: Of the shuffling.

    Returns:
        `num_images` (those with a defined map and an ROI that is not empty), the means of
        `ALIGNMENT_MEASURES`, and under `shuffled` the same again, each None where all images are of one
        group; None where fewer than two images remain.
    """
    found = measure(cams, regions)
    defined = np.flatnonzero(np.isfinite(found["soft_dice"]))
    if len(defined) < 2:
        return None
    ids, groups = ([names[row] for row in defined.tolist()] for names in (image_ids, group_ids))
    lent = Donors(ids, groups, seed=seed).of(ids, groups)
    lent = lent[lent >= 0]  # all, or none where there is one group
    twin = measure(cams[defined][: len(lent)], regions.take(defined[lent]))
    return {
        "num_images": len(defined),
        **_means({name: values[defined] for name, values in found.items()}),
        "shuffled": _means(twin),
    }


def _means(found: Mapping[str, FloatArray]) -> Agreements:
    return {
        "soft_dice": _mean(found["soft_dice"]),
        "hard_dice": _mean(found["hard_dice"]),
        "iou": _mean(found["iou"]),
        "pointing_game": _mean(found["pointing_game"]),
        "energy_in_roi": _mean(found["energy_in_roi"]),
        "lift": _mean(found["lift"]),
    }


def group_intervals(
    probs: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], group_ids: Sequence[str]
) -> dict[str, Interval | None]:
    """95 % intervals of accuracy and balanced accuracy over groups.

    Images of one patient are alike, so counting images would promise too narrow an interval.

    Args:
        probs: (n, c) probabilities, finite; c >= 2.
        labels: (n,) class indices in [0, c).
        group_ids: n groups.

    Returns:
        `accuracy` and `balanced_accuracy`: (low, high) as `share_interval` has them; None with fewer than two
        groups, for balanced accuracy also where a class of the labels has fewer.

    Raises:
        ValueError: Shapes or class indices that do not fit, or probabilities that are not finite.
    """
    values, truth = _checked(probs, labels)
    if len(group_ids) != len(truth):
        raise ValueError(f"{len(truth)} labels, but {len(group_ids)} group_ids")
    names, groups = np.unique(np.asarray(group_ids, dtype=np.str_), return_inverse=True)
    shape = (len(names), values.shape[1])
    support = np.zeros(shape)
    hits = np.zeros(shape)
    np.add.at(support, (groups, truth), 1.0)
    np.add.at(hits, (groups, truth), values.argmax(axis=1) == truth)
    return {
        "accuracy": share_interval(hits.sum(axis=1, keepdims=True), support.sum(axis=1, keepdims=True)),
        "balanced_accuracy": share_interval(hits, support),
    }


def curve_area(num_labels: Sequence[int], values: Sequence[float | None]) -> float | None:
    """Area under a learning curve by the trapezoid rule, divided by its width: a mean value over the budget.

    Args:
        num_labels: Strictly increasing.
        values: The curve's values at these numbers of labels.

    Returns:
        The area, in the values' own unit; None for fewer than two points or where a value is missing.

    Raises:
        ValueError: The lengths differ, or num_labels does not increase.
    """
    if len(num_labels) != len(values):
        raise ValueError(f"{len(num_labels)} numbers of labels, but {len(values)} values")
    steps = np.diff(np.asarray(num_labels, dtype=np.float64))
    if (steps <= 0.0).any():
        raise ValueError("num_labels must increase strictly")
    heights = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    if len(heights) < 2 or not np.isfinite(heights).all():
        return None
    return float((steps * (heights[1:] + heights[:-1]) / 2.0).sum() / steps.sum())


def area_over_rounds(num_labels: Sequence[int], values: Sequence[float | None]) -> float | None:
    """`curve_area` of a run's rounds; None also where a round brought no label: the curve then has a step."""
    if any(after <= before for before, after in pairwise(num_labels)):
        return None
    return curve_area(num_labels, values)


def _checked(probs: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> tuple[FloatArray, IntArray]:
    if probs.ndim != 2 or probs.shape[1] < 2 or labels.shape != probs.shape[:1]:
        raise ValueError(f"expected (n, c >= 2) and (n,), found shapes {probs.shape} and {labels.shape}")
    if not np.isfinite(probs).all():
        raise ValueError("probs must be finite; rows with an error_code are left out before")
    if ((labels < 0) | (labels >= probs.shape[1])).any():
        raise ValueError(f"labels must be in [0, {probs.shape[1]})")
    return probs.astype(np.float64), labels.astype(np.int64)


def _ratios(numerator: npt.NDArray[np.integer], denominator: npt.NDArray[np.integer]) -> FloatArray:
    """NaN where the denominator is 0."""
    ratios = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=ratios, where=denominator != 0)
    return ratios


def _mean(values: FloatArray) -> float | None:
    """Return the mean of the values that are defined; None without any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
