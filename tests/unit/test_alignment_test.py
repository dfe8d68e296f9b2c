"""The test of whether maps find their own ROI: it finds a small pull, and without one it finds 5 %."""

import json

import numpy as np
import pytest

from xal_ray.acquire import alignment, fullsize
from xal_ray.metrics.alignment_test import NUM_PERMUTATIONS, TESTED, alignment_test, smallest_p

FRAME, CELLS = 28, 7


def draw(rng, num_groups, per_group, pull):
    """Maps and ROIs as those of real slices: alike within a patient, both near the middle, of many sizes.

    Maps are wider where ROIs are larger, so agreement in size is there without looking. `pull` draws every
    map so far towards its own ROI.
    """
    groups = np.repeat(np.arange(num_groups), per_group)
    count = len(groups)
    centres = rng.normal(0.5, 0.16, (num_groups, 2))[groups] + rng.normal(0.0, 0.03, (count, 2))
    radii = np.exp(rng.normal(np.log(0.12), 0.35, num_groups)[groups] + rng.normal(0.0, 0.25, count))
    radii = radii.clip(0.03, 0.35)
    rois = distances(FRAME, centres.clip(0.1, 0.9)) < radii[:, None, None]
    places = rng.normal(0.5, 0.2, (num_groups, 2))[groups] + rng.normal(0.0, 0.08, (count, 2))
    widths = (0.18 + 0.5 * radii)[:, None, None]
    maps = np.exp(-(distances(CELLS, places.clip(0.0, 1.0)) ** 2) / (2 * widths**2))
    maps += 0.3 * np.exp(-(distances(CELLS, np.full((count, 2), 0.5)) ** 2) / 0.1)
    maps, _ = alignment.minmax(maps + 0.25 * rng.random(maps.shape))
    side = FRAME // CELLS
    target = rois.reshape(count, CELLS, side, CELLS, side).mean(axis=(2, 4))
    target /= target.max(axis=(1, 2), keepdims=True).clip(1e-9)
    maps, _ = alignment.minmax((1.0 - pull) * maps + pull * target)
    return maps, fullsize.reduce_rois(np.uint8(255 * rois), (CELLS, CELLS)), groups


def distances(side, centres):
    axis = np.linspace(0.0, 1.0, side)
    down, right = axis[:, None] - centres[:, 0, None, None], axis[None, :] - centres[:, 1, None, None]
    return np.sqrt(down**2 + right**2)


def repeated(num_groups, per_group, pull, repeats, seed=0):
    """Results of as many samples."""
    maps, regions, groups = draw(np.random.default_rng(seed), num_groups * repeats, per_group, pull)
    size = num_groups * per_group
    samples = [np.arange(size) + number * size for number in range(repeats)]
    return [
        alignment_test(maps[rows], regions.take(rows), [str(group) for group in groups[rows]], number)
        for number, rows in enumerate(samples)
    ]


def found_share(results, measure="soft_dice"):
    return np.mean([result["measures"][measure]["p"] < 0.05 for result in results])


@pytest.mark.parametrize(("num_groups", "per_group"), [(5, 6), (20, 2)])
def test_without_a_pull_it_finds_five_percent(num_groups, per_group):
    repeats = 200
    results = repeated(num_groups, per_group, 0.0, repeats)
    for measure in TESTED:
        # Permutations of five groups are 120, and the pointing game has many ties: then less than 5 %.
        assert found_share(results, measure) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / repeats)
    assert found_share(results) > 0.05 - 3 * np.sqrt(0.05 * 0.95 / repeats)


def test_a_pull_of_a_fifth_is_found():
    """An interval of the mean against one derangement says "no better than shuffled" of most of these."""
    results = repeated(40, 5, 0.2, 40)
    for measure in ("soft_dice", "energy_in_roi", "lift"):
        assert found_share(results, measure) > 0.95
    assert found_share(repeated(20, 5, 0.2, 60)) > 0.8
    assert found_share(repeated(20, 1, 0.2, 60)) > 0.65


@pytest.mark.parametrize(("num_groups", "pull"), [(2, 0.2), (3, 0.2), (5, 0.0), (10, 0.2)])
def test_interval_of_the_effect_covers(num_groups, pull):
    repeats = 200
    results = [result["measures"]["soft_dice"] for result in repeated(num_groups, 3, pull, repeats, seed=1)]
    # With fewer groups donors are less alike in size; the truth is what that many groups have on average.
    truth = np.mean([result["effect"] for result in results])
    covered = np.mean([low <= truth <= high for low, high in (result["ci95"] for result in results)])
    assert covered > 0.95 - 3 * np.sqrt(0.05 * 0.95 / repeats)


