"""Ray's Jobs API: a client that can't hang, and a job that is submitted once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from xal_ray.cluster.package import JobPackage
from xal_ray.errors import ConfigError, RunError, StageError

_TIMEOUT_S = (10.0, 120.0)  # to connect, and for an answer
_OVERRIDING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # Ray would prefer these to the address it is given
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
# Keys of a job's metadata, by which a job of the same run is known again.
OUT_KEY, COMMAND_KEY = "xal_ray_out", "xal_ray_command"
CONFIG_KEY, CODE_KEY = "xal_ray_config_sha256", "xal_ray_code_sha256"


class Reach(Protocol):
    """Says how a cluster's Jobs API is reached."""

    def client(self) -> Any:
        """Return a client that answers, over a new connection where the last one broke.

        Raises:
            ConnectionError: The cluster does not answer now.
            XalRayError: It will not, either: the token is wrong, say.
        """
        ...


class BusyError(ConnectionError):
    """Something listens at an address and is not ready to answer."""


class LostContactError(StageError):
    """A cluster that stands does not answer; jobs may run on it."""


def connect(url: str, token: str | None) -> Any:
    """Return a client of the Jobs API, whose requests all have a time limit.

    Raises:
        ConnectionError: Nothing answers there.
        BusyError: Nothing yet.
        ConfigError: It answers, and refuses the token, or is no Jobs API.
    """
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc]  # mypy does not follow Ray
        """Ray's client waits for ever where a connection was cut silently."""

        def _do_request(self, *words: Any, **options: Any) -> Any:
            return super()._do_request(*words, **{"timeout": _TIMEOUT_S, **options})

    for name in _TALKATIVE:  # that set their own level when they are imported
        logging.getLogger(name).setLevel(logging.WARNING)
    headers = {"Authorization": f"Bearer {token}"} if token else None
    try:
        with _address_obeyed():
            client = Client(url, headers=headers)
            client.list_jobs()  # the version may be asked without a token
            return client
    except AuthenticationError as error:
        raise _refused(url, token) from error
    except (requests.exceptions.RequestException, RuntimeError, ConnectionError, KeyError) as error:
        if isinstance(error, ConnectionError | requests.exceptions.ConnectionError):
            cause = error.__context__ or error  # Ray's client swallows the reason
            raise ConnectionError(f"{url} does not answer: {in_short(cause)}") from error
        if not _is_another_server(error):
            raise BusyError(f"{url} is busy or starting: {in_short(error)}") from error
        raise ConfigError(
            "what answers there is not Ray's Jobs API",
            expected="the address of a head's dashboard, such as http://127.0.0.1:8265",
            found=str(error)[:200],
            where=url,
        ) from error


def _is_another_server(error: Exception) -> bool:
    """Return whether an answer is one that no Jobs API gives; one that is just starting may answer 5xx."""
    import requests

    if isinstance(error, requests.exceptions.HTTPError) and error.response is not None:
        return bool(error.response.status_code < 500)
    return isinstance(error, requests.exceptions.JSONDecodeError | KeyError) or "returned 404" in str(error)


def is_open_to_all(url: str) -> bool:
    """Tell whether a Jobs API obeys anybody: whoever reaches its port can run programs on the cluster."""
    import requests

    try:
        return bool(requests.get(f"{url.rstrip('/')}/api/jobs/", timeout=_TIMEOUT_S).status_code == 200)
    except requests.exceptions.RequestException:
        return False


def running_job_of(client: Any, out: str, package: JobPackage) -> str | None:
    """Return the job that already works on a run's folder; None where none does.

    Raises:
        RunError: It does, with another configuration.
    """
    for job in client.list_jobs():
        known = job.metadata or {}
        if known.get(OUT_KEY) != out or job.status.is_terminal():
            continue
        if known.get(CONFIG_KEY) != package.config_sha256:
            raise RunError(
                "a job with another configuration works on the same folder",
                found=str(job.submission_id),
                where=out,
                next_step="give another --out, or end that job first: xal-ray attach NAME --stop",
            )
        return str(job.submission_id)
    return None


def at_work(client: Any) -> list[str]:
    """Return the jobs of a cluster that have not ended."""
    return [
        str(job.submission_id or job.job_id) for job in client.list_jobs() if not job.status.is_terminal()
    ]


def submit(reach: Reach, package: JobPackage, submission_id: str, metadata: dict[str, str]) -> None:
    """Submit a job, once.

    Raises:
        StageError: The cluster did not take it.
    """
    client = reach.client()
    try:
        client.submit_job(
            entrypoint=package.entrypoint,
            submission_id=submission_id,
            runtime_env=package.runtime_env,
            metadata=metadata,
            entrypoint_num_cpus=0,  # runs on the head, where the run's driver belongs
        )
    except Exception as error:
        # The answer may be lost where the question was not: the job is there, then.
        try:
            found = reach.client().get_job_info(submission_id)
        except (RuntimeError, ConnectionError):
            found = None
        if found is None:
            raise StageError(
                "the cluster did not take the job", found=f"{type(error).__name__}: {str(error)[:500]}"
            ) from error


def in_short(error: BaseException) -> str:
    """Return the beginning of an error's text."""
    lines = str(error).strip().splitlines()
    return (lines[0][:120] if lines else "") or type(error).__name__


@contextmanager
def _address_obeyed() -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in _OVERRIDING if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _refused(url: str, token: str | None) -> ConfigError:
    return ConfigError(
        "the cluster refuses the token" if token else "the cluster asks for a token, and there is none here",
        expected="the cluster's token in ~/.ray/auth_token, or in the file that RAY_AUTH_TOKEN_PATH names",
        where=url,
        next_step="copy the file from the head, for you alone to read (chmod 600)",
    )
