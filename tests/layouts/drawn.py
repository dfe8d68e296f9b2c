"""Pictures with one lesion each, whose look tells the class: a bright disc, a dark disc, or a ring."""

from __future__ import annotations

import numpy as np

LOOKS = ("bright", "dark", "ring")


def picture(
    rng: np.random.Generator, look: str | None, frame: tuple[int, int] = (64, 64)
) -> tuple[np.ndarray, np.ndarray]:
    """A noisy grey picture (h, w) uint8 and the lesion's mask (h, w); with no look there is no lesion."""
    height, width = frame
    y, x = np.mgrid[:height, :width] + 0.5
    values = 110 + 20 * np.sin(x / 9 + rng.uniform(0, 6)) + rng.normal(0, 8, frame)
    mask = np.zeros(frame, dtype=bool)
    if look is not None:
        radius = rng.uniform(0.14, 0.2) * min(frame)
        centre_y, centre_x = (rng.uniform(radius + 2, side - radius - 2) for side in frame)
        distance = np.hypot(y - centre_y, x - centre_x)
        mask = distance < radius
        values += {
            "bright": mask * 100,
            "dark": mask * -90,
            "ring": mask * np.where(distance > radius * 0.6, 110, -60),
        }[look]
    return np.clip(values, 0, 255).astype(np.uint8), mask


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a mask: pixel corners, half-open."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def outline(mask: np.ndarray, num_points: int = 24) -> list[float]:
    """A polygon x0, y0, x1, y1, ... around a mask that is about round."""
    x0, y0, x1, y1 = box_of(mask)
    turns = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    x = (x0 + x1) / 2 + (x1 - x0) / 2 * np.cos(turns)
    y = (y0 + y1) / 2 + (y1 - y0) / 2 * np.sin(turns)
    return np.stack([x, y], axis=1).round(2).reshape(-1).tolist()
