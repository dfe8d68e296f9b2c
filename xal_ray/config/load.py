"""Reads a configuration from YAML and `--set key=value`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from xal_ray.config.errors import blamed_overrides, explained
from xal_ray.config.schema import Config
from xal_ray.config.tree import merge_overrides, parse_yaml
from xal_ray.errors import ConfigError


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration from YAML.

    Args:
        path: The YAML file.
        overrides: `key.subkey=value` texts; a value is read as YAML.

    Raises:
        ConfigError: The file can't be read, a key is unknown, or a value does not fit.
    """
    return build_config(read_yaml(path), overrides, where=str(path))


def build_config(tree: Mapping[str, Any], overrides: Iterable[str] = (), *, where: str = "config") -> Config:
    """Build a configuration from a tree of plain values, as `load_config` does from a file.

    Raises:
        ConfigError: As `load_config`. It stands where the mistake was made: at the `--set`s without which it
            would not be there, else at `where`.
    """
    given = list(overrides)
    try:
        merged = merge_overrides(tree, given)
        return Config.model_validate(merged)
    except ValidationError as error:
        raise explained(error, blamed_overrides(tree, given, error), where) from error
    except ConfigError as error:  # of a place, or of a plug-in
        if error.details["where"]:
            raise
        # A URI may hold a password: only its key is shown.
        blamed = [f"{text.partition('=')[0]}=..." for text in blamed_overrides(tree, given, error)]
        raise type(error)(
            error.what,
            expected=error.details["expected"],
            found=error.details["found"],
            where=" and ".join(f"--set {text}" for text in blamed) or where,
            next_step=error.details["next"] or "correct the path or the URI",
        ) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: It is missing, not YAML, or not a mapping.
    """
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the configuration file can't be read",
            found=getattr(error, "strerror", None) or "text that is not UTF-8",
            where=str(path),
            next_step="give the path of a YAML file; configs/quickstart.yaml is a commented one",
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(
            "the configuration is not valid YAML",
            found=str(error),
            where=str(path),
            next_step="correct the line: indent with spaces, quote values with a colon or a sign in front",
        ) from error
    if not isinstance(tree, dict):
        raise ConfigError(
            "the configuration is not a mapping",
            expected="`key: value` lines",
            where=str(path),
            next_step="give the YAML file of a run; configs/quickstart.yaml is a commented one",
        )
    return tree
