"""The select stage: which rows are scored at all, and from their scores which are labelled next."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.acquire.strategies import Selection, select
from xal_ray.acquire.streaming import Candidates, Replay
from xal_ray.acquire.subsample import draw, expected_overlap
from xal_ray.config import Select
from xal_ray.layout import RUNNERS_UP_SCHEMA, SELECTION_SCHEMA, RoundLayout, selection_table
from xal_ray.loop.state import Run
from xal_ray.scores import groups_of, ranked_chunks
from xal_ray.seeds import derive_seed
from xal_ray.storage import read_table, write_json, write_table

_IDS_AT_ONCE = 1 << 16


def rows_to_score(run: Run, files: RoundLayout) -> pa.Table:
    """Index rows of the unlabelled images that this round scores.

    All of them, or, with `score.subsample` below 1, a seeded draw and the last round's runners-up.
    """
    fraction = run.config.score.subsample
    if fraction == 1.0:
        return run.unlabelled()
    seed = derive_seed(run.config.seed, files.number, "subsample")
    unlabelled = _is_in(run.index["image_id"], run.unlabelled()["image_id"])
    drawn = draw(unlabelled, fraction, at_least=run.config.select.query_size, seed=seed)
    return run.index.filter(
        pa.array(drawn | (unlabelled & _is_in(run.index["image_id"], _runners_up(run, files))))
    )


def select_images(run: Run, files: RoundLayout) -> None:
    """Scores to `selection.parquet`."""
    if files.selection.exists():
        return
    replay = ranked_chunks(
        files.scores,
        run.config.select,
        seed=derive_seed(run.config.seed, files.number, "select"),
        groups=groups_of(run.index),
        image_size=run.pool.image_size,
    )
    picks = _select(run, files, replay, run.config.select)
    if run.config.score.runners_up:
        write_table(files.runners_up, pa.table({"image_id": picks.runners_up}, schema=RUNNERS_UP_SCHEMA))
    if run.config.score.subsample < 1.0:
        _note_effect(run, files, picks)
    write_table(files.selection, selection_table(picks))


def draw_initial_set(run: Run, files: RoundLayout) -> None:
    """A random draw, the same for every strategy with the same seed, to `selection.parquet`."""
    if files.selection.exists():
        return
    count = run.config.select.initial_labels
    if count == 0:
        write_table(files.selection, SELECTION_SCHEMA.empty_table())
        return
    settings = Select(strategy="random", query_size=count, max_per_group=run.config.select.max_per_group)
    picks = _select(run, files, everyone(run.unlabelled()), settings)
    write_table(files.selection, selection_table(picks))


def everyone(rows: pa.Table) -> Replay:
    """Index rows as candidates without scores, chunk by chunk: ids as Python texts weigh most."""
    ids = rows["image_id"]

    def replay() -> Iterator[Candidates]:
        for start in range(0, rows.num_rows, _IDS_AT_ONCE):
            chunk = ids.slice(start, _IDS_AT_ONCE)
            yield Candidates(len(chunk), {}, chunk.to_pylist)

    return replay


def _select(run: Run, files: RoundLayout, replay: Replay, settings: Select) -> Selection:
    seed = derive_seed(run.config.seed, files.number, "select")
    groups = groups_of(run.index)
    return select(replay, settings, seed=seed, groups=groups, num_runners_up=run.config.score.runners_up)


def _note_effect(run: Run, files: RoundLayout, picks: Selection) -> None:
    """What scoring a part of the pool did to the picks, to `subsample.json` and to people."""
    known = set(_runners_up(run, files).to_pylist())
    drawn = np.array([image_id not in known for image_id in picks.image_ids], dtype=bool)
    num_pool, scored = run.unlabelled().num_rows, rows_to_score(run, files)
    num_scored, num_known = scored.num_rows, int(_is_in(scored["image_id"], _runners_up(run, files)).sum())
    overlap = expected_overlap(drawn, num_pool=num_pool, num_scored=num_scored, num_runners_up=num_known)
    effect = {
        "fraction": run.config.score.subsample,
        "num_unlabelled": num_pool,
        "num_scored": num_scored,
        "num_picks": len(drawn),
        "num_picked_runners_up": int((~drawn).sum()),
        "expected_overlap": round(overlap, 4),
    }
    write_json(files.subsample, effect)
    run.reporter.line(
        f"{files.title}: {num_scored} of {num_pool} images scored; {effect['num_picked_runners_up']} of "
        f"{len(drawn)} picks were runners-up; expected overlap with a full pass "
        f"{effect['expected_overlap']:.0%}"
    )


def _runners_up(run: Run, files: RoundLayout) -> pa.Array:
    """The ids that came next in the last round's selection."""
    path = run.layout.round(files.number - 1).runners_up if files.number > 0 else None
    if path is None or not path.exists():
        return pa.array([], pa.string())
    return read_table(path)["image_id"].combine_chunks()


def _is_in(column: pa.ChunkedArray, names: pa.Array | pa.ChunkedArray) -> np.ndarray:
    if isinstance(names, pa.ChunkedArray):
        names = names.combine_chunks()
    found: np.ndarray = pc.is_in(column, value_set=names).to_numpy()
    return found
