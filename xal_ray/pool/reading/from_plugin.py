"""Row readers of other packages: what they make of a row is checked before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from xal_ray.config import Pool
from xal_ray.errors import PluginError, XalRayError
from xal_ray.images.errors import ImageError
from xal_ray.pool.manifest import Row
from xal_ray.pool.reading.read import ReadImage
from xal_ray.pool.remarks import REMARKS
from xal_ray.pool.schema import ATTRIBUTES, ROI_STATES
from xal_ray.registry.importing import blaming
from xal_ray.registry.row_readers import RowReaderSpec

_SETTLED = ("image_id", "label", "roi_state", *ATTRIBUTES)
_IDENTIFIED = ("group_id", *ATTRIBUTES)


def read(spec: RowReaderSpec, row: Row, pool: Pool) -> list[ReadImage]:
    """Read a row by a plug-in.

    A row is one image, or any number of them with `makes_many`; these have ids of their own, which are the
    row's with a slash and a name behind it. An image with an ROI whose `roi_state` is not settled has one
    that is present.

    Raises:
        ImageError: A file can't be used, as the plug-in has found.
        PluginError: It fails, or what it gives is no image as a pool has them.
    """
    expected = "code that raises nothing but ImageError"
    with blaming(lambda raised: _broken(spec, row, expected, raised), XalRayError, ImageError):
        found = list(spec.load()(row, pool))
    for image in found:
        misfit = _misfit(image, pool)
        if misfit is not None:
            raise _broken(spec, row, *misfit)
    ids = [image.settled.get("image_id", row["image_id"]) for image in found]
    if not spec.makes_many and ids != [row["image_id"]]:
        raise _broken(spec, row, "one image, of the row's image_id", f"{len(ids)}, {_first(ids)}")
    begin = f"{row['image_id']}/"
    if spec.makes_many and (ids != sorted(set(ids)) or any(not str(name).startswith(begin) for name in ids)):
        raise _broken(spec, row, f"ids that begin with {begin}, each once, in their order", _first(ids))
    return [_completed(image) for image in found]


def _misfit(image: Any, pool: Pool) -> tuple[str, str] | None:
    """Return what was expected of an image, and what was found; None where all is well."""
    if not isinstance(image, ReadImage):
        return "images of the class ReadImage", f"a {type(image).__name__}"
    size = pool.image_size
    for title, array, shape, kinds in (
        ("pixels", image.pixels, (size, size, pool.channels), "u"),
        ("an roi", image.roi, (size, size), "fb"),
    ):
        if array is None and title != "pixels":
            continue
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype.kind not in kinds:
            found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            return f"{title} of {'uint8' if kinds == 'u' else 'float32'} {shape}", found
    if image.pixels.dtype != np.uint8:
        return "pixels of uint8", f"{image.pixels.dtype}"
    if image.roi is not None and not ((image.roi >= 0.0) & (image.roi <= 1.0)).all():
        return "an roi from 0 to 1", f"{image.roi.min():g} to {image.roi.max():g}"
    frame = tuple(image.frame)
    if len(frame) != 2 or not all(isinstance(side, int | np.integer) and side > 0 for side in frame):
        return "a frame of two whole numbers, height and width", f"{image.frame}"
    return _misfit_of_columns(image)


def _misfit_of_columns(image: ReadImage) -> tuple[str, str] | None:
    for title, given, known in (
        ("settled", image.settled, _SETTLED),
        ("identified", image.identified, _IDENTIFIED),
    ):
        if not isinstance(given, Mapping) or not set(given) <= set(known):
            other = (
                sorted(map(str, set(given) - set(known)))
                if isinstance(given, Mapping)
                else [str(type(given))]
            )
            return f"{title} columns out of {', '.join(known)}", ", ".join(other)
    for name, value in image.settled.items():
        if not (isinstance(value, str) or (value is None and name not in ("image_id", "roi_state"))):
            return f"text in {name}", f"a {type(value).__name__}"
    state = image.settled.get("roi_state")
    if state is not None and state not in ROI_STATES:
        return f"a roi_state out of {', '.join(ROI_STATES)}", str(state)
    if (state or "present") != "present" and image.roi is not None:
        return "no roi, or the roi_state present", f"an roi, and {state}"
    if not set(image.remarks) <= set(REMARKS):
        return f"remarks out of {', '.join(REMARKS)}", ", ".join(sorted(set(image.remarks) - set(REMARKS)))
    return None


def _completed(image: ReadImage) -> ReadImage:
    roi = None if image.roi is None else image.roi.astype(np.float32)
    state = {} if roi is None else {"roi_state": "present"}
    return replace(image, roi=roi, settled={**state, **image.settled})


def _first(ids: list[Any]) -> str:
    return f"the first {ids[0]}" if ids else "none"


def _broken(spec: RowReaderSpec, row: Row, expected: str, found: str) -> PluginError:
    return PluginError(
        f"the row reader {spec.title} breaks its contract",
        expected=expected,
        found=found,
        where=f"the row {row['image_id']}",
        next_step="correct the plug-in; xal_ray.plugins.row_reader says what it owes",
    )
