"""Intervals cover what they say, from two seeds or groups on: simulations of thousands of small samples."""

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.metrics import balanced_accuracy_score

from xal_ray.metrics.intervals import mean_interval, share_interval, t_interval

COUNTS = (2, 3, 5, 10, 20)
REPEATS = 1000
ERROR = 3 * np.sqrt(0.95 * 0.05 / REPEATS)  # three standard errors of a simulated coverage


def coverage(intervals, truth):
    low, high = np.array(intervals).T
    return ((low <= truth) & (truth <= high)).mean()


@pytest.mark.parametrize("count", COUNTS)
def test_intervals_over_seeds_cover(count):
    """The percentile bootstrap covers .50, .75, .86 and .91 of 2, 3, 5 and 10."""
    values = np.random.default_rng(count).normal(0.02, 0.01, size=(REPEATS, count))
    assert coverage([t_interval(row) for row in values], 0.02) == pytest.approx(0.95, abs=ERROR)


@pytest.mark.parametrize("count", COUNTS)
def test_intervals_over_seeds_cover_what_is_not_normal_too(count):
    """Bounded and skewed differences: a t interval of few leans, but does not break."""
    values = np.random.default_rng(count).beta(2.0, 5.0, size=(REPEATS, count))
    assert coverage([t_interval(row) for row in values], 2 / 7) > 0.935 - ERROR


@pytest.mark.parametrize("count", COUNTS)
def test_intervals_of_a_mean_over_groups_cover(count):
    """Images of a group are alike: half of the variance lies between groups, which differ in size."""
    rng = np.random.default_rng(count)
    intervals = []
    for _ in range(REPEATS):
        groups = np.repeat(np.arange(count), rng.integers(1, 20, size=count))
        values = rng.normal(size=count)[groups] + rng.normal(size=len(groups))
        intervals.append(mean_interval(values, groups))
    assert coverage(intervals, 0.0) > 0.95 - ERROR


def drawn_shares(rng, count, means, alike, one_class):
    """Right images and images, (groups, classes): shares of a group scatter around the mean of the class."""
    means, num_classes = np.array(means), len(means)
    sizes = rng.integers(1, 20, size=count)
    if one_class:
        support = np.eye(num_classes, dtype=int)[rng.permutation(np.arange(count) % num_classes)]
        support = support * sizes[:, None]
    else:
        support = np.stack(
            [rng.multinomial(size, rng.dirichlet(np.full(num_classes, 1.5))) for size in sizes]
        )
    spread = (1 - alike) / alike
    return rng.binomial(support, rng.beta(means * spread, (1 - means) * spread, support.shape)), support


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    ("means", "one_class"),
    [([0.7], True), ([0.8, 0.6], True), ([0.8, 0.6], False), ([0.9, 0.7, 0.5], False)],
    ids=["accuracy", "a class a group", "mixed groups", "three classes"],
)
def test_intervals_of_shares_over_groups_cover(count, means, one_class):
    """The percentile bootstrap over groups covers .48, .83 and .91 of 2, 5 and 10."""
    rng = np.random.default_rng(count)
    found = [share_interval(*drawn_shares(rng, count, means, 0.3, one_class)) for _ in range(REPEATS)]
    known = [interval for interval in found if interval is not None]
    if one_class and count < 2 * len(means):
        assert not known  # a class of one group
    else:
        assert len(known) > 0.2 * REPEATS
        assert coverage(known, np.mean(means)) > 0.95 - 3 * np.sqrt(0.95 * 0.05 / len(known))
        assert np.min(known) >= 0.0
        assert np.max(known) <= 1.0


@pytest.mark.parametrize("count", COUNTS)
def test_intervals_of_shares_near_one_cover_nearly(count):
    """Few groups that are very unlike, and nearly all right: the hardest case."""
    rng = np.random.default_rng(count)
    found = [share_interval(*drawn_shares(rng, count, [0.9], 0.3, True)) for _ in range(REPEATS)]
    assert coverage(found, 0.9) > 0.92


def test_all_right_is_not_certain():
    """A bootstrap of groups that are all right would say that there is no error at all."""
    ten = np.full((10, 1), 30)
    low, high = share_interval(ten, ten)
    assert high == 1.0
    assert 0.69 > low > 0.25  # of ten images that are right: .69; the groups leave fewer degrees of freedom
    assert share_interval(np.zeros_like(ten), ten) == pytest.approx((0.0, 1.0 - low))


def test_share_of_single_images_is_that_of_clopper_and_pearson():
    right = np.arange(2000)[:, None] % 10 < 7
    low, high = share_interval(right, np.ones_like(right, dtype=int))
    assert (low, high) == pytest.approx((beta.ppf(0.025, 1400, 601), beta.ppf(0.975, 1401, 600)), abs=1e-3)


def test_intervals_resample_groups_and_not_images():
    """Ten copies of each image in one group hold no more than one."""
    rng = np.random.default_rng(0)
    support = rng.multinomial(1, [0.5, 0.5], size=200)
    hits = support * rng.integers(2, size=(200, 1))
    assert share_interval(10 * hits, 10 * support) == pytest.approx(share_interval(hits, support), abs=2e-3)
    values = rng.normal(size=50)
    copied = np.append(np.repeat(values, 5), np.nan)
    groups = np.append(np.repeat(np.arange(50), 5), 99)  # the undefined image's group does not count
    assert mean_interval(copied, groups) == pytest.approx(mean_interval(values, np.arange(50)))


def test_mean_over_single_images_is_nearly_students():
    values = np.random.default_rng(0).normal(size=50)
    assert mean_interval(values, np.arange(50)) == pytest.approx(t_interval(values), rel=0.05)


def test_balanced_accuracy_of_unequal_classes_weighs_classes_alike():
    rng = np.random.default_rng(4)
    labels, groups = rng.choice(2, p=[0.9, 0.1], size=3000), rng.integers(300, size=3000)
    predicted = np.where(rng.random(3000) < np.where(labels == 1, 0.6, 0.9), labels, 1 - labels)
    support, hits = np.zeros((300, 2)), np.zeros((300, 2))
    np.add.at(support, (groups, labels), 1)
    np.add.at(hits, (groups, labels), predicted == labels)
    low, high = share_interval(hits, support)
    value = balanced_accuracy_score(labels, predicted)
    error = 0.5 * np.sqrt(0.9 * 0.1 / (labels == 0).sum() + 0.6 * 0.4 / (labels == 1).sum())
    assert (low, high) == pytest.approx((value - 1.96 * error, value + 1.96 * error), abs=0.25 * error)


def test_what_can_not_be_told_has_no_interval():
    assert t_interval(np.array([0.5])) is None
    assert mean_interval(np.array([0.5, 0.7]), np.array(["a", "a"])) is None
    assert share_interval(np.array([[3]]), np.array([[5]])) is None
    assert share_interval(np.zeros((0, 2)), np.zeros((0, 2))) is None
    lone = np.array([[5, 0], [5, 0], [0, 4]])  # nobody knows how unlike groups of the second class are
    assert share_interval(lone, lone) is None
    absent = np.array([[5, 0], [4, 0]])
    assert share_interval(absent, absent) is not None
