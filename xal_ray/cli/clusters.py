"""These commands are about what runs on clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xal_ray.cli.application import app
from xal_ray.cli.errors import errors_shown
from xal_ray.cli.options import DebugOption, DownOption
from xal_ray.progress import Reporter

_PANEL = "Clusters"


@app.command(rich_help_panel=_PANEL)
def attach(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="Name the folder that a command with --cluster named, or the run itself."
        ),
    ],
    stop: Annotated[bool, typer.Option("--stop", help="End the job; what was committed is kept.")] = False,
    down: DownOption = False,
    debug: DebugOption = False,
) -> None:
    """Watch a job on a cluster again, fetch what it leaves, or end it.

    Ctrl-C leaves the job running.
    """
    with errors_shown(debug):
        from xal_ray.cluster import submit

        code = submit.attach(run, Reporter(), stop=stop, down=down)
        if code:
            raise typer.Exit(code)


@app.command(rich_help_panel=_PANEL)
def down(
    cluster: Annotated[Path, typer.Argument(metavar="FILE", help="Take down the cluster of this file.")],
    debug: DebugOption = False,
) -> None:
    """Take a cluster down, and whatever runs on it. What runs have committed is kept."""
    with errors_shown(debug):
        from xal_ray.cluster import submit

        submit.take_down(cluster, Reporter())
