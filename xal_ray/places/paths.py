"""Places: a local path, or the address of an object store (`s3://`, `gs://`), named in one way.

A local place is a `pathlib.Path`. A remote one is a `RemotePath`, which has the methods of it that make sense
there. Code that only joins, lists, reads and opens need not know which it has; what a disk can and an object
store can't (rename, append, lock, flush) is in `storage`.

An object store has no folders: a folder is there when something lies in it. What was written is seen by the
next reader, and by the next listing, at once (S3 and GCS promise both).
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import IO, Annotated, Any, cast

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from xal_ray.errors import ConfigError
from xal_ray.places.refusals import remote_errors

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
REMOTE_SCHEMES = ("s3", "gs")
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
_READ_AHEAD = 8 << 20  # bytes that a file that is read from its start asks for at once
# Throttled requests are tried again, ever more slowly, for minutes. Not in mode "adaptive": after some
# refusals it held a client, and with it the renewal of a lease, to one request in two seconds. No listing is
# kept: other machines write too.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "use_listings_cache": False,
        "config_kwargs": {"retries": {"max_attempts": 12, "mode": "standard"}},
    },
    "gs": {"use_listings_cache": False},
}


def place(text: str | os.PathLike[str]) -> Path:
    """Return a path or a URI as an object with the methods of `pathlib.Path`.

    Credentials, regions and endpoints come from the environment or the instance's role alone.

    Raises:
        ConfigError: The URI has another scheme than s3 or gs, no bucket, or what reads it is not installed.
    """
    if not isinstance(text, str):
        return cast(Path, text)
    match = _SCHEME.match(text)
    if match is None:
        return Path(text)
    scheme = match.group(1).lower()
    if scheme not in REMOTE_SCHEMES:
        raise ConfigError(
            "a place has a scheme that can't be used",
            expected="a local path, or one of " + ", ".join(f"{name}://" for name in REMOTE_SCHEMES),
            found=f"{scheme}://...",  # the rest may be signed, or hold a password
        )
    if importlib.util.find_spec(_PACKAGES[scheme]) is None:
        raise ConfigError(
            f"{scheme}:// needs a package that is not installed",
            expected=_PACKAGES[scheme],
            next_step=f'pip install "xal-ray[{scheme}]"',
        )
    return cast(Path, RemotePath(scheme, _segments(text[match.end() :])))


def is_remote(path: Path) -> bool:
    """Return whether a place lies in an object store."""
    return not isinstance(path, Path)


@dataclass(frozen=True, order=True)
class RemotePath:
    """A place in an object store. It can be hashed, sorted and sent to other processes.

    Attributes:
        scheme: `s3` or `gs`.
        parts: The bucket, then the parts of the key.
    """

    scheme: str
    parts: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"

    def __truediv__(self, other: str | PurePosixPath) -> RemotePath:
        return RemotePath(self.scheme, self.parts + _segments(str(other)))

    def __rtruediv__(self, other: os.PathLike[str]) -> RemotePath:
        return self  # as an absolute path, which is where it is from wherever one looks

    def __getstate__(self) -> tuple[str, tuple[str, ...]]:
        return self.scheme, self.parts

    def __setstate__(self, state: tuple[str, tuple[str, ...]]) -> None:
        object.__setattr__(self, "scheme", state[0])
        object.__setattr__(self, "parts", state[1])

    @property
    def fs(self) -> Any:
        """Return the fsspec file system, one for all threads of a process."""
        return file_system(self.scheme)

    @cached_property
    def address(self) -> str:
        """Return the address as fsspec calls it: without the scheme."""
        return "/".join(self.parts)

    @property
    def name(self) -> str:
        """Return the last part."""
        return self.parts[-1]

    @property
    def stem(self) -> str:
        """Return the last part without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """Return the suffix of the last part, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """Return the folder; a bucket is its own."""
        return RemotePath(self.scheme, self.parts[:-1] or self.parts)

    def with_name(self, name: str) -> RemotePath:
        """Return the neighbour of that name."""
        return self.parent / name

    def relative_to(self, other: RemotePath) -> PurePosixPath:
        """Return the way from a folder above to here.

        Raises:
            ValueError: The other is not above.
        """
        if not self.is_relative_to(other):
            raise ValueError(f"{self} does not lie below {other}")
        return PurePosixPath(*self.parts[len(other.parts) :])

    def is_relative_to(self, other: RemotePath) -> bool:
        """Return whether another place is a folder above, or this one."""
        return self.scheme == other.scheme and self.parts[: len(other.parts)] == other.parts

    def resolve(self) -> RemotePath:
        """Itself: there are no links."""
        return self

    absolute = resolve

    def exists(self) -> bool:
        """Return whether there is a file here, or anything below."""
        return self._kind() is not None

    def is_file(self) -> bool:
        """Return whether there is a file here."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Return whether anything lies below."""
        return self._kind() == "directory"

    def stat(self) -> SimpleNamespace:
        """`st_size`, in bytes.

        Raises:
            FileNotFoundError: There is nothing.
        """
        with remote_errors(str(self)):
            return SimpleNamespace(st_size=int(self.fs.info(self.address)["size"]))

    def open(self, mode: str = "r", *, encoding: str | None = None, newline: str | None = None) -> IO[Any]:
        """Open a file for reading."""
        if mode not in ("r", "rb"):
            raise ValueError("what lies in an object store is written by storage.write_bytes alone")
        stream = io.BufferedReader(RangeReader(self), _READ_AHEAD)
        return stream if mode == "rb" else io.TextIOWrapper(stream, encoding or "utf-8", newline=newline)

    def read_bytes(self) -> bytes:
        """Return all of a file."""
        with remote_errors(str(self)):
            return bytes(self.fs.cat_file(self.address))

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return all of a file, as text."""
        return self.read_bytes().decode(encoding, errors)

    def iterdir(self) -> Iterator[RemotePath]:
        """Return what lies directly below."""
        with remote_errors(str(self)):
            entries = self.fs.ls(self.address, detail=False)
        names = {entry.rstrip("/").rpartition("/")[2] for entry in entries if _is_below(entry, self.address)}
        return (self / name for name in sorted(names))

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Return what lies directly below and has a name of that pattern; nothing where nothing is there."""
        try:
            return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))
        except FileNotFoundError:
            return iter(())

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file."""
        try:
            with remote_errors(str(self)):
                self.fs.rm_file(self.address)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: folders need not be made, and buckets are not ours to make."""

    def rmdir(self) -> None:
        """Nothing: a folder is gone with what lay in it."""

    def _kind(self) -> str | None:
        try:
            with remote_errors(str(self)):
                return str(self.fs.info(self.address)["type"])
        except FileNotFoundError:
            return None


