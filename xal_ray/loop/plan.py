"""Before the first round: the pool, and whether the run can be done with it."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.config import Config
from xal_ray.engine.context import StageContext
from xal_ray.engine.prepare import prepare
from xal_ray.errors import ConfigError
from xal_ray.labels.earlier_run import labels_of_run
from xal_ray.loop.labelling import answerable_images, reveal_classes
from xal_ray.loop.query import check_strategy, pick, shortfall
from xal_ray.loop.selection import everyone, random_query
from xal_ray.model.network import ModelSpec
from xal_ray.model.saliency import check_cut, check_maps
from xal_ray.model.weights import build_network
from xal_ray.pool.activations import refuse_remote
from xal_ray.pool.layout import PoolLayout
from xal_ray.pool.schema import PoolReader, rows_of_splits
from xal_ray.record.layout import INITIAL, RoundLayout
from xal_ray.seeds import derive_seed


def open_or_prepare(config: Config, context: StageContext) -> PoolReader:
    """Open the run's pool, or prepare it from its source on first use.

    Raises:
        InputError: There is neither, or they do not fit.
    """
    path = config.pool_path()
    if not PoolLayout(path).card.exists():
        context.reporter.line(f"preparing the pool {path}")
    return prepare(config.pool, path, context)


def check_budget(config: Config, pool: PoolReader, *, whole_queries: bool = False) -> None:
    """Refuse a run that would ask for more labels than the pool has images, before anything is trained.

    Args:
        config: The run.
        pool: The pool.
        whole_queries: Refuse also a last query that would take what is left: runs that are compared would
            end with the same labels.

    Raises:
        ConfigError: It would; or there is no labelled image to begin with; or a needed ROI is nowhere.
    """
    if config.model.cache_activations:
        refuse_remote(pool.path)
    check_strategy(config, pool)
    counts = pool.card["counts"]
    answerable = answerable_images(config, pool)
    left = counts.get("pool", 0) if answerable is None else len(answerable)
    chosen = config.select
    is_drawn = config.labels.from_run is None
    initial = chosen.initial_labels if is_drawn else 0  # how many another run has is seen when they are read
    asked = initial + config.num_rounds * chosen.query_size
    needed = asked if whole_queries else asked - chosen.query_size + 1  # the last query takes what is left
    if needed > left:
        fitting = config.num_rounds - -(-(needed - left) // chosen.query_size)
        raise ConfigError(
            "the run asks for more labels than the pool has unlabelled images",
            expected=f"initial_labels + num_rounds x query_size of at most {left}",
            found=f"{initial} + {config.num_rounds} x {chosen.query_size} = {asked}",
            where="select.query_size, select.initial_labels, num_rounds",
            next_step=f"set num_rounds={fitting}"
            if fitting > 0
            else "lower select.query_size or select.initial_labels (another --out, where a run has begun)",
        )
    if is_drawn:
        _check_beginning(chosen.initial_labels, counts.get("labeled", 0))


def _check_beginning(num_drawn: int, num_labelled: int) -> None:
    if not num_drawn and not num_labelled:
        raise ConfigError(
            "there is nothing to begin with",
            expected="rows with split 'labeled' in the manifest, or select.initial_labels above 0",
            where="select.initial_labels",
            next_step="set select.initial_labels, or give labelled images as rows with split 'labeled'",
        )


def check_model(config: Config, pool: PoolReader, tell: Callable[[str], None] = lambda _: None) -> None:
    """Build the network once, so that weights that can't be had are known before a run has begun.

    Args:
        config: Names the weights.
        pool: Has the classes and the size of images.
        tell: Hears how a file of weights was understood.

    Raises:
        ModelError: The weights can't be had, do not fit, or the image size does not suit the backbone or the
            strategy.
    """
    spec = ModelSpec(config.model.backbone, pool.classes, pool.image_size, pool.channels)
    weights = "none" if config.train.init == "scratch" else config.model.weights
    network = build_network(spec, weights, config.seed, tell)
    check_cut(network, config)
    check_maps(network, pool.image_size, config.select.spec)


def describe_shortfalls(config: Config, pool: PoolReader) -> list[str]:
    """Say where fewer labels than were asked for are to be had: how many in all, and a line for each round.

    The initial set is that of the run. What later rounds choose is not known before; where the cap takes all
    that a group may give, it does not matter, and otherwise a random draw stands for it.
    """
    if config.labels.from_run is not None:
        return []
    rows, answerable = rows_of_splits(pool.index(), "pool"), answerable_images(config, pool)
    if answerable is not None:
        rows = rows.filter(pc.is_in(rows["image_id"], answerable))
    lines, chosen, is_sure = [], [], True
    for number in range(INITIAL, config.num_rounds):
        size = config.select.initial_labels if number == INITIAL else config.select.query_size
        if not size or not rows.num_rows:
            chosen.append(0)
            continue
        wanted = random_query(config.select, size)
        seed = derive_seed(config.seed, number, "select")
        picks = pick(everyone(rows), wanted, rows.num_rows, seed=seed, index=rows).image_ids
        found = shortfall(wanted, len(picks), rows.num_rows)
        about = "" if is_sure else "about "
        if found:
            title = RoundLayout(pool.path, number).title
            lines.append(
                f"           {title}: {about}{found['chosen']} of {found['asked']}: {found['reason']}"
            )
        is_sure = is_sure and (number == INITIAL or bool(found) or config.select.strategy == "random")
        chosen.append(len(picks))
        rows = rows.filter(pc.invert(pc.is_in(rows["image_id"], pa.array(picks, pa.string()))))
    if not lines:
        return []
    total = " + ".join(map(str, chosen))
    return [
        f"           of these {'' if is_sure else 'about '}{total} = {sum(chosen)} are to be had:",
        *lines,
    ]


def lacking_classes(config: Config, pool: PoolReader) -> list[str]:
    """Return the classes of which a run would begin without an example, in the pool's order.

    Args:
        config: Of the run; its labels come from the oracle.
        pool: Its pool.
    """
    index = pool.index()
    found = set(rows_of_splits(index, "labeled")["label"].to_pylist())
    rows, answerable = rows_of_splits(index, "pool"), answerable_images(config, pool)
    if answerable is not None:
        rows = rows.filter(pc.is_in(rows["image_id"], answerable))
    count = config.select.initial_labels
    if config.labels.from_run is not None:
        found |= set(labels_of_run(config.labels.from_run, pool)["label"].to_pylist())
    elif count and rows.num_rows:
        seed = derive_seed(config.seed, INITIAL, "select")
        wanted = random_query(config.select, count)
        picks = pick(everyone(rows), wanted, rows.num_rows, seed=seed, index=index)
        found |= reveal_classes(pool, picks.image_ids)
    return [name for name in pool.classes if name not in found]
