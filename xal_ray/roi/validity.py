"""Shapes that can be meant: what is left of boxes and polygons when bad ones are dropped.

A public set of ten thousand images has some boxes without area and polygons of two points, and none of these
is worth the set. What reaches out of its frame is kept, since drawing cuts it there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from xal_ray.roi.grids import FRAME_TOLERANCE_PX

NO_AREA = "no area"
_MALFORMED = "numbers that are missing, or no numbers"
_INVERTED = "corners in the wrong order"
_OUTSIDE = "wholly outside the image"

_Points = npt.NDArray[np.float64]


@dataclass
class Sound:
    """Holds what is left of some shapes.

    Attributes:
        shapes: Those that can be meant, as numbers.
        num_cut: How many of them reach out of the frame by more than the tolerance.
        dropped: How many others there were, by what is wrong with them.
    """

    shapes: list[list[float]] = field(default_factory=list)
    num_cut: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def is_lost(self) -> bool:
        """Return whether no shape is left, and one had something else wrong than that it has no area."""
        return not self.shapes and any(fault != NO_AREA for fault in self.dropped)

    @property
    def faults(self) -> str:
        """Return what is wrong with those that were dropped, in words."""
        return ", ".join(f"{count} with {fault}" for fault, count in sorted(self.dropped.items()))


def sound_boxes(
    boxes: Iterable[Sequence[float]],
    frame: tuple[float, float] | None,
    tolerance: float = FRAME_TOLERANCE_PX,
) -> Sound:
    """Return the boxes that can be meant.

    Args:
        boxes: Each x0, y0, x1, y1: corners.
        frame: Height and width of the image; None where they are not known yet.
        tolerance: By how much a box may reach out of it without being counted.
    """
    found = Sound()
    for box in boxes:
        points = _points(box)
        if points is None or len(points) != 2:
            found.dropped[_MALFORMED] += 1
        elif (points[0] == points[1]).any():
            found.dropped[NO_AREA] += 1
        elif (points[0] > points[1]).any():
            found.dropped[_INVERTED] += 1
        else:
            _keep(found, box, points, frame, tolerance)
    return found


def sound_polygons(
    polygons: Iterable[Sequence[float]],
    frame: tuple[float, float] | None,
    tolerance: float = FRAME_TOLERANCE_PX,
) -> Sound:
    """Return the polygons that can be meant.

    Args:
        polygons: Each x0, y0, x1, y1, ...: corners.
        frame: As for `sound_boxes`.
        tolerance: As for `sound_boxes`.
    """
    found = Sound()
    for polygon in polygons:
        points = _points(polygon)
        if points is None:
            found.dropped[_MALFORMED] += 1
        elif _are_on_a_line(points):
            found.dropped[NO_AREA] += 1
        else:
            _keep(found, polygon, points, frame, tolerance)
    return found


def _points(numbers: Sequence[float]) -> _Points | None:
    """(n, 2) pairs; None where they are none, or not finite."""
    if len(numbers) % 2 or any(isinstance(number, bool | str) or number is None for number in numbers):
        return None
    try:
        points = np.asarray(numbers, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        return None
    return points if np.isfinite(points).all() else None


def _are_on_a_line(points: _Points) -> bool:
    """Return whether points enclose nothing: there are fewer than three, or all lie on one line."""
    if len(points) < 3:
        return True
    steps = points - points[0]
    farthest = steps[np.argmax(np.abs(steps).sum(axis=1))]
    across = steps[:, 0] * farthest[1] - steps[:, 1] * farthest[0]
    return not np.abs(across).max() > 1e-12 * np.square(farthest).sum()


def _keep(
    found: Sound,
    shape: Sequence[float],
    points: _Points,
    frame: tuple[float, float] | None,
    tolerance: float,
) -> None:
    """Keep a shape, unless all of it lies outside the frame."""
    if frame is not None:
        low, high, limits = points.min(axis=0), points.max(axis=0), np.array(frame[::-1])
        if (high <= 0).any() or (low >= limits).any():
            found.dropped[_OUTSIDE] += 1
            return
        found.num_cut += bool((low < -tolerance).any() or (high > limits + tolerance).any())
    found.shapes.append([float(number) for number in shape])
