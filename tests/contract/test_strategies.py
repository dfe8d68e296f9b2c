"""What every query strategy keeps to, and then what each one means."""

import re
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.stats import rankdata

from xal_ray.acquire.strategies import STRATEGY_FUNCTIONS, Candidates, select
from xal_ray.config import STRATEGIES, Select
from xal_ray.errors import InputError

NORMALISATIONS = ("none", "minmax", "rank")
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
every_normalisation = pytest.mark.parametrize("normalise", NORMALISATIONS)
COLUMNS = ("entropy", "margin", "least_confidence", "misalignment")


def make_candidates(count=60, seed=0, *, without_roi=0.3, decimals=1):
    """Few decimals, so that there are ties in every column."""
    rng = np.random.default_rng(seed)
    columns = {name: rng.random(count).round(decimals) for name in COLUMNS}
    columns["misalignment"][rng.random(count) < without_roi] = np.nan
    image_ids = [f"image-{number:03d}" for number in rng.permutation(count)]
    return Candidates(image_ids, [f"patient-{number}" for number in rng.integers(12, size=count)], **columns)


def permuted(candidates, order):
    return Candidates(
        [candidates.image_ids[row] for row in order],
        [candidates.group_ids[row] for row in order],
        **{name: getattr(candidates, name)[order] for name in COLUMNS},
    )


def utilities_by_id(candidates, **settings):
    """The utility of every candidate."""
    chosen = select(candidates, Select(query_size=len(candidates.image_ids), **settings), seed=0)
    return dict(zip(chosen.image_ids, chosen.utilities, strict=True))


def test_every_configurable_strategy_is_registered():
    assert set(STRATEGY_FUNCTIONS) == set(STRATEGIES)


@every_strategy
@every_normalisation
@pytest.mark.parametrize("query_size", [1, 20, 60])
def test_selection_is_a_unique_subset_of_the_asked_size_in_order(strategy, normalise, query_size):
    candidates = make_candidates()
    chosen = select(candidates, Select(strategy=strategy, normalise=normalise, query_size=query_size), seed=3)
    assert len(chosen.image_ids) == len(chosen.utilities) == len(chosen.reasons) == query_size
    assert len(set(chosen.image_ids)) == query_size
    assert set(chosen.image_ids) <= set(candidates.image_ids)
    assert np.isfinite(chosen.utilities).all()
    assert chosen.utilities.dtype == np.float64
    keys = [
        (-utility, image_id) for utility, image_id in zip(chosen.utilities, chosen.image_ids, strict=True)
    ]
    assert keys == sorted(keys)


@every_strategy
@every_normalisation
def test_the_order_of_rows_does_not_matter(strategy, normalise):
    candidates = make_candidates()
    settings = Select(strategy=strategy, normalise=normalise, query_size=25, max_per_group=3)
    expected = select(candidates, settings, seed=5)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(60)
        chosen = select(permuted(candidates, order), settings, seed=5)
        assert chosen.image_ids == expected.image_ids
        assert chosen.reasons == expected.reasons
        np.testing.assert_array_equal(chosen.utilities, expected.utilities)


@every_strategy
def test_the_best_ones_are_chosen(strategy):
    candidates = make_candidates()
    everything = select(candidates, Select(strategy=strategy, query_size=60), seed=2)
    first = select(candidates, Select(strategy=strategy, query_size=7), seed=2)
    assert first.image_ids == everything.image_ids[:7]


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "random"])
@every_normalisation
def test_ties_go_by_id(strategy, normalise):
    equal = np.full(6, 0.5)
    ids = ["d", "b", "f", "a", "e", "c"]
    candidates = Candidates(ids, ids, equal, equal, equal, equal)
    chosen = select(candidates, Select(strategy=strategy, normalise=normalise, query_size=4), seed=0)
    assert chosen.image_ids == ["a", "b", "c", "d"]


@every_strategy
def test_the_cap_per_group_is_kept_and_passes_over_the_least_possible(strategy):
    candidates = make_candidates()
    group_of = dict(zip(candidates.image_ids, candidates.group_ids, strict=True))
    ranked = select(candidates, Select(strategy=strategy, query_size=60), seed=1).image_ids
    capped = select(candidates, Select(strategy=strategy, query_size=15, max_per_group=2), seed=1).image_ids
    expected, taken = [], Counter()
    for image_id in ranked:
        taken[group_of[image_id]] += 1
        if taken[group_of[image_id]] <= 2:
            expected.append(image_id)
    assert capped == expected[:15]


