"""The words of a sweep: an arm is one setting of the swept keys, a trial is an arm run with one seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Value = str | int | float | bool
Status = Literal["finished", "stopped", "failed", "unfinished"]


@dataclass(frozen=True)
class Arm:
    """A setting of the swept keys.

    Attributes:
        params: Configuration key to value, in the order of the sweep's parameters.
        is_baseline: The arm that the others are compared with.
        is_control: Its strategy is a control (`StrategySpec.is_control`): it is compared, and never chosen.
    """

    params: Mapping[str, Value]
    is_baseline: bool = False
    is_control: bool = False

    @property
    def label(self) -> str:
        """Return how a person calls it: `select.weight=0.3, select.strategy=dual`."""
        return ", ".join(f"{key}={_shown(value)}" for key, value in self.params.items())


@dataclass(frozen=True)
class Trial:
    """A run of an arm with one seed.

    Attributes:
        arm: What it tries.
        seed: The run's seed; equal seeds are paired across arms.
        folder: The run's folder.
        status: `stopped` by the scheduler before its last round; `failed` with a cause; `unfinished` when
            the sweep was ended before it.
        cause: Why it failed, in one line; None where it did not.
    """

    arm: Arm
    seed: int
    folder: Path
    status: Status
    cause: str | None = None


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
