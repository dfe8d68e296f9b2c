"""Says which files a plug-in's code is: its module or package, and what that imports of no distribution."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

_HERE = Path(__file__).resolve().parents[1]
_INSTALLED = {"site-packages", "dist-packages"}


def distribution_of(file: Path) -> str | None:
    """Return name and version of the installed distribution that a file is part of."""
    for distribution in importlib.metadata.distributions():
        root = Path(str(distribution.locate_file(""))).resolve()
        if file.is_relative_to(root):
            line = f"{file.relative_to(root).as_posix()},"
            if any(each.startswith(line) for each in (distribution.read_text("RECORD") or "").splitlines()):
                return f"{distribution.metadata['Name']} {distribution.version}"
    return None


def files_of(module: ModuleType) -> Iterator[tuple[str, Path]]:
    """Yield the files that a module is made of, each with its path as `import` sees it, in their order.

    That is the module's own file or, where it is part of a package, all files of the outermost package but
    for what Python and other programs keep there (`__pycache__`, names that begin with a dot). Then come, in
    the same way, the modules and packages that these files import, wherever in them, if they are neither
    Python's own nor installed.
    """
    top, *below = module.__name__.split(".")
    own = Path(str(module.__file__)).absolute()
    if not below and not hasattr(module, "__path__"):
        found = {own.name: own}
    else:
        # Without an __init__.py it may lie in several folders: the one that this module lies in counts.
        level = len(below) if own.name == "__init__.py" else len(below) - 1
        found = dict(_files_below(top, own.parents[level] if below else own.parent))
    yield from found.items()
    seen, waiting = {top}, list(found.values())
    more: dict[str, dict[str, Path]] = {}
    while waiting:
        for name in _imported(waiting.pop()) - seen:
            seen.add(name)
            more[name] = dict(_files_named(name))
            waiting += more[name].values()
    for name in sorted(more):
        yield from more[name].items()


def _files_below(top: str, folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in name.parts):
            yield f"{top}/{name.as_posix()}", path


def _files_named(name: str) -> Iterator[tuple[str, Path]]:
    """Yield the files of a module or package that is neither Python's own, nor ours, nor installed."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return
    if spec is None:
        return
    folders = list(spec.submodule_search_locations or ())
    place = Path(folders[0]) if folders else Path(spec.origin or "") if spec.has_location else None
    if place is None or not place.exists() or is_installed(place.resolve()):
        return
    if spec.origin and spec.has_location and distribution_of(Path(spec.origin).resolve()):
        return
    if folders:
        yield from _files_below(name, place)
    else:
        yield place.name, place


def is_installed(place: Path) -> bool:
    """Return whether a file or folder is Python's own, ours, or lies where packages are installed."""
    library = Path(sysconfig.get_paths()["stdlib"]).resolve()
    return (
        place.is_relative_to(library)
        or place.is_relative_to(_HERE)
        or not _INSTALLED.isdisjoint(place.parts)
        or not place.is_absolute()  # frozen modules
    )


def _imported(file: Path) -> set[str]:
    """Return the outermost names of what a file of Python's imports, relative imports apart."""
    if file.suffix != ".py":
        return set()
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # a file of the package that nothing imports
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(each.name.partition(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return names
