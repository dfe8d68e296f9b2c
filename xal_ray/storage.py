"""Files: atomic writes, Parquet, JSON and hashes. A file that exists is whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xal_ray.errors import StorageError

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the disk into a `StorageError` that names the path and the way out."""
    try:
        yield
    except OSError as error:
        # pyarrow raises plain OSError whose text alone holds the errno.
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        raise StorageError(
            "the disk is full" if full else "the disk refused a write",
            found=error.strerror or str(error),
            where=str(path),
            next_step=(
                "free some space and run the same command again: it goes on where it stopped"
                if full
                else "check the path and its permissions, then run the same command again"
            ),
        ) from error


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that a reader sees all of it or none, even across a crash or a power cut.

    Raises:
        StorageError: The disk refused; nothing is left at `path` nor beside it.
    """
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, with sorted keys, so that equal values give equal bytes."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        StorageError: The file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError("a file can't be read", found=str(error), where=str(path)) from error


def write_table(
    path: Path, table: pa.Table, *, plain: Sequence[str] = (), row_group_size: int = 1 << 16
) -> None:
    """Write a Parquet file atomically.

    Args:
        path: Where to.
        table: What.
        plain: Columns that are left uncompressed (pixels: reading them is then a copy).
        row_group_size: Rows in a row group.
    """
    sink = pa.BufferOutputStream()
    compression = {name: "NONE" if name in plain else "ZSTD" for name in _leaf_columns(table.schema)}
    pq.write_table(table, sink, compression=compression, row_group_size=row_group_size, use_dictionary=False)
    write_bytes(path, sink.getvalue().to_pybytes())


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file.

    Raises:
        StorageError: The file is missing, damaged, or lacks a column.
    """
    with _parquet_errors(path):
        return pq.read_table(path, columns=list(columns) if columns is not None else None, partitioning=None)


def read_shards(folder: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read all Parquet files of a folder, in the order of their names; none give an empty table."""
    tables = [read_table(path, columns) for path in sorted(folder.glob("*.parquet"))]
    if tables:
        return pa.concat_tables(tables)
    return schema.empty_table().select(list(columns) if columns is not None else schema.names)


def iter_row_groups(
    folder: Path, columns: Sequence[str]
) -> Iterator[tuple[pa.Table, Callable[[], pa.ChunkedArray]]]:
    """Go over all Parquet files of a folder, in the order of their names, one row group at a time.

    Args:
        folder: The shards.
        columns: Columns of numbers. Memory is bounded by one row group of them.

    Yields:
        A row group's columns, and what reads its `image_id`s: they often weigh more than all the numbers.

    Raises:
        StorageError: A file is damaged, or lacks a column.
    """
    for path in sorted(folder.glob("*.parquet")):
        with _open_parquet(path) as file:
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                raise StorageError(
                    "a Parquet file lacks a column", expected=", ".join(missing), where=str(path)
                )
            for number in range(file.num_row_groups):
                table = _read_row_group(path, file, number, columns)
                yield table, partial(_read_ids, path, file.metadata, number)


def sha256_bytes(data: bytes) -> str:
    """The SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(value: Any) -> str:
    """The SHA-256 of a plain value's canonical JSON: the same for equal values on every machine."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


def append_line(path: Path, line: str) -> None:
    """Append a line and wait until the disk has it.

    Raises:
        StorageError: The disk refused.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(line.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed process left below a folder."""
    for path in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


def _read_ids(path: Path, metadata: pq.FileMetaData, number: int) -> pa.ChunkedArray:
    """Opens the file anew: who asks may have gone on to another one."""
    with _open_parquet(path, metadata) as file:
        return _read_row_group(path, file, number, ["image_id"])["image_id"]


def _read_row_group(path: Path, file: pq.ParquetFile, number: int, columns: Sequence[str]) -> pa.Table:
    with _parquet_errors(path):
        return file.read_row_group(number, columns=list(columns), use_threads=False)


def _open_parquet(path: Path, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    with _parquet_errors(path):
        return pq.ParquetFile(path, metadata=metadata, pre_buffer=False)


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StorageError(
            "a Parquet file can't be read", found=str(error).split("\n")[0], where=str(path)
        ) from error


def _leaf_columns(schema: pa.Schema) -> list[str]:
    """The names by which Parquet knows a schema's columns: a list's values have a path of their own."""
    names = []
    for field in schema:
        nested = pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type)
        names.append(f"{field.name}.list.element" if nested else field.name)
    return names


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
