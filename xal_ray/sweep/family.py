"""All arms of a sweep's folder: those of earlier calls and of this one, each once.

Two arms whose strategies rank every pool alike are one arm under two names: with two classes entropy, margin
and least confidence all order images by the larger probability; `dual` is its uncertainty at w = 1, and
`misalignment` at w = 0. Twice in Holm's family, an arm would make every other harder to show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xal_ray.acquire.contract import own_settings
from xal_ray.config import Config, Select
from xal_ray.registry.strategies import STRATEGIES
from xal_ray.storage import digest
from xal_ray.sweep.plan import ArmPlan, Plan, effect, plan_arm
from xal_ray.sweep.record import RecordedArm

CountClasses = Callable[[Config], int | None]  # of an arm's pool; None where it is not prepared yet


@dataclass(frozen=True)
class Member:
    """An arm of the folder, and the seeds that it has been planned with."""

    plan: ArmPlan
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Family:
    """The arms of a folder.

    Attributes:
        members: The baseline first, then as they were added.
        asked: The arms that this call runs, the baseline first.
        twins: For people: which arms are another one in effect, and are left out.
    """

    members: tuple[Member, ...]
    asked: tuple[ArmPlan, ...]
    twins: tuple[str, ...] = ()


def gather(
    base: Config,
    plan: Plan,
    seeds: Sequence[int],
    recorded: Sequence[RecordedArm],
    count_classes: CountClasses,
) -> Family:
    """Join a call's arms with those that the folder has.

    An arm that ranks like one that is there already is that one, under the name that came first.

    Args:
        base: The sweep's configuration.
        plan: The call's arms, the baseline first.
        seeds: The call's.
        recorded: The folder's arms, in the order in which they were added.
        count_classes: The number of classes of an arm's pool.
    """
    members: dict[str, Member] = {}
    twins = []
    for entry in recorded:
        # Whether activations are kept is part of a folder's name, and may be decided otherwise by now.
        each = replace(plan_arm(base, entry.params), name=entry.name)
        key = ranking(each.config, count_classes(each.config))
        if key in members and not _same_params(each, members[key].plan):
            twins.append(_twin(each, members[key].plan))
        else:
            members[key] = Member(each, tuple(entry.seeds))
    asked: dict[str, ArmPlan] = {}
    for each in plan.arms:
        key = ranking(each.config, count_classes(each.config))
        known = members.get(key)
        if known and known.plan.name != each.name:
            if _same_params(each, known.plan):
                known = None
            else:
                twins.append(_twin(each, known.plan))
        if key in asked:
            continue
        mine = known.plan if known else each
        mine = replace(mine, arm=replace(mine.arm, is_baseline=each.arm.is_baseline))
        asked[key] = mine
        members[key] = Member(mine, tuple(sorted({*(known.seeds if known else ()), *seeds})))
    first = next(key for key, each in asked.items() if each.arm.is_baseline)
    in_order = [members[first], *(member for key, member in members.items() if key != first)]
    return Family(tuple(in_order), tuple(asked.values()), tuple(dict.fromkeys(twins)))


def ranking(settings: Config, num_classes: int | None) -> str:
    """Return what an arm's results depend on, equal for strategies that rank every pool alike.

    Args:
        settings: Of the arm.
        num_classes: Of its pool; None where it is not known.
    """
    return digest(effect(settings.model_copy(update={"select": _plainest(settings.select, num_classes)})))


def _plainest(select: Select, num_classes: int | None) -> Select:
    """The plainest of the strategies that rank alike; keys that change nothing are at their default."""
    change: dict[str, Any] = {}
    strategy = select.strategy
    if select.spec.origin is not None:  # what another package's ranks like is not known
        return select
    if select.spec.is_weighted and select.weight == 1.0:
        strategy = select.uncertainty
    elif strategy == "dual" and select.weight == 0.0:
        strategy = "misalignment"
    if num_classes == 2:
        if STRATEGIES[strategy].by_top_two:
            strategy = "entropy"
        elif (
            STRATEGIES[strategy].needs_roi
            and STRATEGIES[select.uncertainty].by_top_two
            and _ranks_only(select)
        ):
            change["uncertainty"] = "entropy"
    plainest = select.model_copy(update={"strategy": strategy, **change})
    return own_settings(plainest.spec, plainest)


def _ranks_only(select: Select) -> bool:
    """Return whether no more than the order of uncertainties counts."""
    return select.normalise == "rank" or not select.spec.is_weighted


def _same_params(arm: ArmPlan, other: ArmPlan) -> bool:
    return dict(arm.arm.params) == dict(other.arm.params)


def _twin(arm: ArmPlan, other: ArmPlan) -> str:
    return f"{arm.arm.label} is {other.arm.label}"
