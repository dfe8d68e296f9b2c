"""Sources of other packages: functions that give manifest rows, checked before anything is made of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from xal_ray.config import Pool
from xal_ray.errors import PluginError, XalRayError
from xal_ray.nearest_name import nearest_name
from xal_ray.places import is_remote
from xal_ray.pool.manifest import MANIFEST_SCHEMA, Row, manifest_of
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.registry.importing import blaming
from xal_ray.registry.lookup import UnknownNameError
from xal_ray.registry.row_readers import ROW_READERS
from xal_ray.registry.sources import SourceSpec

_DO_NOT_FIT = (pa.ArrowException, TypeError, ValueError)  # what Arrow says of a value
_FILES = ("uri", "mask_uri", "more_mask_uris", "channel_uris")
Untyped = dict[str, Any]  # a row as a plug-in gave it: what it holds is seen when the table is made
_REGIONS = ("mask_uri", "more_mask_uris", "boxes", "polygons", "rle")


def list_images(spec: SourceSpec, pool: Pool) -> Listing:
    """Ask a plug-in for its images.

    A row is a mapping with keys of `MANIFEST_SCHEMA`. It needs `image_id`, `uri` and, with `group_by:
    group_id`, `group_id`; what it leaves out is null, and so is blank text. A path is absolute or below
    `pool.source.path`. Without `roi_state`, an image with a mask or a shape has a region, and of another one
    nothing is known.

    Args:
        spec: The plug-in.
        pool: What it is asked for.

    Raises:
        PluginError: It fails, a row lacks a column or has one that there is not, or a file is not there.
    """
    pool = _with_absolute_path(pool)
    with blaming(lambda raised: _broken(spec, "fails", raised), XalRayError):
        given = spec.load()(pool)
        found = given if isinstance(given, Listing) else list(given)
    if isinstance(found, Listing):
        if not found.manifest.schema.equals(MANIFEST_SCHEMA):
            columns = ", ".join(found.manifest.schema.names)
            raise _broken(spec, "gives no manifest", columns, "a table of the schema MANIFEST_SCHEMA")
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
    row = {
        name: None if isinstance(value, str) and not value.strip() else value for name, value in given.items()
    }
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
            found = f"no '{name}'" if name not in row else f"'{name}' is {given[name]!r}"
            raise _broken(spec, f"gives a row without {name}: row {number}", found, ", ".join(needed))
    if pool.group_by != "group_id":
        row["group_id"] = row["image_id"] if pool.group_by == "image" else None
    if row.get("reader") is not None:
        _check_reader(spec, number, str(row["reader"]))
    row["boxes"] = row.get("boxes") or []
    for name in _FILES:
        is_several = pa.types.is_list(MANIFEST_SCHEMA.field(name).type)
        try:
            row[name] = _absolute(pool.source.path, row.get(name), is_several)
        except TypeError as error:
            raise _another_type(spec, number, row, name) from error
    row.setdefault(
        "roi_state", "present" if any(_holds(row.get(name)) for name in _REGIONS) else "not_annotated"
    )
    return row


def _holds(value: Any) -> bool:
    return value is not None and (not isinstance(value, Sized) or len(value) > 0)


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


def _absolute(root: Path | None, value: Any, is_several: bool = False) -> Any:
    """Return paths as the manifest has them.

    Raises:
        TypeError: It is no path or, where there may be several, no list of them.
    """
    if value is None:
        return None
    if is_several:
        if not isinstance(value, list | tuple):
            raise TypeError
        return [_absolute(root, each) for each in value]
    text = os.fspath(value)
    if not isinstance(text, str):
        raise TypeError
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
    except _DO_NOT_FIT as error:
        for number, row in enumerate(rows, start=1):
            for field in MANIFEST_SCHEMA:
                try:
                    pa.array([row.get(field.name)], field.type)
                except _DO_NOT_FIT:
                    raise _another_type(spec, number, row, field.name) from error
        raise


def _another_type(spec: SourceSpec, number: int, row: Untyped, name: str) -> PluginError:
    value = row[name]
    found = "text that is not Unicode" if isinstance(value, str) else f"a {type(value).__name__}"
    expected = str(MANIFEST_SCHEMA.field(name).type)
    return _broken(spec, f"gives another type in {name}", f"{found} in row {number}", expected)


def _broken(spec: SourceSpec, what: str, found: str, expected: str | None = None) -> PluginError:
    return PluginError(
        f"the source {spec.title} {what}",
        expected=expected,
        found=found.strip().split("\n")[0],
        where="pool.source.kind",
        next_step="correct the plug-in; CONTRIBUTING.md says what a source owes",
    )
