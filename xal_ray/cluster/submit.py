"""A command on a cluster, from its configuration to its results on this machine."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from xal_ray.cluster.backends import jobs_api
from xal_ray.cluster.backends.base import Cluster, Submitted
from xal_ray.cluster.backends.jobs_url import AddressedCluster
from xal_ray.cluster.backends.kubernetes import KubernetesCluster
from xal_ray.cluster.backends.ray_launcher import LaunchedCluster
from xal_ray.cluster.download import fetch
from xal_ray.cluster.files.definition import read_definition, require_filled
from xal_ray.cluster.files.sizing import settings_for
from xal_ray.cluster.job_record import JOB_FILE, JobRecord, find_record, home_of, write_record
from xal_ray.cluster.request import JobRequest, Target, check_places
from xal_ray.errors import XalRayError
from xal_ray.progress import Reporter

_INTERRUPTED = 130


def cluster_of(target: Target) -> Cluster:
    """Return the cluster that is named.

    Raises:
        ConfigError: The file or the address does not hold.
    """
    if target.cluster_file is None:
        return AddressedCluster(target.address or "")
    definition = read_definition(target.cluster_file)
    require_filled(definition)
    return LaunchedCluster(definition) if definition.kind == "launcher" else KubernetesCluster(definition)


def prepared(request: JobRequest, cluster: Cluster) -> JobRequest:
    """Return the request as the cluster needs it: places that it sees, resources that it has.

    Raises:
        ConfigError: A place or a key does not fit.
    """
    check_places(request)
    overrides = ["ray.address=auto"]
    if cluster.definition is not None:
        overrides += settings_for(cluster.definition, request.settings)
    return request.with_settings(overrides)


def describe_cluster(request: JobRequest, cluster: Cluster, target: Target) -> list[str]:
    """Return what would be done with the cluster, in words; it is not asked for anything.

    Raises:
        ConfigError: It could not be done: a place is this machine's alone, say.
    """
    prepared(request, cluster)
    settings = settings_for(cluster.definition, request.settings) if cluster.definition else []
    definition = cluster.definition
    where = f"{definition.name}, from {definition.path}" if definition else cluster.address
    at_end = "is taken down at the end" if target.down else "stands on at the end"
    kept = ", but not after a failure" if target.keep_on_failure else ""
    lines = [
        f"cluster    {where}; {at_end}{kept}",
        f"job        xal-ray {request.command}, results in {request.out}",
    ]
    lines += [f"here       {home_of(request)}", *(f"set        {text}" for text in settings)]
    return lines + [f"warning    {text}" for text in (definition.warnings if definition else ())]


def submit(request: JobRequest, cluster: Cluster, target: Target, reporter: Reporter) -> int:
    """Run a request on a cluster, watch it, and fetch what it leaves.

    Returns:
        The exit code of the job; 0 where it was left alone with `detach`, 130 after Ctrl-C, which also leaves
        it alone.

    Raises:
        XalRayError: Something failed; with `down` the cluster was then taken down, unless `keep_on_failure`.
    """
    for text in cluster.definition.warnings if cluster.definition else ():
        reporter.line(f"warning: {text}")
    request = prepared(request, cluster)
    return _guarded(cluster, target, reporter, lambda: _submit_and_watch(request, cluster, target, reporter))


def attach(run: str, reporter: Reporter, *, stop: bool, down: bool, cluster: Cluster | None = None) -> int:
    """Watch a job again that was submitted from here, or end it.

    Args:
        run: The job's local folder or its name.
        reporter: Hears about the connection.
        stop: End the job.
        down: Take the cluster down at the end.
        cluster: In place of the one in the record.

    Returns:
        The exit code of the job, or 130 after Ctrl-C.
    """
    home, record = find_record(run)
    target = Target(Path(record.cluster_file) if record.cluster_file else None, record.address, down=down)
    target.check()
    cluster = cluster or cluster_of(target)

    def watch() -> int:
        reporter.line(f"job {record.submission_id} on {cluster.title}")
        cluster.find()
        if stop:
            cluster.stop(record.submission_id)
        return _watch(record, home, cluster, reporter)

    return _guarded(cluster, target, reporter, watch)


def take_down(cluster_file: Path, reporter: Reporter) -> None:
    """Take a cluster down, whatever runs on it.

    Raises:
        StageError: That failed; machines may be up.
    """
    cluster = cluster_of(Target(cluster_file))
    reporter.line(f"taking down {cluster.title}")
    cluster.take_down()
    reporter.line(f"{cluster.title} is down")


def _guarded(cluster: Cluster, target: Target, reporter: Reporter, work: Callable[[], int]) -> int:
    """Do some work with a cluster, and with `down` take it down afterwards, whatever came of it.

    Ctrl-C and a lost connection leave it alone: the job may run on.
    """
    keeps = target.keep_on_failure
    try:
        code = work()
    except KeyboardInterrupt:
        reporter.line(_left_alone(cluster, target))
        return _INTERRUPTED
    except jobs_api.LostContactError:
        if target.down:
            reporter.line(f"{cluster.title} was NOT taken down: jobs may run on it. " + _how_to_end(target))
        raise
    except Exception:
        if target.down and not keeps:
            _end(cluster, target, reporter)
        elif target.down:
            reporter.line(f"{cluster.title} stands on. " + _how_to_end(target))
        raise
    finally:
        cluster.close()
    if target.down and (code == 0 or not keeps):
        return _end(cluster, target, reporter) or code
    if target.cluster_file is not None:
        reporter.line(f"{cluster.title} stands on. " + _how_to_end(target))
    return code


def _end(cluster: Cluster, target: Target, reporter: Reporter) -> int:
    """Take the cluster down, unless others work on it; returns an exit code."""
    try:
        others = cluster.at_work()
        if others:
            reporter.line(
                f"{cluster.title} was NOT taken down: {len(others)} jobs work on it ({others[0]}). "
                + _how_to_end(target)
            )
            return 1
        reporter.line(f"taking down {cluster.title}")
        cluster.take_down()
    except XalRayError as error:
        reporter.line(f"{cluster.title} was NOT taken down. {_how_to_end(target)}\nerror: {error}")
        return error.exit_code
    finally:
        cluster.close()
    reporter.line(f"{cluster.title} is down")
    return 0


def _submit_and_watch(request: JobRequest, cluster: Cluster, target: Target, reporter: Reporter) -> int:
    cluster.stand(reporter.line)
    home = home_of(request)
    job = cluster.submit(request)
    record = _record(request, job, cluster, target)
    path = write_record(home, record)
    if job.is_new:
        code = f"code {job.code_sha256[:12]}, " if job.code_sha256 else ""
        reporter.line(f"submitted {job.submission_id} ({code}noted in {path})")
    else:
        reporter.line(f"{job.submission_id} already works on {request.out}: watching it")
    if target.detach:
        reporter.line(f"watch it with: xal-ray attach {shlex.quote(str(home))}")
        return 0
    reporter.line(f"Ctrl-C leaves it running; xal-ray attach {shlex.quote(str(home))} watches it again")
    return _watch(record, home, cluster, reporter)


def _watch(record: JobRecord, home: Path, cluster: Cluster, reporter: Reporter) -> int:
    ending = cluster.follow(record.submission_id, _to_stdout, reporter.line)
    if ending.code == 0:
        for line in fetch(record, home, cluster):
            reporter.line(line)
    else:
        reporter.line(f"the job {record.submission_id} ended: {ending.text}")
    return ending.code


def _record(request: JobRequest, job: Submitted, cluster: Cluster, target: Target) -> JobRecord:
    return JobRecord(
        command=request.command,
        name=request.name,
        submission_id=job.submission_id,
        out=str(request.out),
        cluster_file=str(target.cluster_file.absolute()) if target.cluster_file else None,
        address=cluster.address,
        cluster_name=cluster.definition.name if cluster.definition else None,
        code_sha256=job.code_sha256,
        versions={
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("ray", "xal-ray")},
        },
        submitted_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _left_alone(cluster: Cluster, target: Target) -> str:
    lines = [
        f"let go; a job that was submitted runs on, and {cluster.title} stands on",
        f"  watch it: xal-ray attach NAME (its folder has a {JOB_FILE})",
        "  end it:   xal-ray attach NAME --stop",
    ]
    if target.cluster_file is not None:
        lines.append(f"  take the cluster down: xal-ray down {shlex.quote(str(target.cluster_file))}")
    return "\n".join(lines)


def _how_to_end(target: Target) -> str:
    return f"To take it down: xal-ray down {shlex.quote(str(target.cluster_file))}"
