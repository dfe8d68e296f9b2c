"""Finds what a run would be refused for without doing any of it: nothing is written, no cloud is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.acquire.shortlist import describe_shortlist
from xal_ray.config import Config, Select
from xal_ray.engine.preflight import fit_to_cpus
from xal_ray.engine.session import is_joined
from xal_ray.errors import ConfigError, LabelError
from xal_ray.labels.earlier_run import labels_of_run, run_with_labels
from xal_ray.loop.plan import check_budget, check_model, describe_shortfalls
from xal_ray.loop.state import check_folder
from xal_ray.model.backbones import check_image_size
from xal_ray.model.network import ModelSpec
from xal_ray.model.saliency import check_cut
from xal_ray.model.weights import build_network, is_at_hand
from xal_ray.places import is_remote, place
from xal_ray.pool.card import open_prepared
from xal_ray.pool.layout import PoolLayout
from xal_ray.pool.manifest import classes_of
from xal_ray.pool.schema import PoolReader, open_pool
from xal_ray.pool.sources import read_source
from xal_ray.pool.unfinished import refuse_strangers
from xal_ray.record.layout import RunLayout
from xal_ray.registry.backbones import BACKBONES, BackboneSpec
from xal_ray.storage import refuse_no_folder

_ANY_TWO = ("a", "b")  # classes, where they are not known yet: the last layer is made anew in any case


@dataclass(frozen=True)
class DryRun:
    """Holds what was found.

    Attributes:
        pool: The pool, where it is prepared and lies on a disk.
        about_pool: It in words.
        notes: What could not be looked at, or will be another number than asked for.
    """

    pool: PoolReader | None
    about_pool: str
    notes: tuple[str, ...]


def dry_run(
    config: Config, out: Path | None = None, *, whole_queries: bool = False, here: bool = True
) -> DryRun:
    """Check all that a run checks before its first round, and the output folder where one is given.

    Args:
        config: The run.
        out: Its folder.
        whole_queries: As `check_budget` takes it.
        here: It would run on this machine: what is not seen from here is not there. Elsewhere it may be.

    Raises:
        InputError: The run would be refused.
    """
    notes: list[str] = []
    path = config.pool_path()
    is_there = not is_remote(path) and PoolLayout(path).card.exists()
    if here and not is_joined(config.ray):
        workers = config.train.num_workers
        notes += fit_to_cpus(config.ray, num_workers=workers, decodes=not (is_there or is_remote(path)))[1]
    pool = None
    if is_remote(path):
        about = f"{path}: in an object store, which is not asked here"
    elif is_there:
        pool = open_prepared(config.pool, path)
        check_budget(config, pool, whole_queries=whole_queries)
        counts = ", ".join(f"{name} {count}" for name, count in sorted(pool.card["counts"].items()))
        about = f"{path}: {counts}; classes {', '.join(pool.classes)}"
    elif not here and not _is_source_seen(config):
        about = f"{path}: not seen from this machine"
    else:
        refuse_strangers(path)
        about = f"{path}: not there yet; prepared first from {_check_source(config, notes.append)}"
        _check_others(config, notes.append, here=here)
    _check_weights(config, pool, notes.append, here=here)
    _check_first_labels(config, pool, out, notes.append, here=here)
    if out is not None and not is_remote(out):
        if here:
            refuse_no_folder(out)
        check_folder(config, pool, RunLayout(out))
    return DryRun(pool, about, tuple(notes))


def has_source(config: Config) -> bool:
    """Return whether there is a pool, or anything to make one from."""
    source, path = config.pool.source, config.pool_path()
    return source.path is not None or source.kind is not None or is_remote(path) or path.exists()


def _is_source_seen(config: Config) -> bool:
    path = config.pool.source.path
    return path is None or is_remote(path) or path.exists()


def _check_weights(
    config: Config, pool: PoolReader | None, note: Callable[[str], None], *, here: bool
) -> None:
    """Load the weights, where they lie on this machine."""
    model = config.model
    weights = "none" if config.train.init == "scratch" else model.weights
    is_elsewhere = not here and weights not in ("none", "imagenet") and not place(weights).exists()
    if not is_at_hand(model.backbone, weights) or is_elsewhere:
        note(f"the weights {weights} are not on this machine, and not looked at")
    elif weights == "none" and _is_sure_to_be_had(BACKBONES[model.backbone]):
        # Nothing to load, and importing torchvision takes seconds.
        check_image_size(model.backbone, pool.image_size if pool is not None else config.pool.image_size)
    elif pool is not None:
        check_model(config, pool)
    else:
        settings = config.pool
        spec = ModelSpec(model.backbone, settings.classes or _ANY_TWO, settings.image_size, settings.channels)
        check_cut(build_network(spec, weights, config.seed), config)


def _is_sure_to_be_had(backbone: BackboneSpec) -> bool:
    """Return whether a backbone needs neither an optional package nor another one's code."""
    return backbone.package is None and backbone.origin is None


def _check_others(config: Config, note: Callable[[str], None], *, here: bool) -> None:
    """Open the pools that one which is not made yet shall be compared with."""
    for path in config.pool.compare_with:
        if is_remote(path) or (not here and not path.exists()):
            note(f"the pool {path} of pool.compare_with is not looked at")
        else:
            open_pool(path)


