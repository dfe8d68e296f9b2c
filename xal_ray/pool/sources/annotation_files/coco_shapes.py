"""The shapes of COCO's annotations as columns of the manifest: boxes, polygons, and one mask of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xal_ray.errors import SourceError
from xal_ray.pool import manifest
from xal_ray.roi import Sound, compress_counts, mask_to_counts, rle_to_mask, sound_boxes, sound_polygons
from xal_ray.roi.validity import NO_AREA

Item = dict[str, Any]
Frame = tuple[int, int]

_OTHER_SIZE = "a mask of another size than its image"


@dataclass
class CocoShapes:
    """The union of some annotations of an image.

    Attributes:
        boxes: x0, y0, x1, y1 each.
        polygons: x0, y0, x1, y1, ... each.
        runs: Masks, each of the frame's size.
        dropped: What could not be meant.
        boxes_instead: Why the box of an annotation stands in the place of its segmentation, once each.
    """

    boxes: list[list[float]] = field(default_factory=list)
    polygons: list[list[float]] = field(default_factory=list)
    runs: list[Item] = field(default_factory=list)
    dropped: Sound = field(default_factory=Sound)
    boxes_instead: list[str] = field(default_factory=list)

    @property
    def is_lost(self) -> bool:
        """Return whether nothing is left of shapes that were more than points and lines."""
        return not self and self.dropped.is_lost

    def __bool__(self) -> bool:
        return bool(self.boxes or self.polygons or self.runs)

    def columns(self) -> manifest.Shapes:
        """Return them as the columns boxes, polygons and rle."""
        return {"boxes": self.boxes, "polygons": self.polygons or None, "rle": _merged(self.runs)}


def shapes_of(annotations: Sequence[Item], image: Item) -> CocoShapes:
    """Return the shapes of some annotations of an image.

    An annotation's segmentation counts, and where it has none, or none that can be meant, its box.

    Args:
        annotations: With `segmentation` (polygons, or runs as a list or a compressed string) or `bbox`.
        image: Its width and height are the frame, where they are given.
    """
    frame = (image["height"], image["width"]) if image.get("width") is not None else None
    found = CocoShapes()
    for annotation in annotations:
        segmentation, bbox = annotation.get("segmentation"), annotation.get("bbox")
        before = found.dropped.dropped.copy()
        if (segmentation and _add_segmentation(found, segmentation, frame, bbox)) or bbox is None:
            continue
        boxes = _boxes(bbox, frame)
        found.boxes += boxes.shapes
        if boxes.shapes and segmentation:
            found.boxes_instead.append(Sound(dropped=found.dropped.dropped - before).faults)
            found.dropped.dropped = before
        else:
            found.dropped.dropped += boxes.dropped
    return found


def _add_segmentation(found: CocoShapes, segmentation: Any, frame: Frame | None, bbox: Any) -> bool:
    """Add what can be meant of a segmentation; whether there was any."""
    if isinstance(segmentation, dict):
        # A mask of nothing says that there is nothing, but where a box stands beside it.
        has_box = bbox is not None and bool(_boxes(bbox, frame).shapes)
        runs = _sound_runs(segmentation, found.runs[0]["size"] if found.runs else frame, has_box)
        if isinstance(runs, str):
            found.dropped.dropped[runs] += 1
            return False
        found.runs.append(runs)
        return True
    parts = segmentation if isinstance(segmentation, list) else [segmentation]
    if all(type(part) in (int, float) for part in parts):
        parts = [parts]  # one polygon, not a list of them, as some tools write it
    lists = [part for part in parts if isinstance(part, list)]
    sound = sound_polygons(lists, frame)
    if len(lists) < len(parts):
        sound.dropped["a segmentation that is none"] += len(parts) - len(lists)
    found.polygons += sound.shapes
    found.dropped.dropped += sound.dropped
    return bool(sound.shapes)


def _boxes(bbox: Any, frame: Frame | None) -> Sound:
    """x, y, width and height as corners."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(type(side) in (int, float) for side in bbox):
        return Sound(dropped=Counter({"a bbox of other than four numbers": 1}))
    x, y, width, height = bbox
    return sound_boxes([[x, y, x + width, y + height]], frame)


def _sound_runs(segmentation: Item, frame: Frame | None, has_box: bool) -> Item | str:
    """Return a mask of runs, or what is wrong with it."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)):
        return "a mask without a size"
    if frame is not None and tuple(size) != frame:
        return _OTHER_SIZE
    if not isinstance(counts, str | list):
        return "a mask without counts"
    try:
        mask = rle_to_mask(counts, (size[0], size[1]))  # the error comes now, not after an hour of reading
    except SourceError:
        return "runs of a mask that do not fill it"
    if has_box and not mask.any():
        return NO_AREA
    return {"size": (size[0], size[1]), "counts": counts}


def _merged(runs: Sequence[Item]) -> manifest.RunLengths | None:
    """Return one mask of runs that covers what some do, all of one size."""
    if not runs:
        return None
    size = runs[0]["size"]
    if len(runs) == 1 and isinstance(runs[0]["counts"], str):
        return {"height": size[0], "width": size[1], "counts": runs[0]["counts"]}
    mask = np.zeros(size, dtype=bool)
    for each in runs:
        mask |= rle_to_mask(each["counts"], size)
    return {"height": size[0], "width": size[1], "counts": compress_counts(mask_to_counts(mask))}
