"""Ray's own cluster launcher, one cluster of it: find its head, bring it up, copy from it, take it down.

What belongs to a cluster lies in `~/.xal-ray/clusters/<name>`, for its owner alone: the file that Ray is
given, how to log in, the head's host key, and a log of all that the launcher said.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from xal_ray.cluster.files.definition import Definition
from xal_ray.cluster.job_record import write_private
from xal_ray.code_version import python_of_ours
from xal_ray.errors import ConfigError, StageError

_LOG_LINES = 15  # of the launcher's, with an error
_SSH_TIMEOUT_S = 30
_COPY_TIMEOUT_S = 600
_SSH_FAILED = 255
RayState = Literal["runs", "stands still", "unreachable"]
RUNS: RayState = "runs"
STANDS_STILL: RayState = "stands still"
UNREACHABLE: RayState = "unreachable"


class Launcher:
    """One cluster of Ray's launcher.

    Args:
        definition: The cluster file.
        root: Where clusters are remembered.
    """

    def __init__(self, definition: Definition, root: Path | None = None) -> None:
        self.definition = definition
        self.tree = definition.tree
        self.folder = (root or Path.home() / ".xal-ray" / "clusters") / definition.name
        self.log = self.folder / "launcher.log"
        self._file = self.folder / "cluster.yaml"
        self._auth_file = self.folder / "auth.json"
        self._known_hosts = self.folder / "known_hosts"

    @property
    def is_local(self) -> bool:
        """Tell whether the machines are named, not rented: Ray then remembers here alone what is up."""
        return bool(self.tree["provider"]["type"] == "local")

    def head(self) -> str | None:
        """Return the name under which SSH finds the head that Ray knows of; None where it knows of none.

        An address, or with `ssh_proxy_use_node_id` what the provider calls the machine.

        Raises:
            ConfigError: The provider can't be asked.
        """
        self._write_file()
        from ray.autoscaler._private.commands import _get_running_head_node
        from ray.autoscaler.sdk import get_head_node_ip

        logging.getLogger("ray.autoscaler").setLevel(logging.WARNING)
        try:
            with self._log_open() as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                if self.tree["auth"].get("ssh_proxy_use_node_id"):
                    return str(_get_running_head_node(self.tree, str(self._file), None))
                return str(get_head_node_ip(str(self._file)))
        except RuntimeError as error:
            if "not found" in str(error):
                return None
            raise self._provider_error(error) from error
        except (Exception, SystemExit) as error:
            raise self._provider_error(error) from error

    def named_head(self) -> str | None:
        """Return the head's address as the file names it, where it does."""
        provider = self.tree["provider"]
        found = provider.get("external_head_ip") or provider.get("head_ip")
        return str(found) if self.is_local and found else None

    def ray_state(self, head: str) -> RayState:
        """Return whether a Ray head runs on a machine, as its processes tell."""
        # Not pgrep, which small images lack: no answer must not be taken for a no.
        try:
            code = self._on_machine(head, "grep -qs '^gcs_server$' /proc/[0-9]*/comm").returncode
        except subprocess.TimeoutExpired:
            return UNREACHABLE
        return {0: RUNS, 1: STANDS_STILL, 2: STANDS_STILL}.get(code, UNREACHABLE)

    def up(self) -> None:
        """Bring the cluster up. A Ray that runs on its head is stopped, and its jobs with it.

        Raises:
            StageError: The launcher failed; machines may be up.
        """
        self._write_file()
        self._known_hosts.unlink(missing_ok=True)  # machines come and go under one address
        if self._call(
            ["-m", "xal_ray.cluster.backends.launcher_child", str(self._file), str(self._auth_file)]
        ):
            raise StageError(
                "the cluster did not come up",
                found=self._last_lines(),
                where=str(self.log),
                next_step=f"xal-ray down {shlex.quote(str(self.definition.path))} takes down what is there",
            )

    def down(self) -> None:
        """Take the cluster down.

        Raises:
            StageError: That failed; machines may be up.
        """
        self._write_file()
        forgotten = self.is_local and self.head() is None
        failed = self._call(["-m", "ray.scripts.scripts", "down", "-y", str(self._file)])
        if forgotten:
            self._stop_named()
        if failed:
            raise self._still_up(self._last_lines())
        self._known_hosts.unlink(missing_ok=True)

    def _stop_named(self) -> None:
        """Stop Ray on the machines that the file names: Ray ends only those which it remembers it started."""
        provider = self.tree["provider"]
        machines = [(str(self.named_head()), "head_start_ray_commands")]
        machines += [
            (str(address), "worker_start_ray_commands") for address in provider.get("worker_ips", [])
        ]
        failed = []
        for machine, key in machines:
            commands = [command for command in self.tree[key] if "ray stop" in command] or ["ray stop"]
            try:
                login = "bash --login -i -c " + shlex.quote("; ".join(commands))
                if self._on_machine(machine, login).returncode == _SSH_FAILED:
                    failed.append(machine)
            except subprocess.TimeoutExpired:
                failed.append(machine)
        if failed:
            raise self._still_up("no SSH to " + ", ".join(failed))

    def copy_from_head(self, head: str, source: str, target: Path) -> bool:
        """Copy a file from the head to this machine; False where that fails: mostly, it is not there."""
        if (self.tree.get("docker") or {}).get("container_name"):
            words = ["-m", "ray.scripts.scripts", "rsync-down", str(self._file), source, str(target)]
            return self._call(words) == 0 and target.is_file()
        done = self._on_machine(head, f"cat -- {shlex.quote(source)}", timeout_s=_COPY_TIMEOUT_S)
        if done.returncode == 0:
            target.write_bytes(done.stdout)
        return done.returncode == 0

    def _on_machine(
        self, machine: str, command: str, timeout_s: float = 2 * _SSH_TIMEOUT_S
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*self.ssh(machine), command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )

    def _still_up(self, found: str) -> StageError:
        return StageError(
            "THE CLUSTER MAY STILL BE UP, and cost: taking it down failed",
            found=found,
            where=str(self.log),
            next_step=f"xal-ray down {shlex.quote(str(self.definition.path))}",
        )

    def ssh(self, head: str) -> list[str]:
        """Return the command that logs in to the head, without what it is to do there."""
        auth = self._auth()
        options = {
            "BatchMode": "yes",  # never ask: nobody may sit there
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": str(self._known_hosts),
            "ExitOnForwardFailure": "yes",
            "ControlPath": "none",
            "ConnectTimeout": str(_SSH_TIMEOUT_S),
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "4",
            "LogLevel": "ERROR",
        }
        if auth.get("ssh_private_key"):
            options["IdentityFile"] = str(Path(auth["ssh_private_key"]).expanduser())
            options["IdentitiesOnly"] = "yes"
        if auth.get("ssh_proxy_command"):
            options["ProxyCommand"] = str(auth["ssh_proxy_command"])
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return ["ssh", "-T", *words, f"{auth['ssh_user']}@{head}"]

    def _auth(self) -> dict[str, Any]:
        named: dict[str, Any] = self.tree["auth"]
        if named.get("ssh_private_key") or not self._auth_file.is_file():
            return named
        return {**json.loads(self._auth_file.read_text(encoding="utf-8")), **named}

    def _write_file(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        write_private(self._file, yaml.safe_dump(self.tree, sort_keys=False))

    def _log_open(self) -> Any:
        handle = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(handle, "w", encoding="utf-8", errors="replace")

    def _call(self, words: Sequence[str]) -> int:
        """Run a Python of ours with its output in the log; Ctrl-C here ends it there."""
        python, paths = python_of_ours()
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_PROMPT_ENABLED": "0"}
        with self._log_open() as log:
            print(f"--- {' '.join(words)}", file=log, flush=True)
            process = subprocess.Popen(
                [*python, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | quiet | paths,
                start_new_session=True,
            )
            try:
                return process.wait()
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                process.wait()
                raise

    def _last_lines(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace").rpartition("\n--- ")[2]
        return "\n    " + "\n    ".join(text.splitlines()[1:][-_LOG_LINES:])

    def _provider_error(self, error: BaseException) -> ConfigError:
        return ConfigError(
            "the provider of the cluster can't be asked",
            found=f"{type(error).__name__}: {str(error).strip()[:300]}",
            where=str(self.definition.path),
            next_step="check the section provider, and that this machine may use it (credentials, region)",
        )
