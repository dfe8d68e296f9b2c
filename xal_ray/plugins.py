"""Serves packages that add strategies: decorators say what a function is.

    from xal_ray.plugins import strategy

    @strategy(columns=["entropy", "roi_area"])
    def large_and_uncertain(columns, settings):
        '''Uncertain images with a large region of interest first.'''
        return columns["entropy"] * numpy.nan_to_num(columns["roi_area"])

A configuration names it by its path, `select.strategy: my_package.my_module:large_and_uncertain`, or by the
name that the package gives it among its entry points of the group `xal_ray.strategies`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from xal_ray.registry.lookup import SPEC, Entry
from xal_ray.registry.strategies import Kind, StrategySpec

F = TypeVar("F", bound=Callable[..., Any])


def strategy(
    *,
    columns: Sequence[str] = (),
    settings: Sequence[str] = (),
    kind: Kind = "row_wise",
    is_control: bool = False,
    words: str | None = None,
) -> Callable[[F], F]:
    """Make a function a query strategy. `xal_ray/acquire/contract.py` says what it owes.

    Args:
        columns: The score columns that it reads: `entropy`, `margin`, `least_confidence`, `bald`, of regions
            of interest `misalignment`, `shuffled_misalignment`, `roi_area`, or `uncertainty`, which stands
            for the one that `select.uncertainty` names; of the kind `batch` also `embedding`.
        settings: The keys of the section `select` that it reads: `uncertainty`, `weight`, `normalise`.
        kind: `row_wise`: the function takes (columns, settings) of some rows and gives their utilities, from
            0 to 1. `ranker`: it takes (replay, settings, seed), and gives a function that ranks a chunk.
            `batch`: it takes (batch, settings, seed), and chooses images together
            (`xal_ray/acquire/batch.py`).
        is_control: It is there to be compared with: a sweep never recommends it.
        words: What it does, in a line; by default the first line of its docstring.
    """
    return _recorded(
        StrategySpec(
            kind=kind,
            columns=tuple(columns),
            settings=tuple(settings),
            is_control=is_control,
            words=words or "",
        )
    )


def _recorded(spec: Entry) -> Callable[[F], F]:

    def record(code: F) -> F:
        lines = (inspect.getdoc(code) or "").splitlines()
        setattr(code, SPEC, replace(spec, words=spec.words or (lines[0] if lines else "")))
        return code

    return record
