"""Seeds whose initial set lacks a class: known before any trial, and left out of all arms alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from xal_ray.errors import ConfigError
from xal_ray.loop.plan import lacking_classes
from xal_ray.pool.schema import PoolReader
from xal_ray.sweep.plan import ArmPlan


def lacking_seeds(
    arms: Sequence[ArmPlan], pools: Mapping[Path, PoolReader], seeds: Sequence[int]
) -> dict[int, str]:
    """Return the seeds with which some arm would begin without an example of a class.

    Such a curve tells of the draw more than of the arm. The initial set depends on the seed and not on the
    strategy, so that leaving the seed out of every arm favours none. Where all seeds lack a class, the
    initial set is meant to be so small, and none is left out.

    Args:
        arms: Those that are known before the first trial.
        pools: Theirs, by path.
        seeds: Of the sweep.

    Returns:
        Seed to the class that is lacking.
    """
    found: dict[int, str] = {}
    seen = set()
    for each in arms:
        select, path = each.config.select, each.config.pool_path()
        begins = (path, select.initial_labels, select.max_per_group)
        if begins in seen:
            continue
        seen.add(begins)
        for seed in seeds:
            lacking = lacking_classes(each.config.model_copy(update={"seed": seed}), pools[path])
            if lacking:
                found.setdefault(seed, lacking[0])
    return found if len(found) < len(seeds) else {}


def with_recorded(
    lacking: Mapping[int, str], recorded: Mapping[int, str], seeds: Sequence[int]
) -> dict[int, str]:
    """Return the seeds that a call leaves out: those that lack a class, and those that are out already.

    Args:
        lacking: As `lacking_seeds` gives it.
        recorded: What earlier calls have left out of the folder: no result of these would be shown.
        seeds: Of the call.

    Raises:
        ConfigError: No seed is left.
    """
    left_out = {**lacking, **{seed: recorded[seed] for seed in seeds if seed in recorded}}
    if all(seed in left_out for seed in seeds):
        raise ConfigError(
            "no seed is left: the sweep leaves out all that were asked for, since a class is lacking",
            expected="a seed whose initial set has all classes",
            found=", ".join(f"seed {seed}: no '{lacking}'" for seed, lacking in sorted(left_out.items())),
            where="seed, sweep.seeds",
            next_step="ask for other or for more seeds (--seeds), or give another --out",
        )
    return left_out


def about_left_out(left_out: Mapping[int, str]) -> list[str]:
    """Return what people are told of it; nothing where no seed is left out."""
    if not left_out:
        return []
    told = ", ".join(f"{seed} (no '{lacking}')" for seed, lacking in sorted(left_out.items()))
    seeds = "1 seed is" if len(left_out) == 1 else f"{len(left_out)} seeds are"
    return [
        f"{seeds} left out of all arms, since the initial set lacks a class: {told}. "
        "select.initial_labels sets how large it is."
    ]
