"""Sources of other packages: functions that give manifest rows, checked before anything is made of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from xal_ray.config import Pool
from xal_ray.errors import PluginError, XalRayError
from xal_ray.nearest_name import nearest_name
from xal_ray.places import is_remote
from xal_ray.pool.manifest import MANIFEST_SCHEMA, Row, manifest_of
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.registry.lookup import UnknownNameError
from xal_ray.registry.row_readers import ROW_READERS
from xal_ray.registry.sources import SourceSpec

_FILES = ("uri", "mask_uri", "more_mask_uris", "channel_uris")
Untyped = dict[str, Any]  # a row as a plug-in gave it: what it holds is seen when the table is made
_REGIONS = ("mask_uri", "more_mask_uris", "boxes", "polygons", "rle")


def list_images(spec: SourceSpec, pool: Pool) -> Listing:
    """Ask a plug-in for its images.

    A row is a mapping with keys of `MANIFEST_SCHEMA`. It needs `image_id`, `uri` and, with `group_by:
    group_id`, `group_id`; what it leaves out is null. A path is absolute or below `pool.source.path`. Without
    `roi_state`, an image with a mask or a shape has a region, and of another one nothing is known.

    Args:
        spec: The plug-in.
        pool: What it is asked for.

    Raises:
        PluginError: It fails, a row lacks a column or has one that there is not, or a file is not there.
    """
    pool = _with_absolute_path(pool)
    try:
        given = spec.load()(pool)
        found = given if isinstance(given, Listing) else list(given)
    except XalRayError:
        raise
    except Exception as error:  # whatever the plug-in's author has overlooked
        raise _broken(spec, "fails", f"{type(error).__name__}: {error}") from error
    if isinstance(found, Listing):
        _check_files(spec, found.manifest.to_pylist())
        return found
    rows = [_completed(spec, pool, number, row) for number, row in enumerate(found, start=1)]
    _check_files(spec, rows)
    return Listing(_table(spec, rows))


def _with_absolute_path(pool: Pool) -> Pool:
    """Let a plug-in find files under the paths that the manifest will have."""
    path = pool.source.path
    if path is None or is_remote(path):
        return pool
    return pool.model_copy(update={"source": pool.source.model_copy(update={"path": path.absolute()})})


def _completed(spec: SourceSpec, pool: Pool, number: int, given: Any) -> Untyped:
    if not isinstance(given, Mapping):
        raise _broken(spec, f"gives no mapping as row {number}", f"a {type(given).__name__}")
    row = dict(given)
    for name in row:
        if name not in MANIFEST_SCHEMA.names:
            near = nearest_name(str(name), MANIFEST_SCHEMA.names)
            raise _broken(
                spec,
                f"gives a column that there is not, in row {number}",
                f"'{name}'" + (f" (did you mean '{near}'?)" if near else ""),
                f"some of {', '.join(MANIFEST_SCHEMA.names)}",
            )
    needed = ["image_id", "uri", *(["group_id"] if pool.group_by == "group_id" else [])]
    for name in needed:
        if row.get(name) is None:
            found = f"no '{name}'" if name not in row else f"'{name}' is None"
            raise _broken(spec, f"gives a row without {name}: row {number}", found, ", ".join(needed))
    if pool.group_by != "group_id":
        row["group_id"] = row["image_id"] if pool.group_by == "image" else None
    if row.get("reader") is not None:
        _check_reader(spec, number, str(row["reader"]))
    row["boxes"] = row.get("boxes") or []
    has_region = any(row.get(name) is not None and len(row[name]) for name in _REGIONS)
    row.setdefault("roi_state", "present" if has_region else "not_annotated")
    for name in _FILES:
        row[name] = _absolute(pool.source.path, row.get(name))
    return row


def _check_reader(spec: SourceSpec, number: int, reader: str) -> None:
    try:
        ROW_READERS[reader]
    except UnknownNameError as error:
        found = f"'{reader}'" + (f" (did you mean '{error.near}'?)" if error.near else "")
        raise _broken(
            spec,
            f"names a reader that there is not, in row {number}",
            found,
            f"one of {', '.join(error.known)}",
        ) from error


def _absolute(root: Path | None, value: Any) -> Any:
    """Return paths as the manifest has them; a list is one of several."""
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return [_absolute(root, each) for each in value]
    text = os.fspath(value)
    if root is None or "://" in text:
        return text
    folder = root if root.is_dir() else root.parent
    return str(folder / text)


def _check_files(spec: SourceSpec, rows: Sequence[Untyped]) -> None:
    """Refuse files that are not there. Those in an object store are asked for when they are read."""
    missing = [
        (number, path)
        for number, row in enumerate(rows, start=1)
        for path in _paths(row)
        if "://" not in path and not os.path.exists(path)  # noqa: PTH110  as in `common/paths.py`
    ]
    if missing:
        number, path = missing[0]
        raise _broken(
            spec,
            f"names files that are not there: {len(missing)}",
            f"row {number}: {path}",
            "absolute paths, or paths below pool.source.path",
        )


def _paths(row: Untyped) -> Iterable[str]:
    for name in _FILES:
        value = row[name]
        yield from [value] if isinstance(value, str) else value or ()


def _table(spec: SourceSpec, rows: Sequence[Untyped]) -> pa.Table:
    try:
        return manifest_of([cast(Row, row) for row in rows])
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as error:
        for number, row in enumerate(rows, start=1):
            for field in MANIFEST_SCHEMA:
                try:
                    pa.array([row.get(field.name)], field.type)
                except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError):
                    value = row.get(field.name)
                    found = f"a {type(value).__name__} in row {number}"
                    raise _broken(
                        spec, f"gives another type in {field.name}", found, str(field.type)
                    ) from error
        raise


def _broken(spec: SourceSpec, what: str, found: str, expected: str | None = None) -> PluginError:
    return PluginError(
        f"the source {spec.title} {what}",
        expected=expected,
        found=found.strip().split("\n")[0],
        where="pool.source.kind",
        next_step="correct the plug-in; CONTRIBUTING.md says what a source owes",
    )
