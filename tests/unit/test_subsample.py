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


def test_the_expected_overlap_is_what_is_found_on_average():
    rng = np.random.default_rng(0)
    count, picks, fraction = 4000, 100, 0.25
    found, expected = [], []
    for seed in range(200):
        utilities = rng.random(count)
        best = set(np.argsort(-utilities)[:picks].tolist())
        chosen = subsample.draw(np.ones(count, dtype=bool), fraction, at_least=0, seed=seed)
        runners_up = np.zeros(count, dtype=bool)
        runners_up[rng.permutation(list(best))[:20]] = True  # good ones
        chosen |= runners_up
        scored = np.flatnonzero(chosen)
        picked = scored[np.argsort(-utilities[scored])[:picks]]
        drawn = ~runners_up[picked]
        found.append(len(best & set(picked.tolist())) / picks)
        expected.append(subsample.expected_overlap(drawn, fraction))
    assert np.mean(expected) == pytest.approx(np.mean(found), abs=0.03)


def test_the_whole_pool_overlaps_with_itself():
    assert subsample.expected_overlap(np.ones(50, dtype=bool), 1.0) == 1.0
    assert subsample.expected_overlap(np.zeros(0, dtype=bool), 0.5) == 1.0
    assert subsample.expected_overlap(np.zeros(5, dtype=bool), 0.1) == 1.0
    assert subsample.expected_overlap(np.ones(100, dtype=bool), 0.1) == pytest.approx(0.1)
