import itertools

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from xal_ray.metrics.paired import holm, mean_with_interval, sign_flip_test, smallest_sign_flip_p


def test_mean_with_interval_is_students():
    differences = np.random.default_rng(0).normal(0.02, 0.01, size=8)
    mean, low, high = mean_with_interval(differences.tolist(), (-1.0, 1.0))
    expected = ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((differences.mean(), expected.low, expected.high))


def test_mean_with_interval_ends_where_values_do():
    assert mean_with_interval([0.7, 0.9], (0.0, 1.0)) == (pytest.approx(0.8), 0.0, 1.0)


def test_one_seed_has_no_interval():
    assert mean_with_interval([0.25], (0.0, 1.0)) == (0.25, None, None)
    for wrong in ([], [0.1, float("nan")]):
        with pytest.raises(ValueError, match="finite"):
            mean_with_interval(wrong, (0.0, 1.0))


def test_sign_flips_equal_a_plain_loop_over_all_of_them():
    differences = np.random.default_rng(3).normal(0.02, 0.03, size=8)
    flips = np.array(list(itertools.product([-1, 1], repeat=8)))
    means = (flips * differences).mean(axis=1)
    expected = 2 * min(
        (means >= differences.mean() - 1e-15).mean(), (means <= differences.mean() + 1e-15).mean()
    )
    assert sign_flip_test(differences.tolist(), seed=0) == pytest.approx(expected)
    assert sign_flip_test((-differences).tolist(), seed=0) == pytest.approx(expected)
    assert 0 < expected < 1


def test_sign_flips_reach_their_smallest_p_where_all_agree():
    for count in (2, 5, 10, 13):
        agreed = [0.01 + 0.001 * number for number in range(count)]
        assert sign_flip_test(agreed, seed=0) == smallest_sign_flip_p(count) == 2 / 2**count
    assert smallest_sign_flip_p(20) <= sign_flip_test([0.01] * 20, seed=0) < 0.001


def test_sign_flips_that_tell_nothing():
    assert sign_flip_test([0.5], seed=0) == 1.0
    assert sign_flip_test([0.0] * 6, seed=0) == 1.0
    assert sign_flip_test([0.1, -0.1], seed=0) == 1.0
    assert smallest_sign_flip_p(1) == smallest_sign_flip_p(0) == 1.0
    for wrong in ([], [0.1, float("inf")]):
        with pytest.raises(ValueError, match="finite"):
            sign_flip_test(wrong, seed=0)


def test_many_sign_flips_are_drawn_by_the_seed():
    differences = np.random.default_rng(1).normal(0.01, 0.03, size=16).tolist()
    values = {sign_flip_test(differences, seed) for seed in range(4)}
    assert len(values) > 1
    assert max(values) - min(values) < 0.05
    assert sign_flip_test(differences, 0) == sign_flip_test(differences, 0)


def test_holm_worked_out_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
