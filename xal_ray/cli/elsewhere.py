"""What commands do with `--cluster` and `--address`: the same, elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from xal_ray.cli.shown import echo
from xal_ray.cluster.wish import Target, Wish
from xal_ray.progress import Reporter


def on_cluster(wish: Wish, target: Target, plan: Iterable[str] | None) -> None:
    """Do it on a cluster, or say what would be done there; leave with the job's exit code."""
    from xal_ray.cluster import conduct

    target.check()
    cluster = conduct.cluster_of(target)
    if plan is not None:
        echo([*plan, *conduct.describe_cluster(wish, cluster, target)])
        return
    code = conduct.submit(wish, cluster, target, Reporter())
    if code:
        raise typer.Exit(code)


def for_job(verbose: bool, debug: bool) -> tuple[str, ...]:
    """The options of this command line that the job's takes over."""
    return (*(["--verbose"] if verbose else []), *(["--debug"] if debug else []))
