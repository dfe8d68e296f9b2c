"""Scoring alone: one pass of a model over a pool, into a folder that can be resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from xal_ray import config
from xal_ray.acquire.strategies import select
from xal_ray.acquire.subsample import draw
from xal_ray.engine.scoring import score
from xal_ray.engine.shared import sharing
from xal_ray.errors import ModelError, PoolError, RunError
from xal_ray.layout import selection_table
from xal_ray.model.weights import load_model
from xal_ray.pool.schema import SPLITS, PoolReader, open_pool, rows_of_splits
from xal_ray.progress import Reporter
from xal_ray.scores import groups_of, ranked_chunks
from xal_ray.seeds import derive_seed
from xal_ray.storage import is_empty, read_json, write_json, write_table


def score_pool(
    model: Path,
    pool_path: Path,
    out: Path,
    settings: config.Config,
    reporter: Reporter,
    *,
    splits: Sequence[str] = ("pool",),
    query_size: int = 0,
    verbose: bool = False,
) -> int:
    """Score the rows of some splits into `out/scores/*.parquet`; run again, it keeps finished shards.

    Args:
        model: A model's folder or its .safetensors file.
        pool_path: The packed pool.
        out: The output folder; `score.json` in it says what the scores are of.
        settings: Its sections score, roi, select and ray, and the seed, count.
        reporter: Hears about progress.
        query_size: How many images to choose into `out/selection.parquet`; 0 = choose none.
        splits: Of `pool`, `labeled`, `val`, `test`.
        verbose: Let Ray speak.

    Returns:
        The number of rows scored.

    Raises:
        InputError: Model and pool do not fit each other, or the folder holds other scores.
        StageError: The stage failed.
    """
    pool = open_pool(pool_path)
    _, spec, card = load_model(model)
    unknown = [name for name in splits if name not in SPLITS]
    if unknown:
        raise PoolError("there is no such split", expected=", ".join(SPLITS), found=unknown[0])
    if (spec.classes, spec.image_size, spec.channels) != (pool.classes, pool.image_size, pool.channels):
        raise ModelError(
            "the model was trained on another kind of pool",
            expected=f"classes {list(pool.classes)}, {pool.image_size} px, {pool.channels} channels",
            found=f"classes {list(spec.classes)}, {spec.image_size} px, {spec.channels} channels",
            where=str(model),
            next_step="prepare the pool with the model's image_size, channels and classes",
        )
    if settings.score.mc_samples and not card.get("head_dropout"):
        reporter.line(
            "the model's last layer was trained without dropout: its 'bald' says how the output bears noise, "
            "not what the model does not know; a run with score.mc_samples trains that layer with dropout"
        )
    binding = {
        "model_id": card["model_id"],
        "pool": pool.content_hash,
        "splits": sorted(splits),
        "seed": settings.seed,
        "score": settings.score.model_dump(mode="json"),
        "roi": settings.roi.model_dump(mode="json"),
    }
    _bind(out, binding)
    rows = rows_of_splits(pool.index(), *splits)
    if settings.score.subsample < 1.0:
        seed = derive_seed(settings.seed, "single_pass", "subsample")
        everyone = np.ones(rows.num_rows, dtype=bool)
        drawn = draw(everyone, settings.score.subsample, at_least=query_size, seed=seed)
        rows = rows.filter(pa.array(drawn))
    requests = {out / "scores": rows}
    with sharing([pool.path, out], settings.ray):
        score(pool, model, requests, settings.score, settings.roi, settings.ray, reporter, verbose=verbose)
    if query_size:
        _choose(pool, out, settings, query_size)
    return int(rows.num_rows)


def _choose(pool: PoolReader, out: Path, settings: config.Config, query_size: int) -> None:
    wish = settings.select.model_copy(update={"query_size": query_size})
    seed, groups = derive_seed(settings.seed, "single_pass", "select"), groups_of(pool.index())
    replay = ranked_chunks(out / "scores", wish, seed=seed, groups=groups, image_size=pool.image_size)
    picks = select(replay, wish, seed=seed, groups=groups)
    write_table(out / "selection.parquet", selection_table(picks))


def _bind(out: Path, binding: dict[str, object]) -> None:
    """Bind the folder to what it is to hold, so that shards of another model are never mixed in."""
    card = out / "score.json"
    if card.exists():
        found = read_json(card)
        differing = [key for key in binding if found.get(key) != binding[key]]
        if differing:
            raise RunError(
                "the output folder holds the scores of something else",
                expected=f"{differing[0]}: {binding[differing[0]]}",
                found=f"{differing[0]}: {found.get(differing[0])}",
                where=str(out),
                next_step="give another --out",
            )
    elif not is_empty(out):
        raise RunError(
            "the output folder holds something else", where=str(out), next_step="give another --out"
        )
    else:
        write_json(card, binding)
