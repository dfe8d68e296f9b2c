"""Checks what a file for Ray's cluster launcher must be, beyond what Ray itself notices.

Ray's own schema is used as installed, without importing Ray. Ray accepts any key in `provider`, fills in
machines that nobody asked for where keys are missing, and fails with a traceback on some values: those are
checked here. No cloud is asked anything.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xal_ray.cluster.files.ec2_node_config import check_node_config
from xal_ray.cluster.files.errors import unknown_key
from xal_ray.errors import ConfigError

_EVERY_PROVIDER = (
    "type",
    "use_internal_ips",
    "use_external_head_ip",
    "cache_stopped_nodes",
    "disable_node_updaters",
    "disable_launch_config_check",
    "foreground_node_launch",
    "worker_liveness_check",
)
# Every key of `provider` that the installed Ray reads for the type; credentials are refused elsewhere.
PROVIDER_KEYS = {
    "aws": (*_EVERY_PROVIDER, "region", "availability_zone", "key_pair", "security_group", "cloudwatch"),
    "gcp": (*_EVERY_PROVIDER, "region", "availability_zone", "project_id"),
    "local": (*_EVERY_PROVIDER, "head_ip", "worker_ips", "external_head_ip", "coordinator_address"),
}
_NEEDED = {"aws": ("region",), "gcp": ("region", "availability_zone", "project_id"), "local": ()}
_TYPES = {
    "array": "a list",
    "object": "a mapping",
    "integer": "a whole number",
    "string": "a text",
    "boolean": "true or false",
}
_BOOLEANS = ("use_internal_ips", "use_external_head_ip", "cache_stopped_nodes")


def check(tree: Mapping[str, Any], where: str) -> list[str]:
    """Check a launcher configuration.

    Returns:
        Warnings, each a sentence.

    Raises:
        ConfigError: The first thing that is wrong, with its key.
    """
    _check_provider(tree, where)
    _check_schema(tree, where)
    if not str(tree["cluster_name"]).strip():
        raise ConfigError("the cluster has no name", expected="a text", where=f"{where}: cluster_name")
    _check_file_mounts(tree, where)
    if tree["provider"]["type"] == "local":
        _check_hosts(tree, where)
        warnings = []
    else:
        _check_node_types(tree, where)
        warnings = _idle_warning(tree)
    return warnings + _check_auth(tree, where)


def _check_provider(tree: Mapping[str, Any], where: str) -> None:
    provider = tree.get("provider")
    kind = provider.get("type") if isinstance(provider, dict) else None
    if not isinstance(provider, dict) or kind not in PROVIDER_KEYS:
        raise ConfigError(
            "the provider is not one whose safety can be checked"
            if kind
            else "the provider's type is missing",
            expected="provider.type: one of " + ", ".join(PROVIDER_KEYS),
            found=repr(kind) if kind else None,
            where=where,
            next_step="bring another cluster up yourself, and submit to it with --address",
        )
    for key in provider:
        if key not in PROVIDER_KEYS[kind]:
            raise unknown_key(f"provider.{key}", PROVIDER_KEYS[kind], where)
    for key in _NEEDED[kind]:
        if not provider.get(key):
            raise ConfigError(f"'provider.{key}' is missing", expected="a text", where=where)
    for key in _BOOLEANS:
        if not isinstance(provider.get(key, False), bool):
            raise ConfigError(
                f"'provider.{key}' does not fit",
                expected="true or false",
                found=repr(provider[key]),
                where=where,
            )


def _check_schema(tree: Mapping[str, Any], where: str) -> None:
    """Ray's own schema, with the error told in our form."""
    import jsonschema

    schema = json.loads(_schema_path().read_text(encoding="utf-8"))
    # Ray takes this one away before it looks, for hosts that are given by address.
    seen = {key: value for key, value in tree.items() if key != "min_workers" or not is_local(tree)}
    errors = list(jsonschema.Draft7Validator(schema).iter_errors(seen))
    if not errors:
        return
    error = min(
        errors, key=lambda one: (one.validator != "additionalProperties", [str(part) for part in one.path])
    )
    path = [str(part) for part in error.absolute_path]
    if error.validator == "additionalProperties" and error.schema.get("properties"):
        known = error.schema["properties"]
        extra = next(name for name in error.instance if name not in known)
        raise unknown_key(".".join([*path, str(extra)]), known, where)
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        raise ConfigError(f"'{'.'.join([*path, missing])}' is missing", where=where)
    raise ConfigError(
        f"'{'.'.join(path)}' does not fit",
        expected=_in_words(error.validator, error.validator_value),
        found=repr(error.instance)[:80],
        where=where,
    )


def _in_words(rule: str, value: Any) -> str:
    if rule == "type":
        return " or ".join(_TYPES.get(name, name) for name in ([value] if isinstance(value, str) else value))
    return f"at least {value}" if rule == "minimum" else f"{rule} {value}"


def _schema_path() -> Path:
    # Importing Ray takes seconds; finding it does not.
    spec = importlib.util.find_spec("ray")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("Ray is not installed", next_step='pip install "xal-ray[cluster]"')
    return Path(spec.submodule_search_locations[0]) / "autoscaler" / "ray-schema.json"


