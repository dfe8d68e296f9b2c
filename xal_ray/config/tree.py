"""Reads and changes trees of plain values: YAML with names as they are written, `--set`, and dotted keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

import yaml

from xal_ray.errors import ConfigError


def merge_overrides(tree: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Set the keys of `key=value` texts in a copy of a tree.

    Raises:
        ConfigError: A text is of another form, or its value is not YAML.
    """
    merged = _deep_copy(tree)
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(
                "a --set is not of the form key=value",
                found=text,
                where=f"--set {text}",
                next_step="--set select.query_size=50",
            )
        try:
            set_key(merged, key, parse_yaml(value, key))
        except yaml.YAMLError as error:
            raise ConfigError(
                "the value of a --set is not valid YAML",
                found=text,
                where=f"--set {text}",
                next_step="close all brackets and quotes, and quote the whole for the shell: "
                "--set 'pool.classes=[normal, lesion]'",
            ) from error
    return merged


# Names, which YAML would take for something else: `no` for False, `007` for 7, `1.0` for a number.
_TEXT_KEYS = ("name", "pool.classes", "pool.source.findings", "pool.source.columns")


def parse_yaml(text: str, key: str = "") -> Any:
    """Read the value of a YAML text; what stands at a key of `_TEXT_KEYS` stays as it is written.

    Args:
        text: YAML.
        key: Where the value shall stand.
    """
    return _as_written(yaml.safe_load(text), yaml.load(text, yaml.BaseLoader), key)  # noqa: S506  texts only


def _as_written(value: Any, words: Any, key: str) -> Any:
    if isinstance(value, dict) and isinstance(words, dict):
        return {
            name: _as_written(below, words.get(str(name)), f"{key}.{name}".lstrip("."))
            for name, below in value.items()
        }
    if words is None or not any(key == name or key.startswith(f"{name}.") for name in _TEXT_KEYS):
        return value
    if isinstance(value, list):
        pairs = zip(value, words, strict=True)
        return [word if entry is None and word else _as_written(entry, word, key) for entry, word in pairs]
    return words if isinstance(value, bool | int | float | date) else value


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in a tree of plain values, in place; what stands in its way is replaced."""
    node = tree
    *parents, leaf = key.split(".")
    for parent in parents:
        if not isinstance(node.get(parent), dict):
            node[parent] = {}
        node = node[parent]
    node[leaf] = value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Write nested keys dotted: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _deep_copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, dict) else value for key, value in tree.items()}
