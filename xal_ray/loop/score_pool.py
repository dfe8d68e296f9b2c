"""Scoring alone: one pass of a model over a pool, into a folder that can be resumed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from xal_ray import config
from xal_ray.acquire.shortlist import describe_shortlist
from xal_ray.advice import followable
from xal_ray.engine.context import open_context
from xal_ray.engine.readiness import made_ready, start_where_needed
from xal_ray.engine.scoring import score
from xal_ray.engine.shared import sharing
from xal_ray.errors import ConfigError, InputError, ModelError, PoolError, RunError
from xal_ray.labels.exclusions import Exclusions, find_exclusions, run_of_model
from xal_ray.loop.query import BoolArray, Query, check_strategy, choose, is_in, rows_to_score
from xal_ray.model.saliency import check_cut, check_maps
from xal_ray.model.weights import load_model
from xal_ray.places import is_remote
from xal_ray.pool.schema import SPLITS, PoolReader, open_pool
from xal_ray.progress import Reporter
from xal_ray.record.layout import SCORE_RECORD, RoundLayout, RunLayout
from xal_ray.record.ledger import is_lock, locked
from xal_ray.seeds import derive_seed
from xal_ray.storage import (
    names_in,
    read_json,
    read_table,
    refuse_no_folder,
    remove_leftovers,
    write_json,
)

TITLE = "single pass"
# What a pass reads of the run that its model is of, where nothing else is said.
OF_THE_RUN = ("seed", "roi", "score", "select")


@dataclass(frozen=True)
class PassOutcome:
    """Holds what a pass did.

    Attributes:
        num_scored: Rows in `scores/`.
        num_chosen: Rows in `selection.parquet`; 0 without one.
    """

    num_scored: int
    num_chosen: int


def settings_of_pass(
    run: Path | None, tree: Mapping[str, Any], overrides: Iterable[str], *, where: str
) -> config.Config:
    """The settings of a pass: those of its model's run, unless a configuration or `--set` says otherwise.

    Args:
        run: The run that the model is of, if any.
        tree: A configuration; the sections of it that are there replace the run's.
        overrides: `key=value` texts.
        where: What `tree` is from.

    Raises:
        ConfigError: A key or a value does not fit.
    """
    open_keys = [name for name in OF_THE_RUN if name not in tree]
    found = config.read_yaml(RunLayout(run).config) if run is not None and open_keys else {}
    of_run = {name: found[name] for name in open_keys if name in found}
    return config.build_config({"name": "score", **of_run, **tree}, overrides, where=where)


def score_pool(
    model: Path,
    pool_path: Path,
    out: Path,
    settings: config.Config,
    reporter: Reporter,
    *,
    splits: Sequence[str] = ("pool",),
    query_size: int = 0,
    run: Path | None = None,
    exclude: tuple[Path, ...] = (),
    verbose: bool = False,
) -> PassOutcome:
    """Score the rows of some splits into `out/scores/*.parquet`; run again, it keeps finished shards.

    What is chosen is neither labelled nor picked already, as far as the run of the model and lists say.

    Args:
        model: A model's folder or its .safetensors file.
        pool_path: The packed pool.
        out: The output folder; `score.json` in it says what scores and choice depend on.
        settings: Its sections score, roi, select and ray, and the seed, count (see `settings_of_pass`).
        reporter: Hears about progress.
        splits: Of `pool`, `labeled`, `val`, `test`.
        query_size: How many images to choose into `out/selection.parquet`; 0 = choose none.
        run: The run whose images are left out; None: the one that the model lies in, if any.
        exclude: Lists of further images to leave out.
        verbose: Let Ray speak.

    Raises:
        InputError: Model and pool do not fit each other, the choice can't be made, or the folder holds other
            scores; a folder that this call began is removed again.
        StageError: The stage failed.
    """
    settings = made_ready(settings, reporter)
    pool = open_pool(pool_path)
    card = _check(model, pool, settings, splits, query_size)
    if settings.score.mc_samples and not card.get("head_dropout"):
        reporter.line(
            "the model's last layer was trained without dropout: its 'bald' says how the output bears noise, "
            "not what the model does not know; a run with score.mc_samples trains that layer with dropout"
        )
    known = find_exclusions(pool, run or run_of_model(model), exclude)
    index = pool.index()
    rows, candidates = _rows(index, settings, splits, query_size, known)
    record = out / SCORE_RECORD
    elsewhere = "give another --out"
    with open_context(settings.ray, reporter, verbose=verbose) as context:
        start_where_needed(context, num_workers=settings.train.num_workers)  # before anything is written
        with locked(out, what="pass"), followable(settings, lambda: elsewhere if record.exists() else ""):
            is_new = not record.exists()
            try:
                _bind(out, _record(card, pool, settings, splits, query_size, known))
                files = RoundLayout(out, 0)
                requests = {files.scores: index.filter(pa.array(rows))}
                embeds = settings.select.spec.needs_embeddings
                if embeds and query_size:
                    requests[files.labelled] = _labelled(index, known)
                with sharing([pool.path, out], settings.ray):
                    score(
                        pool,
                        model,
                        requests,
                        settings.score,
                        settings.roi,
                        context,
                        ranked_by_maps=[files.scores] if settings.select.spec.needs_map else [],
                        with_embeddings=[files.scores, files.labelled] if embeds else [],
                    )
            except InputError:
                if is_new:
                    _remove_own(out)
                raise
            if not query_size:
                return PassOutcome(int(rows.sum()), 0)
            reporter.line(known.in_words(pool.card["counts"].get("pool", 0)))
            if not files.selection.exists():
                query = Query(
                    title=TITLE,
                    index=index,
                    image_size=pool.image_size,
                    candidates=candidates,
                    scored=rows,
                    runners_up=pa.array([], pa.string()),
                    select=settings.select.model_copy(update={"query_size": query_size}),
                    score=settings.score.model_copy(update={"runners_up": 0}),  # there is no next round
                    seed=derive_seed(settings.seed, "single_pass", "select"),
                )
                choose(query, files, reporter)
            return PassOutcome(int(rows.sum()), read_table(files.selection).num_rows)


def describe_pass(
    model: Path,
    pool_path: Path,
    out: Path,
    settings: config.Config,
    *,
    splits: Sequence[str],
    query_size: int,
    run: Path | None = None,
    exclude: tuple[Path, ...] = (),
    here: bool = True,
) -> list[str]:
    """Return what a pass would do, in words; what lies in an object store is not asked.

    Raises:
        InputError: The pass would be refused.
    """
    listed = describe_shortlist(settings.select.model_copy(update={"query_size": query_size}))
    among = f", among {listed}" if query_size and listed else ""
    lines = [
        f"score      {', '.join(splits)} of {pool_path}, with {model}, into {out}",
        f"choose     {query_size}" + (f" by {settings.select.spec.title}" if query_size else "") + among,
    ]
    check_splits(splits, query_size)
    if here:
        refuse_no_folder(out)
    places = [pool_path, model, *([run] if run else []), *exclude]
    if any(is_remote(path) for path in places):
        if here and not is_remote(model):
            load_model(model)
        return [*lines, "note       what lies in an object store is not asked here"]
    if not here and not all(path.exists() for path in places):
        return [*lines, "note       what is not seen from this machine is not looked at"]
    pool = open_pool(pool_path)
    card = _check(model, pool, settings, splits, query_size)
    known = find_exclusions(pool, run or run_of_model(model), exclude)
    _rows(pool.index(), settings, splits, query_size, known)
    if not is_remote(out):
        _check_bound(out, _record(card, pool, settings, splits, query_size, known))
    if not query_size:
        return lines
    return [*lines, f"of         {known.in_words(pool.card['counts'].get('pool', 0))}"]


def check_splits(splits: Sequence[str], query_size: int) -> None:
    """Refuse splits that there are not, and to choose from what is labelled or judges.

    Raises:
        PoolError: There is no such split.
        ConfigError: Images of it can't be chosen.
    """
    unknown = [name for name in splits if name not in SPLITS]
    if unknown:
        raise PoolError("there is no such split", expected=", ".join(SPLITS), found=unknown[0])
    others = [name for name in splits if name != "pool"]
    if query_size and others:
        raise ConfigError(
            f"images of the split '{others[0]}' can't be chosen to be labelled",
            expected="--split pool alone; the others are labelled, or judge the model",
            found=f"--query-size {query_size} and --split {' --split '.join(splits)}",
            where="the command line",
            next_step=f"leave out --split {others[0]}, or --query-size: scores alone are made of any split",
        )


def _check(
    model: Path, pool: PoolReader, settings: config.Config, splits: Sequence[str], query_size: int
) -> dict[str, Any]:
    """Refuse what can't be done before anything is written; returns the model's card."""
    check_splits(splits, query_size)
    if query_size:
        check_strategy(settings, pool)
    network, spec, card = load_model(model)
    check_cut(network, settings)
    if (spec.classes, spec.image_size, spec.channels) != (pool.classes, pool.image_size, pool.channels):
        raise ModelError(
            "the model was trained on another kind of pool",
            expected=f"classes {list(pool.classes)}, {pool.image_size} px, {pool.channels} channels",
            found=f"classes {list(spec.classes)}, {spec.image_size} px, {spec.channels} channels",
            where=str(model),
            next_step="prepare the pool with the model's image_size, channels and classes",
        )
    check_maps(network, spec.image_size, settings.select.spec)
    return card


def _rows(
    index: pa.Table, settings: config.Config, splits: Sequence[str], query_size: int, known: Exclusions
) -> tuple[BoolArray, BoolArray]:
    """(n,) which rows of the index are scored, and which may be chosen."""
    inside = is_in(index["split"], pa.array(splits))
    candidates = inside & ~is_in(index["image_id"], known.image_ids)
    if query_size and not candidates.any():
        raise ConfigError(
            "no image is left to choose from",
            found=known.in_words(int(inside.sum())),
            where="--query-size",
            next_step="leave out --query-size: scores alone are made of any image",
        )
    if settings.score.subsample == 1.0:
        return inside, candidates
    seed = derive_seed(settings.seed, "single_pass", "subsample")
    drawn_from = (candidates if query_size else inside)[inside]
    rows = np.zeros(len(inside), dtype=bool)
    rows[inside] = rows_to_score(drawn_from, settings.score, at_least=query_size, seed=seed)
    return rows, candidates


def _labelled(index: pa.Table, known: Exclusions) -> pa.Table:
    """Return the index rows of what came with a label or is left out: a batch is compared with them."""
    is_known = is_in(index["image_id"], known.image_ids) | is_in(index["split"], pa.array(["labeled"]))
    return index.filter(pa.array(is_known))


def _record(
    card: Mapping[str, Any],
    pool: PoolReader,
    settings: config.Config,
    splits: Sequence[str],
    query_size: int,
    known: Exclusions,
) -> dict[str, Any]:
    """Return all that scores and choice depend on, by the same notion of identity as a run's."""
    identity = settings.identity()
    of_draw = ("query_size", "initial_labels")  # the first is the call's own, the second is nothing here
    draw = {
        "query_size": query_size,
        "select": {name: value for name, value in identity["select"].items() if name not in of_draw},
        "left_out": {"count": len(known.image_ids), "sha256": known.sha256},
    }
    scores = {
        "model_id": card["model_id"],
        "weights_sha256": card["weights_sha256"],
        "backbone_sha256": card.get("backbone_sha256"),
        "pool": pool.content_hash,
        "splits": sorted(splits),
        "seed": settings.seed,
        "score": identity["score"],
        "roi": identity["roi"],
    }
    if settings.select.spec.needs_embeddings:
        scores["embedding"] = True
    if settings.score.subsample < 1.0:  # which rows are scored depends on who may be chosen
        scores["drawn_for"] = draw if query_size else None
    return {"scores": scores, "choice": draw if query_size else None}


