"""Tells a wrong key of a cluster file."""

from __future__ import annotations

from collections.abc import Iterable

from xal_ray.errors import ConfigError
from xal_ray.nearest_name import nearest_name

_MOST_SHOWN = 20  # EC2 knows fifty keys of a machine


def unknown_key(key: str, known: Iterable[str], where: str) -> ConfigError:
    """Return the error for a key that nothing reads, with the nearest one that is read."""
    *parents, leaf = key.split(".")
    known = sorted(known)
    near = nearest_name(leaf, known, cutoff=0.5)
    return ConfigError(
        f"unknown key '{key}'",
        expected="one of " + ", ".join(known) if 0 < len(known) <= _MOST_SHOWN else None,
        where=where,
        next_step=f"did you mean '{'.'.join([*parents, near])}'?" if near else None,
    )
