"""All processes of Ray's run the driver's code, or do not work."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from xal_ray.code_version import PACKAGE, code_sha256, import_path_before_library
from xal_ray.errors import PluginError, StageError
from xal_ray.registry.importing import import_object, look_in, origin_of, search_folders
from xal_ray.registry.registries import plug_ins_in_use


def _versions_of_plug_ins() -> dict[str, str]:
    return {entry.path: entry.identity for entry in plug_ins_in_use().values()}


class Check(Protocol):
    """Holds what a process makes sure of before it works."""

    def check(self) -> None:
        """Raise an error of ours where it may not."""


@dataclass(frozen=True)
class SameCode:
    """The driver's code.

    Attributes:
        sha256: Of its modules (`code_version.code_sha256`).
        driver: Where it lies: machine and folder.
        folders: Where the driver looks for plug-ins that are nowhere on `sys.path`.
        plug_ins: The versions of the plug-ins that the driver has looked up, by their paths.
    """

    sha256: str = field(default_factory=code_sha256)
    driver: str = field(default_factory=lambda: f"{PACKAGE} on {socket.gethostname()}")
    folders: tuple[str, ...] = field(default_factory=search_folders)
    plug_ins: Mapping[str, str] = field(default_factory=_versions_of_plug_ins)

    def check(self) -> None:
        """Hold the code of this process against it, and that of plug-ins.

        Raises:
            StageError: They differ: results would be those of two versions, mixed.
            PluginError: A plug-in can't be had on this machine.
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
        look_in(self.folders)
        here = f"{sys.executable} on {socket.gethostname()}"
        for path, version in self.plug_ins.items():
            try:
                import_object(path)
            except PluginError as error:
                raise error.at(here).with_next_step(
                    "a plug-in that is installed must be so on all machines; one that lies in the working "
                    "directory travels with --cluster and --address"
                ) from error
            if (found := str(origin_of(path))) != version:
                raise StageError(
                    f"a process of Ray's has another version of the plug-in {path}",
                    expected=version,
                    found=found,
                    where=here,
                    next_step="install one version on all machines, and leave it alone while a command runs",
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
