"""This command is about the machine that it runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xal_ray.cli.application import app
from xal_ray.cli.errors import errors_shown
from xal_ray.cli.options import DebugOption


@app.command(rich_help_panel="This machine")
def doctor(
    folder: Annotated[
        Path, typer.Option("--folder", metavar="FOLDER", help="Look at the disk on which this folder lies.")
    ] = Path(),
    debug: DebugOption = False,
) -> None:
    """Say what this machine can do: versions, GPUs, disk, decoders, and whether Ray starts.

    The exit code is 1 where something is missing without which nothing runs.
    """
    with errors_shown(debug):
        from xal_ray.doctor import examine

        states = set()
        for finding in examine(folder):
            states.add(finding.state)
            typer.echo(f"{finding.state:<9}{finding.topic:<46}{finding.text}")
        if "missing" in states:
            raise typer.Exit(1)
