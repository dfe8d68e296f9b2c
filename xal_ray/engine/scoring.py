"""Scoring: row references spread over a pool of actors, each with the model loaded once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray import config
from xal_ray.engine.session import gpus_per_actor, start
from xal_ray.engine.shards import Resources, cut, run_shards
from xal_ray.errors import StageError
from xal_ray.pool.schema import PoolReader
from xal_ray.progress import Reporter
from xal_ray.scorer import Scorer, score_schema
from xal_ray.storage import read_shards, write_table

REFERENCE_COLUMNS = ("image_id", "part", "row")


class ScoreShard:
    """The work of a scoring actor."""

    def __init__(self, pool: PoolReader, scorer: Mapping[str, Any]) -> None:
        self.pool = pool
        self.scorer = Scorer(**scorer)

    def __call__(self, path: Path, rows: pa.Table) -> None:
        """Score the referenced rows and write their shard."""
        write_table(path, self.scorer(self.pool.read_rows(rows)))


def score(
    pool: PoolReader,
    model: Path,
    requests: Mapping[Path, pa.Table],
    settings: config.Score,
    roi: config.Roi,
    resources: config.Ray,
    reporter: Reporter,
    *,
    verbose: bool = False,
) -> None:
    """Score rows of a pool into folders of shards; shards that are already there are not scored again.

    Args:
        pool: The packed pool.
        model: The model's folder.
        requests: For each output folder, the index rows to score.
        settings: Saliency method, batch and shard sizes.
        roi: Whether ROIs may be used.
        resources: Actors, CPUs and GPUs.
        reporter: Hears about progress.
        verbose: Let Ray speak.

    Each folder's shards, in the order of their names, then hold exactly the requested rows, in their order.

    Raises:
        StageError: More than `max_error_fraction` of the rows have no score, or the stage failed.
    """
    shards = [
        shard
        for folder, rows in requests.items()
        for shard in cut(rows.select(REFERENCE_COLUMNS), folder, settings.rows_per_shard)
    ]
    if not all(shard.path.exists() for shard in shards):
        start(resources, verbose=verbose)
        scorer = {
            "model": model,
            "saliency": settings.saliency,
            "use_roi": roi.source == "oracle",
            "batch_size": settings.batch_size,
            "threads": resources.threads_per_actor,
        }
        actors = Resources(
            resources.num_actors,
            resources.cpus_per_actor,
            gpus_per_actor(resources.gpus_per_actor, resources.num_actors),
            resources.stall_timeout_s,
        )
        run_shards("scoring", shards, ScoreShard, {"pool": pool, "scorer": scorer}, actors, reporter)
    for folder, rows in requests.items():
        _check(folder, rows, settings.max_error_fraction)


def _check(folder: Path, requested: pa.Table, max_error_fraction: float) -> None:
    scores = read_shards(folder, score_schema(0), ["image_id", "predicted"])
    if not scores["image_id"].equals(requested["image_id"]):
        raise StageError(
            "the scores do not cover exactly the requested images",
            expected=f"{requested.num_rows} rows",
            found=f"{scores.num_rows} rows",
            where=str(folder),
            next_step="remove the folder and run the same command again",
        )
    failed = pc.sum(pc.is_null(scores["predicted"])).as_py() or 0
    if failed > max_error_fraction * max(scores.num_rows, 1):
        raise StageError(
            "too many images have no score",
            expected=f"at most {max_error_fraction:.1%} (score.max_error_fraction)",
            found=f"{failed} of {scores.num_rows}",
            where=f"{folder}, column error_code",
            next_step="a diverged model gives no finite output: lower train.learning_rate",
        )
