"""Turns what a cluster file says about its machines into settings of the run's section `ray`.

A cluster that grows has no GPUs yet when a run starts: asked then, Ray would answer that there are none. The
file knows how many there may be. Sums are over worker types, `most` is a type's `max_workers`; all types
together have no more nodes than the cluster's `max_workers`.

    ray.address            auto: the job runs on the cluster that it joins
    ray.num_actors         sum of most x GPUs: one actor a GPU
    ray.gpus_per_actor     1
    ray.gpus_per_worker    1, where training asks for no more workers than there are GPUs
    ray.num_decoders       sum of most x floor(CPUs / cpus_per_decoder), of types with the resource `decode`
    ray.decoder_resources  {decode: 0.001}: places decoders on those; a node's one `decode` never runs out

What the configuration sets itself stays. On-premises files name no types: the run takes what it finds.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from xal_ray.cluster.files.definition import Definition
from xal_ray.config import Config

DECODE = "decode"  # the custom resource that a node type for decoding declares
_DECODE_SHARE = 0.001
_UNITS = {"m": 1e-3, "": 1.0}


@dataclass(frozen=True)
class Workers:
    """One kind of worker: at most `most` nodes, each with these logical resources."""

    most: int
    cpus: float
    gpus: float
    decodes: bool


def settings_for(definition: Definition, config: Config) -> list[str]:
    """Return the `key=value` texts that fit a run to a cluster (module docstring); explicit values win."""
    wished = config.ray
    kinds = list(_workers(definition))
    settings = ["ray.address=auto"]
    limit = definition.tree.get("max_workers", math.inf)
    gpus = math.floor(_at_most([(kind.most, kind.gpus) for kind in kinds], limit))
    if wished.num_actors == "auto" and gpus:
        settings.append(f"ray.num_actors={gpus}")
        if wished.gpus_per_actor == "auto":
            settings.append("ray.gpus_per_actor=1")
    if wished.gpus_per_worker == "auto" and 0 < config.train.num_workers <= gpus:
        settings.append("ray.gpus_per_worker=1")
    if any(kind.decodes for kind in kinds):
        places = [
            (kind.most, math.floor(kind.cpus / wished.cpus_per_decoder)) for kind in kinds if kind.decodes
        ]
        decoders = round(_at_most(places, limit))
        if wished.num_decoders == "auto" and decoders:
            settings.append(f"ray.num_decoders={decoders}")
        if not wished.decoder_resources:
            settings.append(f"ray.decoder_resources={{{DECODE}: {_DECODE_SHARE}}}")
    return settings


def _at_most(kinds: Sequence[tuple[int, float]], limit: float) -> float:
    """The most that nodes can have together: `(nodes, each)` by kind, and no more nodes than the limit."""
    total = 0.0
    for nodes, each in sorted(kinds, key=lambda kind: -kind[1]):
        taken = min(nodes, limit)
        total, limit = total + taken * each, limit - taken
    return total


def _workers(definition: Definition) -> Iterator[Workers]:
    if definition.kind == "rayjob":
        cluster = definition.tree["spec"]["rayClusterSpec"]
        yield from map(_worker_group, cluster.get("workerGroupSpecs") or [])
        return
    for node_type in (definition.tree.get("available_node_types") or {}).values():
        declared = node_type.get("resources") or {}
        yield Workers(
            most=node_type.get("max_workers", 0),
            cpus=declared.get("CPU", 0),
            gpus=declared.get("GPU", 0),
            decodes=bool(declared.get(DECODE)),
        )


def _worker_group(group: dict[str, Any]) -> Workers:
    """Return a KubeRay group: what `rayStartParams` declares, else the limits of its first container."""
    params = group.get("rayStartParams") or {}
    declared = group.get("resources") or {}  # KubeRay lets these win
    container = group["template"]["spec"]["containers"][0].get("resources") or {}
    limits = {**(container.get("requests") or {}), **(container.get("limits") or {})}
    gpu = next((value for name, value in limits.items() if str(name).endswith("/gpu")), 0)
    return Workers(
        most=int(group.get("maxReplicas", 0)) * int(group.get("numOfHosts", 1)),
        cpus=math.ceil(_quantity(declared.get("CPU") or params.get("num-cpus") or limits.get("cpu", 0))),
        gpus=_quantity(declared.get("GPU") or params.get("num-gpus") or gpu),
        decodes=DECODE in declared or DECODE in _custom_resources(str(params.get("resources", ""))),
    )


def _quantity(text: Any) -> float:
    """Return a count of Kubernetes: `4`, `"4"` or `"500m"`."""
    match = re.fullmatch(r"([0-9.]+)(m?)", str(text))
    return float(match.group(1)) * _UNITS[match.group(2)] if match else 0.0


def _custom_resources(text: str) -> dict[str, float]:
    r"""`rayStartParams.resources`, JSON inside a quoted text: `'"{\"decode\": 1}"'`."""
    try:
        parsed = json.loads(text)
        parsed = json.loads(parsed) if isinstance(parsed, str) else parsed
    except json.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
