"""Query strategies: which unlabelled images are labelled next.

Every strategy is a small function, listed in `STRATEGY_FUNCTIONS`: it goes over the whole table for what it
must know of all rows, and then ranks any chunk row by row. `select` does what is common to all: order by
(utility descending, uncertainty descending where ROIs decide, a seeded hash of image_id), the cap per group,
and the reasons. The result depends on the set of candidates and on the seed, never on the order of rows or on
how they are cut into chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from xal_ray.acquire.distribution import Distribution, FloatArray, Range, Unchanged
from xal_ray.acquire.draws import digests, uniform
from xal_ray.acquire.streaming import (
    NO_DONOR,
    NO_MAP,
    ROI_COLUMNS,
    Candidates,
    GroupsOf,
    Replay,
    TopRows,
    within_cap,
)
from xal_ray.config import ROI_STRATEGIES, Normalise, Select, Strategy
from xal_ray.errors import InputError

# What a strategy that needs an ROI reads of it.
ROI_COLUMN_OF = {
    "dual": "misalignment",
    "misalignment": "misalignment",
    "shuffled_roi": "shuffled_misalignment",
    "smallest_roi": "roi_area",
}
# With a cap, rows that are kept at first: this many for each that is asked for, and not fewer than this.
SPARE_ROWS = 4
LEAST_ROWS = 10_000
_AFTER_ALL = 2.0  # what an uncertainty lacks then to those from 0 to 1


@dataclass(frozen=True)
class Selection:
    """The images to label, in rank order: an image's rank is its position.

    Attributes:
        image_ids: k ids.
        utilities: (k,) float64, descending.
        reasons: k short sentences, for people.
        runners_up: The ids that come next in the order; those passed over because of the cap are among them.
        measured: (k,) float64 by name, what the strategy ranked by and nothing else: `uncertainty`, and its
            column of `ROI_COLUMNS`, NaN where an image has none.
    """

    image_ids: list[str]
    utilities: FloatArray
    reasons: list[str]
    runners_up: list[str]
    measured: Mapping[str, FloatArray]


@dataclass(frozen=True)
class Ranking:
    """Holds what a strategy answers about a chunk.

    Attributes:
        utilities: (n,) float64, finite; higher is chosen first.
        reason: A row's reason; asked for the chosen rows only.
        second: (n,) float64, finite: what decides between rows of one utility; None = nothing.
    """

    utilities: FloatArray
    reason: Callable[[int], str]
    second: FloatArray | None = None


Rank = Callable[[Candidates], Ranking]
StrategyFunction = Callable[[Replay, Select, int], Rank]


def select(
    replay: Replay,
    settings: Select,
    *,
    seed: int,
    groups: GroupsOf | None = None,
    num_runners_up: int = 0,
) -> Selection:
    """Choose `settings.query_size` images by `settings.strategy`.

    Goes over the table once, before that once or twice for a strategy that compares rows with all others, and
    once more where the cap passes over nearly all of the best rows. Memory depends on `query_size` and
    `num_runners_up`, not on the number of rows.

    Args:
        replay: Goes over the scored images, in chunks of any size.
        settings: The `select` section.
        seed: Of this round: of what is drawn, and of the hash that decides between equal utilities.
        groups: The groups of image_ids; asked for the best rows only, and only with `max_per_group`.
        num_runners_up: How many ids to name beside the picks.

    Returns:
        `query_size` images, or fewer where `max_per_group` leaves no more.

    Raises:
        InputError: There are fewer candidates than `query_size`.
        ValueError: Repeated ids, a column that is absent or not finite, or a cap without `groups`.
    """
    size, cap = settings.query_size, settings.max_per_group
    if cap and groups is None:
        raise ValueError("max_per_group needs the groups")
    rank = STRATEGY_FUNCTIONS[settings.strategy](replay, settings, seed)
    spare = max(SPARE_ROWS * size, LEAST_ROWS) if cap else 0
    best, num_rows = _best(TopRows(max(size + num_runners_up, spare), seed=seed), replay, rank)
    if size > num_rows:
        raise _too_few(size, num_rows)
    picks = best
    if cap and groups is not None:
        picks = best.take(within_cap(best.image_ids, groups, cap))
        if picks.num_rows < size and best.num_rows < num_rows:
            picks, _ = _best(TopRows(size, seed=seed, cap=cap, groups=groups), replay, rank)
    picks = picks.take(np.arange(min(size, picks.num_rows)))
    ranking = rank(picks)
    picked = set(picks.image_ids)
    return Selection(
        image_ids=list(picks.image_ids),
        utilities=ranking.utilities,
        reasons=[ranking.reason(row) for row in range(picks.num_rows)],
        runners_up=[name for name in best.image_ids if name not in picked][:num_runners_up],
        measured={
            name if name in ROI_COLUMNS else "uncertainty": picks.columns[name]
            for name in needed_columns(settings)
        },
    )


def needed_columns(settings: Select) -> tuple[str, ...]:
    """Return the score columns that the strategy reads."""
    if settings.strategy in ROI_STRATEGIES:
        return settings.uncertainty, ROI_COLUMN_OF[settings.strategy]
    return () if settings.strategy == "random" else (settings.strategy,)


def uncertainty_column(settings: Select) -> str | None:
    """Return the uncertainty that the strategy ranks by, alone or beside an ROI; None for `random`."""
    names = [name for name in needed_columns(settings) if name not in ROI_COLUMNS]
    return names[0] if names else None


def _best(top: TopRows, replay: Replay, rank: Rank) -> tuple[Candidates, int]:
    """Return the best rows in their order, and how many rows there are."""
    for chunk in replay():
        ranking = rank(chunk)
        top.add(chunk, ranking.utilities, ranking.second)
    return top.best(), top.num_seen


def _too_few(asked: int, num_left: int) -> InputError:
    return InputError(
        f"{asked} images were asked for, but {num_left} candidates are left",
        expected=f"select.query_size of at most {num_left}",
        found=f"select.query_size={asked}",
        next_step=(
            f"--set select.query_size={num_left}, or fewer rounds (num_rounds)"
            if num_left
            else "the pool is used up: set fewer rounds (num_rounds)"
        ),
    )


def _random(replay: Replay, settings: Select, seed: int) -> Rank:
    """A uniform draw for each image: a hash of (seed, image_id), so it does not depend on the other rows."""
    digest = digests("random", seed)

    def rank(chunk: Candidates) -> Ranking:
        utilities = uniform(digest, chunk.image_ids)
        return Ranking(utilities, lambda row: f"random draw {_short(utilities[row])}")

    return rank


def _entropy(replay: Replay, settings: Select, seed: int) -> Rank:
    """Shannon (1948); see `uncertainty.entropy`."""
    return _by_column("entropy")


def _margin(replay: Replay, settings: Select, seed: int) -> Rank:
    """Scheffer et al. (2001); see `uncertainty.margin`."""
    return _by_column("margin")


def _least_confidence(replay: Replay, settings: Select, seed: int) -> Rank:
    """Lewis and Gale (1994); see `uncertainty.least_confidence`."""
    return _by_column("least_confidence")


def _bald(replay: Replay, settings: Select, seed: int) -> Rank:
    """Houlsby et al. (2011): what dropout samples of the model disagree on."""
    return _by_column("bald")


def _by_column(name: str) -> Rank:
    words = name.replace("_", " ")

    def rank(chunk: Candidates) -> Ranking:
        column = chunk.column(name)
        return Ranking(column, lambda row: f"{words} {_short(column[row])}")

    return rank


def _dual(replay: Replay, settings: Select, seed: int) -> Rank:
    """Uncertainty and misalignment: `S = w U + (1 - w) M`; Uddin et al., arXiv 2602.13308 (2026)."""
    return _weighed(replay, settings, "dual", "misalignment")


def _shuffled_roi(replay: Replay, settings: Select, seed: int) -> Rank:
    """A control: `dual` with the ROIs of other images. What it gains has nothing to do with looking right."""
    return _weighed(replay, settings, "shuffled_roi", "shuffled misalignment")


def _misalignment(replay: Replay, settings: Select, seed: int) -> Rank:
    """Misalignment alone: `dual` with w = 0, so images without an ROI still have their place."""
    return _by_roi(replay, settings, "misalignment", "misalignment", lambda values: values)


def _smallest_roi(replay: Replay, settings: Select, seed: int) -> Rank:
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


def _weighed(replay: Replay, settings: Select, strategy: Strategy, roi_words: str) -> Rank:
    name, weight, roi_name = settings.uncertainty, settings.weight, ROI_COLUMN_OF[strategy]
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
                f"{strategy} {_short(utilities[row])}"
                f" = {_short(weight)} x {words}{scale} {_short(uncertainty[row])}"
                f" + {_short(1.0 - weight)} x {roi_words}{scale} {_short(misalignment[row])}"
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
            return f"{roi_words} {_short(known[row])}"

        return Ranking(score.of(chunk)[2], reason, second=uncertainty)

    return rank


def _without_roi(words: str, chunk: Candidates, row: int, value: float) -> str:
    lacking = "no ROI"
    for flag, reason in ((NO_MAP, "no map"), (NO_DONOR, "no ROI of another group")):
        if flag in chunk.columns and chunk.columns[flag][row]:
            lacking = reason
    return f"{lacking}: ranked by {words} alone ({words} {_short(value)})"


STRATEGY_FUNCTIONS: Mapping[Strategy, StrategyFunction] = {
    "random": _random,
    "entropy": _entropy,
    "margin": _margin,
    "least_confidence": _least_confidence,
    "bald": _bald,
    "misalignment": _misalignment,
    "dual": _dual,
    "shuffled_roi": _shuffled_roi,
    "smallest_roi": _smallest_roi,
}

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


def _short(value: float) -> str:
    """Return two decimals without the leading zero: .81."""
    return f"{value:.2f}".removeprefix("0")
