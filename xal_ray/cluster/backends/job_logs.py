"""A job's log on this terminal, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from xal_ray.cluster.backends.jobs_api import LostContactError, Reach, in_short
from xal_ray.errors import StageError

_QUIET_S = 60.0  # without a line: ask whether the job still runs
_RETRY_S = (1.0, 2.0, 5.0, 10.0, 20.0)
_LOST_AFTER_S = 900.0


def follow(
    reach: Reach,
    submission_id: str,
    write: Callable[[str], None],
    say: Callable[[str], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Any:
    """Write a job's log as it grows, over as many connections as it takes; no line comes twice.

    Args:
        reach: How the cluster is reached.
        submission_id: The job.
        write: Takes the log's text, as it comes.
        say: Takes lines about the connection.
        sleep: Waits so many seconds.
        clock: Seconds, from anywhere.

    Returns:
        What Ray says of the job when it has ended (`JobDetails`).

    Raises:
        LostContactError: The cluster has not answered for a quarter of an hour.
        StageError: The cluster does not know the job any more.
    """
    shown, failures, since = _Shown(write), 0, clock()
    while True:
        before = shown.count
        try:
            client = reach.client()
            _info(client, submission_id)  # a head that was started anew knows no such job
            if failures:
                say("connected again")
            asyncio.run(_tail(client, submission_id, shown))
            info = _info(client, submission_id)
            if info.status.is_terminal():
                shown.end()
                return info
            failures = 0
            sleep(_RETRY_S[0])
        except _broken_connections() as error:
            if not failures or shown.count > before:
                failures, since = 0, clock()
                say(f"the connection broke ({in_short(error)}); the job runs on; trying again")
            if clock() - since > _LOST_AFTER_S:
                raise LostContactError(
                    f"the cluster has not answered for {_LOST_AFTER_S / 60:.0f} minutes",
                    found=in_short(error),
                    next_step="xal-ray attach NAME watches again; where the head is gone, give the same "
                    "command again: what was committed is kept",
                ) from error
            sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
            failures += 1


def _info(client: Any, submission_id: str) -> Any:
    try:
        return client.get_job_info(submission_id)
    except RuntimeError as error:
        if "404" not in str(error):
            raise
        raise StageError(
            "the cluster does not know the job any more: its head was started anew",
            found=submission_id,
            next_step="give the same command again: what was committed is kept",
        ) from error


class _Shown:
    """Counts the characters that were shown, and shows only those that come after them."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self.count = 0
        self._position = 0
        self._last = "\n"

    def restart(self) -> None:
        """The log comes from its beginning again."""
        self._position = 0

    def take(self, text: str) -> None:
        """The log's next piece."""
        new = text[max(0, self.count - self._position) :]
        self._position += len(text)
        self.count = max(self.count, self._position)
        if new:
            self._write(new)
            self._last = new[-1]

    def end(self) -> None:
        """The log ended, perhaps without a line break."""
        if self._last != "\n":
            self._write("\n")


async def _tail(client: Any, submission_id: str, shown: _Shown) -> None:
    """Take the log until the job ends. A job that says nothing is asked now and then whether it runs."""
    shown.restart()
    pieces = client.tail_job_logs(submission_id).__aiter__()
    waiting = asyncio.ensure_future(anext(pieces))
    try:
        while True:
            done, _ = await asyncio.wait({waiting}, timeout=_QUIET_S)
            if not done:
                if _info(client, submission_id).status.is_terminal():
                    return
                continue
            try:
                shown.take(waiting.result())
            except StopAsyncIteration:
                return
            waiting = asyncio.ensure_future(anext(pieces))
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await pieces.aclose()


def _broken_connections() -> tuple[type[BaseException], ...]:
    import aiohttp
    import requests

    return (
        OSError,
        RuntimeError,
        asyncio.TimeoutError,
        aiohttp.ClientError,
        requests.exceptions.RequestException,
    )