@every_strategy
def test_a_cap_that_leaves_too_few_gives_fewer(strategy):
    candidates = make_candidates()
    chosen = select(candidates, Select(strategy=strategy, query_size=60, max_per_group=1), seed=0)
    assert len(chosen.image_ids) == len(set(candidates.group_ids))


@every_strategy
@every_normalisation
@pytest.mark.parametrize("without_roi", [0.0, 0.9, 1.0])
def test_missing_misalignment_is_ranked_all_the_same(strategy, normalise, without_roi):
    candidates = make_candidates(without_roi=without_roi)
    chosen = select(candidates, Select(strategy=strategy, normalise=normalise, query_size=60), seed=0)
    assert np.isfinite(chosen.utilities).all()
    assert all(chosen.reasons)


@every_strategy
@every_normalisation
def test_one_candidate_is_enough(strategy, normalise):
    for misalignment in (0.4, np.nan):
        one = np.array([0.5])
        candidates = Candidates(["a"], ["p"], one, one, one, np.array([misalignment]))
        chosen = select(candidates, Select(strategy=strategy, normalise=normalise, query_size=1), seed=0)
        assert chosen.image_ids == ["a"]


@every_strategy
def test_candidates_are_not_changed(strategy):
    candidates = make_candidates()
    before = {field.name: list(getattr(candidates, field.name)) for field in fields(candidates)}
    for name in COLUMNS:
        getattr(candidates, name).setflags(write=False)
    chosen = select(candidates, Select(strategy=strategy, query_size=30), seed=0)
    chosen.utilities[:] = -1.0  # the caller's own
    for name, values in before.items():
        np.testing.assert_array_equal(getattr(candidates, name), np.array(values))


@every_strategy
@every_normalisation
def test_reasons_are_short_sentences(strategy, normalise):
    chosen = select(make_candidates(), Select(strategy=strategy, normalise=normalise, query_size=60), seed=0)
    for reason in chosen.reasons:
        assert 0 < len(reason) <= 120
        assert re.search(r"\d?\.\d\d", reason)
        assert "nan" not in reason


@every_strategy
def test_more_than_there_are_is_refused_with_both_numbers(strategy):
    for count in (0, 5):
        with pytest.raises(InputError, match="8 images") as caught:
            select(make_candidates(count), Select(strategy=strategy, query_size=8), seed=0)
        assert f"{count} candidates" in caught.value.what
        assert caught.value.details["next"]


@every_strategy
@pytest.mark.parametrize(
    ("column", "value"), [("entropy", np.nan), ("margin", np.inf), ("misalignment", np.inf)]
)
def test_values_that_are_not_finite_are_refused(strategy, column, value):
    candidates = make_candidates()
    getattr(candidates, column)[4] = value
    with pytest.raises(ValueError, match=column):
        select(candidates, Select(strategy=strategy), seed=0)


@every_strategy
def test_columns_that_do_not_fit_are_refused(strategy):
    candidates = make_candidates()
    for wrong, message in [
        (replace(candidates, image_ids=["a"] * 60), "unique"),
        (replace(candidates, group_ids=["a"]), "group_ids"),
        (replace(candidates, entropy=np.zeros(3)), "entropy"),
    ]:
        with pytest.raises(ValueError, match=message):
            select(wrong, Select(strategy=strategy), seed=0)


@pytest.mark.parametrize("strategy", ["entropy", "margin", "least_confidence"])
def test_uncertainty_strategies_follow_their_column(strategy):
    candidates = make_candidates()
    expected = dict(zip(candidates.image_ids, getattr(candidates, strategy), strict=True))
    assert utilities_by_id(candidates, strategy=strategy) == expected


def test_random_draws_belong_to_the_image_alone():
    candidates = make_candidates()
    draws = utilities_by_id(candidates, strategy="random")
    half = permuted(candidates, np.arange(30))
    assert utilities_by_id(half, strategy="random") == {name: draws[name] for name in half.image_ids}
    other = select(candidates, Select(strategy="random", query_size=20), seed=1)
    assert other.image_ids != select(candidates, Select(strategy="random", query_size=20), seed=2).image_ids


