"""What every query strategy keeps to, and then what each one means."""

import re
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.stats import rankdata

from xal_ray.acquire.strategies import select, uncertainty_column
from xal_ray.acquire.streaming import Candidates
from xal_ray.config import Select
from xal_ray.errors import InputError
from xal_ray.record.layout import selection_table
from xal_ray.registry.lookup import Broken
from xal_ray.registry.strategies import ROI_COLUMNS, STRATEGIES, UNCERTAINTY

NORMALISATIONS = ("none", "minmax", "rank")
INSTALLED = [spec for spec in STRATEGIES.installed() if not isinstance(spec, Broken)]
BY_ROW = [spec.name for spec in [*STRATEGIES, *INSTALLED] if spec.kind != "batch"]
UNCERTAINTIES = [spec.name for spec in STRATEGIES if spec.is_uncertainty]
every_strategy = pytest.mark.parametrize("strategy", BY_ROW)
every_normalisation = pytest.mark.parametrize("normalise", NORMALISATIONS)
COLUMNS = (*UNCERTAINTIES, *ROI_COLUMNS)


@dataclass(frozen=True)
class Table:
    """A whole score table, in memory."""

    image_ids: list
    group_ids: list
    columns: dict

    def select(self, *, seed=0, num_runners_up=0, **settings):
        chunk = Candidates.of(self.image_ids, self.columns)
        group_of = dict(zip(self.image_ids, self.group_ids, strict=True))
        return select(
            lambda: iter([chunk]),
            Select(**settings),
            seed=seed,
            groups=lambda names: [group_of[name] for name in names],
            num_runners_up=num_runners_up,
        )

    def permuted(self, order):
        return Table(
            [self.image_ids[row] for row in order],
            [self.group_ids[row] for row in order],
            {name: column[order] for name, column in self.columns.items()},
        )

    def utilities_by_id(self, **settings):
        chosen = self.select(query_size=len(self.image_ids), **settings)
        return dict(zip(chosen.image_ids, chosen.utilities, strict=True))


def make_table(count=60, seed=0, *, without_roi=0.3, decimals=1):
    """Few decimals, so that there are ties in every column."""
    rng = np.random.default_rng(seed)
    columns = {name: rng.random(count).round(decimals) for name in COLUMNS}
    missing = rng.random(count) < without_roi
    for name in ROI_COLUMNS:
        columns[name][missing] = np.nan
    image_ids = [f"image-{number:03d}" for number in rng.permutation(count)]
    return Table(image_ids, [f"patient-{number}" for number in rng.integers(12, size=count)], columns)


@every_strategy
@every_normalisation
@pytest.mark.parametrize("query_size", [1, 20, 60])
def test_selection_is_a_unique_subset_of_the_asked_size_in_order(strategy, normalise, query_size):
    table = make_table()
    chosen = table.select(seed=3, strategy=strategy, normalise=normalise, query_size=query_size)
    assert len(chosen.image_ids) == len(chosen.utilities) == len(chosen.reasons) == query_size
    assert len(set(chosen.image_ids)) == query_size
    assert set(chosen.image_ids) <= set(table.image_ids)
    assert np.isfinite(chosen.utilities).all()
    assert chosen.utilities.dtype == np.float64
    assert (np.diff(chosen.utilities) <= 0.0).all()


@every_strategy
@every_normalisation
def test_the_order_of_rows_does_not_matter(strategy, normalise):
    table = make_table()
    settings = {"strategy": strategy, "normalise": normalise, "query_size": 25, "max_per_group": 3}
    expected = table.select(seed=5, **settings)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(60)
        chosen = table.permuted(order).select(seed=5, **settings)
        assert chosen.image_ids == expected.image_ids
        assert chosen.reasons == expected.reasons
        np.testing.assert_array_equal(chosen.utilities, expected.utilities)


@every_strategy
def test_the_best_ones_are_chosen(strategy):
    table = make_table()
    everything = table.select(seed=2, strategy=strategy, query_size=60)
    first = table.select(seed=2, strategy=strategy, query_size=7)
    assert first.image_ids == everything.image_ids[:7]


