"""A cluster of Ray's launcher, reached through SSH."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xal_ray.cluster.backends import jobs_api
from xal_ray.cluster.backends.base import JobsCluster, Say
from xal_ray.cluster.backends.launcher import RUNS, STANDS_STILL, UNREACHABLE, Launcher
from xal_ray.cluster.backends.tunnel import Tunnel
from xal_ray.cluster.files.definition import Definition
from xal_ray.cluster.token import ensure_token

_API_WITHIN_S = 120.0
_POLL_S = 2.0


class LaunchedCluster(JobsCluster):
    """A cluster of Ray's launcher, reached through SSH.

    Args:
        definition: The cluster file.
        launcher: What does the work.
        tunnel: Opens a port forward.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        definition: Definition,
        launcher: Any = None,
        *,
        tunnel: Callable[[list[str]], Any] = Tunnel,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.definition = definition
        self.title = f"the cluster {definition.name}"
        self._launcher = launcher or Launcher(definition)
        self._open_tunnel = tunnel
        self._sleep = sleep
        self._tunnel: Any = None
        self._token: str | None = None

    def stand(self, say: Say) -> None:
        """Join the cluster that stands, or bring it up.

        Raises:
            StageError: It did not come up.
            LostContactError: It stands and does not answer.
            ConfigError: It refuses the token.
        """
        self._token = ensure_token()
        known = self._launcher.head()
        head = known or self._launcher.named_head()
        state = self._launcher.ray_state(head) if head else STANDS_STILL
        if state == RUNS:
            self._await_api(f"Ray runs on its head {head}")
            say(f"joined {self.title}, which stands (head {head})")
        elif state == UNREACHABLE and known:
            raise jobs_api.LostContactError(
                f"the head of {self.title} is known, but can't be reached",
                found=f"no SSH to {head}",
                next_step="check the network and the section auth; xal-ray down FILE gives the cluster up",
            )
        else:
            say(f"bringing up {self.title} (log: {self._launcher.log})")
            self._launcher.up()
            self._await_api("the launcher ended well")
            say(f"{self.title} is up")
        self.warn_if_open(self._tunnel.url, say)

    def client(self) -> Any:
        """Return a client through the tunnel, which is opened anew where it broke."""
        if self._tunnel is not None:
            if self._tunnel.is_open:
                try:
                    return jobs_api.connect(self._tunnel.url, self._token)
                except ConnectionError:
                    pass  # a forward may outlive what it led to
            self.close()
        self._token = self._token or ensure_token()
        self._tunnel = self._open_tunnel(self._launcher.ssh(self._head()))
        return jobs_api.connect(self._tunnel.url, self._token)

    def copy(self, source: str, target: Path) -> bool:
        """From the head, which sees what the cluster shares."""
        return bool(self._launcher.copy_from_head(self._head(), source, target))

    def take_down(self) -> None:
        """Take the cluster down.

        Raises:
            StageError: That failed; machines may be up.
        """
        self.close()
        self._launcher.down()

    def close(self) -> None:
        """End the tunnel."""
        if self._tunnel is not None:
            self._tunnel.close()
            self._tunnel = None

    def _head(self) -> str:
        head = self._launcher.head() or self._launcher.named_head()
        if head is None:
            raise ConnectionError(f"{self.title} has no head")
        return str(head)

    def _await_api(self, why: str) -> None:
        waited = 0.0
        while True:
            try:
                self.client()
                return
            except ConnectionError as error:
                if waited >= _API_WITHIN_S:
                    raise jobs_api.LostContactError(
                        f"the Jobs API of {self.title} does not answer; nothing was restarted",
                        expected=f"an answer on the head's port 8265, since {why}",
                        found=str(error),
                        next_step="ray[default] must be installed on the head; xal-ray down FILE, then the "
                        "same command again, starts it anew (and ends what runs on it)",
                    ) from error
            self._sleep(_POLL_S)
            waited += _POLL_S
