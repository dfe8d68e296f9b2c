"""Several commands share these options; `--cluster` and `--address` do the same elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xal_ray.cli.errors import echo
from xal_ray.errors import ConfigError
from xal_ray.places import place
from xal_ray.progress import Reporter

if TYPE_CHECKING:
    from xal_ray.cluster.request import Command, Target
    from xal_ray.config import Config


def a_place(text: str) -> Path:
    """Read a local path or a URI of the command line.

    Raises:
        BadParameter: The URI can't be used.
    """
    try:
        return place(text)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error


ON_A_CLUSTER = "On a cluster"  # the panel of the help

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key, e.g. select.query_size=50. The option may be repeated.",
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the resolved plan and stop.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show what Ray itself says.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]
ClusterOption = Annotated[
    Path | None,
    typer.Option(
        "--cluster",
        metavar="FILE",
        help="Do it on the cluster of this file, e.g. cluster/aws.yaml, which is brought up or joined.",
        rich_help_panel=ON_A_CLUSTER,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="Do it on the cluster whose Jobs API is at this URL, e.g. http://HOST:8265.",
        rich_help_panel=ON_A_CLUSTER,
    ),
]
DownOption = Annotated[
    bool,
    typer.Option(
        "--down",
        help="Take the cluster down at the end, also after a failure.",
        rich_help_panel=ON_A_CLUSTER,
    ),
]
KeepOption = Annotated[
    bool,
    typer.Option(
        "--keep-on-failure",
        help="Leave the cluster up after a failure, in spite of --down.",
        rich_help_panel=ON_A_CLUSTER,
    ),
]
DetachOption = Annotated[
    bool,
    typer.Option(
        "--detach",
        help="Return once the job is submitted; `xal-ray attach` watches it.",
        rich_help_panel=ON_A_CLUSTER,
    ),
]


def target_of(
    cluster: Path | None, address: str | None, down: bool, keep_on_failure: bool, detach: bool
) -> Target | None:
    """Read which cluster a command is for; None: it is for this machine, which imports nothing of `cluster/`.

    Raises:
        ConfigError: The options do not fit together.
    """
    if cluster is None and address is None and not (down or keep_on_failure or detach):
        return None
    from xal_ray.cluster.request import Target

    target = Target(cluster, address, down, keep_on_failure, detach)
    target.check()
    return target


def on_cluster(
    target: Target, plan: Iterable[str] | None, command: Command, settings: Config, out: Path, **rest: Any
) -> None:
    """Do a command on a cluster, or say what would be done there; leave with the job's exit code.

    Args:
        target: The cluster.
        plan: What a dry run would say; None: it is no dry run.
        command: The command of ours.
        settings: The resolved configuration.
        out: The place of the results.
        rest: Further attributes of `cluster.request.JobRequest`.
    """
    from xal_ray.cluster import submit
    from xal_ray.cluster.request import JobRequest

    request = JobRequest(command, settings, out, **rest)
    cluster = submit.cluster_of(target)
    if plan is not None:
        echo([*plan, *submit.describe_cluster(request, cluster, target)])
        return
    code = submit.submit(request, cluster, target, Reporter())
    if code:
        raise typer.Exit(code)


def for_job(verbose: bool, debug: bool) -> tuple[str, ...]:
    """List the options of this command line that the job's takes over."""
    return (*(["--verbose"] if verbose else []), *(["--debug"] if debug else []))