def is_local(tree: Mapping[str, Any]) -> bool:
    """Return whether the file names hosts that stand, instead of machines to rent."""
    return bool(tree["provider"]["type"] == "local")


def _check_node_types(tree: Mapping[str, Any], where: str) -> None:
    """Machines to rent: Ray would fill in what is missing with machines of its own choice."""
    types = tree.get("available_node_types") or {}
    for key in ("available_node_types", "head_node_type", "max_workers"):
        if tree.get(key) in (None, {}):
            raise ConfigError(
                f"'{key}' is missing", expected="a value: Ray would choose one of its own", where=where
            )
    if tree["head_node_type"] not in types:
        raise ConfigError(
            "'head_node_type' names a node type that there is not",
            expected="one of " + ", ".join(types),
            found=repr(tree["head_node_type"]),
            where=where,
        )
    for name, node_type in types.items():
        most, least = node_type.get("max_workers"), node_type.get("min_workers", 0)
        key = f"available_node_types.{name}.max_workers"
        if most is None:
            raise ConfigError(
                f"'{key}' is missing",
                expected="a number (0 for a head of its own): Ray would take the cluster's max_workers",
                where=where,
            )
        if not 0 <= least <= most <= tree["max_workers"]:
            raise ConfigError(
                f"'{key}' does not fit",
                expected=f"from min_workers ({least}) to the cluster's max_workers ({tree['max_workers']})",
                found=str(most),
                where=where,
            )
        if tree["provider"]["type"] == "aws":
            check_node_config(node_type["node_config"], f"available_node_types.{name}.node_config", where)
    if sum(node_type.get("min_workers", 0) for node_type in types.values()) > tree["max_workers"]:
        raise ConfigError("the node types' min_workers add up to more than max_workers", where=where)


def _idle_warning(tree: Mapping[str, Any]) -> list[str]:
    if "idle_timeout_minutes" in tree:
        return []
    return ["idle_timeout_minutes is not set: Ray keeps idle machines for 5 minutes"]


def _check_hosts(tree: Mapping[str, Any], where: str) -> None:
    """Hosts that stand: each once, and the head not among the workers."""
    provider = tree["provider"]
    for key in ("available_node_types", "head_node_type"):
        if tree.get(key):
            raise ConfigError(f"'{key}' has no meaning for hosts that are given by address", where=where)
    if "coordinator_address" in provider:
        return
    head, workers = provider.get("head_ip"), provider.get("worker_ips")
    if not isinstance(head, str) or not head.strip():
        raise ConfigError("'provider.head_ip' is missing", expected="an address", where=where)
    if not isinstance(workers, list) or not all(isinstance(ip, str) and ip.strip() for ip in workers):
        raise ConfigError(
            "'provider.worker_ips' is missing" if workers is None else "'provider.worker_ips' does not fit",
            expected="a list of addresses (empty for a head alone)",
            found=None if workers is None else repr(workers)[:80],
            where=where,
        )
    twice = [ip for ip, times in Counter(_normal(ip) for ip in workers).items() if times > 1]
    if twice:
        raise ConfigError("a host stands twice in provider.worker_ips", found=", ".join(twice), where=where)
    if _normal(head) in map(_normal, workers):
        raise ConfigError(
            "the head is also a worker",
            expected="provider.head_ip outside provider.worker_ips: two Rays on one host stop each other",
            found=head,
            where=where,
            next_step="take it out of worker_ips; the head's --num-cpus says whether it takes work",
        )


def _normal(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address.strip()))
    except ValueError:
        return address.strip().lower()


def _check_auth(tree: Mapping[str, Any], where: str) -> list[str]:
    """Check how Ray gets in: `ssh_user` always; the head reaches the workers with the key that is named."""
    auth = tree.get("auth") or {}
    if not auth.get("ssh_user"):
        raise ConfigError("'auth.ssh_user' is missing", expected="a user of the machines", where=where)
    key = auth.get("ssh_private_key")
    if is_local(tree) and key is None:
        return ["auth.ssh_private_key is not set: the head must reach the workers with a key of its own"]
    if key is not None and not Path(str(key)).expanduser().is_file():
        return [f"auth.ssh_private_key: there is no file {key}"]
    if key is not None and tree["provider"]["type"] == "aws":
        for name, node_type in tree["available_node_types"].items():
            if not {"KeyName", "UserData"} & set(node_type["node_config"]):
                raise ConfigError(
                    f"'available_node_types.{name}.node_config.KeyName' is missing",
                    expected="the EC2 key pair of auth.ssh_private_key",
                    where=where,
                    next_step="remove auth.ssh_private_key to have Ray make a key pair",
                )
    return []


def _check_file_mounts(tree: Mapping[str, Any], where: str) -> None:
    for remote, local in (tree.get("file_mounts") or {}).items():
        if remote.endswith("/.ray/auth_token"):
            continue  # made when the cluster is brought up
        if not isinstance(local, str) or not Path(local).exists():
            raise ConfigError(
                f"the source of 'file_mounts.{remote}' does not exist",
                expected="a file or folder beside the cluster file, or in the current folder",
                found=str(local),
                where=where,
            )
