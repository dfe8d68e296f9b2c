"""A cluster file, read, checked, and closed: what Ray's launcher or KubeRay may be handed.

Two kinds: a configuration of Ray's cluster launcher (`ray up`), and a KubeRay `RayJob`. What the file leaves
out and safety needs (the token, a dashboard on loopback) is added here, the same wherever it is used.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from xal_ray.cluster.files import exposure, launcher_rules, rayjob_rules
from xal_ray.cluster.token import ON_A_NODE, token_path
from xal_ray.errors import ConfigError

# A launcher file that says nothing gets Ray's commands, and those open the dashboard to the network.
_HEAD_START = (
    "ray stop",
    "ulimit -n 65536; ray start --head --port=6379 --dashboard-host=127.0.0.1 "
    "--autoscaling-config=~/ray_bootstrap_config.yaml",
)
_WORKER_START = ("ray stop", "ulimit -n 65536; ray start --address=$RAY_HEAD_IP:6379")
_CLOSE_TOKEN = f"chmod 700 ~/.ray && chmod 600 {ON_A_NODE}"
_AUTHENTICATED = "export RAY_AUTH_MODE=token; "
_UNFILLED = re.compile(r"CHANGE-ME|\b192\.0\.2\.\d+\b")  # the latter is nobody's network


@dataclass(frozen=True)
class Definition:
    """A cluster file that passed all checks.

    Attributes:
        path: The file.
        kind: `launcher` for Ray's cluster launcher, `rayjob` for KubeRay.
        name: `cluster_name`, or the RayJob's `metadata.name`.
        tree: What Ray's launcher or `kubectl` is handed: the file, its paths absolute, with the token.
        warnings: What is allowed and yet worth a look, each a sentence.
        unfilled: Dotted keys that still hold the placeholder of a shipped file.
    """

    path: Path
    kind: Literal["launcher", "rayjob"]
    name: str
    tree: dict[str, Any]
    warnings: tuple[str, ...] = ()
    unfilled: tuple[str, ...] = ()


def read_definition(path: Path) -> Definition:
    """Read and check a cluster file; nothing is asked of any cloud.

    Raises:
        ConfigError: It can't be read, has unknown keys or values that do not fit, holds a secret, or would
            open a port of Ray to others.
    """
    tree = _read(path)
    kind: Literal["launcher", "rayjob"] = "rayjob" if "apiVersion" in tree or "kind" in tree else "launcher"
    exposure.refuse_secrets(tree, str(path))
    if kind == "rayjob":
        rayjob_rules.check(tree, str(path))
        warnings = exposure.check_rayjob(tree, str(path))
        name = str(tree["metadata"]["name"])
    else:
        _resolve_file_mounts(tree, path.parent)
        warnings = launcher_rules.check(tree, str(path)) + exposure.check_launcher(tree, str(path))
        tree = hardened(tree)
        name = str(tree["cluster_name"])
    return Definition(path, kind, name, tree, tuple(warnings), tuple(_placeholders(tree)))


def require_filled(definition: Definition) -> None:
    """Refuse a shipped file that still holds placeholders.

    Raises:
        ConfigError: Keys still hold `CHANGE-ME` or an address of 192.0.2.0/24.
    """
    if definition.unfilled:
        raise ConfigError(
            "the cluster file still has placeholders",
            expected="your own values for " + ", ".join(definition.unfilled),
            where=str(definition.path),
            next_step="edit a copy of the file; the comments beside these keys say what belongs there",
        )


def hardened(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a launcher configuration with token authentication on every node; what is there already is kept.

    The token's file travels by `file_mounts`: to the head with `ray up`, from there to each worker that the
    autoscaler starts. Applying it twice changes nothing.
    """
    closed = copy.deepcopy(tree)
    mounts = closed.setdefault("file_mounts", {})
    if not any(str(remote).endswith("/.ray/auth_token") for remote in mounts):
        mounts[ON_A_NODE] = str(token_path())
    for key, default in (
        ("head_start_ray_commands", _HEAD_START),
        ("worker_start_ray_commands", _WORKER_START),
    ):
        commands = [_in_token_mode(command) for command in closed.get(key) or default]
        if _CLOSE_TOKEN not in commands:
            commands.insert(0, _CLOSE_TOKEN)
        closed[key] = commands
    return closed


def _in_token_mode(command: str) -> str:
    starts = re.search(r"\bray\s+start\b", command) and "RAY_AUTH_MODE=token" not in command
    return _AUTHENTICATED + command if starts else command


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, except that a key that stands twice is an error, not the last one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key != "<<" and key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key}' stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe loader
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the cluster file can't be read",
            found=getattr(error, "strerror", None) or "text that is not UTF-8",
            where=str(path),
            next_step="start from cluster/aws.yaml, gcp.yaml, onprem.yaml or kuberay.yaml",
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        raise ConfigError("the cluster file is not valid YAML", found=error.problem, where=place) from None
    except yaml.YAMLError as error:
        raise ConfigError("the cluster file is not valid YAML", where=str(path)) from error
    if not isinstance(tree, dict):
        raise ConfigError("the cluster file is not a mapping", expected="`key: value` lines", where=str(path))
    return tree


def _resolve_file_mounts(tree: dict[str, Any], folder: Path) -> None:
    """Sources are beside the cluster file or else, as Ray has it, in the current folder."""
    mounts = tree.get("file_mounts")
    if isinstance(mounts, dict):
        for remote, local in mounts.items():
            if isinstance(local, str):
                source = Path(local).expanduser()
                beside = folder.resolve() / source
                mounts[remote] = str(beside if beside.exists() else source.absolute())


def _placeholders(node: Any, key: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _placeholders(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _placeholders(value, f"{key}[{index}]")
    elif isinstance(node, str) and _UNFILLED.search(node):
        yield key