def _check_first_labels(
    config: Config, pool: PoolReader | None, out: Path | None, note: Callable[[str], None], *, here: bool
) -> None:
    """Look for the run whose labels a new one would begin with; one that has begun needs it no more."""
    origin = config.labels.from_run
    if origin is None or (out is not None and not is_remote(out) and RunLayout(out).ledger.exists()):
        return
    if is_remote(origin) or (not here and not origin.exists()):
        note(f"the labels of {origin} are not looked at")
    elif pool is not None:
        labels_of_run(origin, pool)
    else:
        run_with_labels(origin)


def _check_source(config: Config, note: Callable[[str], None]) -> str:
    """List a source whose pool is not made yet, and refuse what its list alone shows; returns it in words."""
    source = config.pool.source
    if source.path is not None and is_remote(source.path):
        return f"{source.path}, in an object store, which is not asked here"
    listing = read_source(config.pool)
    manifest = listing.manifest
    for text in listing.notes:
        note(text)
    classes_of(manifest, config.pool.classes or listing.classes)
    if manifest["reader"].null_count < manifest.num_rows:  # a case tells its images, labels and ROIs itself
        return f"{manifest.num_rows} files or cases ({source.resolved_kind()})"
    _check_regions(config, manifest)
    _check_labels(config, manifest)
    return f"{manifest.num_rows} images ({source.resolved_kind()})"


def _check_labels(config: Config, manifest: pa.Table) -> None:
    """Refuse an oracle without labels, and more labels than there are images."""
    known = manifest.num_rows - manifest["label"].null_count
    if config.labels.source == "oracle" and not known:
        raise LabelError(
            "no label of the source's images is known, so there is no oracle to ask",
            expected="labels in the source, which are hidden until an image is chosen",
            found=f"{manifest.num_rows} images without",
            where=f"{config.pool.source.path}, labels.source",
            next_step="label them yourself: labels.source=export",
        )
    chosen = config.select
    needed = chosen.initial_labels + (config.num_rounds - 1) * chosen.query_size + 1
    if needed > manifest.num_rows:
        raise ConfigError(
            "the run asks for more labels than the source has images",
            expected=f"initial_labels + num_rounds x query_size of at most {manifest.num_rows}",
            found=f"{chosen.initial_labels} + {config.num_rounds} x {chosen.query_size}",
            where="select.query_size, select.initial_labels, num_rounds",
            next_step="lower num_rounds, select.query_size or select.initial_labels",
        )


def _check_regions(config: Config, manifest: pa.Table) -> None:
    """Refuse a strategy that needs regions of interest where the source has none."""
    if not config.select.spec.needs_roi:
        return
    states = pc.unique(manifest["roi_state"]).to_pylist()
    drawn = any(manifest[name].null_count < manifest.num_rows for name in ("mask_uri", "polygons", "rle"))
    boxed = bool(pc.any(pc.greater(pc.list_value_length(manifest["boxes"]), 0)).as_py())
    if not drawn and not boxed and "present" not in states:
        raise ConfigError(
            f"select.strategy={config.select.strategy} needs regions of interest, and the source has none",
            expected="masks or boxes in the source",
            where=str(config.pool.source.path),
            next_step="set roi.source=none, and select.strategy to one that needs no ROI (margin, say)",
        )


def _of_strategy(select: Select) -> str:
    listed = describe_shortlist(select)
    return f"among {listed}" if listed else f"weight {select.weight:g}, normalise {select.normalise}"


def describe(config: Config, out: Path, *, here: bool = True) -> list[str]:
    """Return the resolved plan in words: what a run would do, without doing any of it or asking a cloud.

    Raises:
        InputError: The run would be refused.
    """
    found = dry_run(config, out, here=here)
    chosen, rounds = config.select, config.num_rounds
    total = chosen.initial_labels + rounds * chosen.query_size
    asked = f"{chosen.initial_labels} + {rounds} x {chosen.query_size} = {total}"
    if config.labels.from_run is not None:
        asked = f"those of {config.labels.from_run} + {rounds} x {chosen.query_size}"
    labels_lines = [f"labels     {asked}, from {config.labels.source}"]
    if found.pool is not None:
        labels_lines += describe_shortfalls(config, found.pool)
    trainer = "in this process" if config.train.num_workers == 0 else f"{config.train.num_workers} workers"
    actors = config.ray
    goes_on = not is_remote(out) and RunLayout(out).ledger.exists()
    return [
        f"run        {out}{' (there is one: it goes on)' if goes_on else ''}",
        f"pool       {found.about_pool}",
        *labels_lines,
        f"rounds     {rounds}, and a last one that only trains and evaluates",
        f"select     {chosen.spec.title}, {_of_strategy(chosen)}; ROI: {config.roi.source}",
        f"model      {config.model.backbone}, weights {config.model.weights}, freeze {config.model.freeze}",
        f"train      {trainer}, at most {config.train.max_steps} steps a round",
        f"score      {config.score.saliency}, {actors.num_actors} actors x {actors.cpus_per_actor:g} CPU, "
        f"GPUs an actor: {actors.gpus_per_actor}",
        f"ray        {actors.num_cpus} logical CPUs, object store {actors.object_store_mb} MB",
        *(f"note       {text}" for text in found.notes),
    ]
