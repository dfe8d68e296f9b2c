"""Query strategies: which unlabelled images are labelled next.

Every strategy is a small function from candidates to utilities, listed in `STRATEGY_FUNCTIONS`; `select` does
what is common to all: order by (utility descending, image_id ascending), the cap per group, and the reasons.
The result depends on the set of candidates and on the seed, never on the order of rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xal_ray.config import Normalise, Select, Strategy
from xal_ray.errors import InputError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Candidates:
    """Scored unlabelled images, aligned by row. Rows with an `error_code` are left out before.

    Attributes:
        image_ids: n unique ids.
        group_ids: n groups (patients).
        entropy: (n,) float64 in [0, 1].
        margin: (n,) float64 in [0, 1].
        least_confidence: (n,) float64 in [0, 1].
        misalignment: (n,) float64 in [0, 1]; NaN where there is no ROI, or none that can be compared.
    """

    image_ids: list[str]
    group_ids: list[str]
    entropy: FloatArray
    margin: FloatArray
    least_confidence: FloatArray
    misalignment: FloatArray


@dataclass(frozen=True)
class Selection:
    """The images to label, in rank order: an image's rank is its position.

    Attributes:
        image_ids: k ids.
        utilities: (k,) float64, descending.
        reasons: k short sentences, for people.
    """

    image_ids: list[str]
    utilities: FloatArray
    reasons: list[str]


@dataclass(frozen=True)
class Ranking:
    """What a strategy answers.

    Attributes:
        utilities: (n,) float64, finite; higher is chosen first.
        reason: A row's reason; asked for the chosen rows only.
    """

    utilities: FloatArray
    reason: Callable[[int], str]


def select(candidates: Candidates, settings: Select, *, seed: int) -> Selection:
    """Choose `settings.query_size` images by `settings.strategy`.

    Args:
        candidates: n scored images.
        settings: The `select` section.
        seed: Of this round; only strategies that draw depend on it.

    Returns:
        `query_size` images, or fewer where `max_per_group` leaves no more.

    Raises:
        InputError: There are fewer candidates than `query_size`.
        ValueError: Repeated ids, columns of different lengths, or values that are not finite.
    """
    _check(candidates)
    num_left = len(candidates.image_ids)
    if settings.query_size > num_left:
        raise InputError(
            f"{settings.query_size} images were asked for, but {num_left} candidates are left",
            expected=f"select.query_size of at most {num_left}",
            found=f"select.query_size={settings.query_size}",
            next_step=(
                f"--set select.query_size={num_left}, or fewer rounds (num_rounds)"
                if num_left
                else "the pool is used up: set fewer rounds (num_rounds)"
            ),
        )
    ranking = STRATEGY_FUNCTIONS[settings.strategy](candidates, settings, seed)
    order = _order(ranking.utilities, candidates.image_ids)
    rows = _capped(order, candidates.group_ids, settings.query_size, settings.max_per_group)
    return Selection(
        image_ids=[candidates.image_ids[row] for row in rows],
        utilities=ranking.utilities[rows],
        reasons=[ranking.reason(row) for row in rows],
    )


def _random(candidates: Candidates, settings: Select, seed: int) -> Ranking:
    """A uniform draw for each image: a hash of (seed, image_id), so it does not depend on the other rows."""
    seeded = hashlib.sha256(f"random\x1f{seed}\x1f".encode())

    def draw(image_id: str) -> bytes:
        state = seeded.copy()
        state.update(image_id.encode())
        return state.digest()[:8]

    bits = np.frombuffer(b"".join(map(draw, candidates.image_ids)), dtype=">u8").astype(np.uint64)
    utilities = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53  # in [0, 1), every step a float64
    return Ranking(utilities, lambda row: f"random draw {_short(utilities[row])}")


def _entropy(candidates: Candidates, settings: Select, seed: int) -> Ranking:
    """Shannon (1948); see `uncertainty.entropy`."""
    return _by_column("entropy", candidates.entropy)


def _margin(candidates: Candidates, settings: Select, seed: int) -> Ranking:
    """Scheffer et al. (2001); see `uncertainty.margin`."""
    return _by_column("margin", candidates.margin)


def _least_confidence(candidates: Candidates, settings: Select, seed: int) -> Ranking:
    """Lewis and Gale (1994); see `uncertainty.least_confidence`."""
    return _by_column("least_confidence", candidates.least_confidence)


def _by_column(name: str, column: FloatArray) -> Ranking:
    words = name.replace("_", " ")
    return Ranking(column, lambda row: f"{words} {_short(column[row])}")


def _dual(candidates: Candidates, settings: Select, seed: int) -> Ranking:
    """Uncertainty and misalignment: `S = w U + (1 - w) M`; Uddin et al., arXiv 2602.13308 (2026)."""
    name, weight = settings.uncertainty, settings.weight
    uncertainty = NORMALISATIONS[settings.normalise](getattr(candidates, name))
    misalignment = _normalised_misalignment(candidates, settings)
    utilities = _combined(uncertainty, misalignment, weight)
    words = name.replace("_", " ")
    scale = "" if settings.normalise == "none" else f" {settings.normalise}"

    def reason(row: int) -> str:
        if np.isnan(misalignment[row]):
            return f"no ROI: ranked by {words} alone ({words} {_short(getattr(candidates, name)[row])})"
        return (
            f"dual {_short(utilities[row])} = {_short(weight)} x {words}{scale} {_short(uncertainty[row])}"
            f" + {_short(1.0 - weight)} x misalignment{scale} {_short(misalignment[row])}"
        )

    return Ranking(utilities, reason)


def _misalignment(candidates: Candidates, settings: Select, seed: int) -> Ranking:
    """Misalignment alone: `dual` with w = 0, so images without an ROI still have their place."""
    name = settings.uncertainty
    uncertainty = getattr(candidates, name)
    utilities = _combined(uncertainty, _normalised_misalignment(candidates, settings), weight=0.0)
    words = name.replace("_", " ")

    def reason(row: int) -> str:
        if np.isnan(candidates.misalignment[row]):
            return f"no ROI: ranked by {words} alone ({words} {_short(uncertainty[row])})"
        return f"misalignment {_short(candidates.misalignment[row])}"

    return Ranking(utilities, reason)


StrategyFunction = Callable[[Candidates, Select, int], Ranking]
STRATEGY_FUNCTIONS: Mapping[Strategy, StrategyFunction] = {
    "random": _random,
    "entropy": _entropy,
    "margin": _margin,
    "least_confidence": _least_confidence,
    "misalignment": _misalignment,
    "dual": _dual,
}


def _combined(uncertainty: FloatArray, misalignment: FloatArray, weight: float) -> FloatArray:
    """`S = w U + (1 - w) M`; a row without M gets the S that stands where its U stands.

    That is the quantile of S, over the rows with M, at the quantile of its U among all rows: to have no ROI
    neither helps nor hurts. Where no row has M, S = U.
    """
    has_roi = ~np.isnan(misalignment)
    if not has_roi.any():
        return uncertainty
    utilities = np.empty_like(uncertainty)
    utilities[has_roi] = weight * uncertainty[has_roi] + (1.0 - weight) * misalignment[has_roi]
    levels = np.sort(utilities[has_roi])
    quantiles = _ranks(uncertainty)[~has_roi]
    utilities[~has_roi] = np.interp(quantiles, np.linspace(0.0, 1.0, len(levels)), levels)
    return utilities


def _normalised_misalignment(candidates: Candidates, settings: Select) -> FloatArray:
    """Normalised among the rows that have it; NaN elsewhere."""
    values = candidates.misalignment.copy()
    has_roi = ~np.isnan(values)
    values[has_roi] = NORMALISATIONS[settings.normalise](values[has_roi])
    return values


def _unchanged(values: FloatArray) -> FloatArray:
    return values


def _minmax(values: FloatArray) -> FloatArray:
    """`(x - min) / (max - min)`; all 0 where the values are all equal."""
    if not len(values) or values.min() == values.max():
        return np.zeros_like(values)
    scaled: FloatArray = (values - values.min()) / (values.max() - values.min())
    return scaled


def _ranks(values: FloatArray) -> FloatArray:
    """Ranks from 0 (smallest) to 1 (largest), ties share their mean rank; .5 where all are equal."""
    if len(values) < 2:
        return np.full(len(values), 0.5)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank = last - (counts + 1) / 2.0  # counted from 0
    ranks: FloatArray = mean_rank[inverse] / (len(values) - 1)
    return ranks


NORMALISATIONS: Mapping[Normalise, Callable[[FloatArray], FloatArray]] = {
    "none": _unchanged,
    "minmax": _minmax,
    "rank": _ranks,
}


def _order(utilities: FloatArray, image_ids: list[str]) -> npt.NDArray[np.intp]:
    """Rows by utility descending, image_id ascending."""
    by_id = np.array(sorted(range(len(image_ids)), key=image_ids.__getitem__), dtype=np.intp)
    return by_id[np.argsort(-utilities[by_id], kind="stable")]


def _capped(order: npt.NDArray[np.intp], group_ids: list[str], query_size: int, cap: int) -> list[int]:
    """Walk down the order and pass over images whose group is full; `cap` 0 = none."""
    if cap == 0:
        return [int(row) for row in order[:query_size]]
    rows: list[int] = []
    taken: Counter[str] = Counter()
    for row in order.tolist():
        if len(rows) == query_size:
            break
        if taken[group_ids[row]] < cap:
            taken[group_ids[row]] += 1
            rows.append(row)
    return rows


def _check(candidates: Candidates) -> None:
    count = len(candidates.image_ids)
    if len(set(candidates.image_ids)) != count:
        raise ValueError("image_ids must be unique")
    if len(candidates.group_ids) != count:
        raise ValueError(f"{count} image_ids, but {len(candidates.group_ids)} group_ids")
    for name in ("entropy", "margin", "least_confidence", "misalignment"):
        column = getattr(candidates, name)
        if column.shape != (count,):
            raise ValueError(f"{count} image_ids, but {name} has shape {column.shape}")
        if np.isinf(column).any() or (name != "misalignment" and np.isnan(column).any()):
            raise ValueError(f"{name} is not finite in some row; rows with an error_code are left out before")


def _short(value: float) -> str:
    """Two decimals without the leading zero: .81."""
    return f"{value:.2f}".removeprefix("0")
