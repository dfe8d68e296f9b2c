"""Several annotators of one image: what they make of it together, and how far they agree.

An annotator names findings and draws a box around each. Annotators differ: of the (image, finding) pairs of
the public VinBigData set 43 % were named by one annotator of three.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import fsum
from typing import Any

import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]  # x0, y0, x1, y1: pixel corners, half-open
Boxes = Mapping[str, Sequence[Box]]  # by annotator

_DUPLICATE_IOU = 0.9  # of boxes of one annotator: drawn twice
_SAME_REGION_IOU = 0.25  # of boxes of different annotators: the same lesion
_FEWEST_IMAGES = 10  # smaller counts are not told


@dataclass
class Marks:
    """Holds what annotators said of the images of a set.

    Attributes:
        named: For each image and each annotator who saw it the findings that the annotator named.
        boxes: For each image and finding the boxes of each annotator.
    """

    named: dict[str, dict[str, set[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    boxes: dict[tuple[str, str], dict[str, list[Box]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )


def agreed_findings(named: Mapping[str, Collection[str]], policy: str) -> set[str]:
    """Return the findings of an image.

    Args:
        named: What each annotator who saw the image named; may be empty for an annotator.
        policy: `any` annotator, the `majority` (more than half), or `all` annotators must name a finding.
    """
    least = {"any": 1, "majority": len(named) // 2 + 1, "all": len(named)}[policy]
    votes = Counter(finding for findings in named.values() for finding in set(findings))
    return {finding for finding, count in votes.items() if count >= least}


def combined_boxes(boxes: Boxes, num_annotators: int, policy: str) -> list[Box]:
    """Return the ROI of a finding in an image, as boxes; the order of annotators and boxes does not matter.

    - `union`: all boxes.
    - `majority_pixel`: the pixels that lie in boxes of more than half of the annotators, as rectangles that
      do not overlap. Exact: the boxes' own edges cut the image into rectangles, for each of which annotators
      are counted.
    - `cluster_mean`: boxes that one annotator drew twice (IoU >= 0.9) are dropped; boxes of different
      annotators with IoU >= 0.25 are linked; each connected component becomes the mean of its corners.

    Args:
        boxes: Of one finding, by annotator.
        num_annotators: How many saw the image, whether or not they named the finding.
        policy: One of the above.

    Returns:
        Sorted boxes; none where no pixel is agreed upon.
    """
    if policy == "majority_pixel":
        return _majority_pixels(boxes, num_annotators)
    if policy == "cluster_mean":
        return _cluster_means(boxes)
    return sorted({box for drawn in boxes.values() for box in drawn})


def intersection_over_union(one: Box, other: Box) -> float:
    """Return the shared area of two boxes over the area of both together."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (_area(one) + _area(other) - shared)


