"""A RayJob of KubeRay: Kubernetes makes a cluster for one job, and takes it away again."""

from __future__ import annotations

import secrets
import shlex
from pathlib import Path

import yaml

from xal_ray.cluster.backends import rayjob
from xal_ray.cluster.backends.base import Cluster, Ending, Say, Submitted, Write
from xal_ray.cluster.files.definition import Definition
from xal_ray.cluster.package import CONFIG_NAME, is_here
from xal_ray.cluster.request import JobRequest
from xal_ray.errors import ConfigError


class KubernetesCluster(Cluster):
    """The cluster that a RayJob will have; the code on it is that of the file's image."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.title = f"the RayJob of {definition.path}"
        self._submission_id: str | None = None

    def stand(self, say: Say) -> None:
        """Kubernetes makes the cluster with the job."""

    def find(self) -> None:
        """`kubectl` says at once whether it can be asked."""

    def submit(self, request: JobRequest) -> Submitted:
        """Submit a request.

        Raises:
            ConfigError: A file of this machine is needed there, or Kubernetes refuses.
        """
        for key, path in (
            ("model.weights", Path(request.settings.model.weights)),
            ("--model", request.model),
        ):
            if path is not None and is_here(path):
                raise ConfigError(
                    "a file of this machine can't travel with a RayJob",
                    found=str(path),
                    where=key,
                    next_step="put it into the image, or name its place in an object store",
                )
        config = yaml.safe_dump(request.settings.model_dump(mode="json"), sort_keys=False).encode()
        words = request.command_line(f"{rayjob.FILES}/{CONFIG_NAME}", str(request.model))
        name = f"xal-ray-{request.name[:30]}-{secrets.token_hex(4)}"
        assert self.definition is not None  # noqa: S101 - for the type
        self._submission_id = rayjob.submit(self.definition, {CONFIG_NAME: config}, shlex.join(words), name)
        return Submitted(self._submission_id, True, "")

    def follow(self, submission_id: str, write: Write, say: Say) -> Ending:
        """Show the RayJob's lines until it ends."""
        self._submission_id = submission_id
        succeeded = rayjob.watch(submission_id, lambda line: write(f"{line}\n"))
        return Ending(0, "SUCCEEDED") if succeeded else Ending(1, "FAILED")

    def stop(self, submission_id: str) -> None:
        """Take the RayJob away, and its cluster with it."""
        rayjob.delete(submission_id)

    def at_work(self) -> list[str]:
        """None: the cluster is this job's alone."""
        return []

    def copy(self, source: str, target: Path) -> bool:
        """Impossible: the pods' file systems end with them."""
        return False

    def take_down(self) -> None:
        """Take the RayJob away.

        Raises:
            ConfigError: No job was named.
        """
        if self._submission_id is None:
            raise ConfigError(
                "a RayJob takes its cluster down itself",
                where=str(self.definition.path if self.definition else ""),
                next_step="xal-ray attach NAME --stop ends one that runs; `kubectl get rayjobs` shows all",
            )
        rayjob.delete(self._submission_id)

    def close(self) -> None:
        """Nothing is kept open."""
