"""Says in words, before anything runs, what a call asks for: arms, seeds, trials and resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from xal_ray.config import Config
from xal_ray.engine.session import capacity
from xal_ray.errors import ConfigError
from xal_ray.loop.dry_run import dry_run, has_source
from xal_ray.machine import usable_cpus
from xal_ray.places import is_remote
from xal_ray.pool.layout import PoolLayout
from xal_ray.pool.schema import PoolReader, open_pool
from xal_ray.storage import refuse_no_folder
from xal_ray.sweep.capacity import Share, share_out
from xal_ray.sweep.family import gather
from xal_ray.sweep.initial_sets import about_left_out, lacking_seeds, with_recorded
from xal_ray.sweep.layout import RECORD_NAME
from xal_ray.sweep.plan import ArmPlan, Plan
from xal_ray.sweep.proposal import known_arms, propose
from xal_ray.sweep.record import SweepRecord, bind, read_record, refuse_strangers
from xal_ray.sweep.space import Space

_NO_CHECK = {"weight": 0.5, "normalise": "rank"}  # keys on whose values no check depends


def describe_sweep(settings: Config, out: Path, *, here: bool = True) -> list[str]:
    """Return what a sweep would do, without doing any of it or asking a cloud or MLflow.

    Raises:
        InputError: It can't be done.
    """
    spaces, plan = propose(settings, ask=False)
    share = share_of(settings, plan, spaces)
    chosen = settings.sweep
    seeds = seeds_of(settings)
    known = known_arms(settings, plan, spaces)
    notes, pools = _check(settings, known, out, here=here)
    there = [each for each in known if each.config.pool_path() in pools and not _asks_cloud(each.config)]
    record = SweepRecord() if is_remote(out) else read_record(out)
    left_out = with_recorded(lacking_seeds(there, pools, seeds), record.left_out, seeds)

    def classes_of(each: Config) -> int | None:
        return None if is_remote(each.pool_path()) else num_classes(each, pools)

    family = gather(settings, plan, seeds, record.arms, classes_of)
    earlier = len(family.members) - len(family.asked)
    drawn = f", and {chosen.num_samples} that Optuna suggests" if chosen.search == "optuna" else ""
    goes_on = " (there is one: it goes on)" if not is_remote(out) and (out / RECORD_NAME).exists() else ""
    return [
        f"sweep      {out}{goes_on}",
        *(
            f"arm        {each.arm.label}{' (baseline)' if each.arm.is_baseline else ''}"
            for each in family.asked
        ),
        *([f"there      {earlier} more of earlier calls, compared with these"] if earlier else []),
        *(
            f"left out   {line}"
            for line in (
                *about_dropped(plan.dropped),
                *about_dropped(family.twins),
                *about_left_out(left_out),
            )
        ),
        f"seeds      {len(seeds)}: {seeds[0]} to {seeds[-1]}",
        f"trials     {len(family.asked)} arms{drawn}, in all {num_trials(settings, Plan(family.asked))} "
        f"runs of {settings.num_rounds} rounds",
        f"at once    {share.trials_at_once}, each with {share.cpus:g} CPUs, {share.gpus:g} GPUs and "
        f"{share.resources.num_actors} actors",
        f"search     {chosen.search}, scheduler {chosen.scheduler}",
        f"compared   area under the validation curve of {chosen.metric}, seed by seed",
        *(f"note       {text}" for text in notes),
    ]


def _check(
    settings: Config, arms: Sequence[ArmPlan], out: Path, *, here: bool
) -> tuple[list[str], dict[Path, PoolReader]]:
    """Check what `sweep` checks before the first trial, and write nothing.

    Returns:
        What to bear in mind, and the pools that are there, by path.
    """
    pools: dict[Path, PoolReader] = {}
    notes: dict[str, None] = {}
    seen = set()
    for each in arms:
        chosen = each.config
        key = (
            chosen.pool_path(),
            chosen.model,
            chosen.train.init,
            chosen.train.num_workers,
            chosen.labels,
            chosen.num_rounds,
            chosen.select.model_copy(update=_NO_CHECK),
        )
        if key in seen:
            continue
        seen.add(key)
        if not has_source(chosen):
            notes["there is no pool yet, and no pool.source to make it from"] = None
            continue
        found = dry_run(chosen, whole_queries=True, here=here)
        notes |= dict.fromkeys(found.notes)
        if found.pool is not None:
            check_validation(found.pool)
            pools[chosen.pool_path()] = found.pool
    if not is_remote(out):
        if here:
            refuse_no_folder(out)
        refuse_strangers(out)
        if base := pools.get(settings.pool_path()) or next(iter(pools.values()), None):
            bind(settings, base, out, only_check=True)
    return list(notes), pools


def _asks_cloud(settings: Config) -> bool:
    """Return whether its initial set is in an object store."""
    return settings.labels.from_run is not None and is_remote(settings.labels.from_run)


def seeds_of(settings: Config) -> list[int]:
    """Return the paired seeds."""
    return [settings.seed + number for number in range(settings.sweep.seeds)]


def num_trials(settings: Config, plan: Plan, num_seeds: int | None = None) -> int:
    """Return how many runs a call asks for, those that are there already among them."""
    suggested = settings.sweep.num_samples if settings.sweep.search == "optuna" else 0
    return (len(plan.arms) + suggested) * (num_seeds or settings.sweep.seeds)


def share_of(settings: Config, plan: Plan, spaces: Mapping[str, Space]) -> Share:
    """Return what each trial gets of the machine."""
    return share_out(
        [each.config for each in known_arms(settings, plan, spaces)],
        settings.ray,
        settings.sweep.trials_at_once,
        num_trials(settings, plan),
        have=capacity(settings.ray),
        cores=usable_cpus(),
    )


def num_classes(settings: Config, pools: Mapping[Path, PoolReader]) -> int | None:
    """Count the classes of an arm's pool, if that is there."""
    path = settings.pool_path()
    if path in pools:
        return len(pools[path].classes)
    return len(open_pool(path).classes) if PoolLayout(path).card.exists() else None


def about_dropped(labels: Sequence[str]) -> list[str]:
    """Return what people are told of combinations that are another arm; nothing without any."""
    if not labels:
        return []
    shown = "; ".join(labels[:3]) + ("; ..." if len(labels) > 3 else "")
    what = "1 combination is" if len(labels) == 1 else f"{len(labels)} combinations are"
    return [f"{what} another arm in effect, and counted once: {shown}"]


def check_validation(pool: PoolReader) -> None:
    """Refuse a pool that has nothing to compare arms on.

    Raises:
        ConfigError: It has no labelled image in the validation split.
    """
    if not pool.card["counts"].get("val"):
        raise ConfigError(
            "a sweep compares arms on the validation split, and the pool has no labelled image there",
            where=str(pool.path),
            next_step="set pool.splits.val above 0, or give rows with split 'val' in the manifest",
        )
