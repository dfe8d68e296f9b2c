import itertools

import numpy as np
import pytest

from xal_ray.paired import holm, paired_bootstrap, sign_flip_test, smallest_sign_flip_p


def test_paired_bootstrap_finds_the_mean_and_its_spread():
    differences = np.random.default_rng(0).normal(0.02, 0.01, size=40)
    mean, low, high = paired_bootstrap(differences.tolist(), seed=0)
    assert mean == pytest.approx(differences.mean())
    half_width = 1.96 * differences.std() / np.sqrt(40)
    assert low == pytest.approx(mean - half_width, abs=0.1 * half_width)
    assert high == pytest.approx(mean + half_width, abs=0.1 * half_width)
    assert (mean, low, high) == paired_bootstrap(differences.tolist(), seed=0)
    assert (low, high) != paired_bootstrap(differences.tolist(), seed=1)[1:]


def test_paired_bootstrap_of_one_seed_has_no_interval():
    assert paired_bootstrap([0.25], seed=0) == (0.25, None, None)
    for wrong in ([], [0.1, float("nan")]):
        with pytest.raises(ValueError, match="finite"):
            paired_bootstrap(wrong, seed=0)


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
