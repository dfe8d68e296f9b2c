"""Which values of a mask are inside: of labels all but zero, of soft edges those from half of the maximum on.

Masks are written in many ways: 0 and 1, 0 and 255, labels 1 to 4 (or to 117), probabilities, and black and
white that a JPEG or a resampling has blurred. The values alone can't tell the last from labels, since both
may be any number up to 255; where they lie can:

    labels  whole numbers (a thousandth off at most). The largest is below 64, or some are far below zero, or
            what lies between zero and the largest has areas of its own: pixels whose four neighbours have the
            same value
    soft    all else: real numbers, and whole numbers of which those between lie on edges, and are the fewer,
            or change by small steps from pixel to pixel through all of the range
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from xal_ray.images.scaling import finite_range

_WHOLE = 1e-3  # so near to a whole number is one: resampling leaves crumbs
_FEW = 64  # labels below are never taken for a scale of grey
_NEAR_BLACK, _NEAR_WHITE = 1 / 8, 7 / 8  # of the maximum: what a codec's ringing reaches
_FEWEST_ON_EDGES = 8  # pixels; fewer tell nothing
_SOLID = 0.25  # of the pixels between, from which on they are areas
_LEVELS, _MOST_LEVELS = 64, 0.9  # parts of the range, and how many of them a picture of probabilities meets
_SMALL_STEP, _MOST_STEPS = 1 / 24, 0.95  # of the maximum, from a pixel to the next; and of all steps
_BRIGHT = 128  # of 255

Values = npt.NDArray[np.number]


class Mask(NamedTuple):
    """A mask as read.

    Attributes:
        inside: (height, width), true inside.
        is_soft: Its values were neither labels nor two, and were cut at half of their maximum.
    """

    inside: npt.NDArray[np.bool_]
    is_soft: bool = False


class Cut(NamedTuple):
    """Says where inside begins.

    Attributes:
        least: The least value inside; None: all but zero, negative labels among them.
        is_soft: There are values between, that it cuts.
    """

    least: float | None = None
    is_soft: bool = False

    def inside(self, values: Values) -> npt.NDArray[np.bool_]:
        """Return where values are inside; what is no number is outside."""
        if self.least is not None:
            return np.asarray(values >= self.least)
        if values.dtype.kind in "bu":
            return np.asarray(values != 0)
        return np.asarray((values >= 0.5) | (values <= -0.5))


def find_cut(planes: Callable[[], Iterable[Values]], *, lossy: bool = False) -> Cut:
    """Find out what a mask's values mean.

    Args:
        planes: Gives the planes of the whole mask, (h, w) each: a slice alone may hold nothing but crumbs.
        lossy: The file's compression blurs, so that no value is a label.
    """
    smallest, largest, whole = 0.0, 0.0, True
    for plane in planes():
        low, high = finite_range(plane)
        smallest, largest = min(smallest, low), max(largest, high)
        whole = whole and _is_whole(plane)
    if whole and not lossy:
        is_small = largest < _FEW or smallest < -largest / 2
        if is_small or not (_lies_on_edges(planes(), largest) or _is_smooth(planes(), largest)):
            return Cut()
    # With nothing above zero nothing is inside.
    return Cut(largest / 2 if largest > 0 else np.inf, is_soft=not lossy)


def cut_plane(values: Values, *, lossy: bool = False) -> Mask:
    """Read a mask of one plane, (h, w)."""
    cut = find_cut(lambda: [values], lossy=lossy)
    return Mask(cut.inside(values), cut.is_soft)


def palette_values(indices: Values, colours: npt.NDArray[np.uint8]) -> Values:
    """Return what a picture with a palette says as a mask: its colours where these mean light and dark.

    A palette may begin with white, so that an index is not a colour; and it may be there for its looks, so
    that a colour is not a label. Colours count where they are grey, or black is one of them; not where
    several indices share one, unless they are black and white.

    Args:
        indices: (h, w).
        colours: (h, w, 3) of the pixels, transparent ones black.

    Returns:
        (h, w): the greys; of colours 1 where they are not black; else the indices.
    """
    brightest = colours.max(axis=2)
    used, first = np.unique(indices, return_index=True)
    shown = colours.reshape(-1, 3)[first]
    has_black = not shown.any(axis=1).all()
    if (shown == shown[:, :1]).all():
        is_clear = len(np.unique(shown[:, 0])) == len(used) or (has_black and shown.max() >= _BRIGHT)
        return brightest if is_clear else indices
    is_clear = has_black and len(np.unique(shown, axis=0)) == len(used)
    return (brightest > 0).astype(np.uint8) if is_clear else indices


def _is_whole(plane: Values) -> bool:
    if plane.dtype.kind in "biu":
        return True
    finite = plane[np.isfinite(plane)]
    return not finite.size or bool(np.abs(finite - np.rint(finite)).max() <= _WHOLE)


def _lies_on_edges(planes: Iterable[Values], largest: float) -> bool:
    """Return whether what lies between zero and the maximum has no areas of its own."""
    counts = np.zeros((2, 2), dtype=np.int64)  # of values near black, and of those between: all, and solid
    num_pixels = 0
    for plane in planes:
        num_pixels += plane.size
        dark = (plane > 0) & (plane <= _NEAR_BLACK * largest)
        between = (plane > _NEAR_BLACK * largest) & (plane < _NEAR_WHITE * largest)
        if not (dark.any() or between.any()):
            continue
        solid = _solid(plane)
        counts += [[np.count_nonzero(each), np.count_nonzero(each & solid)] for each in (dark, between)]
    (num_dark, solid_dark), (num_between, solid_between) = counts.tolist()
    # Blurring leaves flat blocks near black, so that these tell only where there is nothing else.
    if num_between >= _FEWEST_ON_EDGES:
        return bool(solid_between < _SOLID * num_between and 2 * num_between < num_pixels)
    return num_dark >= _FEWEST_ON_EDGES and solid_dark < _SOLID * num_dark


def _is_smooth(planes: Iterable[Values], largest: float) -> bool:
    """Tell whether values go through the whole range by small steps: probabilities or heat, no labels."""
    num_steps, num_small = 0, 0
    met = np.zeros(_LEVELS, dtype=bool)
    for plane in planes:
        counted = np.nan_to_num(plane.astype(np.float32), posinf=largest)
        counted = np.clip(counted, 0, largest)
        met[np.minimum(counted * (_LEVELS / largest), _LEVELS - 1).astype(np.int64)] = True
        for axis in (0, 1):
            steps = np.abs(np.diff(counted, axis=axis))
            num_steps += int(np.count_nonzero(steps))
            num_small += int(np.count_nonzero((steps > 0) & (steps <= _SMALL_STEP * largest)))
    return bool(met.mean() >= _MOST_LEVELS and num_small >= _MOST_STEPS * num_steps)


def _solid(plane: Values) -> npt.NDArray[np.bool_]:
    """Return where a pixel's four neighbours have its value."""
    found = np.zeros(plane.shape, dtype=bool)
    middle = plane[1:-1, 1:-1]
    found[1:-1, 1:-1] = (
        (middle == plane[:-2, 1:-1])
        & (middle == plane[2:, 1:-1])
        & (middle == plane[1:-1, :-2])
        & (middle == plane[1:-1, 2:])
    )
    return found
