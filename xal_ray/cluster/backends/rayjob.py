"""A run as a KubeRay RayJob, through `kubectl`: put in, watched, taken away.

The image of the file must hold xal-ray (docs/clusters.md). What belongs to this run, its configuration,
travels in a ConfigMap that is mounted into the head, where the job's driver runs. `kubectl` brings its own
credentials.
"""

from __future__ import annotations

import base64
import copy
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from xal_ray.cluster.files.definition import Definition
from xal_ray.errors import ConfigError, StageError

FILES = "/etc/xal-ray"  # where the head finds the files of `submit`
_VOLUME = "xal-ray-files"
_MOST_BYTES = 900_000  # a ConfigMap holds 1 MiB, in base64 and with its keys
_ENDS = ("Complete", "Failed", "ValidationFailed")
_POLL_S = 3.0
_MOST_FAILED_POLLS = 200  # ten minutes without an answer of Kubernetes


def submit(definition: Definition, files: Mapping[str, bytes], entrypoint: str, name: str) -> str:
    """Put a run in.

    Args:
        definition: A file of kind `rayjob`.
        files: Name to content; the driver finds them in `FILES`.
        entrypoint: The driver's command line.
        name: Of the run; made to fit Kubernetes.

    Returns:
        What `watch` and `delete` take: the RayJob's name, after `NAMESPACE/` where the file names one.

    Raises:
        ConfigError: `kubectl` is missing, the files are too large, or Kubernetes refuses the RayJob.
    """
    config_map, job = rendered(definition, files, entrypoint, name)
    namespace = job["metadata"].get("namespace")
    target = f"{namespace}/{job['metadata']['name']}" if namespace else str(job["metadata"]["name"])
    _create(target, config_map)
    try:
        _create(target, job)
    except ConfigError:
        _kubectl(target, "delete", "configmap", config_map["metadata"]["name"], "--ignore-not-found")
        raise
    return target


