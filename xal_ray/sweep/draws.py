"""Arms that are drawn instead of gone through: at random with Ray Tune's own domains, or by Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from xal_ray.engine.session import prepare_environment
from xal_ray.seeds import derive_seed
from xal_ray.sweep.arms import Value
from xal_ray.sweep.space import Choices, Interval, Space, tidy

OBJECTIVE = "objective"
ARM = "arm"  # keys of what Tune calls a trial's configuration
SEED = "seed"
SEED_INDEX = "__trial_index__"  # where Tune's Repeater puts the number of the repetition


def draw(spaces: Mapping[str, Space], count: int, seed: int) -> list[dict[str, Value]]:
    """Draw combinations at random, the same for the same seed.

    Args:
        spaces: What to draw from, by configuration key.
        count: How many.
        seed: Of the sweep.
    """
    source = np.random.default_rng(derive_seed(seed, "sweep", "random"))
    domains = {key: _domain(space) for key, space in spaces.items()}
    drawn = [
        {key: domain.sample(random_state=source) for key, domain in domains.items()} for _ in range(count)
    ]
    return [read_drawn(spaces, params) for params in drawn]


def read_drawn(spaces: Mapping[str, Space], drawn: Mapping[str, Any]) -> dict[str, Value]:
    """Drawn values as an arm has them: plain, and with as many digits as are shown."""
    return {key: _plain(drawn[key], space) for key, space in spaces.items()}


def optuna_search(spaces: Mapping[str, Space], repeat: int, seed: int) -> Any:
    """Optuna as Tune's searcher; each suggestion is tried with `repeat` seeds before it learns their mean."""
    import optuna
    from ray.tune.search import Repeater
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = OptunaSearch(
        {f"{ARM}/{key}": _distribution(space) for key, space in spaces.items()},
        metric=OBJECTIVE,
        mode="max",
        seed=derive_seed(seed, "sweep", "optuna") % (1 << 32),
    )
    return Repeater(search, repeat=repeat, set_index=True)


def _domain(space: Space) -> Any:
    prepare_environment()  # Ray reads it when it is imported
    from ray import tune

    if isinstance(space, Choices):
        return tune.choice(list(space.values))
    if space.is_whole:
        above = int(space.high) + 1  # Tune leaves the upper end out
        return tune.lograndint(space.low, above) if space.log else tune.randint(space.low, above)
    return tune.loguniform(space.low, space.high) if space.log else tune.uniform(space.low, space.high)


def _distribution(space: Space) -> Any:
    from optuna import distributions as kinds

    if isinstance(space, Choices) and space.step is None:
        return kinds.CategoricalDistribution(space.values)
    ends = (space.low, space.high) if isinstance(space, Interval) else (space.values[0], space.values[-1])
    kind: Any = (
        kinds.IntDistribution if all(isinstance(end, int) for end in ends) else kinds.FloatDistribution
    )
    return kind(*ends, log=space.log) if isinstance(space, Interval) else kind(*ends, step=space.step)


def _plain(value: Any, space: Space) -> Value:
    if isinstance(value, np.generic):
        value = value.item()
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and (not isinstance(space, Choices) or space.step is not None):
        return tidy(value, space)
    plain: Value = value
    return plain
