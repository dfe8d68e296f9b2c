"""Ranks images: the built-in strategies, which `registry/strategies.py` lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from xal_ray.acquire.contract import Columns, Rank, Ranking, short
from xal_ray.acquire.distribution import Distribution, FloatArray, Range, Unchanged
from xal_ray.acquire.draws import digests, uniform
from xal_ray.acquire.streaming import NO_DONOR, NO_MAP, Candidates, Replay
from xal_ray.config import Normalise, Select

_AFTER_ALL = 2.0  # what an uncertainty lacks then to those from 0 to 1


def random(replay: Replay, settings: Select, seed: int) -> Rank:
    """A uniform draw for each image: a hash of (seed, image_id), so it does not depend on the other rows."""
    digest = digests("random", seed)

    def rank(chunk: Candidates) -> Ranking:
        utilities = uniform(digest, chunk.image_ids)
        return Ranking(utilities, lambda row: f"random draw {short(utilities[row])}")

    return rank


def entropy(columns: Columns, settings: Select) -> FloatArray:
    """Shannon (1948); see `uncertainty.entropy`."""
    return columns["entropy"]


def margin(columns: Columns, settings: Select) -> FloatArray:
    """Scheffer et al. (2001); see `uncertainty.margin`."""
    return columns["margin"]


def least_confidence(columns: Columns, settings: Select) -> FloatArray:
    """Lewis and Gale (1994); see `uncertainty.least_confidence`."""
    return columns["least_confidence"]


def bald(columns: Columns, settings: Select) -> FloatArray:
    """Houlsby et al. (2011): what dropout samples of the model disagree on."""
    return columns["bald"]


def dual(replay: Replay, settings: Select, seed: int) -> Rank:
    """Uncertainty and misalignment: `S = w U + (1 - w) M`; Uddin et al., arXiv 2602.13308 (2026)."""
    return _weighed(replay, settings, "dual", "misalignment", "misalignment")


def shuffled_roi(replay: Replay, settings: Select, seed: int) -> Rank:
    """A control: `dual` with the ROIs of other images. What it gains has nothing to do with looking right."""
    return _weighed(replay, settings, "shuffled_roi", "shuffled_misalignment", "shuffled misalignment")


def misalignment(replay: Replay, settings: Select, seed: int) -> Rank:
    """Misalignment alone: `dual` with w = 0, so images without an ROI still have their place."""
    return _by_roi(replay, settings, "misalignment", "misalignment", lambda values: values)


def smallest_roi(replay: Replay, settings: Select, seed: int) -> Rank:
    """A control: the smallest ROI first, since soft Dice is low for a small ROI wherever the model looks.

    An image without an ROI has no smallest one: it comes after all that have one, by its uncertainty.
    """
    rank = _by_roi(replay, settings, "roi_area", "ROI area", lambda values: 1.0 - values)

    def rank_by_area(chunk: Candidates) -> Ranking:
        found, lacks = rank(chunk), np.isnan(chunk.column("roi_area"))
        uncertainty = chunk.column(settings.uncertainty)
        return replace(
            found,
            utilities=np.where(lacks, 0.0, found.utilities),
            second=np.where(lacks, uncertainty - _AFTER_ALL, uncertainty),
        )

    return rank_by_area


def _weighed(replay: Replay, settings: Select, strategy: str, roi_name: str, roi_words: str) -> Rank:
    name, weight = settings.uncertainty, settings.weight
    score = _Combined(name, roi_name, weight, settings.normalise, settings.normalise)
    score.fit(replay)
    words = name.replace("_", " ")
    scale = "" if settings.normalise == "none" else f" {settings.normalise}"

    def rank(chunk: Candidates) -> Ranking:
        uncertainty, misalignment, utilities = score.of(chunk)
        known = chunk.column(name)

        def reason(row: int) -> str:
            if np.isnan(misalignment[row]):
                return _without_roi(words, chunk, row, known[row])
            return (
                f"{strategy} {short(utilities[row])}"
                f" = {short(weight)} x {words}{scale} {short(uncertainty[row])}"
                f" + {short(1.0 - weight)} x {roi_words}{scale} {short(misalignment[row])}"
            )

        return Ranking(utilities, reason, second=known)

    return rank


def _by_roi(
    replay: Replay,
    settings: Select,
    roi_name: str,
    roi_words: str,
    as_utility: Callable[[FloatArray], FloatArray],
) -> Rank:
    """By what is known of the ROI alone; images without one have the place of their uncertainty."""
    name = settings.uncertainty
    score = _Combined(name, roi_name, 0.0, "none", settings.normalise, as_utility)
    score.fit(replay)
    words = name.replace("_", " ")

    def rank(chunk: Candidates) -> Ranking:
        known, uncertainty = chunk.column(roi_name), chunk.column(name)

        def reason(row: int) -> str:
            if np.isnan(known[row]):
                return _without_roi(words, chunk, row, uncertainty[row])
            return f"{roi_words} {short(known[row])}"

        return Ranking(score.of(chunk)[2], reason, second=uncertainty)

    return rank


def _without_roi(words: str, chunk: Candidates, row: int, value: float) -> str:
    lacking = "no ROI"
    for flag, reason in ((NO_MAP, "no map"), (NO_DONOR, "no ROI of another group")):
        if flag in chunk.columns and chunk.columns[flag][row]:
            lacking = reason
    return f"{lacking}: ranked by {words} alone ({words} {short(value)})"


Scale = Unchanged | Range | Distribution
NORMALISATIONS: Mapping[Normalise, type[Unchanged] | type[Range] | type[Distribution]] = {
    "none": Unchanged,
    "minmax": Range,
    "rank": Distribution,
}


class _Combined:
    """`S = w U + (1 - w) M` of the rows that have M; any other gets the S that stands where its U stands.

    M is misalignment, or what stands for it in a control: `as_m` of the column `roi_name`, NaN without ROI.

    All is measured among the rows that have M: U and M are normalised there, so that a weight means the same
    however many rows have an ROI, and a row without M gets the quantile of their S at the quantile of its U
    among theirs. So to have no ROI neither helps nor hurts, and with w = 1 the order is that of U. Where no
    row has M, S = U.
    """

    def __init__(
        self,
        name: str,
        roi_name: str,
        weight: float,
        normalise_u: Normalise,
        normalise_m: Normalise,
        as_m: Callable[[FloatArray], FloatArray] = lambda values: values,
    ) -> None:
        self._name, self._roi_name, self._weight, self._as_m = name, roi_name, weight, as_m
        self._u: Scale = NORMALISATIONS[normalise_u]()
        self._m: Scale = NORMALISATIONS[normalise_m]()
        # Where U stands; a rank says so itself.
        self._places: Scale = self._u if normalise_u == "rank" else Distribution()
        self._levels = Distribution()
        self._num_rows = self._num_with_m = 0

    def fit(self, replay: Replay) -> None:
        """Learn the scales of U and M, then the distribution of S where some rows are to be placed in it."""
        for chunk in replay():
            misalignment = self._as_m(chunk.column(self._roi_name))
            has_m = ~np.isnan(misalignment)
            uncertainty = chunk.column(self._name)[has_m]
            self._u.add(uncertainty)
            self._m.add(misalignment[has_m])
            if self._places is not self._u:
                self._places.add(uncertainty)
            self._num_rows += chunk.num_rows
            self._num_with_m += len(uncertainty)
        if not 0 < self._num_with_m < self._num_rows:
            return
        for chunk in replay():
            _, _, score = self._parts(chunk)
            self._levels.add(score[~np.isnan(score)])

    def of(self, chunk: Candidates) -> tuple[FloatArray, FloatArray, FloatArray]:
        """U and M as normalised, M with NaN, and S without."""
        uncertainty, misalignment, score = self._parts(chunk)
        known = chunk.column(self._name)
        if not self._num_with_m:
            return known, misalignment, known
        missing = np.isnan(misalignment)
        if self._weight == 1.0:
            score = uncertainty  # the quantiles of S are those of U, but for rounding
        elif missing.any():
            score[missing] = self._levels.quantiles(self._places.scaled(known[missing]))
        return uncertainty, misalignment, score

    def _parts(self, chunk: Candidates) -> tuple[FloatArray, FloatArray, FloatArray]:
        uncertainty = self._u.scaled(chunk.column(self._name))
        misalignment = self._as_m(chunk.column(self._roi_name)).copy()
        has_m = ~np.isnan(misalignment)
        misalignment[has_m] = self._m.scaled(misalignment[has_m])
        return uncertainty, misalignment, self._weight * uncertainty + (1.0 - self._weight) * misalignment
