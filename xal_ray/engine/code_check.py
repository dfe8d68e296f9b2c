"""All processes of Ray's run the driver's code, or do not work."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from xal_ray.code_version import PACKAGE, code_sha256, import_path_before_library
from xal_ray.errors import StageError


class Check(Protocol):
    """Holds what a process makes sure of before it works."""

    def check(self) -> None:
        """Raise an error of ours where it may not."""


@dataclass(frozen=True)
class SameCode:
    """The driver's code.

    Attributes:
        sha256: Of its modules (`own_code.code_sha256`).
        driver: Where it lies: machine and folder.
    """

    sha256: str = field(default_factory=code_sha256)
    driver: str = field(default_factory=lambda: f"{PACKAGE} on {socket.gethostname()}")

    def check(self) -> None:
        """Hold the code of this process against it.

        Raises:
            StageError: They differ: results would be those of two versions, mixed.
        """
        if code_sha256() != self.sha256:
            raise StageError(
                "a process of Ray's has other code than the process that drives it",
                expected=f"{self.sha256[:12]}, as {self.driver}",
                found=f"{code_sha256()[:12]}, of {PACKAGE} on {socket.gethostname()}",
                where="xal_ray",
                next_step="install one version on all machines (or submit with --cluster or --address, which "
                "send the code along), and leave it alone while a command runs",
            )


class _Fixed(list[str]):
    """A list that Ray adds nothing to."""

    def extend(self, more: Iterable[str], /) -> None:
        """Add nothing: Ray would have the working directory, and look there before it looks anywhere else."""


def job_settings() -> Any:
    """Return how Ray's processes are to find modules: as this one does, and not in the working directory."""
    import ray.job_config

    code_sha256()  # of the files that this process was started from, before they can change
    settings = ray.job_config.JobConfig()
    # A process puts each before all that it has; so the last comes first.
    settings._py_driver_sys_path = _Fixed(reversed(import_path_before_library()))
    return settings