class RangeReader(io.RawIOBase):
    """A remote file of which each read is one request for a range.

    Args:
        path: The file.
        size: Its size in bytes, where it is known already; asked for otherwise.

    Raises:
        FileNotFoundError: There is no such file.
    """

    def __init__(self, path: RemotePath, size: int | None = None) -> None:
        self.path = path
        self.num_bytes = path.stat().st_size if size is None else size
        self.position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position; nothing is asked for."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.num_bytes}[whence]
        self.position = max(0, origin + offset)
        return self.position

    def tell(self) -> int:
        """Return the position."""
        return self.position

    def read(self, size: int | None = -1) -> bytes:
        """Return one range, in one request."""
        stop = self.num_bytes if size is None or size < 0 else min(self.position + size, self.num_bytes)
        if stop <= self.position:
            return b""
        with remote_errors(str(self.path)):
            data = bytes(self.path.fs.cat_file(self.path.address, start=self.position, end=stop))
        self.position += len(data)
        return data

    readall = read

    def readinto(self, buffer: Any) -> int:
        """Return one range into a buffer."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def file_system(scheme: str) -> Any:
    """The fsspec file system of a scheme: one for all threads, since making a client takes its time."""
    with _MAKING:
        return _file_system(scheme, os.getpid())


_MAKING = threading.Lock()


@lru_cache
def _file_system(scheme: str, process: int) -> Any:
    import fsspec  # here, since local places do without

    return fsspec.filesystem(scheme, skip_instance_cache=True, **_OPTIONS[scheme])


def _segments(text: str) -> tuple[str, ...]:
    """Return the parts of a URI behind its scheme, or of a relative path.

    Raises:
        ConfigError: There is none, or `..` is among them.
    """
    segments = tuple(part for part in text.split("/") if part not in ("", "."))
    if not segments or ".." in segments or ("@" in segments[0] and ":" in segments[0]):
        raise ConfigError(
            "the address of an object store is malformed",
            expected="s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, without '..' and without a password",
            found="no bucket" if not segments else "'..'" if ".." in segments else "a password",
        )
    return segments


def _is_below(entry: str, folder: str) -> bool:
    return entry.rstrip("/") != folder


def _validated(value: Any) -> Path:
    if isinstance(value, str | Path | RemotePath):
        return place(cast(str, value))
    raise ValueError("expected a path or a URI")


# A configuration's key that holds a path or a URI.
Place = Annotated[
    Path,
    PlainValidator(_validated),
    PlainSerializer(str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "path or URI"}),
]