@pytest.mark.parametrize("strategy", [name for name in BY_ROW if STRATEGIES[name].columns])
@every_normalisation
def test_among_ties_no_patient_comes_first(strategy, normalise):
    """All values are equal, and ids begin with the patient: 40 patients of 10 images."""
    ids = [f"patient-{patient:02d}/slice-{number}" for patient in range(40) for number in range(10)]
    table = Table(ids, [name[:10] for name in ids], dict.fromkeys(COLUMNS, np.full(400, 0.5)))
    settings = {"strategy": strategy, "normalise": normalise, "query_size": 40, "num_runners_up": 40}
    chosen = table.select(seed=1, **settings)
    for names in (chosen.image_ids, chosen.runners_up):
        assert len({name[:10] for name in names}) >= 20  # by id they were four
    assert table.select(seed=1, **settings).image_ids == chosen.image_ids
    assert len(set(table.select(seed=2, **settings).image_ids) & set(chosen.image_ids)) < 15


@pytest.mark.parametrize("strategy", [spec.name for spec in STRATEGIES if spec.needs_roi])
@every_normalisation
def test_ties_go_by_uncertainty_first(strategy, normalise):
    table = make_table(200, without_roi=0.95, decimals=9)
    without = np.isnan(table.columns["misalignment"])
    entropy = {
        name: value
        for name, value, lacks in zip(table.image_ids, table.columns["entropy"], without, strict=True)
        if lacks
    }
    chosen = table.select(strategy=strategy, normalise=normalise, query_size=200)
    levels = [
        [
            entropy[name]
            for name, utility in zip(chosen.image_ids, chosen.utilities, strict=True)
            if utility == u and name in entropy
        ]
        for u in np.unique(chosen.utilities)
    ]
    assert max(map(len, levels)) > 5
    assert all(level == sorted(level, reverse=True) for level in levels)


@every_strategy
def test_the_cap_per_group_is_kept_and_passes_over_the_least_possible(strategy):
    table = make_table()
    group_of = dict(zip(table.image_ids, table.group_ids, strict=True))
    ranked = table.select(seed=1, strategy=strategy, query_size=60).image_ids
    capped = table.select(seed=1, strategy=strategy, query_size=15, max_per_group=2).image_ids
    expected, taken = [], Counter()
    for image_id in ranked:
        taken[group_of[image_id]] += 1
        if taken[group_of[image_id]] <= 2:
            expected.append(image_id)
    assert capped == expected[:15]


@every_strategy
def test_a_cap_that_leaves_too_few_gives_fewer(strategy):
    table = make_table()
    chosen = table.select(strategy=strategy, query_size=60, max_per_group=1)
    assert len(chosen.image_ids) == len(set(table.group_ids))


@every_strategy
@pytest.mark.parametrize("cap", [0, 1])
@pytest.mark.parametrize("num_runners_up", [0, 8, 100])
def test_runners_up_are_the_next_in_order_and_those_passed_over(strategy, cap, num_runners_up):
    table = make_table()
    ranked = table.select(strategy=strategy, query_size=60).image_ids
    chosen = table.select(strategy=strategy, query_size=10, max_per_group=cap, num_runners_up=num_runners_up)
    others = [image_id for image_id in ranked if image_id not in chosen.image_ids]
    assert chosen.runners_up == others[:num_runners_up]
    assert table.select(strategy=strategy, query_size=10, max_per_group=cap).image_ids == chosen.image_ids


@every_strategy
@every_normalisation
@pytest.mark.parametrize("without_roi", [0.0, 0.9, 1.0])
def test_missing_misalignment_is_ranked_all_the_same(strategy, normalise, without_roi):
    table = make_table(without_roi=without_roi)
    chosen = table.select(strategy=strategy, normalise=normalise, query_size=60)
    assert np.isfinite(chosen.utilities).all()
    assert all(chosen.reasons)


