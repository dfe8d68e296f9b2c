"""From the section `sweep` to arms: each a whole configuration, checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xal_ray import config
from xal_ray.config import HAS_EFFECT, Config, build_config, flatten, set_key
from xal_ray.errors import ConfigError
from xal_ray.places import place
from xal_ray.storage import digest
from xal_ray.sweep.arms import Arm, Value

_MAX_SLUG = 80  # characters; a file system takes 255 bytes
_BUDGET_KEYS = frozenset({"num_rounds", "select.query_size", "select.initial_labels"})
_INITIAL_SET_KEYS = frozenset({"select.initial_labels", "select.max_per_group"})


@dataclass(frozen=True)
class ArmPlan:
    """An arm, and how its trials run.

    Attributes:
        arm: Its parameters are those that have an effect, as the configuration has them.
        config: Of its trials, but for the seed; places as the base configuration has them.
        name: Of its folder: what differs from the base, to be read, and a hash of what results depend on. It
            is the same however the arm is written, so that a later sweep finds the trials again.
    """

    arm: Arm
    config: Config
    name: str


@dataclass(frozen=True)
class Plan:
    """The arms of a sweep, the baseline first.

    Attributes:
        dropped: Labels of combinations that are an arm already, in effect.
    """

    arms: tuple[ArmPlan, ...]
    dropped: tuple[str, ...] = ()


def plan_arms(base: Config, settings: Iterable[Mapping[str, Value]]) -> Plan:
    """Turn combinations into arms, each different in effect.

    Raises:
        ConfigError: The configuration refuses a combination; the arm is named.
    """
    baseline = plan_arm(base, base.sweep.baseline, is_baseline=True)
    arms, dropped = {_effect_of(baseline): baseline}, []
    for params in settings:
        plan = plan_arm(base, params)
        if _effect_of(plan) in arms:
            dropped.append(Arm(params).label)
        else:
            arms[_effect_of(plan)] = plan
    return Plan(tuple(arms.values()), tuple(dropped))


def plan_arm(base: Config, params: Mapping[str, Value], *, is_baseline: bool = False) -> ArmPlan:
    """Turn one combination into an arm.

    Parameters that change nothing with the arm's strategy are left out, so that `select.weight=0.3` with
    `select.strategy=margin` is the arm `select.strategy=margin`.

    Raises:
        ConfigError: The configuration refuses it; the arm is named.
    """
    first = _with_params(base, params)
    kept = {key: _value_at(first, key) for key in params if key not in HAS_EFFECT or first.has_effect(key)}
    chosen = _with_params(base, kept) if kept != dict(params) else first
    params_of_arm = kept or {"select.strategy": chosen.select.strategy}
    arm = Arm(params_of_arm, is_baseline, chosen.select.spec.is_control)
    slug = _slug(base, chosen)
    chosen = _with_own_pool(base, _with_cache(base, chosen, params))
    return ArmPlan(arm, chosen, f"{slug}-{digest(effect(chosen))[:8]}")


def with_places(settings: Config, root: Path) -> Config:
    """The configuration with absolute paths: a trial runs in another process, which may stand elsewhere."""
    source = settings.pool.source
    if source.path is not None:
        source = source.model_copy(update={"path": root / source.path})
    pool = settings.pool.model_copy(update={"path": root / settings.pool_path(), "source": source})
    weights = settings.model.weights
    if weights not in ("none", "imagenet"):
        weights = str(root / place(weights))
    model = settings.model.model_copy(update={"weights": weights})
    labels = settings.labels
    if labels.from_run is not None:
        labels = labels.model_copy(update={"from_run": root / labels.from_run})
    return settings.model_copy(update={"pool": pool, "model": model, "labels": labels})


def warnings_of(keys: Iterable[str], searches: Iterable[str], schedulers: Iterable[str]) -> list[str]:
    """Return what to bear in mind when arms are compared, in sentences.

    Args:
        keys: That differ between the arms.
        searches: That proposed any of them.
        schedulers: That could stop any of their trials.
    """
    swept, sentences = set(keys), []
    if found := sorted(_BUDGET_KEYS & swept):
        sentences.append(
            f"Arms differ in {', '.join(found)}: their curves cover different numbers of labels, so their "
            "areas are means over different ranges."
        )
    if found := sorted(_INITIAL_SET_KEYS & swept) + sorted(key for key in swept if key.startswith("pool.")):
        sentences.append(
            f"Arms differ in {', '.join(found)}: with one seed they do not begin from the same labelled set "
            "and images, so pairs share less than their seeds suggest."
        )
    if "asha" in schedulers:
        sentences.append(
            "The scheduler asha stops trials by their validation curve so far, whatever their seed; an arm's "
            "mean over the trials that it let finish is too good by that."
        )
    if "optuna" in searches:
        sentences.append(
            "Optuna chose the arms by the same validation curves that compare them: the best of them looks "
            "better than it is."
        )
    return sentences


def _with_params(base: Config, params: Mapping[str, Value]) -> Config:
    tree = base.model_dump(mode="json", exclude={"sweep"})
    for key, value in params.items():
        set_key(tree, key, value)
    return build_config(tree, where=f"the sweep's arm {Arm(params).label}")


def _value_at(settings: Config, key: str) -> Value:
    node: Any = settings.model_dump(mode="json")
    for part in key.split("."):
        node = node[part]
    if not isinstance(node, (str, bool, int, float)):
        raise ConfigError(f"'{key}' can't be swept: it is not a single value", where="sweep.params")
    return node


def is_cache_chosen(base: Config, params: Mapping[str, Value]) -> bool:
    """Return whether the sweep decides about `model.cache_activations`: where neither base nor arm says."""
    is_decided = "cache_activations" in base.model.model_fields_set or "model.cache_activations" in params
    return not is_decided and base.sweep.cache != "never"


def _with_cache(base: Config, settings: Config, params: Mapping[str, Value]) -> Config:
    """`model.cache_activations` where `sweep.cache` may decide, and results allow it."""
    if not is_cache_chosen(base, params) or settings.obstacle_to_caching() is not None:
        return settings
    return settings.model_copy(
        update={"model": settings.model.model_copy(update={"cache_activations": True})}
    )


def _with_own_pool(base: Config, settings: Config) -> Config:
    """Arms that prepare their images in another way have a pool of their own, beside the base's."""
    if _pool_settings(settings.pool) == _pool_settings(base.pool):
        return settings
    path = base.pool_path()
    mine = path.with_name(f"{path.name}-{digest(_pool_settings(settings.pool))[:8]}")
    return settings.model_copy(update={"pool": settings.pool.model_copy(update={"path": mine})})


def _pool_settings(pool: config.Pool) -> dict[str, Any]:
    return pool.model_dump(mode="json", exclude={"path", "source"})


def _effect_of(plan: ArmPlan) -> str:
    return digest(effect(plan.config))


def effect(settings: Config) -> dict[str, Any]:
    """Return what trials of an arm depend on beside their seed, the data, and what all arms share."""
    identity = settings.identity() | {"num_rounds": settings.num_rounds}
    del identity["seed"]
    return {"config": identity, "packed": {"pool": _pool_settings(settings.pool)}}


def _slug(base: Config, chosen: Config) -> str:
    before, now = flatten(effect(base)), flatten(effect(chosen))
    differing = {key.partition(".")[2]: now[key] for key in now if now[key] != before.get(key)}
    text = re.sub(r"[^A-Za-z0-9._=,+-]+", "_", Arm(differing).label.replace(", ", ","))
    return text.strip("._")[:_MAX_SLUG].rstrip("._") or "base"
