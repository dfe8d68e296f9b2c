"""A port of this machine that leads to a head's Jobs API, which listens on the head's loopback alone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence

_OPENS_WITHIN_S = 60.0
_POLL_S = 0.1


class Tunnel:
    """An SSH port forward; a child process that ends with this one.

    Args:
        ssh: The command that logs in to the head.
        remote_port: Of the Jobs API there.

    Raises:
        ConnectionError: It does not open.
    """

    def __init__(self, ssh: Sequence[str], remote_port: int = 8265) -> None:
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        # `cat` ends when this process ends, however it does, since its input is then closed. The session of
        # its own keeps Ctrl-C from the forward: there may be a goodbye to say through it.
        self._process = subprocess.Popen(
            [*ssh[:-1], "-L", f"127.0.0.1:{port}:127.0.0.1:{remote_port}", ssh[-1], "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            start_new_session=True,
        )
        try:
            self._wait(port)
        except BaseException:
            self.close()
            raise

    @property
    def is_open(self) -> bool:
        """Return whether the forward stands, as far as is known here."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the forward."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._said.close()

    def _wait(self, port: int) -> None:
        until = time.monotonic() + _OPENS_WITHIN_S
        while time.monotonic() < until:
            if not self.is_open:
                self._said.seek(0)
                lines = self._said.read().decode(errors="replace").strip().splitlines()
                raise ConnectionError(lines[-1] if lines else f"ssh ended with {self._process.returncode}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(_POLL_S)
        raise ConnectionError(f"ssh did not open a forward within {_OPENS_WITHIN_S:g} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
