"""Bytes, lines, JSON, listings and hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from xal_ray.errors import StorageError
from xal_ray.places import RemotePath, code_of, is_remote, remote_errors

TEMPORARY_SUFFIX = ".tmp"
# What a store answers where the condition of a conditional write does not hold, or is being decided.
_CONDITION_FAILED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_NO_CONDITIONS = frozenset({"NotImplemented", "501"})
_GLOB_CHARACTERS = frozenset("*?[")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the disk or the object store into a `StorageError` that names the way out."""
    if is_remote(path):
        try:
            with remote_errors(str(path)):
                yield
        except FileNotFoundError as error:
            raise StorageError(
                "there is no such bucket",
                found=code_of(error),
                where=str(path),
                next_step="make it with the cloud's own tools, or correct the address",
            ) from None
        return
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
        StorageError: The disk or the object store refused; nothing is left at `path` nor beside it.
    """
    with disk_errors(path):
        if is_remote(path):
            remote = _remote(path)
            remote.fs.pipe_file(remote.address, bytes(data))
        else:
            _write_local(path, data)


def _write_local(path: Path, data: bytes | memoryview) -> None:
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}"
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


def exclusive_create(path: Path, data: bytes) -> bool:
    """Write a small file only if there is none: of several that try at once, one succeeds.

    On an object store this is a conditional write (`If-None-Match: *`). A write that was tried again after a
    lost answer may be told that the file exists though it is its own: put into the data who writes.

    Returns:
        Whether this call made it.

    Raises:
        StorageError: The disk or the object store refused, or knows no conditional writes.
    """
    with disk_errors(path):
        if is_remote(path):
            return _create_remote(_remote(path), data)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        except FileExistsError:
            return False
        _sync_folder(path.parent)
        return True


def _create_remote(path: RemotePath, data: bytes) -> bool:
    try:
        path.fs.pipe_file(path.address, data, mode="create")
    except FileExistsError:
        return False
    except Exception as error:
        if code_of(error) in _CONDITION_FAILED:
            return False
        if code_of(error) in _NO_CONDITIONS:
            raise StorageError(
                "the object store knows no conditional writes, which a run's lock is made of",
                expected="If-None-Match on PUT, as of S3, GCS and MinIO",
                where=str(path),
                next_step="keep the run on a shared file system (NFS) instead, or update the store",
            ) from None
        raise
    return True


def append_line(path: Path, line: str) -> None:
    """Append a line and wait until the disk or the object store has it.

    An object can't be appended to: it is read and put again with the line. On S3 the write holds only if the
    object is still the one that was read.

    Raises:
        StorageError: The disk or the object store refused, or somebody else wrote at the same time.
    """
    with disk_errors(path):
        if is_remote(path):
            _append_remote(_remote(path), line.encode() + b"\n")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(line.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


def _append_remote(path: RemotePath, line: bytes) -> None:
    try:
        tag = path.fs.info(path.address).get("ETag")
        whole = bytes(path.fs.cat_file(path.address)) + line
    except FileNotFoundError:
        if _create_remote(path, line) or bytes(path.fs.cat_file(path.address)) == line:
            return
        raise _written_by_others(path) from None
    if path.scheme != "s3" or not tag:
        path.fs.pipe_file(path.address, whole)
        return
    try:
        path.fs.pipe_file(path.address, whole, IfMatch=tag)
    except OSError as error:
        if code_of(error) in _NO_CONDITIONS:
            path.fs.pipe_file(path.address, whole)
        elif code_of(error) not in _CONDITION_FAILED:
            raise
        elif bytes(path.fs.cat_file(path.address)) != whole:  # else a lost answer to this very write
            raise _written_by_others(path) from None


def _written_by_others(path: RemotePath) -> StorageError:
    return StorageError(
        "another process wrote to a file that only one may write to",
        where=str(path),
        next_step="let one process at a time work on this folder, and run the same command again",
    )


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


def read_at_most(path: Path, limit: int) -> tuple[bytes | None, int]:
    """Return a file's bytes and their number; where there are more than `limit`, none is read.

    Raises:
        FileNotFoundError: There is no file.
        IsADirectoryError: It is a folder.
        StorageError: The object store refused.
    """
    if not is_remote(path):
        num_bytes = path.stat().st_size
        return (path.read_bytes() if num_bytes <= limit else None), num_bytes
    remote = _remote(path)
    with remote_errors(str(path)):
        about = remote.fs.info(remote.address)
        if about["type"] != "file":
            raise IsADirectoryError(str(path))
        num_bytes = int(about["size"])
        if num_bytes > limit or not num_bytes:
            return (None if num_bytes else b""), num_bytes
        return bytes(remote.fs.cat_file(remote.address, start=0, end=num_bytes)), num_bytes


def names_in(folder: Path, suffix: str = "") -> list[str]:
    """Return the names of what lies directly in a folder, sorted; none where the folder is not there.

    On an object store this is one listing (a request per 1,000 names), where asking for each would be one
    request per name.

    Args:
        folder: Where to look.
        suffix: Of the names that count.

    Raises:
        StorageError: The object store refused.
    """
    try:
        names = [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in names if name.endswith(suffix))


def names_below(folder: Path) -> list[str]:
    """The relative paths of all files below a folder of an object store, sorted: one recursive listing.

    Raises:
        StorageError: The object store refused.
    """
    remote = _remote(folder)
    prefix = f"{remote.address}/"
    with disk_errors(folder):
        found = remote.fs.find(remote.address)
    return sorted(entry.removeprefix(prefix) for entry in found if entry.startswith(prefix))


def existing_files(paths: Iterable[Path]) -> set[Path]:
    """Which of these files exist, with one listing for each of their folders."""
    by_folder: dict[Path, list[Path]] = {}
    for path in paths:
        by_folder.setdefault(path.parent, []).append(path)
    found: set[Path] = set()
    for folder, wanted in by_folder.items():
        names = set(names_in(folder))
        found.update(path for path in wanted if path.name in names)
    return found


def is_empty(folder: Path) -> bool:
    """Return whether nothing lies in a folder, be it there or not; a file is not empty."""
    if not is_remote(folder) and folder.exists() and not folder.is_dir():
        return False
    if is_remote(folder) and folder.is_file():
        return False
    return not names_in(folder)


def refuse_no_folder(folder: Path) -> None:
    """Refuse a folder of a disk that can't be made or written to, without making it.

    Raises:
        StorageError: It or the nearest one above it is a file, or may not be written to.
    """
    if is_remote(folder):
        return
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    with disk_errors(folder):
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{above} is no folder")
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"{above} may not be written to")


def remove_tree(folder: Path, *, last: str = "") -> None:
    """Remove a folder with all that lies in it; nothing where it is not there.

    Args:
        folder: What to remove.
        last: On an object store, the name of the file that goes after all others.

    Raises:
        StorageError: The disk or the object store refused.
    """
    if not is_remote(folder):
        with disk_errors(folder), suppress(FileNotFoundError):
            shutil.rmtree(folder)
        return
    remote = _remote(folder)
    with disk_errors(folder):
        found = [entry for entry in remote.fs.find(remote.address) if entry.startswith(f"{remote.address}/")]
        final = f"{remote.address}/{last}"
        _remove_objects(remote, [entry for entry in found if entry != final])
        _remove_objects(remote, [entry for entry in found if entry == final])


def _remove_objects(folder: RemotePath, entries: list[str]) -> None:
    plain = [entry for entry in entries if not _GLOB_CHARACTERS & set(entry)]  # `rm` would expand the others
    if plain:
        folder.fs.rm(plain)
    for entry in entries:
        if _GLOB_CHARACTERS & set(entry):
            folder.fs.rm_file(entry)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed process left below a folder; an object store has none."""
    if is_remote(folder):
        return
    for path in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Return the SHA-256 of a plain value's canonical JSON: the same for equal values on every machine."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


def _remote(path: Path) -> RemotePath:
    return cast(RemotePath, path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
