"""Lists all registries, for those who must know every plug-in of a process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xal_ray.registry.backbones import BACKBONES
from xal_ray.registry.lookup import Entry, Registry
from xal_ray.registry.row_readers import ROW_READERS
from xal_ray.registry.sources import SOURCES
from xal_ray.registry.strategies import STRATEGIES

REGISTRIES: tuple[Registry[Any], ...] = (STRATEGIES, SOURCES, ROW_READERS, BACKBONES)

# By the keys of a configuration; a row reader is named by the rows of a manifest.
REGISTRIES_BY_KEY: Mapping[str, Registry[Any]] = {
    "select.strategy": STRATEGIES,
    "model.backbone": BACKBONES,
    "pool.source.kind": SOURCES,
}


def plug_ins_in_use() -> dict[str, Entry]:
    """Return the plug-ins that this process has looked up, by the names that were asked for."""
    return {name: entry for each in REGISTRIES for name, entry in each.plug_ins_in_use().items()}
