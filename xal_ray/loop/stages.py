"""The stages of a round. Each ends in a file, and does nothing where that file is already there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.acquire.strategies import Candidates, select
from xal_ray.assess import assess
from xal_ray.config import Select
from xal_ray.engine.scoring import score
from xal_ray.engine.training import TrainRequest, train
from xal_ray.layout import SELECTION_SCHEMA, RoundLayout
from xal_ray.loop.state import Run
from xal_ray.pool.schema import rows_of_splits
from xal_ray.scorer import score_schema
from xal_ray.seeds import derive_seed
from xal_ray.storage import read_json, read_shards, write_json, write_table

SELECT_COLUMNS = ("image_id", "predicted", "entropy", "margin", "least_confidence", "misalignment")


def train_model(run: Run, files: RoundLayout) -> None:
    """Labelled rows to `model.safetensors` and `model.json`."""
    if files.model_card.exists():
        return
    labels = run.labels()
    val = rows_of_splits(run.index, "val")
    val_labels = dict(zip(val["image_id"].to_pylist(), val["label"].to_pylist(), strict=True))
    run.reporter.line(f"{files.title}: training on {len(labels)} labels")
    request = TrainRequest(
        pool=run.pool,
        train=run.with_class_index(labels),
        val=run.with_class_index(val_labels),
        model=run.config.model,
        settings=run.config.train,
        previous=run.layout.round(files.number - 1).folder if files.number > 0 else None,
        round_number=files.number,
        seed=run.config.seed,
    )
    with run.stage("train", files):
        train(request, files.folder, run.config.ray, run.reporter, verbose=run.verbose)


def score_images(run: Run, files: RoundLayout) -> None:
    """Unlabelled rows to `scores/`, validation and test rows to `holdout/`: one pass over both."""
    if files.metrics.exists():
        return
    requests = {files.holdout: rows_of_splits(run.index, "val", "test")}
    if files.number < run.config.num_rounds:
        requests[files.scores] = run.unlabelled()
    with run.stage("score", files):
        score(
            run.pool,
            files.folder,
            requests,
            run.config.score,
            run.config.roi,
            run.config.ray,
            run.reporter,
            verbose=run.verbose,
        )


def evaluate_model(run: Run, files: RoundLayout) -> None:
    """Holdout scores to `metrics.json`."""
    if files.metrics.exists():
        return
    schema = score_schema(len(run.pool.classes))
    card = read_json(files.model_card)
    seed = derive_seed(run.config.seed, "evaluate")  # the same twins and resamples in every round
    holdout = read_shards(files.holdout, schema)
    scored = read_shards(files.scores, schema, ["predicted", "misalignment", "error_code"])
    splits = {
        split: assess(holdout, rows_of_splits(run.index, split), run.pool.classes, seed)
        for split in ("val", "test")
    }
    metrics = {
        "round": files.number,
        "num_labels": card["num_labels"],
        "model_id": card["model_id"],
        "classes": list(run.pool.classes),
        "roi_source": run.config.roi.source,
        "scoring": {
            "num_scored": scored.num_rows,
            "num_errors": scored["predicted"].null_count,
            "num_undefined_maps": pc.sum(pc.equal(scored["error_code"], "undefined_map")).as_py() or 0,
            "num_without_alignment": scored["misalignment"].null_count,
        },
        "splits": splits,
    }
    write_json(files.metrics, metrics)
    run.reporter.line(f"{files.title}: {_in_words(splits)}")


def select_images(run: Run, files: RoundLayout) -> None:
    """Scores to `selection.parquet`."""
    if files.selection.exists():
        return
    scores = read_shards(files.scores, score_schema(len(run.pool.classes)), SELECT_COLUMNS)
    scores = scores.filter(pc.is_valid(scores["predicted"]))  # a row without a score is never ranked
    positions = pc.index_in(scores["image_id"], run.index["image_id"].combine_chunks())
    columns = {
        name: scores[name].to_numpy().astype(np.float64)
        for name in ("entropy", "margin", "least_confidence", "misalignment")
    }
    candidates = Candidates(
        image_ids=scores["image_id"].to_pylist(),
        group_ids=run.index["group_id"].take(positions).to_pylist(),
        **columns,
    )
    write_selection(run, files, candidates, run.config.select)


def draw_initial_set(run: Run, files: RoundLayout) -> None:
    """A random draw, the same for every strategy with the same seed, to `selection.parquet`."""
    if files.selection.exists():
        return
    rows = run.unlabelled()
    nothing = np.zeros(rows.num_rows)
    candidates = Candidates(
        rows["image_id"].to_pylist(), rows["group_id"].to_pylist(), nothing, nothing, nothing, nothing
    )
    count = run.config.select.initial_labels
    if count == 0:
        write_table(files.selection, SELECTION_SCHEMA.empty_table())
        return
    settings = Select(strategy="random", query_size=count, max_per_group=run.config.select.max_per_group)
    write_selection(run, files, candidates, settings)


def write_selection(run: Run, files: RoundLayout, candidates: Candidates, settings: Select) -> None:
    """Rank the candidates and write the picks."""
    picks = select(candidates, settings, seed=derive_seed(run.config.seed, files.number, "select"))
    count = len(picks.image_ids)
    table = {
        "image_id": picks.image_ids,
        "rank": np.arange(count, dtype=np.int32),
        "utility": picks.utilities,
        "reason": picks.reasons,
    }
    write_table(files.selection, pa.table(table, schema=SELECTION_SCHEMA))


def _in_words(splits: dict[str, Any]) -> str:
    texts = [
        f"{name} balanced accuracy {found['balanced_accuracy']:.3f}, accuracy {found['accuracy']:.3f}"
        for name, found in splits.items()
        if found
    ]
    return "; ".join(texts) or "no labelled validation or test images to evaluate on"