def test_images_of_a_patient_are_no_independent_proofs():
    """Thirty slices that agree by accident are one accident: with two patients nothing can be shown."""
    for num_groups in (2, 3):
        (result,) = repeated(num_groups, 30, 0.5, 1)
        assert result["smallest_p"] > 0.05
        assert all(found["p"] is None for found in result["measures"].values())
        assert {found["verdict"] for found in result["measures"].values()} == {"cannot be shown"}
        assert result["measures"]["soft_dice"]["effect"] > 0.0
    (enough,) = repeated(4, 30, 0.9, 1)
    assert enough["smallest_p"] == pytest.approx(1 / 24)
    assert enough["measures"]["soft_dice"]["p"] == pytest.approx(1 / 24)
    assert enough["measures"]["soft_dice"]["verdict"] == "shown"


def test_effect_is_own_less_donors_of_other_groups():
    maps, regions, groups = draw(np.random.default_rng(3), 3, 1, 0.0)
    found = alignment_test(maps, regions, groups.astype(str), 0)["measures"]["energy_in_roi"]
    measured = fullsize.measure(maps, regions)["energy_in_roi"]
    assert found["own"] == pytest.approx(measured.mean())
    expected = []
    for row in range(3):
        for other in set(range(3)) - {row}:
            # A donor counts with the area of the image's own ROI.
            donor = regions.take(np.array([other]))
            scale = regions.area[row] / donor.area[0]
            expected.append(
                fullsize.linear_measures(maps[[row]], donor.adjoint * scale, regions.frame)["energy_in_roi"]
            )
    assert found["donors"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert found["effect"] == pytest.approx(found["own"] - found["donors"])


def test_donors_are_nearest_in_size_and_of_another_group():
    """Every group has a small ROI in a corner and a large one elsewhere, each with its map: sizes tell."""
    corner, rest = np.zeros((FRAME, FRAME)), np.zeros((FRAME, FRAME))
    corner[:4, :4] = 255
    rest[8:, 8:] = 255
    maps = np.zeros((8, CELLS, CELLS))
    maps[::2, 0, 0] = 1.0
    maps[1::2, -1, -1] = 1.0
    regions = fullsize.reduce_rois(np.uint8(np.stack([corner, rest] * 4)), (CELLS, CELLS))
    result = alignment_test(maps, regions, [str(row // 2) for row in range(8)], 0)
    for found in result["measures"].values():
        assert found["effect"] == pytest.approx(0.0, abs=1e-6)
        assert found["p"] == 1.0


def test_maps_that_show_the_same_of_every_image_find_nothing_where_large_regions_are_central():
    """Hot in the middle, whatever the image: large ROIs are better places, and no map finds its own."""
    centres = np.array([[0.15, 0.15], [0.25, 0.8], [0.7, 0.25], [0.4, 0.4], [0.5, 0.5]])
    radii = np.array([0.1, 0.14, 0.18, 0.25, 0.32])
    rois = distances(FRAME, centres) < radii[:, None, None]
    maps, _ = alignment.minmax(np.exp(-(distances(CELLS, np.full((5, 2), 0.5)) ** 2) / 0.1))
    regions = fullsize.reduce_rois(np.uint8(255 * rois), (CELLS, CELLS))
    result = alignment_test(maps, regions, list("abcde"), 0)
    assert result["smallest_p"] == pytest.approx(1 / 120)
    for found in result["measures"].values():
        assert found["p"] == 1.0
        assert found["verdict"] == "not shown"


def test_order_of_rows_and_names_changes_nothing():
    maps, regions, groups = draw(np.random.default_rng(5), 12, 3, 0.2)
    order = np.random.default_rng(0).permutation(len(maps))
    found = alignment_test(maps, regions, [f"g{group:02d}" for group in groups], 7)
    again = alignment_test(maps[order], regions.take(order), [f"g{group:02d}" for group in groups[order]], 7)
    for name in TESTED:
        assert again["measures"][name]["p"] == found["measures"][name]["p"]
        assert again["measures"][name]["effect"] == pytest.approx(found["measures"][name]["effect"])
    assert json.loads(json.dumps(found, allow_nan=False))["num_groups"] == 12


def test_images_without_a_place_to_look_at_are_left_out():
    maps, regions, groups = draw(np.random.default_rng(6), 6, 2, 0.0)
    maps[0] = np.nan
    coverage = np.zeros((2, FRAME, FRAME), dtype=np.uint8)
    coverage[1] = 255
    odd = fullsize.reduce_rois(coverage, (CELLS, CELLS))
    regions.adjoint[1:3], regions.fine[1:3] = odd.adjoint, odd.fine
    result = alignment_test(maps, regions, groups.astype(str), 0)
    assert (result["num_images"], result["num_groups"]) == (9, 5)
    assert alignment_test(maps[:4], regions.take(np.arange(4)), groups[:4].astype(str), 0) is None
    assert alignment_test(maps[:0], regions.take(np.arange(0)), [], 0) is None
    with pytest.raises(ValueError, match="group_ids"):
        alignment_test(maps, regions, ["a"], 0)


def test_smallest_p():
    assert smallest_p([2]) == 0.5
    assert smallest_p([4]) == pytest.approx(1 / 24)
    assert smallest_p([5, 6]) == 1 / NUM_PERMUTATIONS
