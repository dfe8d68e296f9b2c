"""xal-ray: explainable active learning on images, distributed by Ray.

The Python API behind the command line. Names are loaded on first use, because torch and Ray take seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xal_ray.config import Config, load_config
    from xal_ray.engine.context import open_context
    from xal_ray.engine.prepare import prepare
    from xal_ray.loop import run
    from xal_ray.loop.score_pool import score_pool
    from xal_ray.pool.schema import open_pool
    from xal_ray.progress import Reporter
    from xal_ray.report.page import build_report
    from xal_ray.scoring.scorer import Scorer

__all__ = [
    "Config",
    "Reporter",
    "Scorer",
    "build_report",
    "load_config",
    "open_context",
    "open_pool",
    "prepare",
    "run",
    "score_pool",
]

_HOMES = {
    "Config": "xal_ray.config",
    "Reporter": "xal_ray.progress",
    "Scorer": "xal_ray.scoring.scorer",
    "build_report": "xal_ray.report.page",
    "load_config": "xal_ray.config",
    "open_context": "xal_ray.engine.context",
    "open_pool": "xal_ray.pool.schema",
    "prepare": "xal_ray.engine.prepare",
    "run": "xal_ray.loop",
    "score_pool": "xal_ray.loop.score_pool",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'xal_ray' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
