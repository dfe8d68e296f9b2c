import numpy as np
import pytest

from xal_ray.errors import SourceError
from xal_ray.roi import (
    boxes_to_grid,
    compress_counts,
    mask_to_grid,
    polygons_to_grid,
    rle_to_mask,
    sound_boxes,
    sound_polygons,
)


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


def test_boxes_within_the_frame_and_one_pixel_more_are_not_counted_as_cut():
    boxes = [[0, 0, 20, 10], [-1, -1, 21, 11], [3.5, 2.5, 3.6, 2.6]]
    found = sound_boxes(boxes, (10, 20))
    assert (found.shapes, found.num_cut) == (boxes, 0)


def test_polygon_covers_the_fraction_worked_out_by_hand():
    # A right triangle over half of a 4 x 4 frame: a quarter of a cell is half covered.
    grid = polygons_to_grid([[0, 0, 4, 0, 0, 4]], frame=(4, 4), grid=(2, 2))
    np.testing.assert_allclose(grid, [[1, 0.5], [0.5, 0]], atol=1e-6)
    assert grid[0, 0] == 1
    assert grid[1, 1] == 0


def test_polygons_that_overlap_count_once_and_are_cut_at_the_frame():
    square, over = [1, 1, 3, 1, 3, 3, 1, 3], [2, 2, 9, 2, 9, 9, 2, 9]
    grid = polygons_to_grid([square, over, square], frame=(4, 4), grid=(1, 1))
    np.testing.assert_allclose(grid, [[(4 + 4 - 1) / 16]], atol=1e-6)
    assert (polygons_to_grid([], frame=(4, 4), grid=(2, 2)) == 0).all()
    assert (polygons_to_grid([[5, 5, 9, 5, 9, 9]], frame=(4, 4), grid=(2, 2)) == 0).all()


def test_a_polygon_that_crosses_itself_is_outside_where_it_encloses_twice():
    twice = [0, 0, 4, 0, 4, 4, 0, 4, 0, 0, 2, 0, 2, 4, 0, 4]
    np.testing.assert_allclose(polygons_to_grid([twice], (4, 4), (1, 2)), [[0, 1]], atol=1e-6)


def test_a_circle_has_its_area_in_every_cell():
    turns = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = np.stack([50 + 31 * np.cos(turns), 40 + 31 * np.sin(turns)], axis=1).reshape(-1)
    y, x = (np.mgrid[:1600, :2000] + 0.5) / 20
    expected = mask_to_grid(np.hypot(x - 50, y - 40) < 31, (32, 40))
    np.testing.assert_allclose(polygons_to_grid([circle], (80, 100), (32, 40)), expected, atol=0.01)


@pytest.mark.parametrize(
    ("polygon", "fault"),
    [
        ([1, 1, 2, 2], "three or more"),
        ([1, 1, 2, 2, 3, 1, 5], "three or more"),
        ([1, 1, 2, np.nan, 3, 1], "not finite"),
    ],
)
def test_polygons_that_can_not_be_meant_are_refused(polygon, fault):
    with pytest.raises(ValueError, match=fault):
        polygons_to_grid([polygon], (10, 10), (2, 2))


TRIANGLE = [1, 1, 5, 1, 1, 5]
FRAME = (10, 20)  # 20 wide


@pytest.mark.parametrize(
    ("polygon", "fault"),
    [
        ([], "no area"),
        ([1, 1], "no area"),
        ([1, 1, 2, 2], "no area"),
        ([1, 1, 2, 2, 3, 3], "no area"),
        ([1e6, 1e6, 1e6 + 2, 1e6 + 2, 1e6 + 3, 1e6 + 3], "no area"),
        ([4, 4, 4, 4, 4, 4], "no area"),
        ([1, 1, 2, 2, 3, 1, 5], "missing"),
        ([1, 1, 2, np.nan, 3, 1], "missing"),
        ([1, 1, 2, np.inf, 3, 1], "missing"),
        ([1, 1, 2, "2", 3, 1], "missing"),
        ([1, 1, 2, None, 3, 1], "missing"),
        ([1, 1, 2, [2], 3, 1], "missing"),
        ([1, 1, 2, 9**999, 3, 1], "missing"),
        ([21, 1, 25, 1, 21, 5], "outside"),
        ([1, -5, 5, -5, 1, 0], "outside"),
    ],
)
def test_polygons_that_can_not_be_meant_are_dropped(polygon, fault):
    found = sound_polygons([polygon, TRIANGLE, polygon], FRAME)
    assert found.shapes == [TRIANGLE]
    (reason,) = found.dropped
    assert (found.dropped[reason], fault in reason, found.is_lost) == (2, True, False)
    assert sound_polygons([polygon], FRAME).is_lost == (fault != "no area")


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ([1, 1, 1, 2], "no area"),
        ([1, 2, 2, 2], "no area"),
        ([2, 1, 1, 2], "order"),
        ([1, 1, 2], "missing"),
        ([1, 1, 2, 2, 3, 3], "missing"),
        ([1, 1, np.nan, 2], "missing"),
        ([1, True, 2, 2], "missing"),
        ([20, 1, 22, 2], "outside"),
        ([1, -2, 3, 0], "outside"),
    ],
)
def test_boxes_that_can_not_be_meant_are_dropped(box, fault):
    found = sound_boxes([box, [1, 1, 2, 2]], FRAME)
    assert found.shapes == [[1, 1, 2, 2]]
    assert fault in found.faults
    assert sound_boxes([box], FRAME).is_lost == (fault != "no area")


