"""The command line is thin over the Python API."""

from __future__ import annotations

from contextlib import suppress

from xal_ray.errors import ConfigError
from xal_ray.machine import settle_user

# In the order of the help.
# isort: off
from xal_ray.cli import pools, runs, clusters, registries, doctor  # noqa: F401
from xal_ray.cli.application import app
from xal_ray.cli.process import (
    BROKEN_PIPE,
    finish_signals,
    nobody_reads,
    open_streams,
    stop_code,
    take_signals,
)
# isort: on

_AS_CTRL_C = 130


def main() -> None:
    """Run the command line: this is the entry point of `xal-ray`."""
    open_streams()
    take_signals()
    with suppress(ConfigError):  # said by the commands that need it
        settle_user()
    try:
        app()
    except SystemExit as end:
        if nobody_reads():  # what typer itself wrote may be read by `head`, too
            raise SystemExit(BROKEN_PIPE) from None
        if end.code == _AS_CTRL_C:  # typer's, whatever the signal was
            raise SystemExit(stop_code() or end.code) from None
        raise
    finally:
        finish_signals()
