"""Brings to this machine what a job left where its run lies."""

from __future__ import annotations

from pathlib import Path

from xal_ray.cluster.backends.base import Cluster
from xal_ray.cluster.job_record import JobRecord
from xal_ray.cluster.request import OUTPUTS
from xal_ray.errors import XalRayError
from xal_ray.places import is_remote, place


def fetch(record: JobRecord, home: Path, cluster: Cluster) -> list[str]:
    """Copy the outputs of a job into its local folder; returns lines that say what came and what did not.

    A failure here is no failure of the job: the files lie where they lay.
    """
    found, cause = [], ""
    for name in OUTPUTS[record.command]:
        (home / name).unlink(missing_ok=True)  # of an earlier job
        try:
            if _copy(record.out, name, home / name, cluster):
                found.append(name)
        except XalRayError as error:
            cause = f" ({error.what})"
        except Exception as error:  # of a store's client: their texts may hold signed addresses
            cause = f" ({type(error).__name__})"
    if not found:
        return [f"nothing could be fetched{cause}; the results lie in {record.out}"]
    return [f"fetched {home / name}" for name in found] + [f"all else lies in {record.out}"]


def _copy(out: str, name: str, target: Path, cluster: Cluster) -> bool:
    folder = place(out)
    if not is_remote(folder):
        return cluster.copy(str(folder / name), target)
    source = folder / name
    if not source.exists():
        return False
    target.write_bytes(source.read_bytes())
    return True
