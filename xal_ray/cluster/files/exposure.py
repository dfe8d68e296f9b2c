"""Refuses what a cluster file would open to others, and the secrets that it must not hold.

Whoever reaches Ray's dashboard, Jobs API, GCS or client port runs code on every machine of the cluster
(CVE-2023-48022 for the Jobs API). The token guards them, and the network must all the same: it does not
encrypt. So a file that opens one of these ports to the world is refused, with the reason.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from xal_ray.errors import ConfigError

_REASON = "whoever reaches these ports can run code on every machine (CVE-2023-48022)"
_DASHBOARD_HOST = re.compile(r"--dashboard-host[=\s]+[\"']?([^\s\"']+)")
_AUTH_MODE = re.compile(r"RAY_AUTH_MODE[\"']?\s*[=:]\s*[\"']?([^\s;&|\"',}]*)")
_PUBLISH = re.compile(r"(?:^|\s)(?:-p|--publish)[=\s]*[\"']?(\S*:\S+)")
_PUBLISH_ALL = re.compile(r"(?:^|\s)(-P|--publish-all)(?:\s|=|$)")
_LOOPBACK = re.compile(r"127\.\d+\.\d+\.\d+|localhost|\[?::1\]?")
_SECRET_TEXTS = {
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY|\"private_key\"\s*:"),
    "a token of a code host or hub": re.compile(r"\b(?:gh[pousr]_|hf_|glpat-|xox[abp]-)[A-Za-z0-9_-]{16,}"),
    "a signed URL": re.compile(r"X-(?:Amz|Goog)-Signature=", re.IGNORECASE),
    "a password in a URL": re.compile(r"://[^/\s:@]+:[^/\s:@$]+@"),
}
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:access_key_id|secret_access_key|session_token|auth_token|password|passwd|secret|api_key|token)$",
    re.IGNORECASE,
)
# NAME=value in a command, where the value is written out and not a `$REFERENCE`
_ASSIGNMENT = re.compile(r"\b([A-Za-z][A-Za-z0-9_]*)=[\"']?(?=[^\s\"'$<(;])")
_CREDENTIAL_KEYS = ("aws_credentials", "gcp_credentials")


def refuse_secrets(tree: Mapping[str, Any], where: str) -> None:
    """Refuse keys, tokens and passwords; the message names the place, never the value.

    Raises:
        ConfigError: Something looks like a secret that is written out.
    """
    for key, value in _leaves(tree):
        kind = _secret_kind(key, value)
        if kind:
            raise ConfigError(
                f"the cluster file holds {kind}",
                expected="no secrets: the environment, the instance's role or a Kubernetes Secret holds them",
                where=f"{where}: {key}",
                next_step="take it out, and replace the secret: files are copied and kept",
            )


def _secret_kind(key: str, value: Any) -> str | None:
    if any(f".{name}." in f".{key}." for name in _CREDENTIAL_KEYS):
        return "a cloud's credentials"
    if not isinstance(value, str) or not value:
        return None
    for kind, pattern in _SECRET_TEXTS.items():
        if pattern.search(value):
            return kind
    leaf = re.split(r"[.\]]", key)[-1]
    is_path = key.startswith("file_mounts.")
    if _SECRET_NAME.search(leaf) and not is_path and not value.startswith(("$", "~", "/")):
        return "a secret's value"
    if any(_SECRET_NAME.search(match.group(1)) for match in _ASSIGNMENT.finditer(value)):
        return "a secret's value in a command"
    return None


def check_launcher(tree: Mapping[str, Any], where: str) -> list[str]:
    """Refuse what opens Ray's ports; tell what else is open.

    Returns:
        Warnings, each a sentence.

    Raises:
        ConfigError: The dashboard would listen beyond loopback, authentication is switched off, a container's
            ports are published, or a firewall rule lets the world in.
    """
    _refuse_open_commands(tree, where)
    _refuse_published_ports(tree, where)
    if tree["provider"]["type"] == "aws":
        return _check_aws(tree, where)
    return _check_gcp(tree) if tree["provider"]["type"] == "gcp" else []


def _refuse_open_commands(tree: Mapping[str, Any], where: str) -> None:
    for key, value in _leaves(tree):
        if not isinstance(value, str):
            continue
        for host in _DASHBOARD_HOST.findall(value):
            if not _LOOPBACK.fullmatch(host):
                raise _refusal(
                    "the cluster file opens Ray's dashboard and Jobs port",
                    "--dashboard-host=127.0.0.1: xal-ray reaches it through SSH",
                    f"--dashboard-host={host}",
                    f"{where}: {key}",
                )
        _refuse_other_modes(_AUTH_MODE.findall(value), f"{where}: {key}")


def _refuse_other_modes(modes: list[str], where: str) -> None:
    for mode in modes:
        if mode.lower() != "token":
            raise _refusal(
                "the cluster file switches Ray's token authentication off",
                "RAY_AUTH_MODE=token, or nothing: it is added",
                f"RAY_AUTH_MODE={mode}",
                where,
            )


def _refuse_published_ports(tree: Mapping[str, Any], where: str) -> None:
    for key, value in _leaves(tree):
        if not re.search(r"run_options\[\d+\]$", key) or not isinstance(value, str):
            continue
        published = [*_PUBLISH_ALL.findall(value), *_PUBLISH.findall(value)]
        for port in published:
            if not _LOOPBACK.match(port):
                raise _refusal(
                    "the cluster file publishes a container's port on every address of its host",
                    "-p 127.0.0.1:PORT:PORT, or --net=host (Ray's default) with a closed firewall",
                    port,
                    f"{where}: {key}",
                )


def _check_aws(tree: Mapping[str, Any], where: str) -> list[str]:
    group = tree["provider"].get("security_group") or {}
    warnings = []
    for index, rule in enumerate(group.get("IpPermissions") or []):
        key = f"provider.security_group.IpPermissions[{index}]"
        sources = [entry.get("CidrIp") for entry in rule.get("IpRanges") or []]
        sources += [entry.get("CidrIpv6") for entry in rule.get("Ipv6Ranges") or []]
        world = [source for source in sources if source and _is_world(source)]
        only_ssh = rule.get("FromPort") == rule.get("ToPort") == 22 and str(rule.get("IpProtocol")) in (
            "tcp",
            "6",
        )
        if world and not only_ssh:
            raise _refusal(
                "the cluster file opens ports to the whole internet",
                "sources of your own, or no rule at all: xal-ray needs SSH alone",
                f"{world[0]}, ports {rule.get('FromPort', 'all')} to {rule.get('ToPort', 'all')}",
                f"{where}: {key}",
            )
        if world:
            warnings.append(f"{key} opens SSH (port 22) to {world[0]}: name your own network instead")
    types = tree["available_node_types"]
    if any("SecurityGroupIds" not in one["node_config"] for one in types.values()):
        warnings.append(
            "a node type names no SecurityGroupIds: Ray makes a group that opens SSH (port 22) to 0.0.0.0/0"
        )
    for name, node_type in types.items():
        warnings += _check_instance(
            f"available_node_types.{name}.node_config", node_type["node_config"], where
        )
    return warnings


def _check_instance(key: str, instance: Mapping[str, Any], where: str) -> list[str]:
    disks = [one["Ebs"] for one in instance.get("BlockDeviceMappings") or [] if one.get("Ebs")]
    if any(disk.get("Encrypted") is False for disk in disks):
        raise ConfigError(
            "the cluster file asks for disks that are not encrypted",
            expected="Ebs.Encrypted: true: images pass through these disks",
            where=f"{where}: {key}.BlockDeviceMappings",
        )
    warnings = []
    if not disks or any(disk.get("Encrypted") is not True for disk in disks):
        warnings.append(
            f"{key}: Ebs.Encrypted is not set: disks are encrypted only if the account's default says so"
        )
    if (instance.get("MetadataOptions") or {}).get("HttpTokens") != "required":
        warnings.append(f"{key}: MetadataOptions.HttpTokens is not 'required': IMDSv1 leaks the role's keys")
    if "IamInstanceProfile" not in instance:
        warnings.append(
            f"{key}: no IamInstanceProfile: a worker gets no role; a head gets Ray's, with all of EC2 and S3"
        )
    return warnings


def _check_gcp(tree: Mapping[str, Any]) -> list[str]:
    warnings = []
    for name, node_type in tree["available_node_types"].items():
        key, instance = f"available_node_types.{name}.node_config", node_type["node_config"]
        cards = instance.get("networkInterfaces") or []
        if not cards or any(card.get("accessConfigs") for card in cards):
            warnings.append(
                f"{key}: the machine gets a public address; what guards it is the network's firewall"
            )
        if (instance.get("tags") or {}).get("items"):
            warnings.append(f"{key}.tags: no firewall rule for these tags may let 0.0.0.0/0 in")
    return warnings


def check_rayjob(tree: Mapping[str, Any], where: str) -> list[str]:
    """Refuse a RayJob whose head is reachable from outside Kubernetes, or that asks for no token.

    Raises:
        ConfigError: A load balancer, node port, ingress or host port, or `authOptions.mode` is not `token`.
    """
    cluster = tree["spec"]["rayClusterSpec"]
    mode = (cluster.get("authOptions") or {}).get("mode")
    if mode != "token":
        raise _refusal(
            "the RayJob does not ask for token authentication",
            "spec.rayClusterSpec.authOptions: {mode: token} (KubeRay 1.5.1 or newer)",
            repr(mode),
            where,
        )
    head = cluster["headGroupSpec"]
    service = (head.get("headService") or {}).get("spec") or {}
    opened = {
        "serviceType": head.get("serviceType") in ("LoadBalancer", "NodePort"),
        "headService.spec.type": service.get("type") in ("LoadBalancer", "NodePort"),
        "headService.spec.externalIPs": bool(service.get("externalIPs")),
        "enableIngress": bool(head.get("enableIngress")),
    }
    for key, is_open in opened.items():
        if is_open:
            raise _refusal(
                "the RayJob makes the head reachable from outside Kubernetes",
                "a service of type ClusterIP and no ingress; `kubectl port-forward` reaches the dashboard",
                None,
                f"{where}: spec.rayClusterSpec.headGroupSpec.{key}",
            )
    for key, value in _leaves(tree):
        if (key.endswith(".hostNetwork") and value) or key.endswith(".hostPort"):
            raise _refusal("a pod's ports would be those of its machine", "neither", None, f"{where}: {key}")
        if isinstance(value, str):
            _refuse_other_modes(_AUTH_MODE.findall(value), f"{where}: {key}")
    _check_environments(tree, where)
    return []


def _check_environments(node: Any, where: str) -> None:
    """A container's `env`: no secret's value, and no other mode of authentication."""
    if isinstance(node, list):
        for value in node:
            _check_environments(value, where)
    if not isinstance(node, dict):
        return
    name, value = node.get("name"), node.get("value")
    if isinstance(name, str) and isinstance(value, str):
        if name == "RAY_AUTH_MODE":
            _refuse_other_modes([value], f"{where}: env {name}")
        if _SECRET_NAME.search(name):
            raise ConfigError(
                "the cluster file holds a secret's value",
                expected="valueFrom.secretKeyRef",
                where=f"{where}: env {name}",
            )
    for inner in node.values():
        _check_environments(inner, where)


def _is_world(source: str) -> bool:
    try:
        network = ipaddress.ip_network(source, strict=False)
    except ValueError:
        return False
    return network.prefixlen < 8 and not network.is_private


def _refusal(what: str, expected: str, found: str | None, where: str) -> ConfigError:
    return ConfigError(what, expected=expected, found=found, where=where, next_step=f"change it: {_REASON}")


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value that is no mapping or list, with its key: `a.b[0].c`."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{key}[{index}]")
    else:
        yield key, node
