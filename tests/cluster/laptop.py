"""The machine of a person who uses a cluster: a home of its own, a cluster file, the commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hosts import Hosts

ROOT = Path(__file__).resolve().parents[2]


class Laptop:
    """Runs `xal-ray` as somebody who has nothing but a cluster file and a key.

    Args:
        folder: An empty folder: its home, and the current folder of its commands.
        cluster: The cluster file's content.
        environment: Of its commands, beside that of this process without Ray's and AWS's variables.
        before: Words before each command.
    """

    def __init__(
        self,
        folder: Path,
        cluster: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.cluster_file = folder / "cluster.yaml"
        self.cluster_file.write_text(yaml.safe_dump(dict(cluster), sort_keys=False))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_"))}
        home = {"HOME": str(folder), "NO_COLOR": "1", "COLUMNS": "120"}
        if cluster["provider"]["type"] == "local":
            home["RAY_TMPDIR"] = str(folder)  # Ray remembers there which hosts are up, not in /tmp for ever
        self._environment = kept | home | dict(environment or {})
        self._before = list(before)

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """Start a command; what it says is added to `said`."""
        with (self.folder / "said.txt").open("a") as said:
            said.write(f"$ xal-ray {' '.join(map(str, words))}\n")
            said.flush()
            return subprocess.Popen(
                [*self._before, sys.executable, "-m", "xal_ray.cli", *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=self.folder,
                env=self._environment,
            )

    def call(self, *words: str | Path, timeout_s: float = 600, code: int = 0) -> str:
        """Run a command to its end; what it said.

        Raises:
            AssertionError: Its exit code is another.
        """
        before = len(self.said)
        self.finish(self.start(*words), timeout_s=timeout_s, code=code)
        return self.said[before:]

    def finish(self, process: subprocess.Popen[str], *, timeout_s: float = 600, code: int = 0) -> None:
        """Wait for a command.

        Raises:
            AssertionError: It takes longer, or its exit code is another.
        """
        try:
            found: int | None = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            found = None
        finally:
            self.end(process)
        assert found == code, f"exit code {found}:\n{self.said[-6000:]}"

    def end(self, process: subprocess.Popen[str]) -> None:
        """End a command that still runs, at once, as where a laptop is switched off."""
        if process.poll() is None:
            process.kill()
            process.wait()

    @property
    def said(self) -> str:
        """All that its commands said so far."""
        said = self.folder / "said.txt"
        return said.read_text() if said.exists() else ""


def on_premises(hosts: Hosts, name: str = "test-hosts") -> dict[str, Any]:
    """`cluster/onprem.yaml` for these hosts. Nothing is installed: they see this machine's programs.

    The head takes no work, so that it is the workers' death that a test sees; each worker declares more
    logical CPUs than there are cores, and a small object store.
    """
    tree = cluster_file("onprem.yaml")
    first, *others = (hosts.address(number) for number in range(hosts.count))
    tree["cluster_name"] = name
    tree["provider"] = {"type": "local", "head_ip": first, "worker_ips": others}
    tree["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
    tree["file_mounts"], tree["setup_commands"] = {}, []
    add_to_ray_start(tree, "head_start_ray_commands", "--num-cpus=0 --object-store-memory=150000000")
    add_to_ray_start(tree, "worker_start_ray_commands", "--num-cpus=4 --object-store-memory=150000000")
    return tree


def cluster_file(name: str) -> dict[str, Any]:
    """A shipped cluster file."""
    tree: dict[str, Any] = yaml.safe_load((ROOT / "cluster" / name).read_text())
    return tree


def add_to_ray_start(tree: dict[str, Any], key: str, options: str) -> None:
    """Add options to the `ray start` of a cluster file's commands, in place."""
    before = tree[key]
    tree[key] = [re.sub(r"\bray start\b", f"ray start {options}", command) for command in before]
    assert tree[key] != before


def wait_for(what: str, is_there: Callable[[], Any], *, timeout_s: float = 120, poll_s: float = 0.05) -> Any:
    """Wait until something is there; gives it.

    Raises:
        AssertionError: It does not come.
    """
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        found = is_there()
        if found:
            return found
        time.sleep(poll_s)
    raise AssertionError(f"{what} did not come within {timeout_s:g} s")


def host_with(hosts: Hosts, numbers: Sequence[int], words: str) -> int | None:
    """The first of some hosts on which a process runs whose command has these words."""
    return next((n for n in numbers if any(words in line for line in hosts.commands(n))), None)
