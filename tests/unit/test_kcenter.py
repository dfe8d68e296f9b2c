"""Greedy k-center against a plain computation, and against the best that any choice could reach."""

from itertools import combinations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from xal_ray.acquire import distances
from xal_ray.acquire.batch import Batch, Known
from xal_ray.acquire.distances import nearest_squared
from xal_ray.acquire.kcenter import kcenter
from xal_ray.config import Select


def make_batch(points, known, groups=None):
    points, known = np.asarray(points, dtype=np.float16), np.asarray(known, dtype=np.float16)
    count = len(points)
    labelled = Known(
        [f"k{n}" for n in range(len(known))], ["other"] * len(known), known, np.ones(len(known), bool)
    )
    utilities = np.linspace(1.0, 0.0, count)
    ids = [f"i{n}" for n in range(count)]
    return Batch(ids, groups or ["g"] * count, utilities, {"entropy": utilities}, points, labelled)


def chosen(batch, size, cap=0):
    settings = Select(strategy="kcenter", query_size=size, max_per_group=cap)
    return kcenter(batch, settings, 0)


def plain_greedy(points, known, size, groups=None, cap=0):
    """All distances at once, in float64, row by row in Python."""
    apart = cdist(np.vstack([known, points]).astype(float), points.astype(float))
    centres, picks, radii = list(range(len(known))), [], []
    while len(picks) < size:
        best, row = -1.0, None
        for candidate in range(len(points)):
            full = cap and sum(groups[pick] == groups[candidate] for pick in picks) >= cap
            far = min((apart[centre, candidate] for centre in centres), default=0.0)
            if candidate not in picks and not full and far > best:
                best, row = far, candidate
        if row is None:
            break
        picks.append(row)
        radii.append(best)
        centres.append(len(known) + row)
    return picks, radii


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num_known", [0, 1, 7])
@pytest.mark.parametrize("cap", [0, 2])
def test_it_is_the_plain_greedy_algorithm(seed, num_known, cap):
    rng = np.random.default_rng(seed)
    points, known = (rng.normal(size=(n, 5)).astype(np.float16) for n in (40, num_known))
    groups = [f"g{n}" for n in rng.integers(7, size=40)]
    found = chosen(make_batch(points, known, groups), 20, cap)
    expected, radii = plain_greedy(points, known, 20, groups, cap)
    assert found.rows.tolist() == expected
    np.testing.assert_allclose(found.utilities[1:], radii[1:], rtol=1e-6)
    assert (np.diff(found.utilities) <= 0).all() or cap


@pytest.mark.parametrize("seed", range(30))
def test_its_radius_is_at_most_twice_the_best_possible(seed):
    rng = np.random.default_rng(seed)
    count, size, num_known = 9, int(rng.integers(1, 5)), int(rng.integers(0, 3))
    points, known = (rng.normal(size=(n, 2)).round(1).astype(np.float16) for n in (count, num_known))

    def radius(rows):
        return cdist(points.astype(float), np.vstack([known, points[list(rows)]]).astype(float)).min(1).max()

    best = min(radius(rows) for rows in combinations(range(count), size))
    assert best - 1e-6 <= radius(chosen(make_batch(points, known), size).rows) <= 2 * best + 1e-6


def test_equal_distances_go_by_the_shortlist_and_copies_come_last():
    square = [[0, 0], [0, 2], [2, 0], [2, 2], [0, 0], [2, 2]]
    assert chosen(make_batch(square, [[1, 1]]), 6).rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert chosen(make_batch(square, []), 4).rows.tolist() == [0, 3, 1, 2]
    same = chosen(make_batch(np.ones((4, 3)), np.ones((1, 3))), 4)
    assert same.rows.tolist() == [0, 1, 2, 3]
    assert same.utilities.tolist() == [0.0] * 4


def test_the_reason_is_the_distance():
    found = chosen(make_batch([[0, 0], [3, 4]], []), 2)
    assert found.reason(0) == "first on the shortlist: no image is labelled yet"
    assert found.reason(1) == "distance 5 to the nearest labelled or picked image"
    assert found.utilities.tolist() == [5.0, 5.0]
    assert chosen(make_batch([[0, 0]], []), 1).utilities.tolist() == [0.0]


@pytest.mark.parametrize("rows_at_once", [1, 3, 2048])
def test_distances_are_those_of_scipy_whatever_the_blocks(rows_at_once, monkeypatch):
    monkeypatch.setattr(distances, "ROWS_AT_ONCE", rows_at_once)
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 300.0):
        points, centres = ((scale * rng.normal(size=(n, 33))).astype(np.float16) for n in (11, 7))
        points[4] = centres[2]
        expected = cdist(points.astype(float), centres.astype(float), "sqeuclidean").min(axis=1)
        found = nearest_squared(points, centres)
        assert found.dtype == np.float32
        assert found[4] == 0.0
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        one = nearest_squared(points, centres[2:3])
        assert one[4] == 0.0
        by_one = cdist(points.astype(float), centres[2:3].astype(float), "sqeuclidean")[:, 0]
        np.testing.assert_allclose(one, by_one, rtol=1e-5)


def test_the_largest_halves_have_finite_distances():
    limit = np.float16(65504)
    points = np.array([[limit] * 2048, [-limit] * 2048], dtype=np.float16)
    assert np.isfinite(nearest_squared(points, points[:1])).all()
    assert np.isinf(nearest_squared(points, points[:0])).all()
