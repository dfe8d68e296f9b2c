"""Does the model look where the expert looks? A permutation test over groups.

Each map is held against its own region of interest (ROI) and against those of other groups. Maps agree better
with large ROIs whatever they show, so donors are of similar size: groups are sorted by the median size of
their ROIs into strata of a few groups, ROIs change hands within a stratum only, and of the donor group an
image gets the ROI that is nearest to its own in size. What is left of the difference in size is taken out
exactly where a measure is linear in the ROI: a donor counts as if its coverage were thinned or thickened to
the image's own area. Images of a group (the slices of a patient) are alike, so what is permuted is groups.

Where large ROIs lie nearer to the middle, as they must within a frame, and maps are hot there whatever they
show, a large ROI in a good place would count for more with an image whose own ROI is large: its own. So for
the p-value, what every map makes of a donor's ROI is taken off, in the share in which each map's agreement
rises with the area.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import factorial, prod
from typing import Literal, TypedDict

import numpy as np
import numpy.typing as npt

from xal_ray.acquire.alignment import pointing_game
from xal_ray.acquire.fullsize import WHOLE_TOLERANCE, Regions, linear_measures, whole_adjoint
from xal_ray.metrics.intervals import Interval, mean_interval
from xal_ray.roi import mask_to_grid

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

TESTED = ("soft_dice", "pointing_game", "energy_in_roi", "lift")
LEAST_IN_STRATUM = 5  # groups; fewer leave too few permutations, many more leave donors of other sizes
NUM_PERMUTATIONS = 1000  # if there are no more than so many, all of them are gone through
SIGNIFICANCE = 0.05
ROUNDING = 1e-6  # of agreements, which come of float32 maps and ROIs: what differs by less is tied

Verdict = Literal["shown", "not shown", "cannot be shown"]  # that maps find their own ROI


class Effect(TypedDict):
    """Says how far maps agree more with their own ROIs than with those of other groups, by one measure.

    Attributes:
        own: The mean agreement with the image's own ROI.
        donors: The mean agreement with ROIs of other groups.
        effect: Their difference.
        ci95: Its low and high over groups.
        p: Of the permutations; None where so few groups can't give a small one.
        verdict: What follows from it.
    """

    own: float
    donors: float
    effect: float
    ci95: Interval | None
    p: float | None
    verdict: Verdict


class PermutationFigures(TypedDict):
    """Holds what `alignment_test` finds.

    Attributes:
        num_images: Those with a defined map, and an ROI that is neither empty nor the whole image.
        num_groups: Theirs.
        smallest_p: The least p-value that so many groups can give.
        measures: By measure of `TESTED`.
    """

    num_images: int
    num_groups: int
    smallest_p: float
    measures: dict[str, Effect]


def alignment_test(
    cams: npt.NDArray[np.floating], regions: Regions, group_ids: Sequence[str], seed: int
) -> PermutationFigures | None:
    """Hold the agreement of maps with their own ROIs against that with ROIs of other groups.

    The effect of a measure is the mean over images of `own - donors`: the agreement with the image's own ROI
    less the mean agreement with the ROIs of similar size, one of each other group of the stratum. Its p-value
    is the share of permutations of the groups, the observed one counted, whose mean agreement is at least
    that of the true ROIs: one-sided, since the question is whether maps find their own ROI, and exact as far
    as groups of a stratum are exchangeable.

    Args:
        cams: (n, gh, gw) in [0, 1]; undefined maps are NaN.
        regions: The ROIs of the same n images.
        group_ids: n groups (patients).
        seed: Of the permutations, where not all are gone through.

    Returns:
        `num_images` (with a defined map, and an ROI that is neither empty nor the whole image), `num_groups`,
        `smallest_p` that so many groups can give, and under `measures`, for each of `TESTED`: `own` and
        `donors` (means), `effect`, `ci95` (low and high of the effect over groups, `mean_interval`), `p`
        (None where `smallest_p` is not below `SIGNIFICANCE`) and `verdict`. The p-value alone decides that:
        where it is small and the interval reaches nought all the same, the interval is the coarser of the
        two. None with fewer than two groups.

    Source:
        Winkler et al., "Permutation inference for the general linear model" (2014), section "Restricted
        exchangeability"; Phipson and Smyth, "Permutation p-values should never be zero" (2010).
    """
    ids = np.asarray(group_ids, dtype=np.str_)
    if len(ids) != len(cams):
        raise ValueError(f"{len(cams)} maps, but {len(ids)} group_ids")
    kept = _defined(cams, regions)
    if len(np.unique(ids[kept])) < 2:
        return None
    _, groups = np.unique(ids[kept], return_inverse=True)
    cams, regions = cams[kept], regions.take(kept)
    area = regions.area
    strata = _strata(groups, np.log(area))
    smallest = smallest_p([stratum.num_groups for stratum in strata])
    agreements = [_agreement(cams, regions, area, stratum) for stratum in strata]
    shares = _shares_of(cams, area, regions.frame)
    drawn = _draw([stratum.num_groups for stratum in strata], seed) if smallest < SIGNIFICANCE else None
    return {
        "num_images": len(kept),
        "num_groups": int(groups.max()) + 1,
        "smallest_p": smallest,
        "measures": {
            name: _result(strata, [found[name] for found in agreements], shares[name], groups, drawn)
            for name in TESTED
        },
    }


def smallest_p(sizes: Sequence[int]) -> float:
    """Return the smallest p-value that permutations within strata of so many groups can give."""
    return 1.0 / min(prod(factorial(size) for size in sizes), NUM_PERMUTATIONS)


@dataclass(frozen=True)
class _Stratum:
    """Groups whose ROIs are of similar size.

    Attributes:
        rows: (m,) its images.
        own: (m,) which of its groups each belongs to, from 0.
        donors: (m, k) for each image and group of the stratum, the image of that group whose ROI is nearest
            in size; the image itself for its own group.
    """

    rows: IntArray
    own: IntArray
    donors: IntArray

    @property
    def num_groups(self) -> int:
        return int(self.donors.shape[1])


def _defined(cams: npt.NDArray[np.floating], regions: Regions) -> IntArray:
    """Images with something to agree on; an ROI that is the whole image has no place to look at."""
    dice = linear_measures(cams, regions.adjoint, regions.frame)["soft_dice"]
    return np.flatnonzero(np.isfinite(dice) & (regions.area < 1.0 - WHOLE_TOLERANCE))


def _strata(groups: IntArray, sizes: FloatArray) -> list[_Stratum]:
    num_groups = int(groups.max()) + 1
    ends = np.cumsum(np.bincount(groups))[:-1]
    rows_of = np.split(np.argsort(groups, kind="stable"), ends)
    in_order = np.argsort([np.median(sizes[rows]) for rows in rows_of], kind="stable")
    strata = []
    for members in np.array_split(in_order, max(1, num_groups // LEAST_IN_STRATUM)):
        by_group = [rows_of[member] for member in members]
        rows = np.sort(np.concatenate(by_group))
        nearest = [np.abs(sizes[rows][:, None] - sizes[theirs]).argmin(axis=1) for theirs in by_group]
        donors = np.stack([theirs[near] for theirs, near in zip(by_group, nearest, strict=True)], axis=1)
        own = np.argmax(groups[rows][:, None] == members, axis=1)
        donors[np.arange(len(rows)), own] = rows  # of equal sizes another of its group may be as near
        strata.append(_Stratum(rows, own, donors))
    return strata


def _agreement(
    cams: npt.NDArray[np.floating], regions: Regions, area: FloatArray, stratum: _Stratum
) -> dict[str, FloatArray]:
    """(m, k) by measure: each map of a stratum with the ROI that it gets of each group."""
    maps = cams[stratum.rows]
    scale = (area[stratum.rows][:, None] / area[stratum.donors]).astype(np.float32)
    given = regions.adjoint[stratum.donors] * scale[:, :, None, None]
    found = linear_measures(maps, given, regions.frame)
    cells = mask_to_grid(regions.fine[stratum.rows] / np.float32(255), (cams.shape[1], cams.shape[2]))
    positions = np.searchsorted(stratum.rows, stratum.donors)
    found["pointing_game"] = np.stack(
        [pointing_game(maps, cells[position]) for position in positions.T], axis=1
    )
    return found


def _shares_of(
    cams: npt.NDArray[np.floating], area: FloatArray, frame: tuple[int, int]
) -> dict[str, FloatArray]:
    """(n,) by measure: how a map's agreement with an ROI, wherever that lies, rises with its area.

    For soft Dice and energy it is what the map has with an ROI of that area that lies evenly on the whole
    frame; lift is energy beyond that, over `1 - area`; the pointing game knows no area.
    """
    whole = whole_adjoint(frame, (cams.shape[1], cams.shape[2]))
    evenly = linear_measures(cams, (whole * area[:, None, None]).astype(np.float32), frame)
    return {
        "soft_dice": evenly["soft_dice"],
        "energy_in_roi": area,
        "lift": area / (1.0 - area),
        "pointing_game": np.ones(len(area)),
    }


def _result(
    strata: Sequence[_Stratum],
    agreements: Sequence[FloatArray],
    shares: FloatArray,
    groups: IntArray,
    drawn: Sequence[IntArray] | None,
) -> Effect:
    own = np.empty(len(groups))
    donors = np.empty(len(groups))
    for stratum, agreement in zip(strata, agreements, strict=True):
        mine = agreement[np.arange(len(stratum.rows)), stratum.own]
        own[stratum.rows] = mine
        donors[stratum.rows] = (agreement.sum(axis=1) - mine) / (stratum.num_groups - 1)
    p = None if drawn is None else _p_value(strata, agreements, shares, drawn)
    return {
        "own": float(own.mean()),
        "donors": float(donors.mean()),
        "effect": float((own - donors).mean()),
        "ci95": mean_interval(own - donors, groups),
        "p": p,
        "verdict": _verdict(p),
    }


def _verdict(p: float | None) -> Verdict:
    if p is None:
        return "cannot be shown"
    return "shown" if p < SIGNIFICANCE else "not shown"


def _p_value(
    strata: Sequence[_Stratum],
    agreements: Sequence[FloatArray],
    shares: FloatArray,
    drawn: Sequence[IntArray],
) -> float:
    """Return the share of permutations, the observed one counted, that agree at least as well.

    What is taken off belongs to an ROI and goes with it, times what belongs to an image and stays: it leaves
    permutations as exact as they are.
    """
    total = np.zeros(len(drawn[0]))
    observed, size = 0.0, 0.0
    for stratum, agreement, orders in zip(strata, agreements, drawn, strict=True):
        sums = np.zeros((stratum.num_groups, stratum.num_groups))
        np.add.at(sums, stratum.own, agreement)
        size += float(np.abs(sums).mean()) * stratum.num_groups
        share = np.bincount(stratum.own, weights=shares[stratum.rows], minlength=stratum.num_groups)
        sums -= np.outer(share / share.mean(), sums.mean(axis=0))
        observed += float(np.trace(sums))
        total += sums[np.arange(stratum.num_groups), orders].sum(axis=1)
    at_least = total >= observed - ROUNDING * size
    return float(at_least.mean())


def _draw(sizes: Sequence[int], seed: int) -> list[IntArray]:
    """Orders of each stratum's groups, (b, k) each, the true one first: all of them, or a seeded sample."""
    if len(sizes) == 1 and factorial(sizes[0]) <= NUM_PERMUTATIONS:
        return [np.array(list(permutations(range(sizes[0]))))]
    rng = np.random.default_rng(seed)

    def orders() -> Iterator[IntArray]:
        for size in sizes:
            drawn = rng.random((NUM_PERMUTATIONS, size)).argsort(axis=1)
            drawn[0] = np.arange(size)
            yield drawn

    return list(orders())
