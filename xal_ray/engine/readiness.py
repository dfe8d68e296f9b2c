"""One look at this machine before a command does anything: what is wrong is said before hours of work."""

from __future__ import annotations

from xal_ray import config
from xal_ray.config import Config
from xal_ray.engine.context import StageContext
from xal_ray.engine.preflight import fit_to_cpus
from xal_ray.engine.session import is_joined, start
from xal_ray.machine import settle
from xal_ray.progress import Reporter


def made_ready(settings: Config, reporter: Reporter) -> Config:
    """Settle what can be settled on this machine, and plan what fits.

    Args:
        settings: As the user gave them.
        reporter: Hears what had to be changed.

    Returns:
        The settings, with resources as they can be had.

    Raises:
        ConfigError: The machine has no room for what is asked for.
    """
    resources = fitted(settings.ray, reporter, num_workers=settings.train.num_workers)
    return settings.model_copy(update={"ray": resources})


def fitted(
    resources: config.Ray, reporter: Reporter, *, num_workers: int = 0, decodes: bool = False
) -> config.Ray:
    """Do as `made_ready` does, for the section `ray` alone; see `fit_to_cpus`."""
    for line in settle():
        reporter.line(line)
    if is_joined(resources):
        return resources
    fitting, remarks = fit_to_cpus(resources, num_workers=num_workers, decodes=decodes)
    for line in remarks:
        reporter.line(line)
    return fitting


def start_where_needed(context: StageContext, *, num_workers: int) -> None:
    """Start the Ray that scoring or training will need, so that one that does not start is known before.

    Args:
        context: Says how many actors score; without any, and without workers, nothing is started.
        num_workers: How many workers train.

    Raises:
        ConfigError: There is no cluster at `ray.address`, or no room.
        StageError: It does not start.
    """
    if context.resources.num_actors != 0 or num_workers:
        start(context.resources, verbose=context.verbose)
