"""Several annotators of one image: policies for labels and boxes, and agreement."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xal_ray.pool.sources.common.annotators import (
    Marks,
    agreed_findings,
    agreement,
    combined_boxes,
    fleiss_kappa,
    intersection_over_union,
)
from xal_ray.roi import boxes_to_grid

SIDE = 16  # pixels of a frame in which boxes have whole corners, so that a grid of pixels is exact

_ranges = st.tuples(st.integers(0, SIDE - 1), st.integers(1, SIDE)).filter(lambda pair: pair[0] < pair[1])
_boxes = st.builds(lambda x, y: (float(x[0]), float(y[0]), float(x[1]), float(y[1])), _ranges, _ranges)
_drawn = st.dictionaries(st.sampled_from("abcde"), st.lists(_boxes, max_size=3), max_size=4)
_named = st.dictionaries(st.sampled_from("abcde"), st.sets(st.sampled_from(["N", "F", "O"])), min_size=1)


def _pixels(boxes) -> np.ndarray:
    return boxes_to_grid(np.reshape(list(boxes), (-1, 4)), (SIDE, SIDE), (SIDE, SIDE)) > 0.5


@settings(deadline=None, max_examples=60)
@given(_named)
def test_any_holds_what_the_majority_holds_what_all_hold(named):
    every, most, some = (agreed_findings(named, policy) for policy in ("all", "majority", "any"))
    assert every <= most <= some == set().union(*named.values())
    assert every == set.intersection(*map(set, named.values()))


@pytest.mark.parametrize(
    ("votes", "is_majority"), [((1, 1, 0), True), ((1, 0, 0), False), ((1, 1, 0, 0), False)]
)
def test_a_majority_is_more_than_half(votes, is_majority):
    named = {str(annotator): {"N"} if vote else {"No finding"} for annotator, vote in enumerate(votes)}
    assert ("N" in agreed_findings(named, "majority")) == is_majority


@settings(deadline=None, max_examples=60)
@given(_drawn, st.integers(0, 2))
def test_majority_pixels_are_counted_exactly(drawn, num_blind):
    num_annotators = len(drawn) + num_blind
    boxes = combined_boxes(drawn, num_annotators, "majority_pixel")
    votes = sum((_pixels(own).astype(int) for own in drawn.values()), np.zeros((SIDE, SIDE), dtype=int))
    assert np.array_equal(_pixels(boxes), 2 * votes > num_annotators)
    # The rectangles do not overlap.
    assert sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) == _pixels(boxes).sum()


@settings(deadline=None, max_examples=60)
@given(_drawn, st.integers(0, 2))
def test_the_union_covers_every_policy(drawn, num_blind):
    num_annotators = len(drawn) + num_blind
    union = _pixels(combined_boxes(drawn, num_annotators, "union"))
    every = np.logical_and.reduce([_pixels(own) for own in drawn.values()] or [np.zeros((SIDE, SIDE), bool)])
    majority = _pixels(combined_boxes(drawn, num_annotators, "majority_pixel"))
    assert (majority <= union).all()
    if not num_blind:
        assert (every <= majority).all()


@settings(deadline=None, max_examples=60)
@given(_drawn)
def test_cluster_means_lie_in_the_hull_and_are_no_more_than_the_boxes(drawn):
    everything = np.array([box for own in drawn.values() for box in own]).reshape(-1, 4)
    means = combined_boxes(drawn, len(drawn), "cluster_mean")
    assert len(means) <= len(everything)
    assert bool(means) == bool(len(everything))
    for x0, y0, x1, y1 in means:
        assert everything[:, 0].min() <= x0 < x1 <= everything[:, 2].max()
        assert everything[:, 1].min() <= y0 < y1 <= everything[:, 3].max()


@settings(deadline=None, max_examples=60)
@given(
    _drawn, st.randoms(use_true_random=False), st.sampled_from(["union", "majority_pixel", "cluster_mean"])
)
def test_the_order_of_annotators_and_boxes_changes_nothing(drawn, random, policy):
    annotators = list(drawn)
    random.shuffle(annotators)
    shuffled = {annotator: random.sample(drawn[annotator], len(drawn[annotator])) for annotator in annotators}
    assert combined_boxes(shuffled, 3, policy) == combined_boxes(drawn, 3, policy)


def test_cluster_mean_of_a_known_case():
    drawn = {
        "a": [
            (0.0, 0.0, 10.0, 10.0),
            (0.0, 0.0, 10.0, 10.1),
            (50.0, 50.0, 60.0, 60.0),
        ],  # the second: drawn twice
        "b": [(2.0, 2.0, 12.0, 12.0)],  # IoU .47 with the first
        "c": [(80.0, 80.0, 90.0, 90.0)],
    }
    assert combined_boxes(drawn, 3, "cluster_mean") == [
        (1.0, 1.0, 11.0, 11.0),
        (50.0, 50.0, 60.0, 60.0),
        (80.0, 80.0, 90.0, 90.0),
    ]


def test_clusters_are_chained_through_other_annotators():
    # The outer two share nothing, but each overlaps the middle one by a third.
    drawn = {"a": [(0.0, 0.0, 10.0, 10.0)], "b": [(5.0, 0.0, 15.0, 10.0)], "c": [(10.0, 0.0, 20.0, 10.0)]}
    assert intersection_over_union(drawn["a"][0], drawn["b"][0]) == pytest.approx(1 / 3)
    assert combined_boxes(drawn, 3, "cluster_mean") == [(5.0, 0.0, 15.0, 10.0)]


def test_boxes_of_one_annotator_are_not_linked():
    drawn = {"a": [(0.0, 0.0, 10.0, 10.0), (2.0, 0.0, 12.0, 10.0)]}
    assert len(combined_boxes(drawn, 1, "cluster_mean")) == 2


def test_fleiss_kappa_of_the_textbook():
    # Four annotators of five images; worked by hand: P = 1, 1, 1/2, 1/3, 1; p = 11/20.
    votes, annotators = np.array([4, 0, 3, 2, 4]), np.full(5, 4)
    shares = [1, 1, 1 / 2, 1 / 3, 1]
    share = 13 / 20
    by_chance = share**2 + (1 - share) ** 2
    expected = (sum(shares) / 5 - by_chance) / (1 - by_chance)
    assert fleiss_kappa(votes, annotators) == pytest.approx(expected)


def test_kappa_is_cohens_for_two_annotators_with_equal_margins():
    one, other = [1, 1, 1, 0, 0, 0, 1, 0], [1, 1, 0, 1, 0, 0, 1, 0]
    # Six of eight alike, four by chance: (6/8 - 1/2) / (1 - 1/2).
    assert fleiss_kappa(np.add(one, other), np.full(8, 2)) == pytest.approx(0.5)


def test_kappa_is_none_where_everybody_always_says_the_same():
    assert fleiss_kappa(np.array([3, 3]), np.array([3, 3])) is None
    assert fleiss_kappa(np.array([], dtype=int), np.array([], dtype=int)) is None


def _marks(num_images: int, num_marked_by: int) -> Marks:
    marks = Marks()
    for number in range(num_images):
        for annotator in range(3):
            marks.named[str(number)][str(annotator)] |= {"N"} if annotator < num_marked_by else {"No finding"}
            if annotator < num_marked_by:
                marks.boxes[str(number), "N"][str(annotator)].append(
                    (0.0, 0.0, 10.0, 10.0 + 10.0 * annotator)
                )
    return marks


def test_agreement_counts_images_by_the_readers_who_marked_them():
    marks = _marks(12, 2)
    for number in range(30):
        marks.named[f"empty{number}"] = {annotator: {"No finding"} for annotator in "012"}
    told = agreement(marks, ["N"])["N"]
    assert told["marked_by"] == {"1": "<10", "2": 12, "3": "<10"}
    assert told["box_iou"] == 0.5
    votes = np.array([2] * 12 + [0] * 30)
    assert told["kappa"] == pytest.approx(fleiss_kappa(votes, np.full(42, 3)), abs=1e-4)


def test_agreement_over_few_images_is_not_told():
    assert agreement(_marks(9, 2), ["N", "F"]) == {
        name: {"marked_by": {"1": "<10", "2": "<10", "3": "<10"}, "kappa": None, "box_iou": None}
        for name in "NF"
    }


def test_images_that_one_annotator_saw_do_not_count():
    marks = Marks()
    for number in range(20):
        marks.named[str(number)]["consensus"].add("N")
    assert agreement(marks, ["N"])["N"] == {"marked_by": {}, "kappa": None, "box_iou": None}
