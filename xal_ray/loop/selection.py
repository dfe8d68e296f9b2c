"""A run's side of the select stage: which rows a round scores, and which are labelled next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from xal_ray.acquire.streaming import Candidates, Replay
from xal_ray.config import Select
from xal_ray.errors import PluginError
from xal_ray.labels.earlier_run import labels_of_run
from xal_ray.loop.query import BoolArray, Query, choose, is_in, note_shortfall, pick
from xal_ray.loop.query import rows_to_score as choose_rows
from xal_ray.loop.state import Run
from xal_ray.record.layout import SELECTION_SCHEMA, RoundLayout, selection_table
from xal_ray.seeds import derive_seed
from xal_ray.storage import read_table, write_table

_IDS_AT_ONCE = 1 << 16


def rows_to_score(run: Run, files: RoundLayout) -> pa.Table:
    """Index rows of the unlabelled images that this round scores.

    All of them, or, with `score.subsample` below 1, a seeded draw and the last round's runners-up.
    """
    return run.index.filter(pa.array(_scored(run, files)))


def labelled_rows(run: Run) -> pa.Table:
    """Return the index rows of what is labelled now."""
    known = pa.array(list(run.labels()), pa.string())
    return run.index.filter(pa.array(is_in(run.index["image_id"], known)))


def select_images(run: Run, files: RoundLayout) -> None:
    """Scores to `selection.parquet`."""
    if files.selection.exists():
        return
    query = Query(
        title=files.title,
        index=run.index,
        image_size=run.pool.image_size,
        candidates=run.candidates(),
        scored=_scored(run, files),
        runners_up=_runners_up(run, files),
        select=run.config.select,
        score=run.config.score,
        seed=_seed(run, files),
    )
    try:
        choose(query, files, run.context.reporter)
    except PluginError as error:
        if any(run.ledger.has_chosen(number) for number in range(files.number)):
            raise error.with_next_step(
                "mend it, and begin another run: give another --out, and this run's labels to begin with, "
                f"--set labels.from_run={run.layout.path}; its rounds so far were chosen by the code as it is"
            ) from error
        raise


def draw_initial_set(run: Run, files: RoundLayout) -> None:
    """A random draw, the same for every strategy with the same seed, to `selection.parquet`.

    Or, with `labels.from_run`, all that another run has labels of; they go to `labels.parquet`.
    """
    if files.selection.exists():
        return
    table = SELECTION_SCHEMA.empty_table()
    origin = run.config.labels.from_run
    if origin is not None:
        write_table(files.selection, _take_over(run, files, origin))
        return
    count, rows = run.config.select.initial_labels, run.unlabelled()
    if count and rows.num_rows:
        wanted = random_query(run.config.select, count)
        picks = pick(everyone(rows), wanted, rows.num_rows, seed=_seed(run, files), index=run.index)
        note_shortfall(files.title, files, wanted, len(picks.image_ids), rows.num_rows, run.context.reporter)
        table = selection_table(picks)
    write_table(files.selection, table)


def _take_over(run: Run, files: RoundLayout, origin: Path) -> pa.Table:
    """Write another run's labels to `labels.parquet`; returns their images as a selection."""
    labels = labels_of_run(origin, run.pool)
    write_table(files.labels, labels)
    run.context.reporter.line(f"{files.title}: {labels.num_rows} labels taken over from {origin}")
    reason = f"labelled in {origin.name}"
    rows = [
        {"image_id": image_id, "rank": rank, "utility": 0.0, "reason": reason}
        for rank, image_id in enumerate(labels["image_id"].to_pylist())
    ]
    return pa.Table.from_pylist(rows, schema=SELECTION_SCHEMA)


def random_query(select: Select, size: int) -> Select:
    """Return the settings of a random draw of so many, with the cap per group, for every strategy alike."""
    return Select(strategy="random", query_size=size, max_per_group=select.max_per_group)


def everyone(rows: pa.Table) -> Replay:
    """Index rows as candidates without scores, chunk by chunk: ids as Python texts weigh most."""
    ids = rows["image_id"]

    def replay() -> Iterator[Candidates]:
        for start in range(0, rows.num_rows, _IDS_AT_ONCE):
            chunk = ids.slice(start, _IDS_AT_ONCE)
            yield Candidates(len(chunk), {}, chunk.to_pylist)

    return replay


def _scored(run: Run, files: RoundLayout) -> BoolArray:
    """Which rows of the index this round scores beside the holdout."""
    return choose_rows(
        run.candidates(),
        run.config.score,
        at_least=run.config.select.query_size,
        seed=derive_seed(run.config.seed, files.number, "subsample"),
        besides=is_in(run.index["image_id"], _runners_up(run, files)),
    )


def _seed(run: Run, files: RoundLayout) -> int:
    return derive_seed(run.config.seed, files.number, "select")


def _runners_up(run: Run, files: RoundLayout) -> pa.Array:
    """Return the ids that came next in the last round's selection."""
    path = run.layout.round(files.number - 1).runners_up if files.number > 0 else None
    if path is None or not path.exists():
        return pa.array([], pa.string())
    return read_table(path)["image_id"].combine_chunks()