@every_strategy
@every_normalisation
def test_one_candidate_is_enough(strategy, normalise):
    for value in (0.4, np.nan):
        columns = dict.fromkeys(COLUMNS, np.array([0.5])) | dict.fromkeys(ROI_COLUMNS, np.array([value]))
        chosen = Table(["a"], ["p"], columns).select(strategy=strategy, normalise=normalise, query_size=1)
        assert chosen.image_ids == ["a"]


@every_strategy
def test_candidates_are_not_changed(strategy):
    table = make_table()
    before = {name: column.copy() for name, column in table.columns.items()}
    for column in table.columns.values():
        column.setflags(write=False)
    chosen = table.select(strategy=strategy, query_size=30)
    chosen.utilities[:] = -1.0  # the caller's own
    for name, values in before.items():
        np.testing.assert_array_equal(table.columns[name], values)


@every_strategy
@every_normalisation
def test_reasons_are_short_sentences(strategy, normalise):
    chosen = make_table().select(strategy=strategy, normalise=normalise, query_size=60)
    for reason in chosen.reasons:
        assert 0 < len(reason) <= 120
        assert re.search(r"\d?\.\d\d", reason)
        assert "nan" not in reason


@every_strategy
@pytest.mark.parametrize("cap", [0, 1])
def test_more_than_there_are_is_refused_with_both_numbers(strategy, cap):
    for count in (0, 5):
        with pytest.raises(InputError, match="8 images") as caught:
            make_table(count).select(strategy=strategy, query_size=8, max_per_group=cap)
        assert f"{count} candidates" in caught.value.what
        assert caught.value.details["next"]


@every_strategy
@pytest.mark.parametrize("uncertainty", ["entropy", "bald"])
def test_a_strategy_reads_its_columns_and_no_others(strategy, uncertainty):
    table = make_table()
    asked = {"strategy": strategy, "uncertainty": uncertainty, "query_size": 30}
    needed = Select(**asked).columns
    alone = replace(table, columns={name: table.columns[name] for name in needed})
    others = {name: np.full(60, np.nan) for name in COLUMNS if name not in needed}
    spoilt = replace(table, columns=alone.columns | others)
    chosen = table.select(**asked)
    assert alone.select(**asked).reasons == spoilt.select(**asked).reasons == chosen.reasons
    for name in needed:
        lacking = replace(table, columns={other: table.columns[other] for other in needed if other != name})
        with pytest.raises(ValueError, match=f"no column {name}"):
            lacking.select(**asked)


@every_strategy
def test_a_pick_is_recorded_with_what_it_was_ranked_by_and_nothing_else(strategy):
    table = make_table()
    asked = {"strategy": strategy, "uncertainty": "bald", "query_size": 30}
    chosen = table.select(**asked)
    recorded = selection_table(chosen).to_pylist()
    places = [table.image_ids.index(name) for name in chosen.image_ids]
    said = ["bald" if name == UNCERTAINTY else name for name in STRATEGIES[strategy].columns]
    by = next((name for name in said if name not in ROI_COLUMNS), None)
    expected = {"uncertainty": by} | {name: name if name in said else None for name in ROI_COLUMNS}
    for name, source in expected.items():
        values = [None if source is None else table.columns[source][place] for place in places]
        assert [row[name] for row in recorded] == [None if v is None or np.isnan(v) else v for v in values]
    assert uncertainty_column(Select(**asked)) == by


@pytest.mark.parametrize(
    ("strategy", "column", "value"),
    [
        ("entropy", "entropy", np.nan),
        ("bald", "bald", np.nan),  # as score.mc_samples=0 leaves it
        ("margin", "margin", np.inf),
        ("dual", "entropy", np.nan),
        ("dual", "misalignment", np.inf),
        ("misalignment", "misalignment", -np.inf),
    ],
)
def test_values_that_are_not_finite_are_refused(strategy, column, value):
    table = make_table()
    table.columns[column][4] = value
    with pytest.raises(ValueError, match=f"{column} is not finite"):
        table.select(strategy=strategy)


