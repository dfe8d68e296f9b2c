"""The shapes of COCO's annotations as columns of the manifest: boxes, polygons, and one mask of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xal_ray.errors import SourceError
from xal_ray.pool.manifest import Row
from xal_ray.roi import check_boxes, check_polygons, compress_counts, mask_to_counts, rle_to_mask

Item = dict[str, Any]


def shapes_of(annotations: Sequence[Item], image: Item, where: str) -> Row:
    """The union of some annotations of an image.

    An annotation's segmentation counts, and where it has none its box. Boxes without area, which public sets
    hold, are left out.

    Args:
        annotations: With `segmentation` (polygons, or runs as a list or a compressed string) or `bbox`.
        image: Its width and height are the frame, where they are given.
        where: File and image, for messages.

    Returns:
        The columns boxes, polygons and rle and, where there is any shape, roi_state.

    Raises:
        SourceError: A shape is malformed or lies outside the frame.
    """
    boxes: list[list[float]] = []
    polygons: list[list[float]] = []
    runs: list[Item] = []
    for annotation in annotations:
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, dict):
            runs.append(segmentation)
        elif segmentation:
            polygons += _polygons(segmentation, where)
        elif annotation.get("bbox") is not None:
            boxes += _box(annotation["bbox"], where)
    frame = (image["height"], image["width"]) if image.get("width") is not None else None
    if frame is not None:
        if boxes:
            check_boxes(boxes, frame, where=where)
        check_polygons(polygons, frame, where=where)
    shapes: Row = {"boxes": boxes, "polygons": polygons or None, "rle": _merged(runs, frame, where)}
    if boxes or polygons or runs:
        shapes["roi_state"] = "present"
    return shapes


def _polygons(segmentation: Any, where: str) -> list[list[float]]:
    if isinstance(segmentation, list) and all(_are_numbers(polygon) for polygon in segmentation):
        return [[float(number) for number in polygon] for polygon in segmentation]
    raise _malformed(
        "a segmentation", "lists of numbers x0, y0, x1, y1, ..., or runs with size and counts", where
    )


def _box(bbox: Any, where: str) -> list[list[float]]:
    """x, y, width and height as corners; none where it has no area."""
    if not _are_numbers(bbox) or len(bbox) != 4:
        raise _malformed("a bbox", "four numbers: x, y, width, height", where)
    x, y, width, height = map(float, bbox)
    return [[x, y, x + width, y + height]] if width != 0 and height != 0 else []


def _merged(runs: Sequence[Item], frame: tuple[int, int] | None, where: str) -> Item | None:
    """One mask of runs that covers what some do."""
    if not runs:
        return None
    size = _size(runs[0], where)
    if any(_size(each, where) != size for each in runs) or (frame is not None and size != frame):
        raise SourceError("the mask of an annotation has another size than its image", where=where)
    counts = [_counts(each, where) for each in runs]
    if len(counts) == 1 and isinstance(counts[0], str):
        rle_to_mask(counts[0], size, where=where)  # the error comes now, not after an hour of reading
        return {"height": size[0], "width": size[1], "counts": counts[0]}
    mask = np.zeros(size, dtype=bool)
    for each in counts:
        mask |= rle_to_mask(each, size, where=where)
    return {"height": size[0], "width": size[1], "counts": compress_counts(mask_to_counts(mask))}


def _size(runs: Item, where: str) -> tuple[int, int]:
    size = runs.get("size")
    if isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size):
        return size[0], size[1]
    raise _malformed("the size of a mask", "[height, width]", where)


def _counts(runs: Item, where: str) -> str | list[int]:
    counts = runs.get("counts")
    if isinstance(counts, str | list):
        return counts
    raise _malformed("the counts of a mask", "a list of whole numbers, or a compressed text", where)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) in (int, float) and abs(value) < 1e9 for value in values
    )


def _malformed(what: str, expected: str, where: str) -> SourceError:
    return SourceError(f"{what} is malformed", expected=expected, where=where)
