"""Whole runs side by side on Ray Tune: `sweep` runs arms with paired seeds, and compares them.

Names are loaded on first use: what reads a sweep's results needs neither torch nor Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xal_ray.sweep.request import describe_sweep
    from xal_ray.sweep.run import SweepOutcome, settings_of, sweep

__all__ = ["SweepOutcome", "describe_sweep", "settings_of", "sweep"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'xal_ray.sweep' has no attribute '{name}'")
    from xal_ray.sweep import request, run

    return getattr(request if name == "describe_sweep" else run, name)
