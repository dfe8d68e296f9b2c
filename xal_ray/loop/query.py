"""The select stage: from scores to the images that are labelled next, in a run's round and in a single pass.

What is refused here is refused for both, and what is said of the picks is said of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xal_ray import config
from xal_ray.acquire.batch import Embeddings, Known
from xal_ray.acquire.shortlist import select_batch
from xal_ray.acquire.strategies import Selection, select
from xal_ray.acquire.streaming import Replay
from xal_ray.acquire.subsample import draw, expected_overlap
from xal_ray.errors import ConfigError, PluginError
from xal_ray.pool.schema import PoolReader, rows_of_splits
from xal_ray.progress import Reporter
from xal_ray.record.layout import RUNNERS_UP_SCHEMA, SELECTION_SCHEMA, RoundLayout, selection_table
from xal_ray.scoring.embeddings import all_embeddings, embeddings_of
from xal_ray.scoring.shards import groups_of, ranked_chunks, score_chunks
from xal_ray.storage import write_json, write_table

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Query:
    """Holds what is asked of the scores.

    Attributes:
        title: How a person calls it: a round, or the pass.
        index: The pool's index.
        image_size: Height and width of the packed images, pixels.
        candidates: (n,) which rows of the index may be chosen.
        scored: (n,) which rows of the index the shards hold, in the index's order; candidates among them.
        runners_up: Ids that are scored whatever the sample.
        select: Strategy, numbers, cap.
        score: Its keys `subsample` and `runners_up`.
        seed: Of strategies that draw.
    """

    title: str
    index: pa.Table
    image_size: int
    candidates: BoolArray
    scored: BoolArray
    runners_up: pa.Array
    select: config.Select
    score: config.Score
    seed: int


def check_strategy(settings: config.Config, pool: PoolReader) -> None:
    """Refuse a strategy that can't rank this pool's unlabelled images, before anything is scored.

    Raises:
        ConfigError: It needs regions of interest, and none of them has one; or it needs those of other
            groups, and all are of one group.
    """
    strategy = settings.select.strategy
    if not settings.select.spec.needs_roi:
        return
    if not pool.card["roi"].get("present"):
        raise _no_regions(strategy, "the pool has none", pool)
    rows = rows_of_splits(pool.index(), "pool")
    with_roi = rows.filter(pc.equal(rows["roi_state"], "present"))
    if not with_roi.num_rows:
        raise _no_regions(strategy, "none of the pool's unlabelled images has one", pool)
    if (
        "shuffled_misalignment" in settings.select.columns
        and pc.count_distinct(with_roi["group_id"]).as_py() < 2
    ):
        raise ConfigError(
            f"select.strategy={strategy} lends regions of interest to other groups, and all are of one",
            expected="unlabelled images of at least two groups with regions of interest",
            found=f"{with_roi.num_rows} images of one group",
            where=str(pool.path),
            next_step="set select.strategy to another one (smallest_roi is a control too)",
        )


def _no_regions(strategy: str, found: str, pool: PoolReader) -> ConfigError:
    return ConfigError(
        f"select.strategy={strategy} needs regions of interest, and {found}",
        expected="masks or boxes in the pool's source",
        where=str(pool.path),
        next_step="set roi.source=none, and select.strategy to one that needs no ROI (margin, say)",
    )


def rows_to_score(
    candidates: BoolArray, score: config.Score, *, at_least: int, seed: int, besides: BoolArray | None = None
) -> BoolArray:
    """Which candidates are scored: all, or, with `score.subsample` below 1, a seeded draw and some besides.

    Args:
        candidates: (n,) which rows of the index may be chosen.
        score: Its key `subsample`.
        at_least: How many are drawn in any case, as far as there are candidates.
        seed: Of the draw.
        besides: (n,) rows that are scored whatever the draw, where they are candidates.
    """
    if score.subsample == 1.0:
        return candidates
    drawn = draw(candidates, score.subsample, at_least=at_least, seed=seed)
    return drawn if besides is None else drawn | (candidates & besides)


def choose(query: Query, files: RoundLayout, reporter: Reporter) -> int:
    """Scores to `selection.parquet`, and to the files beside it that say how it came about.

    The last query takes what is left. Where fewer are chosen than were asked for, `shortfall.json` and a
    line say why.

    Args:
        query: What is asked.
        files: Where the shards are, and where the files go.
        reporter: Hears of what a person should know of the picks.

    Returns:
        The number of picks.

    Raises:
        StorageError: A shard can't be read, or the disk refused.
        PluginError: The strategy is another package's and failed or breaks its contract.
        ValueError: A column that is absent or not finite.
    """
    wanted = query.select
    kept: BoolArray | None = query.candidates[query.scored]
    if kept is not None and kept.all():
        kept = None
    num_candidates = _count(score_chunks(files.scores, (), kept), enough=wanted.query_size)
    if not num_candidates:
        write_table(files.selection, SELECTION_SCHEMA.empty_table())
        return 0
    replay = ranked_chunks(
        files.scores,
        wanted,
        seed=query.seed,
        groups=groups_of(query.index),
        image_size=query.image_size,
        kept=kept,
    )
    try:
        picks = pick(
            replay,
            wanted,
            num_candidates,
            seed=query.seed,
            index=query.index,
            num_runners_up=query.score.runners_up,
            embeddings=_embeddings(query, files) if wanted.spec.needs_embeddings else None,
        )
    except PluginError as error:
        raise error.at(query.title) from error
    if query.score.runners_up:
        write_table(files.runners_up, pa.table({"image_id": picks.runners_up}, schema=RUNNERS_UP_SCHEMA))
    if query.score.subsample < 1.0:
        _note_effect(query, files, picks, reporter)
    note_shortfall(query.title, files, wanted, len(picks.image_ids), num_candidates, reporter)
    write_table(files.selection, selection_table(picks))
    return len(picks.image_ids)


def pick(
    replay: Replay,
    wanted: config.Select,
    num_candidates: int,
    *,
    seed: int,
    index: pa.Table,
    num_runners_up: int = 0,
    embeddings: Embeddings | None = None,
) -> Selection:
    """Choose as many as are asked for, or all where there are fewer, within the cap.

    Args:
        replay: Goes over the candidates.
        wanted: Strategy, number, cap.
        num_candidates: How many there are, or what is not below `query_size`; at least 1.
        seed: Of strategies that draw.
        index: The pool's index, for the groups.
        num_runners_up: How many to name beside the picks.
        embeddings: Of the candidates and of what is labelled, for a strategy that reads them.
    """
    fitting = wanted.model_copy(update={"query_size": min(wanted.query_size, num_candidates)})
    groups = groups_of(index)
    if fitting.spec.kind != "batch":
        return select(replay, fitting, seed=seed, groups=groups, num_runners_up=num_runners_up)
    return select_batch(
        replay,
        fitting,
        seed=seed,
        groups=groups,
        embeddings=embeddings,
        num_runners_up=num_runners_up,
    )


def _embeddings(query: Query, files: RoundLayout) -> Embeddings:
    """Return what a strategy compares: the candidates, and what is labelled."""
    image_ids, embeddings = all_embeddings(files.labelled)
    # Shards hold rows of the index in its order, which is that of the ids.
    rows = query.index.filter(pa.array(is_in(query.index["image_id"], pa.array(image_ids, pa.string()))))
    was_picked: BoolArray = pc.equal(rows["split"], "pool").to_numpy()
    known = Known(image_ids, rows["group_id"].to_pylist(), embeddings, was_picked)
    return Embeddings(partial(embeddings_of, files.scores), known)


def note_shortfall(
    title: str,
    files: RoundLayout,
    wanted: config.Select,
    num_picks: int,
    num_candidates: int,
    reporter: Reporter,
) -> None:
    """Say in a line and in `shortfall.json` why fewer images were chosen than were asked for."""
    found = shortfall(wanted, num_picks, num_candidates)
    if found:
        write_json(files.shortfall, found)
        reporter.line(f"{title}: {found['chosen']} of {found['asked']}: {found['reason']}")


def shortfall(wanted: config.Select, num_picks: int, num_candidates: int) -> dict[str, Any]:
    """Return how many were asked for and chosen, and the reason in words; empty where it is as many."""
    if num_picks >= wanted.query_size:
        return {}
    if num_picks < num_candidates and wanted.max_per_group:
        reason = f"the cap of {wanted.max_per_group} per group (select.max_per_group) binds"
    else:
        reason = "no more candidates are left"
    return {"asked": wanted.query_size, "chosen": num_picks, "reason": reason}


def _count(replay: Replay, *, enough: int) -> int:
    """Return how many candidates have a score; a number of at least `enough` need not be exact."""
    total = 0
    for chunk in replay():
        total += chunk.num_rows
        if total >= enough:
            break
    return total


def _note_effect(query: Query, files: RoundLayout, picks: Selection, reporter: Reporter) -> None:
    """Write what scoring a part of the pool did to the picks to `subsample.json`, and tell people."""
    known = set(query.runners_up.to_pylist())
    drawn = np.array([image_id not in known for image_id in picks.image_ids], dtype=bool)
    num_pool, num_scored = int(query.candidates.sum()), int(query.scored.sum())
    num_known = int((is_in(query.index["image_id"], query.runners_up) & query.scored).sum())
    overlap = expected_overlap(drawn, num_pool=num_pool, num_scored=num_scored, num_runners_up=num_known)
    effect: Mapping[str, Any] = {
        "fraction": query.score.subsample,
        "num_unlabelled": num_pool,
        "num_scored": num_scored,
        "num_picks": len(drawn),
        "num_picked_runners_up": int((~drawn).sum()),
        "expected_overlap": round(overlap, 4),
    }
    write_json(files.subsample, dict(effect))
    reporter.line(
        f"{query.title}: {num_scored} of {num_pool} images scored; {effect['num_picked_runners_up']} of "
        f"{len(drawn)} picks were runners-up; expected overlap with a full pass "
        f"{effect['expected_overlap']:.0%}"
    )


def is_in(column: pa.ChunkedArray, names: pa.Array | pa.ChunkedArray) -> BoolArray:
    """(n,) which values of a column are among some names."""
    if isinstance(names, pa.ChunkedArray):
        names = names.combine_chunks()
    found: BoolArray = pc.is_in(column, value_set=names).to_numpy()
    return found
