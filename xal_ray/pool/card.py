"""The pool's card: what a packed pool says of itself, and what it is bound to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray import config
from xal_ray.errors import PoolError
from xal_ray.pool.schema import SCHEMA_VERSION, PoolReader, open_pool
from xal_ray.storage import digest, sha256_file


def open_prepared(settings: config.Pool, path: Path) -> PoolReader:
    """Open a pool and check that it was made with these settings, and from their manifest as it is now.

    Raises:
        PoolError: It was made with others, or from another manifest.
    """
    pool = open_pool(path)
    source = settings.source
    is_gone = source.path is not None and not source.path.exists()
    if source.kind is None and (source.path is None or is_gone):
        return pool  # a packed pool stands alone
    if not is_gone and pool.card["source"]["manifest_sha256"] != _manifest_hash(source):
        raise PoolError(
            "the manifest has changed since the pool was prepared from it",
            where=f"{path}, made from {source.path}",
            next_step="give another pool.path for the new manifest, or remove the folder to prepare it again",
        )
    made = pool.card["settings"]
    wanted = plan_of(settings)
    differing = [key for key in wanted if made.get(key) != wanted[key]]
    if differing:
        key = differing[0]
        raise PoolError(
            "the pool here was prepared with other settings",
            expected=f"pool.{key}: {wanted[key]}",
            found=f"pool.{key}: {made.get(key)}",
            where=str(path),
            next_step="give another pool.path, or remove the folder to prepare it again",
        )
    return pool


def plan_of(settings: config.Pool) -> dict[str, Any]:
    """The settings that a packed pool depends on, wherever its source lies."""
    plan = settings.model_dump(mode="json", exclude={"path", "limits", "source"})
    kind = settings.source.kind or (settings.source.path and settings.source.resolved_kind())
    chosen = {"phantom": {"phantom"}, "table": {"columns"}}.get(kind or "", set())
    return {**plan, "source": {"kind": kind, **settings.source.model_dump(mode="json", include=chosen)}}


def build_card(
    settings: config.Pool, index: pa.Table, quarantine: pa.Table, classes: tuple[str, ...]
) -> dict[str, Any]:
    """What a pool says of itself.

    Args:
        settings: What it was made with.
        index: Its rows, all labels included.
        quarantine: The rows that were left out.
        classes: The class names.

    Returns:
        The content of `card.json`.
    """
    groups = index.group_by("split").aggregate([("group_id", "count_distinct")])
    content = index.select(
        ["image_id", "group_id", "split", "label", "roi_state", "content_sha256"]
    ).to_pylist()
    splits_of_content = index.group_by("content_sha256").aggregate([("split", "count_distinct")])
    source = settings.source
    return {
        "schema_version": SCHEMA_VERSION,
        "classes": list(classes),
        "image_size": settings.image_size,
        "channels": settings.channels,
        "num_rows": index.num_rows,
        "counts": count_values(index["split"]),
        "num_groups": dict(
            zip(groups["split"].to_pylist(), groups["group_id_count_distinct"].to_pylist(), strict=True)
        ),
        "class_counts": count_values(pc.drop_null(index["label"])),
        "roi": count_values(index["roi_state"]),
        "num_quarantined": quarantine.num_rows,
        "exclusions": count_values(quarantine["error_code"]),
        "duplicates_across_splits": pc.sum(pc.greater(splits_of_content["split_count_distinct"], 1)).as_py()
        or 0,
        "source": {
            "kind": source.resolved_kind(),
            "path": source.path and source.path.name,
            "manifest_sha256": _manifest_hash(source),
        },
        "settings": plan_of(settings),
        "content_hash": digest({"classes": list(classes), "rows": content}),
    }


def _manifest_hash(source: config.Source) -> str | None:
    """Of a table's file; a folder or a generator has none."""
    return sha256_file(source.path) if source.path is not None and source.path.is_file() else None


def count_values(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value stands in a column."""
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}
