"""One version of the code: what runs in this process also runs in all that it starts, here and on a cluster.

Python looks for modules in the working directory first wherever it is asked to (`python -m`, a notebook), and
every process of Ray's does so by default. There another `xal_ray` may lie, or a user's `torch.py`. So a
process of ours looks there only if this very package lies there, and one whose package differs from its
driver's is refused.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def import_path() -> list[str]:
    """Return where a process that this one starts shall look for modules: where this one does, in that order.

    Not in the working directory, unless this package itself lies there: then that is what was asked for.
    """
    here, home = Path.cwd().resolve(), PACKAGE.parent
    folders = [Path(entry).resolve() for entry in sys.path]
    return [str(folder) for folder in dict.fromkeys(folders) if folder != here or here == home]


def import_path_before_library() -> list[str]:
    """That part of `import_path` that precedes Python's own library: what no other process knows by itself.

    The rest, the library and what is installed, stands in a fresh process as it does in this one.
    """
    library = Path(sysconfig.get_paths()["stdlib"]).resolve()
    path = import_path()
    before = path[: path.index(str(library))] if str(library) in path else []
    return [entry for entry in before if Path(entry).is_dir()]


def python_of_ours() -> tuple[list[str], dict[str, str]]:
    """The beginning of a command that runs this Python with this code, and what its environment needs."""
    return [sys.executable, "-P"], {"PYTHONPATH": os.pathsep.join(import_path_before_library())}


@cache
def code_sha256() -> str:
    """Return a hash of this package's modules, by their relative paths and bytes: equal wherever it lies."""
    return sha256_of_files(PACKAGE, "*.py")


def sha256_of_files(folder: Path, pattern: str = "*") -> str:
    """SHA-256 over the relative paths and the bytes of a folder's files, in the order of their paths.

    Args:
        folder: Of this machine.
        pattern: Of the names of the files that count, at any depth.
    """
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob(pattern) if path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return total.hexdigest()