def _bind(out: Path, record: dict[str, Any]) -> None:
    """Bind the folder to what it is to hold, so that shards of another model are never mixed in.

    A choice may be added to scores alone; a folder that has one keeps it.

    Raises:
        RunError: It holds something else.
    """
    path = out / SCORE_RECORD
    found = _check_bound(out, record)
    if found is None:
        write_json(path, record)
        return
    remove_leftovers(out)
    if record["choice"] is not None and found.get("choice") != record["choice"]:  # nothing was chosen yet
        write_json(path, record)


def _check_bound(out: Path, record: dict[str, Any]) -> dict[str, Any] | None:
    """Refuse a folder that holds something else; returns what it is bound to, None for a new one."""
    path = out / SCORE_RECORD
    if not path.exists():
        strangers = [name for name in names_in(out) if not is_lock(name)]
        if strangers:
            raise RunError(
                "the output folder holds something else",
                found=min(strangers),
                where=str(out),
                next_step="give another --out",
            )
        return None
    found: dict[str, Any] = read_json(path)
    has_chosen = found.get("choice") is not None and RoundLayout(out, 0).selection.exists()
    parts = ["scores", "choice"] if record["choice"] is not None and has_chosen else ["scores"]
    before = config.flatten({name: found.get(name) or {} for name in parts})
    now = config.flatten({name: record[name] for name in parts})
    differing = [key for key in [*now, *before] if before.get(key) != now.get(key)]
    if differing:
        key = differing[0]
        raise RunError(
            f"the output folder holds {'other scores' if key.startswith('scores') else 'another choice'}",
            expected=f"{key}: {before.get(key)}",
            found=f"{key}: {now.get(key)}",
            where=str(out),
            next_step="give another --out",
        )
    return found


def _remove_own(out: Path) -> None:
    """Remove what this call began, so that a corrected command can use the same folder; the lock stays."""
    if not (out / "scores").exists():
        (out / SCORE_RECORD).unlink(missing_ok=True)
