import alignment_oracle
import numpy as np
import pytest

from xal_ray.acquire import alignment, fullsize
from xal_ray.roi import mask_to_grid


def random_rois(count, size, seed=0):
    """Discs of all sizes, some over the border, the last one empty."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    rois = np.zeros((count, size, size), dtype=np.uint8)
    for number in range(count - 1):
        cy, cx, radius = rng.random(3) * [size, size, size / 3]
        rois[number] = 255 * np.clip(radius + 2.0 - np.hypot(y - cy, x - cx), 0.0, 1.0)
    return rois


@pytest.mark.parametrize(
    ("grid", "size"), [((7, 7), 224), ((5, 5), 160), ((2, 2), 64), ((1, 3), 33), ((14, 14), 224)]
)
def test_soft_measures_equal_those_of_the_map_that_is_really_upsampled(grid, size):
    rng = np.random.default_rng(1)
    cams, _ = alignment.minmax(rng.random((12, *grid)) ** 3)
    rois = random_rois(12, size)
    found = fullsize.measure(cams, fullsize.reduce_rois(rois, grid))
    full, _ = alignment.minmax(fullsize.upsample(cams, (size, size)))
    masks = rois / 255.0
    for name in ("soft_dice", "misalignment", "energy_in_roi", "lift"):
        expected = getattr(alignment_oracle, name)(full, masks)
        np.testing.assert_allclose(found[name], expected, atol=2e-6, err_msg=name)
    assert np.isnan(found["soft_dice"][-1])


@pytest.mark.slow
def test_upsampling_is_that_of_torch():
    torch = pytest.importorskip("torch")
    cams = np.random.default_rng(2).random((3, 7, 5))
    for frame in ((224, 160), (56, 56), (7, 5), (30, 31)):
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(cams)[:, None], size=frame, mode="bilinear", align_corners=False
        )[:, 0]
        np.testing.assert_allclose(fullsize.upsample(cams, frame), expected.numpy(), atol=1e-12)


def test_hard_measures_are_those_of_the_fine_grid_and_not_of_the_cells():
    cams, _ = alignment.minmax(np.random.default_rng(3).random((6, 7, 7)))
    rois = random_rois(6, 224, seed=4)
    found = fullsize.measure(cams, fullsize.reduce_rois(rois, (7, 7)))
    full, _ = alignment.minmax(fullsize.upsample(cams, (224, 224)))
    masks = rois / 255.0
    for name in ("hard_dice", "iou"):
        at_full_size = getattr(alignment_oracle, name)(full, masks)
        np.testing.assert_allclose(found[name][:-1], at_full_size[:-1], atol=0.02, err_msg=name)
    at_cells = alignment_oracle.hard_dice(cams, mask_to_grid(masks, (7, 7)))
    assert np.nanmax(np.abs(at_cells - found["hard_dice"])) > 0.05


def test_hard_measures_in_whole_numbers_are_those_of_the_definitions():
    cams, _ = alignment.minmax(np.random.default_rng(5).random((20, 5, 5)))
    regions = fullsize.reduce_rois(random_rois(20, 160, seed=6), (5, 5))
    found = fullsize.measure(cams, regions)
    fine, _ = alignment.minmax(fullsize.upsample(cams, (60, 60)))
    for name in ("hard_dice", "iou"):
        expected = getattr(alignment_oracle, name)(fine, regions.fine / 255.0)
        np.testing.assert_allclose(found[name], expected, atol=1e-12, err_msg=name)


def test_a_region_of_one_pixel_is_still_there():
    rois = np.zeros((1, 2048, 2048), dtype=np.uint8)
    rois[0, 1000, 300] = 255
    regions = fullsize.reduce_rois(rois, (7, 7))
    assert regions.area[0] == pytest.approx(1 / 2048**2)
    assert regions.fine.sum() == 1
    peak = np.zeros((1, 7, 7))
    peak[0, 1000 * 7 // 2048, 300 * 7 // 2048] = 1.0
    assert fullsize.measure(peak, regions)["pointing_game"] == 1.0


def test_undefined_maps_and_empty_regions_are_nan_in_every_measure():
    cams = np.stack([np.full((7, 7), np.nan), np.eye(7), np.eye(7)])
    rois = np.full((3, 64, 64), 255, dtype=np.uint8)
    rois[1] = 0
    found = fullsize.measure(cams, fullsize.reduce_rois(rois, (7, 7)))
    assert set(found) == set(fullsize.MEASURES)
    for name, values in found.items():
        assert np.isnan(values[:2]).all(), name
    assert found["energy_in_roi"][2] == pytest.approx(1.0)
    assert np.isnan(found["lift"][2])  # the whole image


def test_a_batch_equals_its_rows_one_by_one():
    cams, _ = alignment.minmax(np.random.default_rng(5).random((4, 7, 7)))
    regions = fullsize.reduce_rois(random_rois(4, 96, seed=6), (7, 7))
    together = fullsize.measure(cams, regions)
    for row in range(4):
        alone = fullsize.measure(cams[row : row + 1], regions.take(np.array([row])))
        for name in fullsize.MEASURES:
            np.testing.assert_allclose(alone[name][0], together[name][row], rtol=1e-12, err_msg=name)
