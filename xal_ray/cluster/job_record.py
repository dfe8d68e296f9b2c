"""Remembers a job on a cluster: enough to watch it again, and nothing secret."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from xal_ray.cluster.request import HOMES, Command, JobRequest
from xal_ray.errors import RunError
from xal_ray.record.layout import LEDGER_FILE
from xal_ray.sweep.layout import RECORD_NAME

JOB_FILE = "job.json"


@dataclass(frozen=True)
class JobRecord:
    """A submitted job.

    Attributes:
        command: Which of ours.
        name: How a person calls it.
        submission_id: Ray's name for the job.
        out: Where the results go.
        cluster_file: The cluster file; None for a cluster that was named by its address.
        address: The Jobs API's URL; None for a cluster that is reached through its file.
        cluster_name: As the cluster file says.
        code_sha256: Of the code that was shipped.
        versions: Of Python, Ray and xal-ray, here.
        submitted_utc: When.
    """

    command: Command
    name: str
    submission_id: str
    out: str
    cluster_file: str | None
    address: str | None
    cluster_name: str | None
    code_sha256: str
    versions: dict[str, str]
    submitted_utc: str


def home_of(request: JobRequest) -> Path:
    """The local folder of a job: `runs/<name>`, or beside it where a run of this machine lies there."""
    folder = Path(HOMES[request.command]) / request.name
    taken = any((folder / name).exists() for name in (LEDGER_FILE, RECORD_NAME, "scores"))
    if taken or folder.absolute() == request.out:
        return folder.with_name(f"{folder.name}-on-cluster")
    return folder


def write_record(folder: Path, record: JobRecord) -> Path:
    """Write `folder/job.json`, readable by its owner alone."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / JOB_FILE
    write_private(path, json.dumps(asdict(record), indent=2) + "\n")
    return path


def find_record(run: str) -> tuple[Path, JobRecord]:
    """Return the record of a job, and its local folder.

    Args:
        run: The folder, or the job's name.

    Raises:
        RunError: There is none, or it is damaged.
    """
    named = [Path(run), *(Path(home) / run for home in HOMES.values())]
    named += [path.with_name(f"{path.name}-on-cluster") for path in named if path.name]
    for folder in named:
        path = folder / JOB_FILE
        if path.is_file():
            try:
                return folder, JobRecord(**json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise RunError("the record of a job is damaged", where=str(path)) from error
    raise RunError(
        "no job was submitted under this name from here",
        expected=f"a folder with {JOB_FILE}, such as runs/NAME",
        found=run,
        next_step="give the folder that `xal-ray run --cluster` named, from the folder where it was called",
    )


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read, from its first byte on."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
