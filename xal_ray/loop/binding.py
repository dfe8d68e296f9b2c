"""Says what a run is bound to, and refuses a folder that is bound to something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xal_ray.config import Config, build_config, flatten, read_yaml, set_key
from xal_ray.errors import ConfigError, RunError
from xal_ray.places import place
from xal_ray.pool.schema import PoolReader
from xal_ray.record.layout import RunLayout
from xal_ray.record.ledger import Ledger, Record
from xal_ray.storage import digest, sha256_file

PLUG_IN_CHANGED = "plug_in_changed"


def identify(config: Config, pool: PoolReader, plug_ins: Mapping[str, str] | None = None) -> str:
    """Return a run's identity: what its results depend on, and nothing else (no paths, no resources).

    Args:
        config: The run.
        pool: Its pool.
        plug_ins: Versions of plug-ins' code by the keys that name them, in place of those that are there now.
    """
    identity = config.identity()
    for key, version in (plug_ins or {}).items():
        set_key(identity, key, version)
    weights = config.model.weights
    if weights not in ("none", "imagenet"):
        path = place(weights)
        if not path.is_file():
            raise ConfigError(
                "the weights are not there",
                expected="none, imagenet, or the path or URI of a .safetensors or .pth file",
                found=weights,
                where="model.weights",
            )
        identity["model"]["weights"] = sha256_file(path)
    return digest({"config": identity, "pool": pool.content_hash})[:16]


def bound_to(ledger: Ledger) -> Record:
    """Return the record that binds a run: of its beginning, or of a plug-in that changed since."""
    return [record for record in ledger.records if record.event in ("run_started", PLUG_IN_CHANGED)][-1]


def is_only_unused_code(config: Config, pool: PoolReader, layout: RunLayout, ledger: Ledger) -> bool:
    """Tell whether a run differs from what its folder is bound to by nothing but code that did nothing yet.

    So it is where a strategy of another package was mended before it has chosen anything: a strategy that
    breaks its contract leaves nothing in a run, so that the run goes on with the mended one.

    Args:
        config: The run, as it is to go on.
        pool: Its pool.
        layout: The run's folder.
        ledger: Its ledger.
    """
    before, now = bound_to(ledger).data, config.plug_ins()
    changed = {key: old for key, old in before.get("plug_ins", {}).items() if key in now and now[key] != old}
    if list(changed) != ["select.strategy"] or before["run_id"] != identify(config, pool, changed):
        return False
    return not any(ledger.has_chosen(files.number) or files.selection.exists() for files in layout.rounds())


def differing_keys(config: Config, layout: RunLayout, ledger: Ledger) -> list[tuple[str, Any, Any]]:
    """Return the keys in which a configuration differs from that of a run's folder: key, before, now."""
    before = flatten(build_config(read_yaml(layout.config), where=str(layout.config)).identity())
    before |= bound_to(ledger).data.get("plug_ins", {})  # the version that it was begun with
    now = flatten(config.identity())
    return [
        (key, before.get(key), now.get(key)) for key in [*now, *before] if before.get(key) != now.get(key)
    ]


def other_config(config: Config, pool: PoolReader | None, layout: RunLayout, ledger: Ledger) -> RunError:
    """Make the error for a folder that is bound to something else, which it names."""
    differing = differing_keys(config, layout, ledger)
    if differing or pool is None:
        key, before, now = differing[0]
        expected, found = f"{key}: {before}", f"{key}: {now}"
    elif pool.content_hash == ledger.records[0].data["pool_hash"]:
        expected = f"model.weights: {config.model.weights}, as it was when the run began"
        found = "another content in that file"
    else:
        expected = f"a pool with content hash {ledger.records[0].data['pool_hash'][:12]}"
        found = f"one with {pool.content_hash[:12]}"
    return RunError(
        "the output folder belongs to another configuration",
        expected=expected,
        found=found,
        where=str(layout.path),
        next_step=f"give another --out for this configuration{keeping_labels(config, layout)}; "
        "or undo the change to go on with that run",
    )


def keeping_labels(config: Config, layout: RunLayout) -> str:
    """Return how a new run keeps what people have labelled for this one, as the end of advice; else empty."""
    if config.labels.source != "export":
        return ""
    return f" (--set labels.from_run={layout.path} begins it with the labels of this one)"
