"""The command line: thin over the Python API."""

from __future__ import annotations

# In the order of the help.
# isort: off
from xal_ray.cli import pools, runs, clusters, machine  # noqa: F401
from xal_ray.cli.application import app
# isort: on


def main() -> None:
    """Entry point of `xal-ray`."""
    app()
