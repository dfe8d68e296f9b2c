"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xal_ray.errors import ConfigError
from xal_ray.places import place


def a_place(text: str) -> Path:
    """A local path or a URI of the command line.

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
