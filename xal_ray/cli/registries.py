"""These commands list what a configuration may name, and where each of it comes from."""

from __future__ import annotations

from typing import Any

import typer

from xal_ray.cli.application import app
from xal_ray.cli.errors import errors_shown
from xal_ray.cli.options import DebugOption
from xal_ray.registry.backbones import BACKBONES
from xal_ray.registry.lookup import Broken, Registry
from xal_ray.registry.sources import SOURCES
from xal_ray.registry.strategies import STRATEGIES

_PANEL = "What there is"


@app.command(rich_help_panel=_PANEL)
def strategies(debug: DebugOption = False) -> None:
    """List the query strategies that select.strategy may name: built in, and of installed packages."""
    _list(STRATEGIES, debug)


@app.command(rich_help_panel=_PANEL)
def sources(debug: DebugOption = False) -> None:
    """List the sources that pool.source.kind may name: built in, and of installed packages."""
    _list(SOURCES, debug)


@app.command(rich_help_panel=_PANEL)
def backbones(debug: DebugOption = False) -> None:
    """List the backbones that model.backbone may name: built in, and of installed packages."""
    _list(BACKBONES, debug)


def _list(registry: Registry[Any], debug: bool) -> None:
    """Print a line for each name; a plug-in that can't be used is said, and is no failure."""
    with errors_shown(debug):
        lines = [(spec.name, "built in", spec.summary) for spec in registry]
        for found in registry.installed():
            if isinstance(found, Broken):
                lines.append((found.name, found.path, f"can't be used: {found.why}"))
            else:
                lines.append((found.name, str(found.origin), found.summary))
        names, origins = (max(len(line[column]) for line in lines) for column in (0, 1))
        for name, origin, words in lines:
            typer.echo(f"{name:<{names}}  {origin:<{origins}}  {words}")
        typer.echo(
            f"or MODULE:FUNCTION, a {registry.noun} of a module that is importable or lies in this folder"
        )
