from itertools import combinations

import numpy as np
import pytest

from xal_ray.acquire import subsample


def test_a_draw_has_its_size_and_stays_among_the_candidates():
    candidates = np.arange(1000) % 3 > 0
    chosen = subsample.draw(candidates, 0.25, at_least=10, seed=4)
    assert chosen.sum() == np.ceil(0.25 * candidates.sum())
    assert not (chosen & ~candidates).any()
    assert (subsample.draw(candidates, 0.25, at_least=10, seed=4) == chosen).all()
    assert (subsample.draw(candidates, 0.25, at_least=10, seed=5) != chosen).any()
    assert subsample.draw(candidates, 0.001, at_least=50, seed=4).sum() == 50
    assert (subsample.draw(candidates, 1.0, at_least=0, seed=4) == candidates).all()
    assert subsample.draw(candidates[:2], 0.1, at_least=50, seed=4).sum() == candidates[:2].sum()


def test_a_draw_depends_little_on_who_else_is_a_candidate():
    everyone = np.ones(1000, dtype=bool)
    fewer = everyone.copy()
    fewer[::50] = False
    both = subsample.draw(everyone, 0.3, at_least=0, seed=1) & subsample.draw(fewer, 0.3, at_least=0, seed=1)
    assert both.sum() >= 285


def simulated(num_pool, picks, fraction, *, num_runners_up=0, kind="none"):
    """Overlap with a pass over the whole pool, and what was expected of it: means over draws."""
    found, expected = [], []
    for seed in range(100 if num_pool > 1000 else 400):
        rng = np.random.default_rng((1, seed))  # not that of the draw
        utilities = rng.random(num_pool)
        best = np.argsort(-utilities)[:picks]
        known = {
            "none": best[:0],
            "among the best": rng.permutation(best)[:num_runners_up],
            "anywhere": rng.permutation(num_pool)[:num_runners_up],
        }[kind]
        is_known = np.isin(np.arange(num_pool), known)
        everyone = np.ones(num_pool, dtype=bool)
        scored = np.flatnonzero(subsample.draw(everyone, fraction, at_least=picks, seed=seed) | is_known)
        picked = scored[np.argsort(-utilities[scored])[:picks]]
        found.append(len(set(best.tolist()) & set(picked.tolist())) / picks)
        expected.append(
            subsample.expected_overlap(
                ~is_known[picked],
                num_pool=num_pool,
                num_scored=len(scored),
                num_runners_up=num_runners_up,
            )
        )
    return np.mean(found), np.mean(expected)


@pytest.mark.parametrize(
    ("num_pool", "picks", "fraction", "num_runners_up", "kind", "about"),
    [
        (40, 20, 0.1, 0, "none", 0.5),  # at least as many are drawn as are picked: half of the pool
        (40, 30, 0.1, 0, "none", 0.75),
        (100, 10, 0.5, 0, "none", 0.5),
        (4000, 100, 0.25, 0, "none", 0.25),
        (4000, 100, 0.25, 20, "among the best", 0.4),
        (4000, 100, 0.1, 100, "among the best", 1.0),
        (4000, 100, 0.1, 100, "anywhere", 0.125),
        (60, 20, 0.1, 10, "among the best", 0.667),
        (60, 20, 0.1, 10, "anywhere", 0.45),
    ],
)
def test_the_expected_overlap_is_what_is_found_on_average(
    num_pool, picks, fraction, num_runners_up, kind, about
):
    found, expected = simulated(num_pool, picks, fraction, num_runners_up=num_runners_up, kind=kind)
    assert found == pytest.approx(about, abs=0.03)
    assert expected == pytest.approx(found, abs=0.03)


def overlap(drawn, num_pool, num_scored, num_runners_up=0):
    return subsample.expected_overlap(
        np.asarray(drawn, dtype=bool),
        num_pool=num_pool,
        num_scored=num_scored,
        num_runners_up=num_runners_up,
    )


def test_the_whole_pool_overlaps_with_itself():
    assert overlap(np.ones(50), 50, 50) == 1.0
    assert overlap([1, 0, 1, 0], 90, 90, 9) == 1.0
    assert overlap([], 1000, 10) == 1.0
    assert overlap(np.zeros(5), 1000, 105, 5) == 1.0


@pytest.mark.parametrize(
    ("num_pool", "num_scored", "picks"), [(1000, 100, 100), (40, 20, 20), (40, 20, 1), (10**8, 10**7, 5000)]
)
def test_without_runners_up_it_is_the_part_that_was_scored(num_pool, num_scored, picks):
    assert overlap(np.ones(picks), num_pool, num_scored) == pytest.approx(num_scored / num_pool, rel=1e-4)


@pytest.mark.parametrize(
    ("first", "size", "num_drawn"), [(3, 9, 4), (5, 8, 6), (7, 5, 2), (0, 4, 2), (4, 4, 4)]
)
def test_chances_of_hits_are_those_of_all_draws(first, size, num_drawn):
    hits = [sum(row < first for row in rows) for rows in combinations(range(size), num_drawn)]
    expected = [np.mean([found >= least for found in hits]) for least in range(first + 1)]
    np.testing.assert_allclose(subsample._chances_of_hits(first, size, num_drawn), expected, atol=1e-12)
