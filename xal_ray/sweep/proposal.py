"""Proposes what a sweep will try: its search, its parameters, and the arms that are known beforehand."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping

from xal_ray.config import Config
from xal_ray.errors import ConfigError
from xal_ray.sweep.arms import Value
from xal_ray.sweep.draws import draw
from xal_ray.sweep.plan import ArmPlan, Plan, plan_arms
from xal_ray.sweep.space import Choices, Space, grid, parse_params
from xal_ray.sweep.tracking import check_tracking


def propose(settings: Config, *, ask: bool = True) -> tuple[dict[str, Space], Plan]:
    """Return what is tried, and the arms as far as they are known before the first trial: all but Optuna's.

    Args:
        settings: The base of all arms, with its section `sweep`.
        ask: Whether MLflow may be asked if it takes the trials.

    Raises:
        ConfigError: It can't be tried.
    """
    if settings.labels.source != "oracle":
        raise ConfigError(
            "a sweep takes its labels from the oracle: nobody labels hundreds of runs",
            found=f"labels.source: {settings.labels.source}",
            next_step="--set labels.source=oracle, on a pool whose labels are known",
        )
    chosen = settings.sweep
    if chosen.search == "optuna" and importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            "sweep.search=optuna needs optuna, which is not installed",
            where="sweep.search",
            next_step="pip install 'xal-ray[optuna]', or use sweep.search=random",
        )
    check_tracking(chosen.mlflow, ask=ask)
    spaces = parse_params(chosen.params)
    if chosen.search == "grid":
        return spaces, plan_arms(settings, grid(spaces))
    if chosen.search == "random":
        return spaces, plan_arms(settings, draw(spaces, chosen.num_samples, settings.seed))
    for key, space in spaces.items():
        if key.startswith("pool.") and not isinstance(space, Choices):
            raise ConfigError(
                f"'{key}' needs a list or a step: pools are prepared before the search", where="sweep.params"
            )
    return spaces, plan_arms(settings, [])


def known_arms(settings: Config, plan: Plan, spaces: Mapping[str, Space]) -> list[ArmPlan]:
    """The arms; for Optuna, which has none yet, combinations that show what can't work, and all pools."""
    if settings.sweep.search != "optuna":
        return list(plan.arms)
    pools = grid({key: space for key, space in spaces.items() if key.startswith("pool.")})
    return [*plan.arms, *plan_arms(settings, [*_ends(spaces), *pools]).arms]


def _ends(spaces: Mapping[str, Space]) -> Iterator[dict[str, Value]]:
    """Combinations that have each value of a list, and the ends of each range, in turn."""
    ends: dict[str, tuple[Value, ...]] = {
        key: space.values if isinstance(space, Choices) else (space.low, space.high)
        for key, space in spaces.items()
    }
    for number in range(max(len(values) for values in ends.values())):
        yield {key: values[number % len(values)] for key, values in ends.items()}
