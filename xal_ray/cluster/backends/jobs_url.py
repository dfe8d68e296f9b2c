"""A cluster that others own, named by the URL of its Jobs API."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from xal_ray.cluster.backends import jobs_api
from xal_ray.cluster.backends.base import JobsCluster, Say
from xal_ray.cluster.token import token_path
from xal_ray.errors import ConfigError, StageError

_READY_WITHIN_S = 60.0
_POLL_S = 2.0


class AddressedCluster(JobsCluster):
    """A cluster that others own, named by the URL of its Jobs API."""

    def __init__(self, address: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.password or parts.username:
            raise ConfigError(
                "this is not the address of a Jobs API",
                expected="http://HOST:8265 or https://HOST, without a name or a password in it",
                where="--address",
            )
        self.address = address.rstrip("/")
        self.title = f"the cluster at {self.address}"
        self._sleep = sleep
        self._url = address.rstrip("/")
        self._is_here = parts.hostname in ("localhost", "127.0.0.1", "::1")
        self._is_plain = parts.scheme == "http"

    def stand(self, say: Say) -> None:
        """See that it answers, and say what is unsafe about it.

        Raises:
            ConfigError: It does not answer, or refuses the token.
        """
        token = _token_if_any()
        if self._is_plain and not self._is_here and token:
            say(
                f"warning: {self._url} is plain http: the token can be read on its way. "
                "Use https or an SSH tunnel"
            )
        try:
            self._await()
        except ConnectionError as error:
            raise ConfigError(
                "no cluster answers at this address",
                found=str(error),
                where="--address",
                next_step="on the head: `ray start --head` with the dashboard; 8265 is its port",
            ) from error
        self.warn_if_open(self._url, say)

    def _await(self) -> None:
        """Wait while a head that just starts, or has much to do, answers that it can't."""
        waited = 0.0
        while True:
            try:
                self.client()
                return
            except jobs_api.BusyError:
                if waited >= _READY_WITHIN_S:
                    raise
            self._sleep(_POLL_S)
            waited += _POLL_S

    def client(self) -> Any:
        """Return a client; a new one each time, since a connection may have been cut without a word."""
        return jobs_api.connect(self._url, _token_if_any())

    def copy(self, source: str, target: Path) -> bool:
        """Possible where this machine shares the cluster's file system."""
        try:
            target.write_bytes(Path(source).read_bytes())
        except OSError:
            return False
        return True

    def take_down(self) -> None:
        """Impossible: its owner does that."""
        raise StageError("a cluster that is named by its address is taken down by its owner")

    def close(self) -> None:
        """Nothing is kept open."""


def _token_if_any() -> str | None:
    """Return the token of this machine, in the places and the order in which Ray looks; None is made."""
    named = os.environ.get("RAY_AUTH_TOKEN")
    if named:
        return named.strip()
    try:
        return token_path().read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
