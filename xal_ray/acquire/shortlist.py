"""Calls strategies that choose images together: streams their shortlist, and checks their answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from xal_ray.acquire.batch import EMPTY, NOBODY, Batch, BatchFunction, Choice, Embeddings
from xal_ray.acquire.contract import blamed, breach, checked_reason, own_settings
from xal_ray.acquire.distribution import FloatArray, IntArray
from xal_ray.acquire.strategies import Selection
from xal_ray.acquire.streaming import Candidates, GroupsOf, Replay, TopRows, within_cap
from xal_ray.config import Select
from xal_ray.registry.strategies import ROI_COLUMNS, StrategySpec

ROWS_A_PICK = 10  # with `select.shortlist: auto`
_EVERY_ROW = 1 << 62


def shortlist_size(settings: Select) -> int | None:
    """Return how many images are on the shortlist, never fewer than are asked for; None: every candidate."""
    if settings.shortlist == "all":
        return None
    size = settings.query_size
    return ROWS_A_PICK * size if settings.shortlist == "auto" else max(settings.shortlist, size)


def describe_shortlist(settings: Select) -> str:
    """Say what a strategy that chooses images together chooses from; nothing of any other."""
    if settings.spec.kind != "batch":
        return ""
    size, words = shortlist_size(settings), settings.uncertainty.replace("_", " ")
    return "all images" if size is None else f"the {size} images of the largest {words}"


def select_batch(
    replay: Replay,
    settings: Select,
    *,
    seed: int,
    groups: GroupsOf,
    embeddings: Embeddings | None = None,
    num_runners_up: int = 0,
) -> Selection:
    """Choose `settings.query_size` images together.

    Goes over the table once. Memory depends on the shortlist, not on the number of rows. With a cap, the
    shortlist holds so few images of a group that as many can be chosen from it as from all.

    Args:
        replay: Goes over the scored images, with the columns that the strategy reads.
        settings: The `select` section; its strategy is of the kind `batch`.
        seed: Of this round.
        groups: The groups of image_ids.
        embeddings: Of the candidates, and of what is labelled, for a strategy that reads them.
        num_runners_up: How many ids to name beside the picks: the best by uncertainty that were not picked.

    Returns:
        `query_size` images, or fewer where there are no more or `max_per_group` leaves no more.

    Raises:
        PluginError: The strategy fails or breaks its contract.
        ValueError: Repeated ids, a column that is absent or not finite, or embeddings that do not fit.
    """
    spec, size = settings.spec, settings.query_size
    function: BatchFunction = spec.load()
    limit = shortlist_size(settings) or _EVERY_ROW
    top = TopRows(
        max(limit, size + num_runners_up),
        seed=seed,
        cap=settings.max_per_group * (limit // size),
        groups=groups,
    )
    for chunk in replay():
        top.add(chunk, chunk.column(settings.uncertainty))
    best = top.best()
    batch = _batch(best.take(np.arange(min(limit, best.num_rows))), settings, groups, embeddings)
    with blamed(spec):
        answer = function(batch, own_settings(spec, settings), seed)
    picks = _picks(answer if isinstance(answer, Choice) else Choice(answer), batch, settings)
    picked = set(picks.image_ids)
    runners_up = [name for name in best.image_ids if name not in picked][:num_runners_up]
    return replace(picks, runners_up=runners_up)


def _batch(shortlist: Candidates, settings: Select, groups: GroupsOf, source: Embeddings | None) -> Batch:
    """Make what the strategy gets to see, which it can't write into."""
    count, known = shortlist.num_rows, NOBODY if source is None else source.known
    embeddings = EMPTY.reshape(count, 0) if source is None or not count else source.of(shortlist.image_ids)
    if len(embeddings) != count or not np.isfinite(embeddings).all():
        raise ValueError("embeddings: one for each image of the shortlist is needed, and finite")
    columns = {name: shortlist.column(name) for name in settings.columns}
    arrays: list[npt.NDArray[Any]] = [*columns.values(), embeddings, known.embeddings, known.was_picked]
    for array in arrays:
        array.flags.writeable = False
    ids = tuple(shortlist.image_ids)
    utilities = columns[settings.uncertainty]
    return Batch(ids, tuple(groups(list(ids))), utilities, columns, embeddings, known)


def _picks(choice: Choice, batch: Batch, settings: Select) -> Selection:
    """Hold an answer against the contract, and take the first that the cap leaves room for."""
    spec, size, cap = settings.spec, settings.query_size, settings.max_per_group
    rows, utilities = _checked(choice, batch, spec)
    positions = _within_cap([batch.groups[row] for row in rows], cap)[:size]
    possible = min(size, len(_within_cap(batch.groups, cap)))
    if len(positions) < possible:
        raise breach(spec, f"{possible} images, within the cap per group", f"{len(positions)}")
    picked = rows[positions]
    with blamed(spec):
        reasons = [_reason(choice, batch, settings, position) for position in positions.tolist()]
    return Selection(
        image_ids=[batch.image_ids[row] for row in picked],
        utilities=utilities[positions],
        reasons=reasons,
        runners_up=[],
        measured={
            name if name in ROI_COLUMNS else "uncertainty": batch.columns[name][picked]
            for name in reversed(settings.columns)  # the first uncertainty, where there are several
        },
    )


def _checked(choice: Choice, batch: Batch, spec: StrategySpec) -> tuple[IntArray, FloatArray]:
    """Return the rows and utilities of an answer as numbers.

    Raises:
        PluginError: They do not fit the shortlist.
    """
    rows = np.asarray(choice.rows)
    if rows.ndim != 1 or (len(rows) and rows.dtype.kind not in "iu"):
        raise breach(spec, "row numbers of the shortlist", f"{rows.dtype} of shape {rows.shape}")
    rows = rows.astype(np.intp)
    if len(rows) and not 0 <= rows.min() <= rows.max() < batch.num_rows:
        raise breach(spec, f"rows from 0 to {batch.num_rows - 1}", f"{rows.min()} to {rows.max()}")
    repeated = len(rows) - len(set(rows.tolist()))
    if repeated:
        raise breach(spec, "each row at most once", f"{repeated} repeated")
    utilities = np.asarray(batch.utilities[rows] if choice.utilities is None else choice.utilities)
    if utilities.shape != rows.shape or utilities.dtype.kind not in "fiub":
        expected = f"{len(rows)} utilities, one for each row"
        raise breach(spec, expected, f"{utilities.dtype} of shape {utilities.shape}")
    utilities = utilities.astype(np.float64)
    if not np.isfinite(utilities).all():
        raise breach(spec, "finite utilities", f"{utilities[~np.isfinite(utilities)][0]}")
    return rows, utilities


def _within_cap(groups: Sequence[str], cap: int) -> IntArray:
    """Return the positions that are among the first `cap` of their group; all with a cap of 0."""
    return within_cap(groups, list, cap) if cap else np.arange(len(groups))


def _reason(choice: Choice, batch: Batch, settings: Select, position: int) -> str:
    """Return the strategy's reason for a pick, or, where it gives none, the pick's place on the shortlist."""
    give: Callable[[int], str] | None = choice.reason
    if give is None:
        row = int(np.asarray(choice.rows)[position])
        words = settings.uncertainty.replace("_", " ")
        return f"{settings.spec.name}: number {row + 1} of the shortlist by {words}"
    return checked_reason(settings.spec, give(position))