@every_strategy
def test_columns_that_do_not_fit_are_refused(strategy):
    table = make_table()
    for wrong, message in [
        (replace(table, image_ids=["a"] * 60), "unique"),
        (replace(table, columns=table.columns | {"entropy": np.zeros(3)}), "entropy"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong.select(strategy=strategy)


@every_strategy
def test_a_cap_needs_one_group_for_each_id(strategy):
    chunk = Candidates.of(["a", "b"], dict.fromkeys(COLUMNS, np.array([0.1, 0.2])))
    settings = Select(strategy=strategy, query_size=1, max_per_group=1)
    with pytest.raises(ValueError, match="needs the groups"):
        select(lambda: iter([chunk]), settings, seed=0)
    with pytest.raises(ValueError, match="zip"):
        select(lambda: iter([chunk]), settings, seed=0, groups=lambda names: names[1:])


@pytest.mark.parametrize("strategy", UNCERTAINTIES)
def test_uncertainty_strategies_follow_their_column(strategy):
    table = make_table()
    expected = dict(zip(table.image_ids, table.columns[strategy], strict=True))
    assert table.utilities_by_id(strategy=strategy) == expected


def test_random_draws_belong_to_the_image_alone():
    table = make_table()
    draws = table.utilities_by_id(strategy="random")
    half = table.permuted(np.arange(30))
    assert half.utilities_by_id(strategy="random") == {name: draws[name] for name in half.image_ids}
    one, other = (table.select(seed=seed, strategy="random", query_size=20) for seed in (1, 2))
    assert one.image_ids != other.image_ids


def test_random_draws_are_uniform():
    draws = np.sort(list(make_table(4000).utilities_by_id(strategy="random").values()))
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand; the draw is fixed.
    assert np.abs(draws - (np.arange(4000) + 0.5) / 4000).max() < 1.95 / np.sqrt(4000)


def scaled(values, normalise):
    if normalise == "rank":
        return (rankdata(values) - 1) / (len(values) - 1)
    return (values - values.min()) / np.ptp(values) if normalise == "minmax" else values


@every_normalisation
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("uncertainty", UNCERTAINTIES)
def test_dual_is_the_weighted_sum_where_all_have_an_roi(normalise, weight, uncertainty):
    table = make_table(without_roi=0.0)
    found = table.utilities_by_id(
        strategy="dual", normalise=normalise, weight=weight, uncertainty=uncertainty
    )
    expected = weight * scaled(table.columns[uncertainty], normalise)
    expected += (1 - weight) * scaled(table.columns["misalignment"], normalise)
    assert [found[image_id] for image_id in table.image_ids] == pytest.approx(expected)


def test_controls_are_dual_with_another_column():
    table = make_table(without_roi=0.3)
    others = {"misalignment": table.columns["shuffled_misalignment"]}
    twin = replace(table, columns=table.columns | others)
    for settings in ({"weight": 0.3}, {"weight": 0.8, "normalise": "none", "uncertainty": "margin"}):
        found = table.utilities_by_id(strategy="shuffled_roi", **settings)
        assert found == twin.utilities_by_id(strategy="dual", **settings)
        assert found != table.utilities_by_id(strategy="dual", **settings)
    assert table.select(strategy="shuffled_roi", query_size=60).reasons[0].startswith("shuffled_roi .")


def test_the_smallest_roi_comes_first():
    table = make_table(without_roi=0.0, decimals=9)
    chosen = table.select(strategy="smallest_roi", query_size=60).image_ids
    areas = dict(zip(table.image_ids, table.columns["roi_area"], strict=True))
    assert chosen == sorted(areas, key=areas.__getitem__)


@pytest.mark.parametrize("without_roi", [0.5, 0.95])
def test_what_has_no_roi_has_no_smallest_one(without_roi):
    table = make_table(200, without_roi=without_roi, decimals=9)
    chosen = table.select(strategy="smallest_roi", query_size=200)
    area, entropy = (
        dict(zip(table.image_ids, table.columns[name], strict=True)) for name in ("roi_area", "entropy")
    )
    has_roi = [not np.isnan(area[name]) for name in chosen.image_ids]
    num_with = sum(has_roi)
    assert 0 < num_with < 200
    assert has_roi == [True] * num_with + [False] * (200 - num_with)
    after = [entropy[name] for name in chosen.image_ids[num_with:]]
    assert after == sorted(after, reverse=True)
    assert chosen.reasons[num_with].startswith("no ROI: ranked by entropy alone")


@every_normalisation
@pytest.mark.parametrize("strategy", ["dual", "misalignment"])
def test_without_an_roi_the_utility_is_the_score_at_the_same_quantile(normalise, strategy):
    table = make_table(without_roi=0.4)
    weight = 0.6 if strategy == "dual" else 0.0
    found = table.utilities_by_id(strategy=strategy, normalise=normalise, weight=0.6)
    entropy, misalignment = table.columns["entropy"], table.columns["misalignment"]
    has_roi = np.isfinite(misalignment)
    scores = weight * scaled(entropy[has_roi], normalise)
    scores += (1 - weight) * scaled(misalignment[has_roi], normalise)
    expected = np.empty(60)
    expected[has_roi] = scores
    expected[~has_roi] = np.quantile(scores, [place_among(entropy[has_roi], u) for u in entropy[~has_roi]])
    assert [found[image_id] for image_id in table.image_ids] == pytest.approx(expected)


def place_among(values, value):
    """The rank from 0 to 1, halfway where the value is between two."""
    rank = ((values < value).sum() + (values <= value).sum() - 1) / 2
    return np.clip(rank / (len(values) - 1), 0, 1)


def correlated_table(count=600, *, coverage, seed, roi_is_uncertain=True, decimals=9):
    """Images with an ROI are the more uncertain ones, or the less."""
    table = make_table(count, seed, without_roi=0.0, decimals=9)
    rng = np.random.default_rng(seed)
    has_roi = np.zeros(count, dtype=bool)
    has_roi[rng.permutation(count)[: round(coverage * count)]] = True
    sharper = has_roi if roi_is_uncertain else ~has_roi
    for name in UNCERTAINTIES:
        values = np.where(sharper, rng.beta(5, 2, count), rng.beta(2, 5, count))
        table.columns[name] = values.astype(np.float32).astype(np.float64).round(decimals)
    for name in ROI_COLUMNS:
        table.columns[name][~has_roi] = np.nan
    return table


COVERAGES = (0.0, 0.002, 0.01, 0.1, 0.5, 0.9, 0.998, 1.0)  # of 600: none, one, six, ...


@every_normalisation
@pytest.mark.parametrize("coverage", COVERAGES)
@pytest.mark.parametrize("roi_is_uncertain", [True, False])
def test_weight_one_is_uncertainty_to_the_id(normalise, coverage, roi_is_uncertain):
    for seed, decimals in ((0, 9), (1, 1)):
        table = correlated_table(
            coverage=coverage, seed=seed, roi_is_uncertain=roi_is_uncertain, decimals=decimals
        )
        for uncertainty in ("entropy", "bald"):
            expected = table.select(strategy=uncertainty, query_size=600, seed=7).image_ids
            for strategy in ("dual", "shuffled_roi"):
                found = table.select(
                    strategy=strategy,
                    uncertainty=uncertainty,
                    weight=1.0,
                    normalise=normalise,
                    query_size=600,
                    seed=7,
                )
                assert found.image_ids == expected


@every_normalisation
@pytest.mark.parametrize("coverage", COVERAGES)
def test_weight_zero_is_misalignment_to_the_id(normalise, coverage):
    table = correlated_table(coverage=coverage, seed=3)
    asked = {"normalise": normalise, "query_size": 600, "seed": 7}
    by_roi = table.select(strategy="misalignment", **asked)
    found = table.select(strategy="dual", weight=0.0, **asked)
    assert found.image_ids == by_roi.image_ids
    np.testing.assert_array_equal(found.utilities, by_roi.utilities)


@every_normalisation
@pytest.mark.parametrize("strategy", [spec.name for spec in STRATEGIES if spec.needs_roi])
def test_images_without_an_roi_change_nothing_among_those_with_one(normalise, strategy):
    """U and M are measured in one population, so that a weight means the same whatever the coverage."""
    table = correlated_table(coverage=0.1, seed=4)
    alone = table.permuted(np.flatnonzero(np.isfinite(table.columns["misalignment"])))
    found = table.utilities_by_id(strategy=strategy, normalise=normalise, weight=0.3)
    expected = alone.utilities_by_id(strategy=strategy, normalise=normalise, weight=0.3)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("strategy", ["dual", "shuffled_roi", "misalignment"])
@every_normalisation
def test_a_single_roi_leaves_the_order_to_uncertainty(strategy, normalise):
    table = correlated_table(coverage=1 / 600, seed=5)
    expected = table.select(strategy="entropy", query_size=600, seed=7).image_ids
    found = table.select(strategy=strategy, normalise=normalise, query_size=600, seed=7)
    assert found.image_ids == expected


@every_normalisation
def test_having_no_roi_neither_helps_nor_hurts(normalise):
    """The same uncertainties on both sides: as many picks."""
    table = make_table(4000, without_roi=0.0, decimals=9)
    table.columns["entropy"][2000:] = table.columns["entropy"][:2000]
    without = np.arange(4000) >= 2000
    for name in ROI_COLUMNS:
        table.columns[name][without] = np.nan
    chosen = set(table.select(strategy="dual", normalise=normalise, query_size=1000).image_ids)
    picked = np.array([image_id in chosen for image_id in table.image_ids])
    assert picked[without].mean() == pytest.approx(picked[~without].mean(), abs=0.02)


@every_normalisation
@pytest.mark.parametrize("coverage", [0.1, 0.5])
def test_the_less_uncertain_side_is_picked_less(normalise, coverage):
    """Placed among all rows, as many images without an ROI would be picked as with one."""
    table = correlated_table(6000, coverage=coverage, seed=6)
    chosen = set(table.select(strategy="dual", normalise=normalise, query_size=600).image_ids)
    picked = np.array([image_id in chosen for image_id in table.image_ids])
    entropy, has_roi = table.columns["entropy"], np.isfinite(table.columns["misalignment"])
    level = np.quantile(entropy[has_roi], 1 - picked[has_roi].mean())
    expected = (entropy[~has_roi] >= level).mean()
    assert picked[~has_roi].mean() == pytest.approx(expected, abs=0.002)
    assert picked[~has_roi].mean() < 0.1 * picked[has_roi].mean()


@pytest.mark.parametrize("strategy", ["dual", "misalignment"])
def test_with_no_roi_anywhere_uncertainty_decides(strategy):
    table = make_table(without_roi=1.0)
    by_margin = table.select(strategy="margin", query_size=60)
    found = table.select(strategy=strategy, uncertainty="margin", query_size=60)
    assert found.image_ids == by_margin.image_ids
    np.testing.assert_array_equal(found.utilities, by_margin.utilities)


def test_reasons_say_how_the_utility_came_about():
    columns = {name: np.array([0.9, 0.5, 0.1]) for name in COLUMNS}
    columns["misalignment"] = np.array([0.25, 0.75, np.nan])
    table = Table(["a", "b", "c"], ["p", "q", "r"], columns)

    def reasons(strategy, normalise="none"):
        chosen = table.select(strategy=strategy, normalise=normalise, weight=0.4, query_size=3)
        return dict(zip(chosen.image_ids, chosen.reasons, strict=True))

    assert reasons("dual")["b"] == "dual .65 = .40 x entropy .50 + .60 x misalignment .75"
    assert reasons("dual", "rank")["b"] == "dual .60 = .40 x entropy rank .00 + .60 x misalignment rank 1.00"
    assert reasons("dual")["c"] == "no ROI: ranked by entropy alone (entropy .10)"
    assert reasons("misalignment")["a"] == "misalignment .25"
    assert reasons("least_confidence")["a"] == "least confidence .90"
    assert reasons("bald")["a"] == "bald .90"
    assert reasons("random")["a"].startswith("random draw .")
