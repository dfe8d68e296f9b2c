"""Parquet: whole tables, shards of a folder, single row groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from xal_ray.errors import StorageError
from xal_ray.places import RangeReader, RemotePath, is_remote
from xal_ray.storage.files import names_in, write_bytes


@dataclass(frozen=True)
class Footer:
    """Holds what reading from a Parquet file needs to know of it: on an object store it costs two requests.

    Attributes:
        metadata: Where its row groups lie.
        num_bytes: The file's size; None on a disk.
    """

    metadata: pq.FileMetaData
    num_bytes: int | None = None


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
    chosen = list(columns) if columns is not None else None
    with _parquet_errors(path):
        if not is_remote(path):
            return pq.read_table(path, columns=chosen, partitioning=None)
        if chosen is None:
            return pq.read_table(pa.BufferReader(path.read_bytes()), partitioning=None)
        with open_parquet(path) as file:
            missing = [name for name in chosen if name not in file.schema_arrow.names]
            if missing:
                raise _lacks(path, missing)
            return file.read(columns=chosen, use_threads=False)


def read_shards(folder: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read all Parquet files of a folder, in the order of their names; none give an empty table."""
    tables = [read_table(folder / name, columns) for name in names_in(folder, ".parquet")]
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
    for path in [folder / name for name in names_in(folder, ".parquet")]:
        footer = read_footer(path)
        missing = [name for name in columns if name not in footer.metadata.schema.to_arrow_schema().names]
        if missing:
            raise _lacks(path, missing)
        with open_parquet(path, footer) as file:
            for number in range(file.num_row_groups):
                table = _read_row_group(path, file, number, columns)
                yield table, partial(_read_ids, path, footer, number)


def read_footer(path: Path) -> Footer:
    """Return the footer of a Parquet file, for `open_parquet`.

    Raises:
        StorageError: The file is missing or damaged.
    """
    with _parquet_errors(path):
        num_bytes = path.stat().st_size if is_remote(path) else None
        with _open(path, None, num_bytes) as file:
            return Footer(file.metadata, num_bytes)


def open_parquet(path: Path, footer: Footer | None = None) -> pq.ParquetFile:
    """Open a Parquet file; of a remote one, a row group is then read with one request, as far as it can be.

    Raises:
        StorageError: The file is missing or damaged.
    """
    with _parquet_errors(path):
        if footer is None:
            return _open(path, None, None)
        return _open(path, footer.metadata, footer.num_bytes)


def _open(path: Path, metadata: pq.FileMetaData | None, num_bytes: int | None) -> pq.ParquetFile:
    if not is_remote(path):
        return pq.ParquetFile(path, metadata=metadata, pre_buffer=False)
    source = pa.PythonFile(RangeReader(cast(RemotePath, path), num_bytes), mode="r")
    return pq.ParquetFile(source, metadata=metadata, pre_buffer=True)


def _read_ids(path: Path, footer: Footer, number: int) -> pa.ChunkedArray:
    """Opens the file anew: who asks may have gone on to another one."""
    with open_parquet(path, footer) as file:
        return _read_row_group(path, file, number, ["image_id"])["image_id"]


def _read_row_group(path: Path, file: pq.ParquetFile, number: int, columns: Sequence[str]) -> pa.Table:
    with _parquet_errors(path):
        return file.read_row_group(number, columns=list(columns), use_threads=False)


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StorageError(
            "a Parquet file can't be read", found=str(error).split("\n")[0], where=str(path)
        ) from error


def _lacks(path: Path, missing: Sequence[str]) -> StorageError:
    return StorageError("a Parquet file lacks a column", expected=", ".join(missing), where=str(path))


def _leaf_columns(schema: pa.Schema) -> list[str]:
    """The names by which Parquet knows a schema's columns: a list's values have a path of their own."""
    names = []
    for field in schema:
        nested = pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type)
        names.append(f"{field.name}.list.element" if nested else field.name)
    return names