def test_shapes_over_the_edge_are_kept_and_counted():
    assert sound_boxes([[-1, 0, 21, 11], [-1.5, 0, 2, 2], [0, 0, 20, 10]], FRAME).num_cut == 1
    assert sound_polygons([[-9, 0, 5, 0, 5, 9], TRIANGLE], FRAME).num_cut == 1
    far = sound_boxes([[100, 100, 200, 200]], None)
    assert (len(far.shapes), far.num_cut, far.faults) == (1, 0, "")


def test_a_polygon_that_crosses_itself_is_kept():
    assert sound_polygons([[0, 0, 4, 4, 4, 0, 0, 4]], FRAME).shapes


def test_polygons_of_too_many_edges_are_refused_before_they_are_drawn():
    zigzag = [value for number in range(20_000) for value in (number % 7, 4000 * (number % 2))]
    with pytest.raises(ValueError, match="cross more than"):
        polygons_to_grid([zigzag], (4000, 7), (224, 224))


def test_runs_known_from_coco():
    # Column by column; "06" alternates: 0 outside, 6 inside.
    np.testing.assert_array_equal(rle_to_mask([1, 2, 3], (3, 2)), [[0, 0], [1, 0], [1, 0]])
    np.testing.assert_array_equal(rle_to_mask("06", (3, 2)), np.ones((3, 2)))
    # From the fourth on a run is written as its difference: 2 is 4 - 2, 1 as it stands.
    assert compress_counts([1, 4, 3, 2]) == "143N"
    np.testing.assert_array_equal(rle_to_mask(b"143N", (2, 5)), rle_to_mask([1, 4, 3, 2], (2, 5)))
    assert compress_counts([100, 1000, 70000]) == rle_text(100) + rle_text(1000) + rle_text(70000)


def rle_text(number):
    """Five bits a character, the lowest first, as the format's authors describe it; for numbers from 0."""
    digits = []
    while True:
        digit, number = number & 31, number >> 5
        more = number > 0 or digit & 16
        digits.append(chr(48 + (digit | 32 if more else digit)))
        if not more:
            return "".join(digits)


@pytest.mark.parametrize(
    ("counts", "size"),
    [
        ([5], (3, 2)),
        ([7], (3, 2)),
        ([8, -2], (3, 2)),
        ([3.0, 3], (3, 2)),
        ([True, 5], (3, 2)),
        ([2**40], (3, 2)),
        ([0] * 100 + [6], (3, 2)),
        ("", (3, 2)),
        ("0", (3, 2)),
        ("0\x7f", (3, 2)),
        ("é", (3, 2)),
        ("0V", (3, 2)),  # more is promised than comes
        ("PPPPPPPPPP6", (3, 2)),
        ([6], (0, 6)),
        ([6], (-3, -2)),
        ([10**12], (10**6, 10**6)),
    ],
)
def test_malformed_runs_are_refused(counts, size):
    with pytest.raises(SourceError, match=r"runs of a mask are malformed[\s\S]*here"):
        rle_to_mask(counts, size, where="here")


def test_runs_are_drawn_within_a_limit():
    assert rle_to_mask([6], (3, 2), max_pixels=6).shape == (3, 2)
    with pytest.raises(SourceError, match="1 to 5 pixels"):
        rle_to_mask([6], (3, 2), max_pixels=5)
