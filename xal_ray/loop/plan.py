"""Before the first round: the pool, and whether the run can be done with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from xal_ray.config import ROI_STRATEGIES, Config
from xal_ray.engine.prepare import prepare
from xal_ray.errors import ConfigError
from xal_ray.model.network import ModelSpec
from xal_ray.model.weights import build_network
from xal_ray.pool.activations import refuse_remote
from xal_ray.pool.card import open_prepared
from xal_ray.pool.schema import PoolReader
from xal_ray.progress import Reporter


def open_or_prepare(config: Config, reporter: Reporter, *, verbose: bool = False) -> PoolReader:
    """Open the run's pool, or prepare it from its source on first use.

    Raises:
        InputError: There is neither, or they do not fit.
    """
    path = config.pool_path()
    if not (path / "card.json").exists():
        reporter.line(f"preparing the pool {path}")
    return prepare(config.pool, path, config.ray, reporter, verbose=verbose)


def check_budget(config: Config, pool: PoolReader) -> None:
    """Refuse a run that would ask for more labels than the pool has images, before anything is trained.

    Raises:
        ConfigError: It would; or there is no labelled image to begin with; or a needed ROI is nowhere.
    """
    if config.model.cache_activations:
        refuse_remote(pool.path)
    counts = pool.card["counts"]
    left = counts.get("pool", 0)
    chosen = config.select
    needed = chosen.initial_labels + config.num_rounds * chosen.query_size
    if needed > left:
        raise ConfigError(
            "the run asks for more labels than the pool has unlabelled images",
            expected=f"initial_labels + num_rounds x query_size of at most {left}",
            found=f"{chosen.initial_labels} + {config.num_rounds} x {chosen.query_size} = {needed}",
            where="select.query_size, select.initial_labels, num_rounds",
            next_step="lower one of them",
        )
    if chosen.initial_labels == 0 and not counts.get("labeled", 0):
        raise ConfigError(
            "there is nothing to begin with",
            expected="rows with split 'labeled' in the manifest, or select.initial_labels above 0",
            where="select.initial_labels",
        )
    if config.select.strategy in ROI_STRATEGIES and not pool.card["roi"].get("present"):
        raise ConfigError(
            f"select.strategy={config.select.strategy} needs regions of interest, and the pool has none",
            expected="masks or boxes in the pool's source",
            where=str(pool.path),
            next_step="set roi.source=none, and select.strategy to one that needs no ROI (margin, say)",
        )


def check_model(config: Config, pool: PoolReader, tell: Callable[[str], None] = lambda _: None) -> None:
    """Build the network once, so that weights that can't be had are known before a run has begun.

    Args:
        config: Names the weights.
        pool: Has the classes and the size of images.
        tell: Hears how a file of weights was understood.

    Raises:
        ModelError: The weights can't be had, do not fit, or the image size does not suit the backbone.
    """
    spec = ModelSpec(config.model.backbone, pool.classes, pool.image_size, pool.channels)
    weights = "none" if config.train.init == "scratch" else config.model.weights
    build_network(spec, weights, config.seed, tell)


def describe(config: Config, out: Path) -> list[str]:
    """The resolved plan in words: what a run would do, without doing any of it.

    Raises:
        InputError: The pool that is there does not fit.
    """
    path = config.pool_path()
    chosen, rounds = config.select, config.num_rounds
    if (path / "card.json").exists():
        pool = open_prepared(config.pool, path)
        check_budget(config, pool)
        counts = ", ".join(f"{name} {count}" for name, count in sorted(pool.card["counts"].items()))
        pool_line = f"{path}: {counts}; classes {', '.join(pool.classes)}"
    else:
        pool_line = f"{path}: not there yet; prepared first from a {config.pool.source.resolved_kind()}"
    trainer = "in this process" if config.train.num_workers == 0 else f"{config.train.num_workers} workers"
    actors = config.ray
    return [
        f"run        {out}{' (there is one: it goes on)' if (out / 'ledger.jsonl').exists() else ''}",
        f"pool       {pool_line}",
        f"labels     {chosen.initial_labels} + {rounds} x {chosen.query_size} = "
        f"{chosen.initial_labels + rounds * chosen.query_size}, from {config.labels.source}",
        f"rounds     {rounds}, and a last one that only trains and evaluates",
        f"select     {chosen.strategy}, weight {chosen.weight:g}, normalise {chosen.normalise}; "
        f"ROI: {config.roi.source}",
        f"model      {config.model.backbone}, weights {config.model.weights}, freeze {config.model.freeze}",
        f"train      {trainer}, at most {config.train.max_steps} steps a round",
        f"score      {config.score.saliency}, {actors.num_actors} actors x {actors.cpus_per_actor:g} CPU, "
        f"GPUs an actor: {actors.gpus_per_actor}",
        f"ray        {actors.num_cpus} logical CPUs, object store {actors.object_store_mb} MB",
    ]
