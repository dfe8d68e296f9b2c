"""The stages of a round. Each ends in a file, and does nothing where that file is already there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from xal_ray.engine.readiness import start_where_needed
from xal_ray.engine.scoring import score
from xal_ray.engine.training.stage import TrainRequest, train
from xal_ray.loop.selection import labelled_rows, rows_to_score
from xal_ray.loop.state import Run
from xal_ray.metrics.holdout import holdout_metrics
from xal_ray.pool.schema import rows_of_splits
from xal_ray.record.layout import RoundLayout
from xal_ray.scoring.scorer import score_schema
from xal_ray.seeds import derive_seed
from xal_ray.storage import read_json, read_shards, write_json


def train_model(run: Run, files: RoundLayout) -> None:
    """Labelled rows to `model.safetensors` and `model.json`."""
    if files.model_card.exists():
        return
    labels = run.labels()
    val = rows_of_splits(run.index, "val")
    val_labels = dict(zip(val["image_id"].to_pylist(), val["label"].to_pylist(), strict=True))
    run.context.reporter.line(f"{files.title}: training on {len(labels)} labels")
    absent = run.absent_classes()
    if absent:
        run.context.reporter.line(
            f"{files.title}: no label yet of {', '.join(absent)}: trained without, so it can't be predicted"
        )
    request = TrainRequest(
        pool=run.pool,
        train=run.with_class_index(labels),
        val=run.with_class_index(val_labels),
        model=run.config.model,
        settings=run.config.train,
        previous=run.layout.round(files.number - 1).folder if files.number > 0 else None,
        round_number=files.number,
        seed=run.config.seed,
        activations=run.make_activations(),
        head_dropout=run.config.score.head_dropout(),
    )
    # Hours of training must not end in a Ray that can't start.
    start_where_needed(run.context, num_workers=run.config.train.num_workers)
    with run.stage("train", files):
        train(request, files.folder, run.context)


def score_images(run: Run, files: RoundLayout) -> None:
    """Unlabelled rows to `scores/`, validation and test rows to `holdout/`: one pass over both."""
    if _is_evaluated(run, files):
        return
    with_embeddings: list[Path] = []
    requests = {files.holdout: rows_of_splits(run.index, "val", "test")}
    if run.asks(files):
        requests[files.scores] = rows_to_score(run, files)
        if run.config.select.spec.needs_embeddings:
            with_embeddings = [files.scores, files.labelled]
            requests[files.labelled] = labelled_rows(run)
    with run.stage("score", files) as record:
        pace = score(
            run.pool,
            files.folder,
            requests,
            run.config.score,
            run.config.roi,
            run.context,
            activations=run.make_activations(),
            ranked_by_maps=[files.scores] if run.config.select.spec.needs_map else [],
            with_embeddings=with_embeddings,
        )
        record["startup_s"] = round(pace.startup_s, 3)
        record["images_per_s"] = round(pace.rows_per_s, 1)


def evaluate_model(run: Run, files: RoundLayout) -> None:
    """Holdout scores to `metrics.json`."""
    if _is_evaluated(run, files):
        return
    schema = score_schema(len(run.pool.classes))
    card = read_json(files.model_card)
    seed = derive_seed(run.config.seed, "evaluate")  # the same twins and resamples in every round
    holdout = read_shards(files.holdout, schema)
    scored = read_shards(files.scores, schema, ["predicted", "misalignment", "error_code"])
    splits = {
        split: holdout_metrics(
            holdout, rows_of_splits(run.index, split), run.pool.classes, run.pool.image_size, seed
        )
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
    absent = run.absent_classes()
    if absent:
        metrics["absent_classes"] = absent  # the model was trained without them
    write_json(files.metrics, metrics)
    run.context.reporter.line(f"{files.title}: {_in_words(splits)}")


def _is_evaluated(run: Run, files: RoundLayout) -> bool:
    """Tell whether `metrics.json` is there; of a round that chooses, with what it says of those scores."""
    if not files.metrics.exists():
        return False
    return (
        not run.asks(files) or files.selection.exists() or read_json(files.metrics)["scoring"]["num_scored"]
    )


def _in_words(splits: dict[str, Any]) -> str:
    texts = [
        f"{name} balanced accuracy {found['balanced_accuracy']:.3f}, accuracy {found['accuracy']:.3f}"
        for name, found in splits.items()
        if found
    ]
    return "; ".join(texts) or "no labelled validation or test images to evaluate on"
