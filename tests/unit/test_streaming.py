import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xal_ray.acquire import distribution, rankers, strategies, streaming
from xal_ray.acquire.distribution import Distribution, Range
from xal_ray.acquire.strategies import select
from xal_ray.acquire.streaming import Candidates, TopRows
from xal_ray.config import Select


def ranks(values):
    """Mean ranks from 0 to 1."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[inverse] / (len(values) - 1)


def distribution_of(values, *, exact_limit, chunk=1000):
    learnt = Distribution(exact_limit)
    for start in range(0, len(values), chunk):
        learnt.add(values[start : start + chunk])
    return learnt


def skewed(count, seed=0):
    """float32 values that crowd at both ends, some of them exactly there, and some far from any other."""
    rng = np.random.default_rng(seed)
    values = rng.beta(0.2, 0.2, count)
    values[: count // 10] = 10.0 ** rng.uniform(-30, 0, count // 10)
    values[count // 10 : count // 8] = rng.choice([0.0, 1.0, 0.5, 0.25], count // 8 - count // 10)
    return rng.permutation(values).astype(np.float32).astype(np.float64)


class TestDistribution:
    def test_up_to_the_limit_ranks_and_quantiles_are_exact(self):
        values = skewed(5000).round(3)
        learnt = distribution_of(values, exact_limit=5000)
        np.testing.assert_array_equal(learnt.scaled(values), ranks(values))
        places = np.linspace(0.0, 1.0, 777)
        expected = np.interp(places, np.linspace(0.0, 1.0, 5000), np.sort(values))
        np.testing.assert_array_equal(learnt.quantiles(places), expected)

    @pytest.mark.parametrize("seed", range(3))
    def test_beyond_the_limit_a_rank_is_off_by_less_than_its_bin_holds(self, seed):
        values = skewed(50_000, seed)
        found = distribution_of(values, exact_limit=100).scaled(values)
        bins = distribution._bins_of(values.astype(np.float32))
        _, inverse, counts = np.unique(bins, return_inverse=True, return_counts=True)
        errors = np.abs(found - ranks(values)) * (len(values) - 1)
        assert errors.max() > 0.0  # it is a histogram
        assert (errors <= (counts[inverse] - 1) + 1e-6).all()
        assert np.median(errors) < 1.0
        assert errors[(values == 0.0) | (values == 1.0)].max() == 0.0
        order = np.argsort(values)
        assert (np.diff(found[order]) >= 0.0).all()
        assert 0.0 <= found.min() <= found.max() <= 1.0

    @pytest.mark.parametrize("seed", range(3))
    def test_beyond_the_limit_a_quantile_is_off_by_less_than_a_bin_is_wide(self, seed):
        values = skewed(50_000, seed)
        places = np.random.default_rng(seed).random(5000)
        found = distribution_of(values, exact_limit=100).quantiles(places)
        exact = np.quantile(values, places)
        rounding = 2.0**-24
        assert (np.abs(found - exact) <= np.minimum(exact, 1 - exact) / 4096 + rounding).all()

    def test_bins_are_as_narrow_as_promised(self):
        edges = np.geomspace(2.0**-40, 0.5, 20_000)
        numbers = np.unique(np.concatenate([edges, 1 - edges]).astype(np.float32))
        numbers = np.unique(np.concatenate([np.nextafter(numbers, np.float32(0)), numbers]))
        bins = distribution._bins_of(numbers)
        assert (np.diff(bins) >= 0).all()
        first = np.flatnonzero(np.diff(bins, prepend=-1))
        widths = np.maximum.reduceat(numbers.astype(float), first) - numbers[first]
        nearer = np.minimum.reduceat(np.minimum(numbers, 1 - numbers).astype(float), first)
        assert widths.max() > 0.0
        assert (widths <= nearer / 4096).all()

    def test_near_one_and_on_a_grid_ranks_stay_exact_beyond_the_limit(self):
        rng = np.random.default_rng(0)
        near_one = 1.0 - rng.integers(0, 2**13, 20_000) * 2.0**-24  # every float32 in there
        on_a_grid = rng.random(20_000).round(3).astype(np.float32).astype(np.float64)
        for values in (near_one, on_a_grid):
            found = distribution_of(values, exact_limit=10).scaled(values)
            np.testing.assert_allclose(found, ranks(values), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("exact_limit", [100, 1 << 20])
    def test_neither_order_nor_chunks_matter(self, exact_limit):
        values = skewed(20_000)
        places = np.linspace(0.0, 1.0, 333)
        first = distribution_of(values, exact_limit=exact_limit, chunk=20_000)
        for seed, chunk in ((1, 7), (2, 1024), (3, 19_999)):
            moved = np.random.default_rng(seed).permutation(values)
            other = distribution_of(moved, exact_limit=exact_limit, chunk=chunk)
            np.testing.assert_array_equal(other.scaled(values), first.scaled(values))
            np.testing.assert_array_equal(other.quantiles(places), first.quantiles(places))

    @pytest.mark.parametrize("exact_limit", [1 << 20, 100])
    def test_values_that_were_not_added_stand_between_their_neighbours(self, exact_limit):
        rng = np.random.default_rng(4)
        values = skewed(4000)
        others = np.concatenate([values, skewed(4000, 9), rng.random(4000), [0.0, 1.0, -1.0, 2.0]])
        learnt = distribution_of(values, exact_limit=exact_limit)
        order = np.argsort(others, kind="stable")
        found = learnt.scaled(others)
        assert (np.diff(found[order]) >= 0.0).all()
        assert 0.0 <= found.min() <= found.max() <= 1.0
        np.testing.assert_array_equal(found[:4000], learnt.scaled(values))
        if exact_limit > 4000:
            below = np.searchsorted(np.sort(values), others[4000:])
            after = np.searchsorted(np.sort(values), others[4000:], "right")
            expected = np.clip((below + after - 1) / 2 / 3999, 0, 1)
            np.testing.assert_allclose(found[4000:], expected)

    def test_fewer_than_two_values_stand_in_the_middle(self):
        assert Distribution().scaled(np.empty(0)).shape == (0,)
        assert distribution_of(np.array([0.2]), exact_limit=5).scaled(np.array([0.2])) == [0.5]

    def test_equal_values_share_the_middle_on_both_sides_of_the_limit(self):
        for exact_limit in (3, 30):
            learnt = distribution_of(np.full(9, 0.3), exact_limit=exact_limit)
            np.testing.assert_array_equal(learnt.scaled(np.full(9, 0.3)), 0.5)
            np.testing.assert_allclose(learnt.quantiles(np.array([0.0, 0.4, 1.0])), 0.3, rtol=1e-7)


def test_a_range_is_learnt_over_all_chunks():
    scale = Range()
    for chunk in ([0.5, 0.75], [], [0.25], [0.5]):
        scale.add(np.array(chunk))
    np.testing.assert_array_equal(scale.scaled(np.array([0.25, 0.5, 0.75])), [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(scale.scaled(np.array([0.1, 0.9])), [0.0, 1.0])
    equal = Range()
    equal.add(np.array([0.3, 0.3]))
    np.testing.assert_array_equal(equal.scaled(np.array([0.3])), [0.0])


@st.composite
def rows_in_chunks(draw):
    """(utility, id) pairs with many ties, cut into chunks."""
    ids = draw(st.lists(st.text("abc", max_size=5), min_size=1, max_size=60, unique=True))
    rows = [(draw(st.integers(0, 3)) / 4, image_id) for image_id in ids]
    cuts = draw(st.lists(st.integers(0, len(rows)), max_size=8).map(sorted))
    return [rows[start:end] for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True)]


SEED = 17


def tie(image_id):
    """What decides between two rows that are equal otherwise."""
    return hashlib.sha256(f"tie\x1f{SEED}\x1f{image_id}".encode()).digest()


def in_order(row):
    utility, image_id = row
    return -utility, tie(image_id)


def best_of(chunks, top):
    for chunk in chunks:
        utilities = np.array([utility for utility, _ in chunk])
        top.add(Candidates.of([image_id for _, image_id in chunk], {"entropy": utilities / 2}), utilities)
    kept = top.best()
    return list(zip(kept.columns.get("entropy", np.empty(0)) * 2, kept.image_ids, strict=True))


class TestTopRows:
    @settings(deadline=None, max_examples=80)
    @given(rows_in_chunks(), st.integers(1, 20))
    def test_the_cut_is_exact_among_ties(self, chunks, limit):
        ordered = sorted((row for chunk in chunks for row in chunk), key=in_order)
        top = TopRows(limit, seed=SEED)
        assert best_of(chunks, top) == ordered[:limit]
        assert top.num_seen == len(ordered)

    @settings(deadline=None, max_examples=80)
    @given(rows_in_chunks(), st.integers(1, 20), st.integers(1, 3), st.integers(1, 4))
    def test_with_a_cap_it_is_the_walk_that_passes_over_full_groups(self, chunks, limit, cap, num_groups):
        def group_of(image_id):
            return str(sum(map(ord, image_id)) % num_groups)

        ordered = sorted((row for chunk in chunks for row in chunk), key=in_order)
        expected: list = []
        for utility, image_id in ordered:
            taken = [group_of(other) for _, other in expected].count(group_of(image_id))
            if taken < cap and len(expected) < limit:
                expected.append((utility, image_id))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(streaming, "GROUPED_BUFFER", 0)  # so that there is more than one look-up
            top = TopRows(limit, seed=SEED, cap=cap, groups=lambda names: [group_of(name) for name in names])
        assert best_of(chunks, top) == expected

    def test_ids_are_loaded_only_where_a_row_may_be_among_the_best(self):
        rng = np.random.default_rng(0)
        loads = []

        def chunk_of(number, utilities):
            def load():
                loads.append(number)
                return [f"{number:03d}-{row:03d}" for row in range(100)]

            return Candidates(100, {"entropy": utilities}, load)

        top = TopRows(10)
        for number in range(200):
            utilities = rng.random(100) * 0.5
            if number in (120, 150):
                utilities[7] = 0.9  # one of the best
            top.add(chunk_of(number, utilities), utilities)
        assert {120, 150} <= set(loads)
        assert len(loads) == len(set(loads)) < 60
        assert set(top.best().image_ids[:2]) == {"120-007", "150-007"}

    def test_hashes_decide_between_rows_at_the_last_utility(self):
        top = TopRows(2, seed=SEED)
        for names in (["m", "n", "o", "p"], ["z", "k"], ["a", "q"]):
            top.add(Candidates.of(names, {}), np.full(len(names), 0.5))
        assert top.best().image_ids == sorted("mnopzkaq", key=tie)[:2]

    @settings(deadline=None, max_examples=80)
    @given(rows_in_chunks(), st.integers(1, 20), st.data())
    def test_a_second_utility_decides_before_the_hash(self, chunks, limit, data):
        second = {image_id: data.draw(st.integers(0, 2)) / 2 for chunk in chunks for _, image_id in chunk}
        top = TopRows(limit, seed=SEED)
        for chunk in chunks:
            names = [image_id for _, image_id in chunk]
            utilities = np.array([utility for utility, _ in chunk])
            top.add(Candidates.of(names, {}), utilities, np.array([second[name] for name in names]))
        rows = [(-u, -second[name], tie(name), name) for chunk in chunks for u, name in chunk]
        assert top.best().image_ids == [name for *_, name in sorted(rows)][:limit]

    def test_many_rows_of_one_utility_load_few_ids(self):
        rng, loads = np.random.default_rng(1), []
        top = TopRows(10, seed=SEED)
        for number in range(200):
            second = rng.random(100)

            def load(number=number):
                loads.append(number)
                return [f"{number:03d}-{row:03d}" for row in range(100)]

            top.add(Candidates(100, {}, load), np.ones(100), second)
        assert len(loads) < 60

    def test_repeated_ids_are_refused(self):
        top = TopRows(3)
        for _ in range(2):
            top.add(Candidates.of(["a", "b"], {}), np.array([0.5, 0.4]))
        with pytest.raises(ValueError, match="unique"):
            top.best()

    def test_what_is_held_stays_small(self):
        top, held = TopRows(10), []
        for number in range(300):
            utilities = (
                np.linspace(number, number + 1, 50, endpoint=False) / 300
            )  # each better than all before
            top.add(
                Candidates.of([f"{number}-{row}" for row in range(50)], {"entropy": utilities}), utilities
            )
            held.append(top._num_held)
        assert max(held) <= 2 * 10


def table_of(count, seed):
    """A replay in chunks of 50 rows, and where it counts its passes."""
    rng = np.random.default_rng(seed)
    utilities, passes = rng.random(count), []
    ids = [f"{number:05d}" for number in rng.permutation(count)]

    def replay():
        passes.append(0)
        for start in range(0, count, 50):
            rows = slice(start, start + 50)
            yield Candidates.of(ids[rows], {"entropy": utilities[rows]})

    return replay, ids, utilities, passes


class TestCap:
    @pytest.fixture(autouse=True)
    def _few_rows_kept(self, monkeypatch):
        monkeypatch.setattr(strategies, "LEAST_ROWS", 100)
        monkeypatch.setattr(strategies, "SPARE_ROWS", 2)
        monkeypatch.setattr(streaming, "GROUPED_BUFFER", 100)

    def test_one_group_that_holds_nearly_all_best_rows_costs_one_more_pass(self):
        replay, ids, utilities, passes = table_of(5000, seed=1)
        order = np.argsort(-utilities)
        big = {ids[row] for row in order[:3000]} - {ids[order[40]], ids[order[2000]]}
        asked_for = []

        def groups(names):
            asked_for.append(len(names))
            return ["big" if name in big else name for name in names]

        settings_ = Select(strategy="entropy", query_size=20, max_per_group=3)
        chosen = select(replay, settings_, seed=0, groups=groups, num_runners_up=60)
        expected = [ids[row] for row in [*order[:3], order[40], order[2000], *order[3000:3015]]]
        assert chosen.image_ids == expected
        assert chosen.runners_up == [ids[row] for row in [*order[3:40], *order[41:64]]]
        assert len(passes) == 2
        assert max(asked_for) <= 100 + 50  # never the whole group

    def test_rows_to_spare_save_the_second_pass(self):
        replay, ids, utilities, passes = table_of(5000, seed=2)
        order = np.argsort(-utilities)
        big = {ids[row] for row in order[:60]}
        calls = []

        def groups(names):
            calls.append(names)
            return ["big" if name in big else name for name in names]

        settings_ = Select(strategy="entropy", query_size=20, max_per_group=1)
        chosen = select(replay, settings_, seed=0, groups=groups)
        assert chosen.image_ids == [ids[row] for row in [order[0], *order[60:79]]]
        assert len(passes) == len(calls) == 1

    def test_groups_that_give_fewer_than_asked_are_found_within_bounds(self):
        replay, ids, utilities, passes = table_of(5000, seed=3)
        asked_for = []

        def groups(names):
            asked_for.append(len(names))
            return [name[-1] for name in names]

        settings_ = Select(strategy="entropy", query_size=40, max_per_group=2)
        chosen = select(replay, settings_, seed=0, groups=groups)
        best = {
            digit: sorted((-u, i) for u, i in zip(utilities, ids, strict=True) if i[-1] == digit)[:2]
            for digit in "0123456789"
        }
        expected = sorted(pair for pairs in best.values() for pair in pairs)
        assert chosen.image_ids == [image_id for _, image_id in expected]
        assert len(passes) == 2
        assert max(asked_for) <= 100 + 50


def test_without_a_cap_no_group_is_asked_for():
    replay, *_ = table_of(200, seed=0)
    chosen = select(replay, Select(strategy="entropy", query_size=5), seed=0, groups=None)
    assert len(chosen.image_ids) == 5


def test_ids_that_do_not_fit_their_chunk_are_refused():
    chunk = Candidates(3, {}, lambda: ["a", "b"])
    with pytest.raises(ValueError, match="3 rows, but 2 image_ids"):
        _ = chunk.image_ids


def test_beyond_the_limit_dual_still_chooses_nearly_the_same(monkeypatch):
    """20,000 rows through histograms; of the 200 best by exact ranks, all but a few at the cut are found."""
    rng = np.random.default_rng(5)
    columns = {
        "entropy": rng.beta(0.5, 2.0, 20_000).astype(np.float32).astype(np.float64),
        "misalignment": rng.beta(4.0, 1.0, 20_000).astype(np.float32).astype(np.float64),
    }
    columns["misalignment"][rng.random(20_000) < 0.1] = np.nan
    chunk = Candidates.of([f"{number:05d}" for number in range(20_000)], columns)
    settings_ = Select(strategy="dual", query_size=200)
    exact = select(lambda: iter([chunk]), settings_, seed=0)
    monkeypatch.setitem(rankers.NORMALISATIONS, "rank", lambda: Distribution(100))
    monkeypatch.setattr(rankers, "Distribution", lambda: Distribution(100))
    binned = select(lambda: iter([chunk]), settings_, seed=0)
    assert len(set(exact.image_ids) & set(binned.image_ids)) >= 198
    np.testing.assert_allclose(binned.utilities, exact.utilities, atol=1e-3)
    assert not np.array_equal(binned.utilities, exact.utilities)
