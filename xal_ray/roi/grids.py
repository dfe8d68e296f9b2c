"""Boxes and masks of one frame as covered area fractions on a grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xal_ray.errors import SourceError

FloatArray = npt.NDArray[np.float32]

FRAME_TOLERANCE_PX = 1.0  # annotation tools round corners outwards
NORMALISED_SIDE = 65536  # of the square frame of shapes that are given as fractions of an image of any size


def boxes_to_grid(boxes: npt.ArrayLike, frame: tuple[int, int], grid: tuple[int, int]) -> FloatArray:
    """Return the area fraction of every grid cell that the union of some boxes covers.

    The boxes' own edges cut the frame into rectangles that are wholly inside or wholly outside the union
    (coordinate compression), so the result is exact and overlaps count once.

    Args:
        boxes: (n, 4) finite x0, y0, x1, y1: pixel corners in the frame, half-open; n may be 0. What lies
            outside the frame is cut off; an empty or inverted box covers nothing (see `sound_boxes`).
        frame: Height and width of the image that the boxes were drawn on, pixels.
        grid: Rows and columns of the result.

    Returns:
        (rows, columns) float32 in [0, 1].

    Raises:
        ValueError: The boxes are not (n, 4) or not finite.
    """
    corners = _corners(boxes)
    if not np.isfinite(corners).all():
        raise ValueError("boxes must be finite; run sound_boxes first")
    height, width = frame
    x0, x1 = np.clip(corners[:, [0, 2]], 0.0, width).T
    y0, y1 = np.clip(corners[:, [1, 3]], 0.0, height).T
    x_edges = np.unique(np.concatenate([[0.0, width], x0, x1]))
    y_edges = np.unique(np.concatenate([[0.0, height], y0, y1]))

    inside = np.zeros((len(y_edges) - 1, len(x_edges) - 1))
    rows = np.searchsorted(y_edges, np.stack([y0, y1], axis=1))
    columns = np.searchsorted(x_edges, np.stack([x0, x1], axis=1))
    for (top, bottom), (left, right) in zip(rows, columns, strict=True):
        inside[top:bottom, left:right] = 1.0
    return _average(inside, y_edges, x_edges, grid)


def mask_to_grid(mask: npt.NDArray[np.number | np.bool_], grid: tuple[int, int]) -> FloatArray:
    """Rescale masks by exact area averaging: pixels that a cell border cuts count in part on both sides.

    The mean over the mask is kept. It works in either direction, and on grids as on masks.

    Args:
        mask: (h, w) or (n, h, w), bool or numbers in [0, 1].
        grid: Rows and columns of the result.

    Returns:
        (rows, columns) or (n, rows, columns) float32 in [0, 1].

    Raises:
        ValueError: Another number of dimensions, no pixels, or values that are not in [0, 1].
    """
    if mask.ndim not in (2, 3) or 0 in mask.shape[-2:]:
        raise ValueError(f"a mask must be (h, w) or (n, h, w) and not empty, found shape {mask.shape}")
    # The comparison is written so that NaN fails it too.
    if mask.size and not (mask.min() >= 0 and mask.max() <= 1):
        raise ValueError(f"mask values must be in [0, 1], found {mask.min()} to {mask.max()}")
    height, width = mask.shape[-2:]
    if height % grid[0] == 0 and width % grid[1] == 0:
        return _block_means(mask, grid)
    # Up to this size float32 holds every partial sum of a binary mask exactly.
    narrow = mask.dtype != np.float64 and height * width <= 2**24
    values: npt.NDArray[np.floating] = mask.astype(np.float32) if narrow else mask.astype(np.float64)
    return _average(values, np.arange(height + 1.0), np.arange(width + 1.0), grid)


def check_mask(
    mask: npt.NDArray[np.number | np.bool_], frame: tuple[int, int], *, where: str | None = None
) -> None:
    """Refuse a mask that was not drawn on its image.

    Args:
        mask: (h, w).
        frame: Height and width of the image, pixels.
        where: The file and row the mask comes from, for the message.

    Raises:
        SourceError: The sizes differ.
    """
    if mask.shape != frame:
        raise SourceError(
            "a mask has another size than its image",
            expected=f"{frame[1]}x{frame[0]} pixels",
            found=f"{mask.shape[1]}x{mask.shape[0]} pixels",
            where=where,
            next_step="check that the mask belongs to the image, or leave its cell empty",
        )


def pack_coverage(coverage: npt.NDArray[np.number | np.bool_]) -> bytes:
    """Coverage in [0, 1] as it is stored: uint8, 0 to 255, row-major.

    A region that is there is never lost: where all of it would round to 0, every cell that it touches is 1.
    """
    packed = np.round(coverage * 255).astype(np.uint8)
    return (packed if packed.any() else (coverage > 0).astype(np.uint8)).tobytes()


def _corners(boxes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    corners = np.asarray(boxes, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise ValueError(f"boxes must be (n, 4), found shape {corners.shape}")
    return corners


def _average(
    values: npt.NDArray[np.number | np.bool_],
    y_edges: npt.NDArray[np.float64],
    x_edges: npt.NDArray[np.float64],
    grid: tuple[int, int],
) -> FloatArray:
    """Average piecewise constant values over the cells of a grid; edges in pixels, from 0 to the frame's end.

    The division comes last, so that for whole pixels a full cell is 1 and an untouched one 0 exactly:
    alignment measures tell "all" and "none" from "nearly".
    """
    rows = _overlaps(y_edges, grid[0]).astype(values.dtype)
    columns = _overlaps(x_edges, grid[1]).astype(values.dtype)
    averages = rows @ values @ columns.T / (y_edges[-1] * x_edges[-1])
    clipped: FloatArray = np.clip(averages, 0.0, 1.0).astype(np.float32)
    return clipped


def _block_means(mask: npt.NDArray[np.number | np.bool_], grid: tuple[int, int]) -> FloatArray:
    """`_average` where every cell is made of whole pixels."""
    height, width = mask.shape[-2:]
    rows, columns = height // grid[0], width // grid[1]
    values = mask.astype(np.float64 if mask.dtype == np.float64 else np.float32)
    # Down the columns first: that adds whole rows, which lie together in memory.
    down = values.reshape(*mask.shape[:-2], grid[0], rows, width).sum(axis=-2)
    sums = down.reshape(*mask.shape[:-2], *grid, columns).sum(axis=-1)
    means: FloatArray = np.clip(sums / (rows * columns), 0.0, 1.0).astype(np.float32)
    return means


def _overlaps(edges: npt.NDArray[np.float64], num_cells: int) -> npt.NDArray[np.float64]:
    """(num_cells, pieces): the length of each piece between two edges in each cell, in pixels / num_cells.

    In that unit a cell is as long as the frame has pixels, and both kinds of borders are whole numbers.
    """
    pieces = edges * num_cells
    borders = np.arange(num_cells + 1) * edges[-1]
    starts = np.maximum(borders[:-1, None], pieces[None, :-1])
    ends = np.minimum(borders[1:, None], pieces[None, 1:])
    lengths: npt.NDArray[np.float64] = np.maximum(ends - starts, 0.0)
    return lengths
