"""A file's bytes, within the limit of its size: on a disk, or in an object store."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

from xal_ray.config import Limits
from xal_ray.images.errors import ImageError
from xal_ray.places import is_remote
from xal_ray.storage import read_at_most


def open_within(path: Path, limits: Limits) -> tuple[BinaryIO, int]:
    """Open a file for reading.

    Returns:
        A seekable stream, which the caller closes, and its number of bytes.

    Raises:
        ImageError: It is missing, empty, too large, or not a file.
        StorageError: The object store refused.
    """
    if is_remote(path):
        return _fetch(path, limits)
    try:
        is_file, num_bytes = path.is_file(), path.stat().st_size
    except (OSError, ValueError):
        raise ImageError("missing_file", "there is no file at this path") from None
    if not is_file:  # a folder, or a pipe that would never end
        raise ImageError("unreadable", "the path is not a regular file")
    _check_size(num_bytes, limits)
    try:
        return _Bounded(path, num_bytes), num_bytes
    except OSError as error:
        raise ImageError("unreadable", f"the file can't be opened ({type(error).__name__})") from None


class _Bounded(io.BufferedReader):
    """A file of which no more is asked for than there is: Python would set that much memory aside first."""

    def __init__(self, path: Path, num_bytes: int) -> None:
        super().__init__(io.FileIO(path, "rb"))
        self._num_bytes = num_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._num_bytes - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def _fetch(path: Path, limits: Limits) -> tuple[BinaryIO, int]:
    """Return an object's bytes, if they are not too many: one request says how many, another gets them."""
    try:
        data, num_bytes = read_at_most(path, limits.max_file_bytes)
    except FileNotFoundError:
        raise ImageError("missing_file", "there is no object at this address") from None
    except IsADirectoryError:
        raise ImageError("unreadable", "the address is that of a folder") from None
    _check_size(num_bytes, limits)
    return io.BytesIO(data or b""), num_bytes


def _check_size(num_bytes: int, limits: Limits) -> None:
    if num_bytes == 0:
        raise ImageError("truncated", "the file is empty")
    if num_bytes > limits.max_file_bytes:
        raise ImageError(
            "file_too_large", f"{num_bytes} bytes; pool.limits.max_file_bytes is {limits.max_file_bytes}"
        )
