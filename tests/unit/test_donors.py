import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xal_ray.acquire.donors import Donors

NAMES = [f"image-{number:04d}" for number in range(600)]


@given(st.lists(st.sampled_from("pqrs"), min_size=1, max_size=30), st.integers(0, 2**40), st.randoms())
def test_a_donor_is_of_another_group_and_depends_on_the_image_alone(groups, seed, random):
    ids = NAMES[: len(groups)]
    found = Donors(ids, groups, seed=seed).of(ids, groups)
    for group, donor in zip(groups, found, strict=True):
        if len(set(groups)) == 1:
            assert donor == -1
        else:
            assert groups[donor] != group
    order = list(range(len(ids)))
    random.shuffle(order)
    moved = Donors([ids[row] for row in order], [groups[row] for row in order], seed=seed)
    for row, donor in enumerate(found):
        (other,) = moved.of([ids[row]], [groups[row]])
        assert (donor == other == -1) or order[other] == donor


def test_all_images_of_other_groups_lend_alike():
    groups = ["big"] * 500 + ["small"] * 20 + [f"p{number}" for number in range(80)]
    donors = Donors(NAMES, groups, seed=3)
    asked = [f"asks-{number}" for number in range(40_000)]
    lent = np.bincount(donors.of(asked, ["small"] * len(asked)), minlength=600)
    assert not lent[500:520].any()
    others = np.delete(lent, np.s_[500:520])
    # 40,000 draws among 580: chi-squared with 579 degrees of freedom, 4 standard deviations.
    expected = 40_000 / 580
    assert ((others - expected) ** 2 / expected).sum() < 579 + 4 * np.sqrt(2 * 579)


def test_the_seed_decides():
    groups = [name[-1] for name in NAMES]
    first, second = (Donors(NAMES, groups, seed=seed).of(NAMES, groups) for seed in (1, 2))
    assert (first != second).mean() > 0.95
    np.testing.assert_array_equal(first, Donors(NAMES, groups, seed=1).of(NAMES, groups))


def test_images_of_unknown_groups_may_borrow_from_all():
    donors = Donors(["a", "b"], ["p", "p"], seed=0)
    assert donors.num_groups == 1
    assert (donors.of(["c", "d"], ["q", "p"]) >= 0).tolist() == [True, False]


def test_no_donors_lend_nothing():
    assert Donors([], [], seed=0).of(["a"], ["p"]).tolist() == [-1]
    assert Donors(["a"], ["p"], seed=0).of([], []).shape == (0,)


def test_there_is_a_group_for_each_id():
    with pytest.raises(ValueError, match="zip"):
        Donors(["a", "b"], ["p"], seed=0)
    with pytest.raises(ValueError, match="zip"):
        Donors(["a"], ["p"], seed=0).of(["a", "b"], ["p"])