def agreement(marks: Marks, findings: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return how far annotators agree, over the images that at least two of them saw.

    Args:
        marks: What they said.
        findings: Which to report.

    Returns:
        For each finding: `marked_by`, the number of images that 1, 2, ... annotators named it in ("<10" where
        they are fewer than ten); `kappa` (`fleiss_kappa`); and `box_iou`: of each pair of annotators who both
        drew the finding in an image, the mean best IoU of each one's boxes with the other's, averaged over
        pairs, then images. Both are None where fewer than ten images count.
    """
    seen = {image: named for image, named in marks.named.items() if len(named) >= 2}
    num_annotators = np.array([len(named) for named in seen.values()], dtype=np.int64)
    position = {image: row for row, image in enumerate(seen)}
    votes = {finding: np.zeros(len(seen), dtype=np.int64) for finding in findings}
    for image, named in seen.items():
        for finding, count in Counter(f for said in named.values() for f in said).items():
            if finding in votes:
                votes[finding][position[image]] = count
    ious = _pairwise_ious(marks, seen, votes)
    most = int(num_annotators.max(initial=0))
    return {
        finding: {
            "marked_by": {
                str(number): _told(int(np.count_nonzero(counts == number))) for number in range(1, most + 1)
            },
            "kappa": _kappa_told(counts, num_annotators),
            "box_iou": round(fsum(ious[finding]) / len(ious[finding]), 4)
            if len(ious[finding]) >= _FEWEST_IMAGES
            else None,
        }
        for finding, counts in votes.items()
    }


def fleiss_kappa(votes: npt.NDArray[np.int64], num_annotators: npt.NDArray[np.int64]) -> float | None:
    r"""Agreement beyond chance of several annotators on yes or no.

    With n_i annotators of image i of whom v_i say yes, and w_i = n_i - v_i:

        P_i = (v_i (v_i - 1) + w_i (w_i - 1)) / (n_i (n_i - 1))
        p   = sum v_i / sum n_i
        P_e = p^2 + (1 - p)^2
        kappa = (mean P_i - P_e) / (1 - P_e)

    1 is full agreement, 0 what chance gives. For equal n_i this is the statistic of the source.

    Args:
        votes: (images,) how many say yes.
        num_annotators: (images,) how many saw the image, at least 2.

    Returns:
        Kappa, or None where all annotators say the same of every image.

    Source: J. L. Fleiss, Measuring nominal scale agreement among many raters, Psychological Bulletin 76(5),
    378-382 (1971).
    """
    if len(votes) == 0:
        return None
    against = num_annotators - votes
    agreed = (votes * (votes - 1) + against * (against - 1)) / (num_annotators * (num_annotators - 1))
    share = votes.sum() / num_annotators.sum()
    by_chance = share**2 + (1 - share) ** 2
    return None if by_chance == 1 else float((agreed.mean() - by_chance) / (1 - by_chance))


def _kappa_told(votes: npt.NDArray[np.int64], num_annotators: npt.NDArray[np.int64]) -> float | None:
    if np.count_nonzero(votes) < _FEWEST_IMAGES:
        return None
    kappa = fleiss_kappa(votes, num_annotators)
    return None if kappa is None else round(kappa, 4)


def _told(count: int) -> int | str:
    return f"<{_FEWEST_IMAGES}" if count < _FEWEST_IMAGES else count


def _pairwise_ious(marks: Marks, seen: Collection[str], findings: Collection[str]) -> dict[str, list[float]]:
    """By finding, a number an image in which two or more annotators drew it: the mean of their pairs."""
    ious: dict[str, list[float]] = {finding: [] for finding in findings}
    for (image, finding), by_reader in marks.boxes.items():
        drawn = [boxes for _, boxes in sorted(by_reader.items()) if boxes]
        if image not in seen or finding not in ious or len(drawn) < 2:
            continue
        pairs = [_best_matches(one, other) for one, other in combinations(drawn, 2)]
        ious[finding].append(fsum(pairs) / len(pairs))
    return ious


def _best_matches(one: Sequence[Box], other: Sequence[Box]) -> float:
    best = [max(intersection_over_union(box, match) for match in other) for box in one]
    best += [max(intersection_over_union(box, match) for match in one) for box in other]
    return fsum(best) / len(best)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _majority_pixels(boxes: Boxes, num_annotators: int) -> list[Box]:
    drawn = [np.array(list(own), dtype=np.float64) for own in boxes.values() if own]
    if 2 * len(drawn) <= num_annotators:
        return []
    corners = np.concatenate(drawn)
    x_edges, y_edges = np.unique(corners[:, [0, 2]]), np.unique(corners[:, [1, 3]])
    annotators = np.zeros((len(y_edges) - 1, len(x_edges) - 1), dtype=np.int64)
    for own in drawn:
        inside = np.zeros(annotators.shape, dtype=bool)
        columns = np.searchsorted(x_edges, own[:, [0, 2]])
        rows = np.searchsorted(y_edges, own[:, [1, 3]])
        for (left, right), (top, bottom) in zip(columns, rows, strict=True):
            inside[top:bottom, left:right] = True
        annotators += inside
    return _rectangles(2 * annotators > num_annotators, x_edges.tolist(), y_edges.tolist())


def _rectangles(inside: npt.NDArray[np.bool_], x_edges: list[float], y_edges: list[float]) -> list[Box]:
    """Rectangles that together are the cells inside: runs of a row, joined with equal runs of the next."""
    open_runs: dict[tuple[int, int], int] = {}  # columns from and to -> the row that they began in
    found: list[Box] = []
    for row in range(len(inside) + 1):
        runs = _runs(inside[row]) if row < len(inside) else set()
        for run in [run for run in open_runs if run not in runs]:
            top = open_runs.pop(run)
            found.append((x_edges[run[0]], y_edges[top], x_edges[run[1]], y_edges[row]))
        for run in runs:
            open_runs.setdefault(run, row)
    return sorted(found)


def _runs(cells: npt.NDArray[np.bool_]) -> set[tuple[int, int]]:
    steps = np.flatnonzero(np.diff(np.concatenate([[False], cells, [False]]).astype(np.int8)))
    return {(int(start), int(end)) for start, end in zip(steps[::2], steps[1::2], strict=True)}


def _cluster_means(boxes: Boxes) -> list[Box]:
    kept = [
        (annotator, box) for annotator, drawn in sorted(boxes.items()) for box in _without_duplicates(drawn)
    ]
    component = list(range(len(kept)))
    for one, other in combinations(range(len(kept)), 2):
        is_same_reader = kept[one][0] == kept[other][0]
        if not is_same_reader and intersection_over_union(kept[one][1], kept[other][1]) >= _SAME_REGION_IOU:
            joined, gone = component[one], component[other]
            component = [joined if number == gone else number for number in component]
    members: dict[int, list[Box]] = defaultdict(list)
    for number, (_, box) in zip(component, kept, strict=True):
        members[number].append(box)
    return sorted(_mean(group) for group in members.values())


def _without_duplicates(drawn: Sequence[Box]) -> list[Box]:
    kept: list[Box] = []
    for box in sorted(drawn):
        if all(intersection_over_union(box, other) < _DUPLICATE_IOU for other in kept):
            kept.append(box)
    return kept


def _mean(group: Sequence[Box]) -> Box:
    # fsum rounds once: the order of annotators does not matter to the last bit.
    x0, y0, x1, y1 = (fsum(corner) / len(group) for corner in zip(*group, strict=True))
    return x0, y0, x1, y1
