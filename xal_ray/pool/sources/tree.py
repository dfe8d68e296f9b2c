"""What lies below a source's folder: listed once, and read within limits."""

from __future__ import annotations

import os
from collections.abc import Sequence

from xal_ray.errors import SourceError
from xal_ray.places import is_remote, place
from xal_ray.pool.sources.paths import SourceRoot
from xal_ray.storage import names_below, read_at_most


def files_below(root: SourceRoot, suffixes: Sequence[str]) -> list[str]:
    """List the files of some kinds.

    Args:
        root: The source's folder.
        suffixes: In lower case, dots included.

    Returns:
        Paths relative to the root with forward slashes, sorted. What begins with a dot is left out.

    Raises:
        SourceError: There is no such folder, a subfolder is a link, or a link to a file leads out.
    """
    wanted = tuple(suffixes)
    if is_remote(root.path):
        names = names_below(root.path)
        hidden = [any(part.startswith(".") for part in name.split("/")) for name in names]
        return [
            name
            for name, is_hidden in zip(names, hidden, strict=True)
            if not is_hidden and name.lower().endswith(wanted)
        ]
    if not root.path.is_dir():
        raise SourceError("there is no such folder", where=str(root.path), next_step="set pool.source.path")
    found: list[str] = []
    folders = [""]
    while folders:
        below = folders.pop()
        with os.scandir(root.path / below) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    _refuse_linked(entry)
                    folders.append(f"{below}{entry.name}/")
                elif entry.name.lower().endswith(wanted):
                    if entry.is_symlink():
                        root.check_link(entry.path)
                    found.append(f"{below}{entry.name}")
    return sorted(found)


def read_below(root: SourceRoot, name: str, limit: int) -> bytes:
    """Read a file that tells of images.

    Args:
        root: The source's folder.
        name: The file's path below it.
        limit: The most bytes that it may have.

    Raises:
        SourceError: The file is missing, too large, or a link that leads out of the folder.
        StorageError: The object store refused.
    """
    path = root.locate(name, name)[0]
    try:
        data, num_bytes = read_at_most(place(path), limit)
    except OSError:
        raise SourceError("there is no such file", where=path, next_step="set pool.source.path") from None
    if data is None:
        raise SourceError(
            "a file is too large", expected=f"at most {limit} bytes", found=f"{num_bytes} bytes", where=path
        )
    return data


def _refuse_linked(entry: os.DirEntry[str]) -> None:
    if entry.is_symlink():
        raise SourceError(
            "a subfolder is a link",
            where=entry.path,
            next_step="put the folder itself there, or write a manifest",
        )