def rendered(
    definition: Definition, files: Mapping[str, bytes], entrypoint: str, name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the ConfigMap and the RayJob of a run, as Kubernetes is handed them.

    Raises:
        ConfigError: The files are too large for a ConfigMap.
    """
    size = sum(map(len, files.values()))
    if size > _MOST_BYTES:
        raise ConfigError(
            "the run's files do not fit into a ConfigMap",
            expected=f"at most {_MOST_BYTES} bytes",
            found=f"{size} bytes",
            next_step="put large inputs into the object store; the image holds the code",
        )
    job = copy.deepcopy(definition.tree)
    job["metadata"] = {**job["metadata"], "name": _fitting(name)}
    job["metadata"]["labels"] = {**job["metadata"].get("labels", {}), "app.kubernetes.io/part-of": "xal-ray"}
    job["spec"]["entrypoint"] = entrypoint
    about = {"name": f"{job['metadata']['name']}-files", "labels": job["metadata"]["labels"]}
    if "namespace" in job["metadata"]:
        about["namespace"] = job["metadata"]["namespace"]
    content = {key: base64.b64encode(value).decode("ascii") for key, value in files.items()}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "binaryData": content}
    pod = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    _add(pod, "volumes", {"name": _VOLUME, "configMap": {"name": about["name"]}})
    _add(pod["containers"][0], "volumeMounts", {"name": _VOLUME, "mountPath": FILES, "readOnly": True})
    return config_map, job


def _fitting(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name.lower())[:47].strip("-") or "run"


def _add(node: dict[str, Any], key: str, entry: dict[str, Any]) -> None:
    node[key] = [one for one in node.get(key) or [] if one["name"] != entry["name"]] + [entry]


def watch(target: str, write: Callable[[str], None]) -> bool:
    """Follow a RayJob to its end; may be called again after an interruption.

    Args:
        target: What `submit` returned.
        write: Takes each line of the driver's log, and of what becomes of the job.

    Returns:
        Whether the run succeeded.

    Raises:
        StageError: The RayJob is gone, or Kubernetes does not answer for ten minutes.
    """
    told, last_stamp = "", ""
    while True:
        status = _status(target)
        state = str(status.get("jobDeploymentStatus") or "New")
        if state != told:
            write(f"RayJob {target}: {state}")
            told = state
        if state == "Running" or state in _ENDS:
            for stamp, line in _log_after(target, last_stamp):
                last_stamp = stamp
                write(line)
        if state in _ENDS:
            if status.get("message"):
                write(f"RayJob {target}: {status.get('reason') or 'message'}: {status['message']}")
            return status.get("jobStatus") == "SUCCEEDED"
        time.sleep(_POLL_S)


def _status(target: str) -> dict[str, Any]:
    complaint = ""
    for _ in range(_MOST_FAILED_POLLS):
        answer = _kubectl(target, "get", "rayjobs.ray.io", _name(target), "-o", "json")
        if answer.returncode == 0:
            return dict(json.loads(answer.stdout).get("status") or {})
        if "NotFound" in answer.stderr:
            raise StageError(
                "the RayJob is gone",
                where=target,
                next_step="give the command again: the run resumes from its ledger",
            )
        complaint = _last_line(answer.stderr)
        time.sleep(_POLL_S)
    raise StageError("Kubernetes does not answer", found=complaint, where=target)


def _log_after(target: str, stamp: str) -> Iterator[tuple[str, str]]:
    """Lines of the submitter, each with the time that its machine gave it; none twice after a broken line."""
    command = [_program(), *_scope(target), "logs", "--follow", "--timestamps", f"job/{_name(target)}"]
    if stamp:
        command.append(f"--since-time={stamp}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None  # noqa: S101 - for the type
        for line in process.stdout:
            when, _, text = line.rstrip("\n").partition(" ")
            if when > stamp:
                yield when, text


def delete(target: str) -> None:
    """Take a RayJob, its cluster and its files away; what is gone already stays gone.

    Raises:
        StageError: Kubernetes refuses.
    """
    for kind, name in (("rayjobs.ray.io", _name(target)), ("configmap", f"{_name(target)}-files")):
        answer = _kubectl(target, "delete", kind, name, "--ignore-not-found")
        if answer.returncode != 0:
            raise StageError(
                "the RayJob can't be deleted: its machines go on and cost money",
                found=_last_line(answer.stderr),
                where=target,
                next_step=f"kubectl delete {kind} {name}",
            )


def _create(target: str, manifest: Mapping[str, Any]) -> None:
    answer = _kubectl(target, "create", "--validate=strict", "-f", "-", text=json.dumps(manifest))
    if answer.returncode == 0:
        return
    name = manifest["metadata"]["name"]
    if "AlreadyExists" in answer.stderr:
        raise ConfigError(
            f"there is a {manifest['kind']} of this name already",
            found=name,
            where=target,
            next_step=f"watch it with xal-ray attach, or remove it: kubectl delete {manifest['kind']} {name}",
        )
    raise ConfigError(
        f"Kubernetes refuses the {manifest['kind']}",
        found=_last_line(answer.stderr),
        where=target,
        next_step="check `kubectl config current-context`, and that KubeRay 1.5.1 or newer is installed",
    )


def _kubectl(target: str, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_program(), *_scope(target), *arguments], input=text, capture_output=True, text=True, check=False
    )


def _program() -> str:
    found = shutil.which("kubectl")
    if found is None:
        raise ConfigError(
            "a RayJob needs kubectl, which is not on this machine",
            expected="kubectl on PATH, with a context that may create RayJobs",
            next_step="install kubectl, then `kubectl get rayjobs` shows whether it reaches your cluster",
        )
    return found


def _scope(target: str) -> list[str]:
    namespace, slash, _ = target.rpartition("/")
    return ["--namespace", namespace] if slash else []


def _name(target: str) -> str:
    return target.rpartition("/")[2]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "no message"
