"""Query strategies: which unlabelled images are labelled next.

A strategy goes over the whole table for what it must know of all rows, and then ranks any chunk row by row
(`contract`). `select` does what is common to all: order by (utility descending, uncertainty descending where
ROIs decide, a seeded hash of image_id), the cap per group, and the reasons. The result depends on the set of
candidates and on the seed, never on the order of rows or on how they are cut into chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from xal_ray.acquire.contract import Rank, rank_of
from xal_ray.acquire.distribution import FloatArray
from xal_ray.acquire.streaming import Candidates, GroupsOf, Replay, TopRows, within_cap
from xal_ray.config import Select
from xal_ray.errors import InputError
from xal_ray.registry.strategies import ROI_COLUMNS

# With a cap, rows that are kept at first: this many for each that is asked for, and not fewer than this.
SPARE_ROWS = 4
LEAST_ROWS = 10_000


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
        PluginError: The strategy is another package's and failed or breaks its contract.
        ValueError: Repeated ids, a column that is absent or not finite, or a cap without `groups`.
    """
    size, cap = settings.query_size, settings.max_per_group
    if cap and groups is None:
        raise ValueError("max_per_group needs the groups")
    rank = rank_of(settings.spec, replay, settings, seed)
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
    measured = {
        name if name in ROI_COLUMNS else "uncertainty": picks.columns[name]
        for name in reversed(settings.columns)  # the first uncertainty, where there are several
    }
    picked = set(picks.image_ids)
    return Selection(
        image_ids=list(picks.image_ids),
        utilities=ranking.utilities,
        reasons=[ranking.reason(row) for row in range(picks.num_rows)],
        runners_up=[name for name in best.image_ids if name not in picked][:num_runners_up],
        measured=measured,
    )


def uncertainty_column(settings: Select) -> str | None:
    """Return the uncertainty that the strategy ranks by, alone or beside an ROI; None for `random`."""
    names = [name for name in settings.columns if name not in ROI_COLUMNS]
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
