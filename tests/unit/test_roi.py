import numpy as np
import pytest

from xal_ray.errors import SourceError
from xal_ray.roi import boxes_to_grid, check_boxes, mask_to_grid


def test_box_covers_the_fraction_worked_out_by_hand():
    # Cells are 4 x 4 px; the box spans x 2..6 and y 0..3.
    grid = boxes_to_grid([[2, 0, 6, 3]], frame=(8, 8), grid=(2, 2))
    assert grid.dtype == np.float32
    np.testing.assert_array_equal(grid, [[6 / 16, 6 / 16], [0, 0]])


def test_frame_is_height_width_and_boxes_are_x_y():
    grid = boxes_to_grid([[10, 0, 20, 5]], frame=(10, 20), grid=(2, 2))
    np.testing.assert_array_equal(grid, [[0, 1], [0, 0]])


def test_overlapping_boxes_count_once():
    grid = boxes_to_grid([[0, 0, 3, 4], [1, 0, 4, 2]], frame=(4, 4), grid=(1, 1))
    np.testing.assert_allclose(grid, [[(12 + 6 - 4) / 16]], rtol=1e-6)


def test_cell_borders_cut_pixels_in_part():
    grid = boxes_to_grid([[0.5, 0, 2.25, 4]], frame=(4, 4), grid=(1, 3))
    np.testing.assert_allclose(grid, [[(4 / 3 - 0.5) / (4 / 3), (2.25 - 4 / 3) / (4 / 3), 0]], rtol=1e-6)


def test_whole_and_empty_are_exact():
    whole = boxes_to_grid([[-1, -1, 225, 225]], frame=(224, 224), grid=(7, 7))
    none = boxes_to_grid(np.zeros((0, 4)), frame=(224, 224), grid=(7, 7))
    assert (whole == 1).all()
    assert (none == 0).all()
    assert (mask_to_grid(np.ones((250, 199), dtype=bool), (7, 7)) == 1).all()


def test_neighbouring_cells_are_not_touched_by_rounding():
    for size in (223, 224, 227, 300):
        mask = np.zeros((size * 7, 7), dtype=bool)
        mask[size : 2 * size] = True
        grid = mask_to_grid(mask, (7, 7))
        assert (grid[1] == 1).all()
        assert np.count_nonzero(grid) == 7
        boxes = boxes_to_grid([[0, size, 7, 2 * size]], frame=(size * 7, 7), grid=(7, 7))
        np.testing.assert_array_equal(boxes, grid)


def test_boxes_that_are_not_finite_or_not_four_wide_are_refused():
    with pytest.raises(ValueError, match="finite"):
        boxes_to_grid([[0, 0, np.nan, 1]], frame=(4, 4), grid=(2, 2))
    with pytest.raises(ValueError, match=r"\(n, 4\)"):
        boxes_to_grid([0, 0, 1, 1], frame=(4, 4), grid=(2, 2))


def test_mask_to_grid_equals_block_means_where_borders_fall_on_pixels():
    mask = np.random.default_rng(0).random((12, 8))
    expected = mask.reshape(3, 4, 2, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(mask_to_grid(mask, (3, 2)), expected, atol=1e-6)


def test_mask_to_grid_with_fractional_borders_equals_block_means_of_a_repeated_mask():
    mask = np.random.default_rng(1).random((5, 7))
    fine = mask.repeat(3, axis=0).repeat(2, axis=1)  # 15 x 14 divides into 3 x 2
    np.testing.assert_allclose(
        mask_to_grid(mask, (3, 2)), fine.reshape(3, 5, 2, 7).mean(axis=(1, 3)), atol=1e-6
    )


def test_a_batch_equals_its_masks_one_by_one():
    masks = np.random.default_rng(2).random((4, 9, 11)) < 0.3
    batch = mask_to_grid(masks, (7, 5))
    assert batch.shape == (4, 7, 5)
    for mask, grid in zip(masks, batch, strict=True):
        np.testing.assert_array_equal(mask_to_grid(mask, (7, 5)), grid)
    assert mask_to_grid(masks[:0], (7, 5)).shape == (0, 7, 5)


def test_enlarging_keeps_the_values():
    grid = np.array([[0.0, 0.25], [0.5, 1.0]])
    np.testing.assert_array_equal(mask_to_grid(grid, (4, 4)), grid.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize("value", [255.0, -0.1, np.nan])
def test_mask_values_outside_the_unit_interval_are_refused(value):
    mask = np.zeros((4, 4))
    mask[1, 2] = value
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        mask_to_grid(mask, (2, 2))


@pytest.mark.parametrize("shape", [(4,), (0, 4), (1, 2, 3, 4)])
def test_masks_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="not empty"):
        mask_to_grid(np.zeros(shape), (2, 2))


def test_check_boxes_accepts_the_frame_and_one_pixel_more():
    check_boxes([[0, 0, 20, 10], [-1, -1, 21, 11], [3.5, 2.5, 3.6, 2.6]], frame=(10, 20))
    check_boxes(np.zeros((0, 4)), frame=(10, 20))


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ([0, 0, np.nan, 5], "not finite"),
        ([0, 0, np.inf, 5], "not finite"),
        ([4, 0, 4, 5], "empty or inverted"),
        ([0, 6, 4, 5], "empty or inverted"),
        ([-1.5, 0, 4, 5], "outside"),
        ([0, 0, 4, 11.5], "outside"),
        ([0, 0, 21.5, 5], "outside"),
        ([20.2, 0, 20.8, 5], "outside"),
        ([0, -0.8, 5, 0], "outside"),
    ],
)
def test_check_boxes_names_the_fault_the_box_and_the_place(box, fault):
    with pytest.raises(SourceError, match=fault) as caught:
        check_boxes([[1, 1, 2, 2], box], frame=(10, 20), where="manifest.csv, row 7")
    assert "box 2 of 2" in caught.value.what
    assert caught.value.details["where"] == "manifest.csv, row 7"
    assert caught.value.details["next"]
