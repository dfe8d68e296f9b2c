import json

import alignment_oracle
import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from xal_ray.acquire import alignment, fullsize
from xal_ray.metrics.evaluate import alignment_metrics, classification_metrics, curve_area, group_intervals


def random_predictions(num_images=300, num_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(
        num_classes, size=num_images, p=np.arange(1, num_classes + 1) / sum(range(num_classes + 1))
    )
    probs = rng.dirichlet(np.ones(num_classes), size=num_images) + 0.3 * np.eye(num_classes)[labels]
    return probs / probs.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_metrics_equal_scikit_learn(num_classes):
    probs, labels = random_predictions(num_classes=num_classes)
    predicted = probs.argmax(axis=1)
    metrics = classification_metrics(probs, labels)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert metrics["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    scores = probs[:, 1] if num_classes == 2 else probs
    assert metrics["auroc"] == pytest.approx(roc_auc_score(labels, scores, multi_class="ovr"))
    expected = precision_recall_fscore_support(labels, predicted)
    for name, column in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [row[name] for row in metrics["per_class"]] == pytest.approx(list(column))


def test_auroc_counts_ties_as_half():
    probs = np.array([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
    assert classification_metrics(probs, np.array([0, 1, 0, 1]))["auroc"] == pytest.approx((3 + 0.5) / 4)


def test_classes_absent_from_the_labels_are_left_out():
    probs, labels = random_predictions(num_classes=3)
    probs = np.hstack([probs, np.zeros((len(probs), 1))])
    with_absent = classification_metrics(probs, labels)
    without = classification_metrics(probs[:, :3], labels)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece"):
        assert with_absent[name] == pytest.approx(without[name])
    assert with_absent["per_class"][3] == {"recall": None, "precision": None, "f1": None, "support": 0}


def test_undefined_is_none_and_everything_is_json():
    one_class = classification_metrics(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]))
    assert one_class["auroc"] is None
    assert one_class["per_class"][1] == {"recall": None, "precision": 0.0, "f1": 0.0, "support": 0}
    nothing = classification_metrics(np.zeros((0, 2)), np.zeros(0, dtype=int))
    names = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")
    assert [nothing[name] for name in names] == [None] * 5
    for metrics in (one_class, nothing, classification_metrics(*random_predictions())):
        assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_ece_worked_out_by_hand():
    # Bins (.5333, .6] and (.8667, .9333]: gaps |.6 - .5| over 2 images and |.9 - 0| over 1.
    probs = np.array([[0.6, 0.4], [0.4, 0.6], [0.9, 0.1]])
    ece = classification_metrics(probs, np.array([0, 0, 1]))["ece"]
    assert ece == pytest.approx((2 * 0.1 + 1 * 0.9) / 3)
    assert classification_metrics(np.eye(2), np.array([0, 1]))["ece"] == 0.0


def test_ece_bins_hold_their_upper_border():
    # .55 (wrong) and .6 (right) share the bin that ends at .6; .62 (wrong) is in the next.
    probs = np.array([[0.55, 0.45], [0.6, 0.4], [0.62, 0.38]])
    ece = classification_metrics(probs, np.array([1, 0, 1]))["ece"]
    assert ece == pytest.approx((abs(0.55 + 0.6 - 1) + 0.62) / 3)


@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        (np.full((2, 2), 0.5), np.array([0, 2]), "labels must be in"),
        (np.full((2, 2), 0.5), np.array([0, -1]), "labels must be in"),
        (np.full((2, 2), 0.5), np.array([0]), "shapes"),
        (np.full((2, 1), 1.0), np.array([0, 0]), "shapes"),
        (np.full((2, 2), np.nan), np.array([0, 0]), "finite"),
    ],
)
def test_what_does_not_fit_is_refused(probs, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(probs, labels)


def aligned(cams, regions, seed, groups=None):
    """Each image of a group of its own where no groups are given."""
    ids = [f"image-{number:03d}" for number in range(len(cams))]
    return alignment_metrics(cams, regions, ids, ids if groups is None else groups, seed)


def focused_maps(num_images=40, seed=0):
    """Maps that look exactly at their own ROI, one cell each, anywhere."""
    rng = np.random.default_rng(seed)
    cams = np.zeros((num_images, 49))
    cams[np.arange(num_images), rng.integers(49, size=num_images)] = 1.0
    cams = cams.reshape(-1, 7, 7)
    return cams, regions_of(cams)


def regions_of(cams):
    """Regions that are the maps' own high parts at full size."""
    full, _ = alignment.minmax(fullsize.upsample(cams, (112, 112)))
    return fullsize.reduce_rois(np.uint8(255 * (full >= 0.5)), cams.shape[1:])


def test_alignment_is_lost_when_the_rois_are_shuffled():
    metrics = aligned(*focused_maps(), seed=1)
    assert metrics["num_images"] == 40
    for name in ("soft_dice", "hard_dice", "iou", "pointing_game", "energy_in_roi", "lift"):
        assert metrics[name] > 0.5
        assert metrics["shuffled"][name] < 0.3
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


@pytest.mark.parametrize("seed", range(20))
def test_no_image_keeps_its_own_roi(seed):
    # Every ROI is another cell, so a kept one would show as a hit.
    for count in (2, 3, 7):
        maps = np.eye(9)[:count].reshape(count, 3, 3)
        rois = np.uint8(255 * maps).repeat(24, axis=1).repeat(24, axis=2)
        metrics = aligned(maps, fullsize.reduce_rois(rois, (3, 3)), seed)
        assert metrics["pointing_game"] == 1.0
        assert metrics["shuffled"]["pointing_game"] == 0.0


def test_alignment_means_are_over_the_defined_images():
    rng = np.random.default_rng(0)
    cams = rng.random((5, 3, 3))
    rois = rng.integers(256, size=(5, 96, 96), dtype=np.uint8)
    cams[1] = np.nan
    rois[3] = 0
    regions = fullsize.reduce_rois(rois, (3, 3))
    kept = np.array([0, 2, 4])
    metrics = aligned(cams, regions, seed=0)
    assert metrics["num_images"] == 3
    full, _ = alignment.minmax(fullsize.upsample(cams[kept], (96, 96)))
    assert metrics["soft_dice"] == pytest.approx(
        alignment_oracle.soft_dice(full, rois[kept] / 255).mean(), abs=1e-6
    )
    ids = [f"image-{number:03d}" for number in kept]
    assert metrics == alignment_metrics(cams[kept], regions.take(kept), ids, ids, seed=0)
    assert aligned(cams[:2], regions.take(np.arange(2)), seed=0) is None


@pytest.mark.parametrize("seed", range(10))
def test_a_twin_is_never_of_the_same_patient(seed):
    """Two patients of 30 slices, each with one lesion: a derangement gave half of the twins the same one."""
    maps = np.eye(9)[[0] * 30 + [5] * 30].reshape(60, 3, 3)
    rois = np.uint8(255 * maps).repeat(24, axis=1).repeat(24, axis=2)
    groups = ["p"] * 30 + ["q"] * 30
    metrics = aligned(maps, fullsize.reduce_rois(rois, (3, 3)), seed, groups)
    assert metrics["pointing_game"] == 1.0
    assert metrics["shuffled"]["pointing_game"] == 0.0


def test_one_patient_has_no_twin():
    cams, regions = focused_maps(6)
    metrics = aligned(cams, regions, 0, ["p"] * 6)
    assert metrics["soft_dice"] > 0.5
    assert set(metrics["shuffled"].values()) == {None}


def test_twins_do_not_depend_on_the_order_of_rows():
    cams, regions = focused_maps()
    ids = [f"image-{number:03d}" for number in range(40)]
    groups = [name[:-1] for name in ids]
    order = np.random.default_rng(3).permutation(40)
    moved = alignment_metrics(
        cams[order], regions.take(order), [ids[row] for row in order], [groups[row] for row in order], 5
    )
    assert moved["shuffled"] == pytest.approx(alignment_metrics(cams, regions, ids, groups, 5)["shuffled"])


def test_alignment_that_is_undefined_everywhere_is_none():
    rng = np.random.default_rng(0)
    whole = fullsize.reduce_rois(np.full((3, 64, 64), 255, dtype=np.uint8), (2, 2))
    metrics = aligned(rng.random((3, 2, 2)), whole, seed=0)
    assert metrics["lift"] is None
    assert metrics["energy_in_roi"] == pytest.approx(1.0)


def test_group_intervals_hold_both_accuracies():
    probs, labels = random_predictions(num_images=2000, num_classes=3)
    ids = [f"patient {i}" for i in range(2000)]
    found = group_intervals(probs, labels, ids)
    for name in ("accuracy", "balanced_accuracy"):
        value = classification_metrics(probs, labels)[name]
        low, high = found[name]
        assert low < value < high
        assert high - low == pytest.approx(2 * 1.96 * np.sqrt(value * (1 - value) / 2000), rel=0.4)
    assert json.dumps(found, allow_nan=False)


def test_group_intervals_count_groups_and_not_images():
    # Ten copies of each image in one group hold no more information than one.
    probs, labels = random_predictions(num_images=200, num_classes=3)
    ids = [f"patient {i}" for i in range(200)]
    once = group_intervals(probs, labels, ids)
    tenfold = group_intervals(
        probs.repeat(10, axis=0), labels.repeat(10), [i for i in ids for _ in range(10)]
    )
    for name in ("accuracy", "balanced_accuracy"):
        assert tenfold[name] == pytest.approx(once[name], abs=2e-3)


def test_group_intervals_do_not_depend_on_the_order_of_rows():
    probs, labels = random_predictions(num_images=60, num_classes=4)
    ids = [f"g{i // 2}" for i in range(60)]
    shuffled = np.random.default_rng(1).permutation(60)
    again = group_intervals(probs[shuffled], labels[shuffled], [ids[i] for i in shuffled])
    assert again == group_intervals(probs, labels, ids)


def test_group_intervals_that_are_undefined():
    probs, labels = random_predictions(num_images=30, num_classes=4)
    labels[:] = np.where(np.arange(30) == 0, 3, labels % 2)  # one lone image of class 3
    found = group_intervals(probs, labels, [f"g{i // 2}" for i in range(30)])
    assert found["accuracy"] is not None
    assert found["balanced_accuracy"] is None
    nothing = {"accuracy": None, "balanced_accuracy": None}
    assert group_intervals(probs, labels, ["a"] * 30) == nothing
    assert group_intervals(probs[:0], labels[:0], []) == nothing
    with pytest.raises(ValueError, match="group_ids"):
        group_intervals(probs, labels, ["a"])


def test_curve_area_worked_out_by_hand():
    assert curve_area([10, 20, 40], [0.5, 0.7, 0.9]) == pytest.approx((10 * 0.6 + 20 * 0.8) / 30)
    assert curve_area([10, 50], [0.4, 0.4]) == pytest.approx(0.4)
    assert curve_area([10], [0.5]) is None
    assert curve_area([], []) is None
    assert curve_area([10, 20], [0.5, None]) is None
    for num_labels in ([10, 10], [20, 10], [10, 20, 30]):
        with pytest.raises(ValueError, match="num"):
            curve_area(num_labels, [0.5, 0.6])
