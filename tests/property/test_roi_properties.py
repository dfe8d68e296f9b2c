import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from xal_ray.errors import SourceError
from xal_ray.roi import (
    boxes_to_grid,
    compress_counts,
    mask_to_counts,
    mask_to_grid,
    polygons_to_grid,
    rle_to_mask,
    sound_boxes,
)

sides = st.integers(1, 12)
SUBPIXELS = 4


@st.composite
def frames_and_boxes(draw):
    """Boxes with corners on quarter pixels, up to a pixel outside the frame."""
    height, width = draw(sides), draw(sides)

    def interval(length):
        low = draw(st.integers(-SUBPIXELS, length * SUBPIXELS - 1))
        return low, draw(st.integers(max(low, 0) + 1, (length + 1) * SUBPIXELS))

    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        (x0, x1), (y0, y1) = interval(width), interval(height)
        boxes.append([x0, y0, x1, y1])
    return (height, width), np.array(boxes, dtype=float).reshape(-1, 4) / SUBPIXELS


@settings(deadline=None)
@given(frames_and_boxes(), sides, sides)
def test_boxes_equal_a_finely_rasterised_mask(case, rows, columns):
    frame, boxes = case
    assert len(sound_boxes(boxes, frame).shapes) == len(boxes)
    mask = np.zeros((frame[0] * SUBPIXELS, frame[1] * SUBPIXELS), dtype=bool)
    for x0, y0, x1, y1 in np.maximum(boxes * SUBPIXELS, 0).astype(int):
        mask[y0:y1, x0:x1] = True
    grid = boxes_to_grid(boxes, frame, (rows, columns))
    np.testing.assert_allclose(grid, mask_to_grid(mask, (rows, columns)), atol=1e-6)
    assert ((grid >= 0) & (grid <= 1)).all()


@settings(deadline=None)
@given(frames_and_boxes(), st.randoms(use_true_random=False))
def test_the_order_and_repetition_of_boxes_do_not_matter(case, random):
    frame, boxes = case
    more = [*boxes.tolist(), *boxes[:1].tolist()]
    random.shuffle(more)
    again = boxes_to_grid(np.array(more).reshape(-1, 4), frame, (3, 5))
    np.testing.assert_array_equal(again, boxes_to_grid(boxes, frame, (3, 5)))


@settings(deadline=None)
@given(st.integers(0, 2**32), sides, sides, sides, sides)
def test_mask_to_grid_keeps_the_mean_and_the_range(seed, height, width, rows, columns):
    mask = np.random.default_rng(seed).random((2, height, width))
    grid = mask_to_grid(mask, (rows, columns))
    np.testing.assert_allclose(grid.mean(axis=(1, 2)), mask.mean(axis=(1, 2)), atol=1e-6)
    assert (grid.max(axis=(1, 2)) <= mask.max(axis=(1, 2)) + 1e-6).all()
    assert (grid.min(axis=(1, 2)) >= mask.min(axis=(1, 2)) - 1e-6).all()


@settings(deadline=None)
@given(st.integers(0, 2**32), sides, sides, sides, sides)
def test_mask_to_grid_follows_flips_and_transposes(seed, height, width, rows, columns):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    grid = mask_to_grid(mask, (rows, columns))
    np.testing.assert_allclose(mask_to_grid(mask[::-1], (rows, columns)), grid[::-1], atol=1e-6)
    np.testing.assert_allclose(mask_to_grid(mask.T, (columns, rows)), grid.T, atol=1e-6)


@settings(deadline=None)
@given(frames_and_boxes(), sides, sides)
def test_boxes_equal_the_polygons_of_their_corners(case, rows, columns):
    frame, boxes = case
    polygons = [[x0, y0, x1, y0, x1, y1, x0, y1] for x0, y0, x1, y1 in boxes.tolist()]
    grid = polygons_to_grid(polygons, frame, (rows, columns))
    np.testing.assert_allclose(grid, boxes_to_grid(boxes, frame, (rows, columns)), atol=1e-6)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(3, 9), sides, sides)
def test_polygons_turned_over_or_cut_in_triangles_cover_the_same(seed, num_points, rows, columns):
    """A convex polygon, its mirror image, and the fan of triangles that it is made of."""
    rng = np.random.default_rng(seed)
    turns = np.sort(rng.uniform(0, 2 * np.pi, num_points))
    points = 20 + rng.uniform(2, 19) * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    grid = polygons_to_grid([points.reshape(-1)], (40, 40), (rows, columns))
    fan = [np.concatenate([points[0], points[at], points[at + 1]]) for at in range(1, num_points - 1)]
    np.testing.assert_allclose(polygons_to_grid(fan, (40, 40), (rows, columns)), grid, atol=0.01)
    mirrored = np.stack([40 - points[:, 0], points[:, 1]], axis=1)[::-1].reshape(-1)
    other = polygons_to_grid([mirrored], (40, 40), (rows, columns))
    np.testing.assert_allclose(other[:, ::-1], grid, atol=1e-6)
    x, y = points.T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    np.testing.assert_allclose(grid.mean() * 1600, area, atol=1e-3 * 1600)


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40), st.floats(0, 1))
def test_masks_come_back_from_their_runs(seed, height, width, density):
    mask = np.random.default_rng(seed).random((height, width)) < density
    counts = mask_to_counts(mask)
    np.testing.assert_array_equal(rle_to_mask(counts, mask.shape), mask)
    np.testing.assert_array_equal(rle_to_mask(compress_counts(counts), mask.shape), mask)


@given(st.binary(max_size=60), st.integers(0, 50), st.integers(0, 50))
def test_any_bytes_are_runs_or_refused(data, height, width):
    try:
        mask = rle_to_mask(data, (height, width))
    except SourceError:
        return
    assert mask.shape == (height, width)
