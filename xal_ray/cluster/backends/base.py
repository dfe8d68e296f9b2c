"""A cluster that takes jobs, however it is reached."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xal_ray.cluster.backends import jobs_api
from xal_ray.cluster.backends.job_logs import follow
from xal_ray.cluster.files.definition import Definition
from xal_ray.cluster.package import packed
from xal_ray.cluster.request import JobRequest

Say = Callable[[str], None]
Write = Callable[[str], None]

_STOPPED_CODE = 130
_OPEN = (
    "WARNING: the Jobs API of {title} asks for no token: whoever reaches its port runs programs on it "
    "(CVE-2023-48022). Start Ray with RAY_AUTH_MODE=token"
)


@dataclass(frozen=True)
class Submitted:
    """A job on its way.

    Attributes:
        submission_id: Its name on the cluster.
        is_new: False where a job of the same run was found at work.
        code_sha256: Of the code that travelled; empty where the cluster has its own.
    """

    submission_id: str
    is_new: bool
    code_sha256: str


@dataclass(frozen=True)
class Ending:
    """Says how a job ended.

    Attributes:
        code: The exit code to leave with.
        text: What the cluster says of it.
    """

    code: int
    text: str


class Cluster(ABC):
    """A cluster that takes jobs.

    Attributes:
        title: How a person calls it.
        definition: The cluster file's content, where there is one.
        address: The URL of its Jobs API, where it is reached by that.
    """

    title: str
    definition: Definition | None = None
    address: str | None = None

    @abstractmethod
    def stand(self, say: Say) -> None:
        """See to it that the cluster stands and answers; one that stands is joined, never restarted."""

    @abstractmethod
    def find(self) -> None:
        """See that the cluster answers; nothing is brought up."""

    @abstractmethod
    def submit(self, request: JobRequest) -> Submitted:
        """Submit a request; where a job of the same run is at work, that is it."""

    @abstractmethod
    def follow(self, submission_id: str, write: Write, say: Say) -> Ending:
        """Show a job's output until it ends, over as many connections as it takes."""

    @abstractmethod
    def stop(self, submission_id: str) -> None:
        """End a job."""

    @abstractmethod
    def at_work(self) -> list[str]:
        """Return the jobs that have not ended; none where nothing answers."""

    @abstractmethod
    def copy(self, source: str, target: Path) -> bool:
        """Copy a file of the cluster's file system here; False where it can't be had."""

    @abstractmethod
    def take_down(self) -> None:
        """Take the cluster down."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections; the cluster stands on."""


class JobsCluster(Cluster):
    """A cluster whose Jobs API is reached from here."""

    @abstractmethod
    def client(self) -> Any:
        """Connect as `jobs_api.Reach.client` does."""

    def find(self) -> None:
        """See that the cluster answers; nothing is brought up.

        Raises:
            LostContactError: It does not.
        """
        self._client_now()

    def submit(self, request: JobRequest) -> Submitted:
        """Submit a request; where a job of the same run is at work, that is it.

        Raises:
            RunError: Such a job is at work, with another configuration.
            StageError: The cluster did not take it.
        """
        with packed(request) as package:
            running = jobs_api.running_job_of(self._client_now(), str(request.out), package)
            if running is not None:
                return Submitted(running, False, package.code_sha256)
            submission_id = f"xal-ray-{request.name}-{secrets.token_hex(4)}"
            metadata = {
                jobs_api.OUT_KEY: str(request.out),
                jobs_api.COMMAND_KEY: request.command,
                jobs_api.CONFIG_KEY: package.config_sha256,
                jobs_api.CODE_KEY: package.code_sha256,
            }
            jobs_api.submit(self, package, submission_id, metadata)
            return Submitted(submission_id, True, package.code_sha256)

    def follow(self, submission_id: str, write: Write, say: Say) -> Ending:
        """Show a job's output until it ends.

        Raises:
            LostContactError: The cluster does not answer any more.
            StageError: It does not know the job.
        """
        info = follow(self, submission_id, write, say)
        status = str(getattr(info.status, "value", info.status))
        of_driver = info.driver_exit_code
        if status == "SUCCEEDED":
            return Ending(0, status)
        if status == "STOPPED":
            return Ending(_STOPPED_CODE, status)
        said = f": {info.message.strip()}" if info.message and of_driver is None else ""
        return Ending(of_driver if of_driver is not None and of_driver > 0 else 1, f"{status}{said}")

    def stop(self, submission_id: str) -> None:
        """End a job."""
        self._client_now().stop_job(submission_id)

    def at_work(self) -> list[str]:
        """Return the jobs that have not ended; none where nothing answers.

        Raises:
            ConfigError: It answers, and refuses the token.
        """
        try:
            return jobs_api.at_work(self.client())
        except ConnectionError:
            return []

    def warn_if_open(self, url: str, say: Say) -> None:
        """Say so where the Jobs API asks for no token."""
        if jobs_api.is_open_to_all(url):
            say(_OPEN.format(title=self.title))

    def _client_now(self) -> Any:
        try:
            return self.client()
        except ConnectionError as error:
            raise jobs_api.LostContactError(
                f"{self.title} does not answer",
                found=str(error),
                next_step="if it is gone, give the command of the run again: what was committed is kept",
            ) from error
