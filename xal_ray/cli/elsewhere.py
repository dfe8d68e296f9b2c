"""What commands do with `--cluster` and `--address`: the same, elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from xal_ray.cli.shown import echo
from xal_ray.cluster.request import JobRequest, Target
from xal_ray.progress import Reporter


def on_cluster(request: JobRequest, target: Target, plan: Iterable[str] | None) -> None:
    """Do it on a cluster, or say what would be done there; leave with the job's exit code."""
    from xal_ray.cluster import submit

    target.check()
    cluster = submit.cluster_of(target)
    if plan is not None:
        echo([*plan, *submit.describe_cluster(request, cluster, target)])
        return
    code = submit.submit(request, cluster, target, Reporter())
    if code:
        raise typer.Exit(code)


def for_job(verbose: bool, debug: bool) -> tuple[str, ...]:
    """The options of this command line that the job's takes over."""
    return (*(["--verbose"] if verbose else []), *(["--debug"] if debug else []))
