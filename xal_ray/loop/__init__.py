"""The loop over rounds: `run` is the main job, whole; `describe` says what it would do."""

from xal_ray.loop.dry_run import describe
from xal_ray.loop.rounds import Outcome, run

__all__ = ["Outcome", "describe", "run"]
