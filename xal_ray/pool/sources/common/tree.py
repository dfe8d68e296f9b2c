"""Lists what lies below a source's folder once, and reads it within limits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xal_ray.errors import SourceError
from xal_ray.places import is_remote, place
from xal_ray.pool.sources.common.paths import SourceRoot
from xal_ray.storage import names_below, read_at_most

# What systems leave in folders of images: no pictures, or previews of them.
_OF_SYSTEMS = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"})


@dataclass(frozen=True)
class Below:
    """Holds what lies below a folder, as sorted paths relative to it with forward slashes.

    Attributes:
        files: What a person would see there.
        hidden: What begins with a dot, or was left by a system (`Thumbs.db`, `__MACOSX/`); of a folder its
            name alone, with a slash at the end.
    """

    files: list[str]
    hidden: list[str]


def list_below(root: SourceRoot) -> Below:
    """List all files below a source's folder.

    Raises:
        SourceError: There is no such folder, it can't be read, a subfolder is a link, or a link to a file
            leads out.
        StorageError: The object store refused.
    """
    if is_remote(root.path):
        return _list_remote(root)
    if not root.path.is_dir():
        raise SourceError("there is no such folder", where=str(root.path), next_step="set pool.source.path")
    files: list[str] = []
    hidden: list[str] = []
    folders = [""]
    while folders:
        below = folders.pop()
        for entry in _entries(os.path.join(root.path, below)):  # noqa: PTH118 (as text: names may be no UTF-8)
            name = f"{below}{entry.name}"
            if _is_hidden(entry.name):
                hidden.append(f"{name}/" if entry.is_dir(follow_symlinks=False) else name)
            elif entry.is_dir():
                _refuse_linked(entry)
                folders.append(f"{name}/")
            else:
                if entry.is_symlink():
                    root.check_link(entry.path)
                files.append(name)
    return Below(sorted(files), sorted(hidden))


def files_below(root: SourceRoot, suffixes: Sequence[str]) -> list[str]:
    """List the files of some kinds.

    Args:
        root: The source's folder.
        suffixes: In lower case, dots included.

    Returns:
        Paths relative to the root with forward slashes, sorted. What is hidden is left out.

    Raises:
        SourceError: As for `list_below`, or the name of such a file is not UTF-8.
        StorageError: The object store refused.
    """
    wanted = tuple(suffixes)
    found = [name for name in list_below(root).files if name.lower().endswith(wanted)]
    check_names(root, found)
    return found


def check_names(root: SourceRoot, names: Iterable[str]) -> None:
    """Refuse names that no table can hold: bytes that are not UTF-8, as archives of other systems bring them.

    Raises:
        SourceError: There is one.
    """
    broken = [name for name in names if not _is_text(name)]
    if broken:
        raise SourceError(
            "the name of a file is not UTF-8",
            expected="names of files and folders in UTF-8",
            found=f"{len(broken)} other{'' if len(broken) == 1 else 's'}; the first: {_escaped(broken[0])}",
            where=_escaped(str(root.path)),
            next_step="convert the names, for example with: convmv -r -f latin1 -t utf8 --notest FOLDER "
            "(cp850 or cp437 for what Windows zipped), or rename these files",
        )


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


def _list_remote(root: SourceRoot) -> Below:
    """List what lies in an object store, in one recursive listing."""
    files: list[str] = []
    hidden: list[str] = []
    for name in names_below(root.path):
        (hidden if any(_is_hidden(part) for part in name.split("/")) else files).append(name)
    return Below(files, hidden)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise SourceError(
            "a folder can't be read",
            found=error.strerror or type(error).__name__,
            where=_escaped(folder),
            next_step="give yourself the right to read it, or move it out of the source's folder",
        ) from None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _escaped(name: str) -> str:
    """Return a name that can be shown and written anywhere, with what is not UTF-8 in hexadecimal."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _refuse_linked(entry: os.DirEntry[str]) -> None:
    if entry.is_symlink():
        raise SourceError(
            "a subfolder is a link",
            where=_escaped(entry.path),
            next_step="put the folder itself there, or write a manifest",
        )
