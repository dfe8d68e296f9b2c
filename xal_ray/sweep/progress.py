"""Says what people are told while a sweep runs: a line for each trial that ends."""

from __future__ import annotations

import math

from xal_ray.progress import Reporter
from xal_ray.sweep.trial import TrialPlan


class SweepProgress:
    """Counts trials.

    Args:
        reporter: Says it.
        total: Trials of the sweep.
        known: Titles of those that had ended before this call; nothing is said of them again.
    """

    def __init__(self, reporter: Reporter, total: int, known: set[str]) -> None:
        self.reporter = reporter
        self.total = total
        self.known = known

    def say(self, text: str) -> None:
        """Say one line."""
        self.reporter.line(text)

    def ended(self, trial: TrialPlan, objective: float | None, seconds: float) -> None:
        """Say how a trial ended.

        Args:
            trial: Which.
            objective: The area under its validation curve.
            seconds: It took.
        """
        if trial.title in self.known:
            return
        self.known.add(trial.title)
        found = trial.outcome(stops_count=True)
        if found.status == "failed":
            text = f"failed: {found.cause}"
        else:
            text = f"{_short(objective)} ({seconds:.1f} s)"
            text += ", stopped by the scheduler" if found.status == "stopped" else ""
        self.say(f"trial {len(self.known)}/{self.total}: {trial.title}: {text}")


def _short(value: float | None) -> str:
    """Three decimals without the leading zero: .771."""
    return "no value" if value is None or math.isnan(value) else f"{value:.3f}".removeprefix("0")