def test_random_draws_are_uniform():
    draws = np.sort(list(utilities_by_id(make_candidates(4000), strategy="random").values()))
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand; the draw is fixed.
    assert np.abs(draws - (np.arange(4000) + 0.5) / 4000).max() < 1.95 / np.sqrt(4000)


def scaled(values, normalise):
    if normalise == "rank":
        return (rankdata(values) - 1) / (len(values) - 1)
    return (values - values.min()) / np.ptp(values) if normalise == "minmax" else values


@every_normalisation
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("uncertainty", ["entropy", "margin", "least_confidence"])
def test_dual_is_the_weighted_sum_where_all_have_an_roi(normalise, weight, uncertainty):
    candidates = make_candidates(without_roi=0.0)
    found = utilities_by_id(
        candidates, strategy="dual", normalise=normalise, weight=weight, uncertainty=uncertainty
    )
    expected = weight * scaled(getattr(candidates, uncertainty), normalise)
    expected += (1 - weight) * scaled(candidates.misalignment, normalise)
    assert [found[image_id] for image_id in candidates.image_ids] == pytest.approx(expected)


@every_normalisation
@pytest.mark.parametrize("strategy", ["dual", "misalignment"])
def test_without_an_roi_the_utility_is_the_score_at_the_same_quantile(normalise, strategy):
    candidates = make_candidates(without_roi=0.4)
    weight = 0.6 if strategy == "dual" else 0.0
    found = utilities_by_id(candidates, strategy=strategy, normalise=normalise, weight=0.6)
    has_roi = np.isfinite(candidates.misalignment)
    uncertainty = scaled(candidates.entropy, normalise)
    scores = weight * uncertainty[has_roi]
    scores += (1 - weight) * scaled(candidates.misalignment[has_roi], normalise)
    expected = np.empty(60)
    expected[has_roi] = scores
    expected[~has_roi] = np.quantile(scores, scaled(candidates.entropy, "rank")[~has_roi])
    assert [found[image_id] for image_id in candidates.image_ids] == pytest.approx(expected)


@every_normalisation
def test_having_no_roi_neither_helps_nor_hurts(normalise):
    candidates = make_candidates(4000, without_roi=0.5, decimals=9)
    settings = Select(strategy="dual", normalise=normalise, query_size=1000)
    chosen = set(select(candidates, settings, seed=0).image_ids)
    without = np.isnan(candidates.misalignment)
    picked = np.array([image_id in chosen for image_id in candidates.image_ids])
    assert picked[without].mean() == pytest.approx(picked[~without].mean(), abs=0.02)


@pytest.mark.parametrize("strategy", ["dual", "misalignment"])
def test_with_no_roi_anywhere_uncertainty_decides(strategy):
    candidates = make_candidates(without_roi=1.0)
    by_margin = select(candidates, Select(strategy="margin", query_size=60), seed=0)
    found = select(candidates, Select(strategy=strategy, uncertainty="margin", query_size=60), seed=0)
    assert found.image_ids == by_margin.image_ids


def test_reasons_say_how_the_utility_came_about():
    candidates = Candidates(
        image_ids=["a", "b", "c"],
        group_ids=["p", "q", "r"],
        entropy=np.array([0.9, 0.5, 0.1]),
        margin=np.array([0.9, 0.5, 0.1]),
        least_confidence=np.array([0.9, 0.5, 0.1]),
        misalignment=np.array([0.25, 0.75, np.nan]),
    )

    def reasons(strategy, normalise="none"):
        settings = Select(strategy=strategy, normalise=normalise, weight=0.4, query_size=3)
        chosen = select(candidates, settings, seed=0)
        return dict(zip(chosen.image_ids, chosen.reasons, strict=True))

    assert reasons("dual")["b"] == "dual .65 = .40 x entropy .50 + .60 x misalignment .75"
    assert reasons("dual", "rank")["b"] == "dual .80 = .40 x entropy rank .50 + .60 x misalignment rank 1.00"
    assert reasons("dual")["c"] == "no ROI: ranked by entropy alone (entropy .10)"
    assert reasons("misalignment")["a"] == "misalignment .25"
    assert reasons("least_confidence")["a"] == "least confidence .90"
    assert reasons("random")["a"].startswith("random draw .")
