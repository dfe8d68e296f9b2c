"""Imports what a path `module:attribute` names, and says which version of the code that is."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import operator
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from xal_ray.errors import PluginError
from xal_ray.nearest_name import nearest_name
from xal_ray.registry.plug_in_files import distribution_of, files_of, is_installed

_ours: list[str] = []  # folders of the process that started this one
_read_as: dict[str, ModuleSpec | None] = {}  # how a plug-in's module was found when its files were read


@dataclass(frozen=True)
class Origin:
    """Says where code comes from that is not built in.

    Attributes:
        path: `module:attribute`.
        distribution: Name and version of the installed distribution that the module's file is part of.
        sha256: Of the module's file or, where it is part of a package, of all files of that, and of what they
            import that is not installed (`files_of`); where no distribution has it.
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
    if not all(name.split(".")) or "/" in name or name.endswith(".py"):
        parts = [part for part in Path(name.removesuffix(".py")).parts if part not in ("/", ".", "..")]
        raise PluginError(
            f"the plug-in {path} is not there",
            expected="MODULE:FUNCTION, with the module as `import` has it",
            found=f"'{name}' before the colon",
            next_step=f"did you mean {'.'.join(parts)}:{attribute}?" if all(parts) and parts else None,
        )
    module = _import_module(name, path)
    try:
        return operator.attrgetter(attribute)(module)
    except AttributeError:
        near = nearest_name(attribute, [each for each in vars(module) if not each.startswith("_")])
        hidden = _hidden_by(module)
        raise PluginError(
            f"the plug-in {path} is not there",
            expected=f"'{attribute}' in the module {name}",
            found=f"a module without it: {getattr(module, '__file__', None) or name}",
            next_step=f"rename {hidden}: Python finds the other module of its name first"
            if hidden
            else f"did you mean {name}:{near}?"
            if near
            else "correct the part behind the colon",
        ) from None


def origin_of(path: str) -> Origin:
    """Say which version of the code a path that has been imported names."""
    name = path.partition(":")[0]
    module = sys.modules[name]
    _read_as[name] = module.__spec__
    found = getattr(module, "__file__", None)
    if found is None:  # made in this very process
        return Origin(path)
    distribution = distribution_of(Path(found).resolve())
    if distribution is not None:
        return Origin(path, distribution)
    total = hashlib.sha256()
    for shown, each in files_of(module):
        look_in([str(each.parents[shown.count("/")])])  # so that Ray's processes do, whatever their path
        total.update(f"{shown} {hashlib.sha256(each.read_bytes()).hexdigest()}\n".encode())
    return Origin(path, sha256=total.hexdigest())


def what_was_raised(error: BaseException) -> str:
    """Return the class and the first line of what a plug-in's code raised, and the line that it came from."""
    text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not is_installed(Path(frame.filename))]
    return f"{text} ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else text


@contextmanager
def blaming(make: Callable[[str], PluginError], *passed: type[BaseException]) -> Iterator[None]:
    """Say of what a plug-in's code raises where it comes from, whatever its author has overlooked.

    `sys.exit` is no way out of a plug-in: it would end the command with an exit code of its own.

    Args:
        make: Makes an error of ours of what was raised, in words.
        passed: What is ours, or part of the contract, and passes as it is.
    """
    try:
        yield
    except passed:
        raise
    except (Exception, SystemExit) as error:
        raise make(what_was_raised(error)) from error


def check_unchanged(origin: Origin) -> None:
    """Make sure that a plug-in's files are those that this process has imported.

    Raises:
        PluginError: They have changed since: what runs here is the code from before.
    """
    name = origin.path.partition(":")[0]
    module = sys.modules.get(name)
    if module is None or module.__spec__ is not _read_as.get(name):
        return  # it has been imported anew, or will be
    found = origin_of(origin.path)
    if found != origin:
        raise PluginError(
            f"the plug-in {origin.path} has changed since this process imported it",
            expected=str(origin),
            found=str(found),
            next_step="start Python (the notebook's kernel) anew, so that the new code is what runs",
        )


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
            next_step=f"did you mean {near}{path[len(top) :]}?"
            if (near := nearest_name(top, _modules_here() - {top}))
            else "install its package in this environment, or start from the folder that it lies in",
        ) from None
    except (Exception, SystemExit) as error:
        raise _broken(path, error) from error


def _modules_here() -> set[str]:
    """Return the names of the modules and packages of the working directory."""
    return {
        path.stem for path in Path.cwd().iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }


def _hidden_by(module: ModuleType) -> Path | None:
    """Return the file of a module's name that lies where plug-ins are looked for, and is another one."""
    for folder in search_folders():
        for name in (f"{module.__name__.replace('.', '/')}.py", f"{module.__name__.partition('.')[0]}.py"):
            file = Path(folder) / name
            if file.is_file() and file.resolve() != Path(getattr(module, "__file__", None) or "").resolve():
                return file
    return None


def _broken(path: str, error: BaseException) -> PluginError:
    return PluginError(
        f"the plug-in {path} can't be imported",
        expected="a module that can be imported",
        found=what_was_raised(error),
        next_step=f"mend it until `python -c 'import {path.partition(':')[0]}'` passes",
    )
