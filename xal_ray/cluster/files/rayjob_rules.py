"""Checks what a KubeRay file must have for a run to be put into it.

Whether every field is one that KubeRay knows is for the cluster to say: `kubectl` validates strictly against
the installed operator's own schema. Here stands what the run relies on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from xal_ray.errors import ConfigError

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?")  # KubeRay appends to it, and 63 is the limit

_FIRST_WITH_TOKENS = (2, 52)  # KubeRay refuses `authOptions` without such a version


def check(tree: Mapping[str, Any], where: str) -> None:
    """Check a RayJob's form.

    Raises:
        ConfigError: It is not a `ray.io/v1` RayJob with a head, worker groups and bounds.
    """
    _expect(tree.get("apiVersion") == "ray.io/v1", "apiVersion", "ray.io/v1", tree.get("apiVersion"), where)
    _expect(tree.get("kind") == "RayJob", "kind", "RayJob", tree.get("kind"), where)
    name = (tree.get("metadata") or {}).get("name")
    fits = isinstance(name, str) and _NAME.fullmatch(name) is not None
    _expect(fits, "metadata.name", "at most 47 of a-z, 0-9 and -", name, where)
    spec = tree.get("spec")
    _expect(isinstance(spec, dict), "spec", "a mapping", spec, where)
    cluster = dict(spec or {}).get("rayClusterSpec")
    _expect(
        isinstance(cluster, dict), "spec.rayClusterSpec", "the cluster that the job runs on", cluster, where
    )
    version = dict(cluster or {}).get("rayVersion")
    known = re.match(r"(\d+)\.(\d+)", version) if isinstance(version, str) else None
    recent = known is not None and (int(known.group(1)), int(known.group(2))) >= _FIRST_WITH_TOKENS
    _expect(recent, "spec.rayClusterSpec.rayVersion", "that of the image, 2.52 or newer", version, where)
    _check_pods(dict(cluster or {}), where)


def _check_pods(cluster: Mapping[str, Any], where: str) -> None:
    base = "spec.rayClusterSpec"
    _check_template(cluster.get("headGroupSpec"), f"{base}.headGroupSpec", where)
    groups = cluster.get("workerGroupSpecs") or []
    _expect(isinstance(groups, list), f"{base}.workerGroupSpecs", "a list", groups, where)
    names = []
    for index, group in enumerate(groups):
        key = f"{base}.workerGroupSpecs[{index}]"
        _check_template(group, key, where)
        names.append(group.get("groupName"))
        least, most = group.get("minReplicas", 0), group.get("maxReplicas")
        bounded = isinstance(least, int) and isinstance(most, int) and 0 <= least <= most
        _expect(
            bounded, f"{key}.maxReplicas", "a number from minReplicas on: KubeRay knows no bound", most, where
        )
    _expect(
        len(set(names)) == len(names), f"{base}.workerGroupSpecs", "a groupName of its own each", names, where
    )


def _check_template(group: Any, key: str, where: str) -> None:
    template = group.get("template") if isinstance(group, dict) else None
    pod = template.get("spec") if isinstance(template, dict) else None
    containers = pod.get("containers") if isinstance(pod, dict) else None
    fits = isinstance(containers, list) and containers and all(isinstance(one, dict) for one in containers)
    _expect(bool(fits), f"{key}.template.spec.containers", "the Ray container first", containers, where)


def _expect(fits: bool, key: str, expected: str, found: Any, where: str) -> None:
    if not fits:
        raise ConfigError(
            f"'{key}' is missing" if found is None else f"'{key}' does not fit",
            expected=expected,
            found=None if found is None else repr(found)[:80],
            where=where,
        )
