"""Says what does not fit in a configuration: the key, the value, the `--set` that did it, the nearest key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError

from xal_ray.config.schema import Config
from xal_ray.config.tree import flatten, merge_overrides
from xal_ray.errors import ConfigError
from xal_ray.nearest_name import nearest_name


def blamed_overrides(
    tree: Mapping[str, Any], overrides: Sequence[str], error: ValidationError | ConfigError
) -> list[str]:
    """Find the overrides without which the first complaint would not be; none: the tree itself has it."""
    first = _first_complaint(error)
    blamed = [
        text
        for number, text in enumerate(overrides)
        if _complaint_about(tree, [*overrides[:number], *overrides[number + 1 :]]) != first
    ]
    if not blamed and overrides and _complaint_about(tree, []) != first:
        return list(overrides)  # each of several would do
    return blamed


def _complaint_about(tree: Mapping[str, Any], overrides: Sequence[str]) -> tuple[Any, ...] | None:
    try:
        Config.model_validate(merge_overrides(tree, overrides))
    except (ValidationError, ConfigError) as error:
        return _first_complaint(error)
    return None


def _first_complaint(error: ValidationError | ConfigError) -> tuple[Any, ...]:
    if isinstance(error, ConfigError):
        return (str(error),)
    first = error.errors(include_url=False, include_context=False)[0]
    return first["type"], first["loc"], first["msg"], repr(first["input"]) if first["loc"] else None


def explained(error: ValidationError, blamed: Sequence[str], where: str) -> ConfigError:
    """Turn pydantic's first complaint into ours; an unknown key is answered with its nearest match."""
    complaints = error.errors(include_url=False)
    first = complaints[0]
    key = _key_of(first["loc"])
    where = " and ".join(f"--set {text}" for text in blamed) or where
    if first["type"] == "extra_forbidden":
        asked = [text.partition("=")[0].strip() for text in blamed]
        known = _fields_at(first["loc"][:-1])
        return ConfigError(
            f"unknown key '{key}'",
            expected="one of " + ", ".join(known) if known else None,
            where=where,
            next_step=_nearest_key(next((name for name in asked if name.startswith(f"{key}.")), key), key),
        )
    if first["type"] == "missing":
        return ConfigError(
            f"the key '{key}' is missing", where=where, next_step=f"add it, or --set {key}=VALUE"
        )
    if not key:
        return ConfigError(first["msg"].removeprefix("Value error, "), where=where)
    # A value that may be of several kinds has a complaint from each.
    same = [entry["msg"] for entry in complaints if _key_of(entry["loc"]) == key]
    reasons = dict.fromkeys(text.removeprefix("Value error, ") for text in same)
    found: Any = first["input"]
    default = flatten(_defaults()).get(key)
    next_step = None if default is None else f"correct it; the default is {key}={default}"
    if near := first.get("ctx", {}).get("near"):
        next_step = f"did you mean '{near}'?"
    if first["type"] in ("model_type", "model_attributes_type"):
        reasons = dict.fromkeys([f"it is a section, of {', '.join(_fields_at(first['loc']))}"])
        next_step = f"set a key of it: --set {key}.{_fields_at(first['loc'])[0]}=VALUE"
    elif first["type"] == "tuple_type" and isinstance(found, str | int | float):
        next_step = f"a list stands in brackets: --set '{key}=[{found}]'"
    return ConfigError(
        f"'{key}' does not fit: {'; or: '.join(reasons)}", found=repr(found), where=where, next_step=next_step
    )


def _nearest_key(asked: str, unknown: str) -> str | None:
    """Say in words which key was meant.

    Args:
        asked: The whole key, which may go on below the unknown one: `selct.weight`.
        unknown: The key that there is not: `selct`.
    """
    parent, _, name = unknown.rpartition(".")
    prefix = f"{parent}." if parent else ""
    near = nearest_name(name, _fields_at(tuple(parent.split(".")) if parent else ()), cutoff=0.5)
    keys = _all_keys(Config)
    if near:
        meant = f"{prefix}{near}"
        whole = nearest_name(f"{meant}{asked.removeprefix(unknown)}", keys, cutoff=0.8)
        return f"did you mean '{whole if whole and asked != unknown else meant}'?"
    leaf = asked.rpartition(".")[2]
    elsewhere = [key for key in keys if key.rpartition(".")[2] == leaf]
    return f"did you mean {' or '.join(map(repr, elsewhere[:3]))}?" if elsewhere else None


def _defaults() -> dict[str, Any]:
    return Config(name="x").model_dump(mode="json", exclude={"name"})


def _all_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        below = field.annotation
        keys.append(f"{prefix}{name}")
        if isinstance(below, type) and issubclass(below, BaseModel):
            keys += _all_keys(below, f"{prefix}{name}.")
    return keys


def _key_of(location: tuple[int | str, ...]) -> str:
    """Write a location as a dotted key, without pydantic's names for the kinds that a value may have."""
    key: list[str] = []
    node: Any = Config
    for part in location:
        if isinstance(node, type) and issubclass(node, BaseModel):
            field = node.model_fields.get(str(part))
            node = field.annotation if field else None
        elif get_origin(node) is dict:
            node = None
        elif not isinstance(part, int):
            break
        key.append(str(part))
    return ".".join(key)


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    node: type[BaseModel] = Config
    for part in location:
        field = node.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        node = annotation
    return list(node.model_fields)
