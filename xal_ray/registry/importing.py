"""Imports what a path `module:attribute` names, and says which version of the code that is."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import operator
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from xal_ray.errors import PluginError
from xal_ray.nearest_name import nearest_name

_ours: list[str] = []  # folders of the process that started this one


@dataclass(frozen=True)
class Origin:
    """Says where code comes from that is not built in.

    Attributes:
        path: `module:attribute`.
        distribution: Name and version of the installed distribution that the module's file is part of.
        sha256: Of the module's file or, where it is part of a package, of all files of that; where no
            distribution has it.
    """

    path: str
    distribution: str | None = None
    sha256: str | None = None

    def __str__(self) -> str:
        return f"{self.path} ({self.distribution or f'sha256 {(self.sha256 or str())[:16]}'})"


def look_in(folders: Iterable[str]) -> None:
    """Look for modules in these folders too, after all that this process knows: its driver does so."""
    _ours.extend(folder for folder in folders if folder not in _ours)


def search_folders() -> tuple[str, ...]:
    """Return where a module is looked for that is nowhere on `sys.path`: at last the working directory."""
    return tuple(dict.fromkeys([*_ours, str(Path.cwd())]))


def import_object(path: str) -> Any:
    """Import what a path names.

    The module is looked for on `sys.path` and then in the working directory, which `xal-ray` does not have
    on its path. A working directory in which it is found is put at the end of `sys.path`, so that the module
    finds its neighbours.

    Args:
        path: `module:attribute`.

    Raises:
        PluginError: There is no such module, it can't be imported, or has no such attribute.
    """
    name, _, attribute = path.partition(":")
    module = _import_module(name, path)
    try:
        return operator.attrgetter(attribute)(module)
    except AttributeError:
        near = nearest_name(attribute, [each for each in vars(module) if not each.startswith("_")])
        raise PluginError(
            f"the plug-in {path} is not there",
            expected=f"'{attribute}' in the module {name}",
            found=f"a module without it: {getattr(module, '__file__', None) or name}",
            next_step=f"did you mean {name}:{near}?" if near else "correct the part behind the colon",
        ) from None


def origin_of(path: str) -> Origin:
    """Say which version of the code a path that has been imported names."""
    module = sys.modules[path.partition(":")[0]]
    found = getattr(module, "__file__", None)
    if found is None:  # made in this very process
        return Origin(path)
    file = Path(found).resolve()
    for distribution in importlib.metadata.distributions():
        root = Path(str(distribution.locate_file(""))).resolve()
        if file.is_relative_to(root):
            line = f"{file.relative_to(root).as_posix()},"
            if any(each.startswith(line) for each in (distribution.read_text("RECORD") or "").splitlines()):
                return Origin(path, f"{distribution.metadata['Name']} {distribution.version}")
    total = hashlib.sha256()
    for name, each in files_of(module):
        total.update(f"{name} {hashlib.sha256(each.read_bytes()).hexdigest()}\n".encode())
    return Origin(path, sha256=total.hexdigest())


def files_of(module: ModuleType) -> Iterator[tuple[str, Path]]:
    """Yield the files that a module is made of, each with its path as `import` sees it, in their order.

    That is the module's own file or, where it is part of a package, all files of the outermost package but
    for what Python and other programs keep there (`__pycache__`, names that begin with a dot).
    """
    file = Path(str(module.__file__)).absolute()
    top, *below = module.__name__.split(".")
    if not below and not hasattr(module, "__path__"):
        yield file.name, file
        return
    # A package without an __init__.py may lie in several folders: the one that this module lies in counts.
    folder = (
        file.parents[len(below) if file.name == "__init__.py" else len(below) - 1] if below else file.parent
    )
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in name.parts):
            yield f"{top}/{name.as_posix()}", path


def _import_module(name: str, path: str) -> ModuleType:
    importlib.invalidate_caches()  # the file may have been written a moment ago
    top = name.partition(".")[0]
    for folder in search_folders():
        is_known = top in sys.modules or importlib.util.find_spec(top) is not None
        if not is_known and folder not in sys.path and PathFinder.find_spec(top, [folder]) is not None:
            sys.path.append(folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _broken(path, error) from error
        raise PluginError(
            f"the plug-in {path} is not there",
            expected=f"a module {name}, installed, on PYTHONPATH or in the working directory",
            found=f"none in {search_folders()[-1]}, and none that is installed",
            next_step="install its package in this environment, or start from the folder that it lies in",
        ) from None
    except Exception as error:
        raise _broken(path, error) from error


def _broken(path: str, error: Exception) -> PluginError:
    return PluginError(
        f"the plug-in {path} can't be imported",
        expected="a module that can be imported",
        found=f"{type(error).__name__}: {error}",
        next_step=f"mend it until `python -c 'import {path.partition(':')[0]}'` passes",
    )
