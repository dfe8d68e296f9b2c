"""The figures of `house.py`, read from the syntax trees of a package: nothing is run."""

from __future__ import annotations

import ast
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from house_measures.imports import circles, imports
from house_measures.modules import FUNCTIONS, Function, Module, read_modules
from house_measures.twins import RUN, twins
from house_measures.uses import WORD, test_only

LONG_FUNCTION, LONG_FILE, SMALL_MODULE = 40, 300, 90  # lines
STAGE_PARAMETERS = frozenset({"resources", "reporter", "verbose"})
FRAGMENTS = frozenset({"what", "of", "how", "whether", "where", "as", "who"})
FILE_NAME = re.compile(r"[\w.-]*\w\.(parquet|jsonl?|safetensors|html|csv|ya?ml|txt|png)")

DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)


@dataclass(frozen=True)
class Figure:
    """A value, which way is better ("" where neither is), and where to look."""

    words: str
    value: float
    better: str = "lower"
    places: list[str] = field(default_factory=list)


def measure(root: Path, package: str = "xal_ray") -> dict[str, Figure]:
    """All figures of a tree.

    Args:
        root: The folder that holds the package, and beside it `tests` and `benchmarks`, where there are any.
        package: The folder of the package.
    """
    modules = read_modules(root, package)
    if not modules:
        raise FileNotFoundError(root / package)
    return {
        **_sizes(modules),
        **_imports(modules),
        **_repeats(modules),
        **_types_and_sentences(modules),
        "test_only": _counted(
            "functions, classes and methods that nothing uses but tests", test_only(root, package, modules)
        ),
    }


def _sizes(modules: list[Module]) -> dict[str, Figure]:
    lines = {f"{module.path} ({module.num_lines})": module.num_lines for module in modules}
    lengths = {
        f"{module.at(node)} ({node.end_lineno - node.lineno + 1})": node.end_lineno - node.lineno + 1
        for module in modules
        for node in module.functions
        if node.end_lineno
    }
    ranked = sorted(lengths.values()) or [0]
    long_functions = _longest(lengths, LONG_FUNCTION)
    long_files = _longest(lines, LONG_FILE)
    return {
        "modules": Figure("modules", len(modules), ""),
        "lines": Figure("lines", sum(lines.values()), ""),
        "longest_file": Figure(
            "lines of the longest file", max(lines.values()), places=_longest(lines, 0)[:1]
        ),
        "long_files": Figure(f"files of more than {LONG_FILE} lines", len(long_files), places=long_files),
        "functions": Figure("functions", len(lengths), ""),
        "function_median": Figure("median of a function's lines", statistics.median(ranked)),
        "function_p95": Figure(
            "95th percentile of a function's lines", ranked[int(0.95 * (len(ranked) - 1))]
        ),
        "long_functions": Figure(
            f"functions of more than {LONG_FUNCTION} lines", len(long_functions), places=long_functions
        ),
        "stage_signatures": _counted(
            "signatures with two or more of " + ", ".join(sorted(STAGE_PARAMETERS)),
            (m.at(f) for m in modules for f in m.functions if len(_parameters(f) & STAGE_PARAMETERS) > 1),
        ),
    }


def _longest(lines: Mapping[str, int], limit: int) -> list[str]:
    """Those above the limit, the longest first."""
    return sorted((place for place, count in lines.items() if count > limit), key=lambda place: -lines[place])


def _counted(words: str, places: Iterable[str]) -> Figure:
    found = sorted(places)
    return Figure(words, len(found), places=found)


def _per_thousand(count: int, modules: list[Module]) -> float:
    return round(1000 * count / max(sum(module.num_lines for module in modules), 1), 2)


def _parameters(function: Function) -> set[str]:
    arguments = function.args
    return {argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}


# Imports: circles, folders that need each other, walls that part nothing.


def _imports(modules: list[Module]) -> dict[str, Figure]:
    ever = imports(modules, deep=True)
    folder = {module.name: module.folder for module in modules}
    arrows = {(folder[one], folder[other]) for one, others in ever.items() for other in others}
    both_ways = {
        " and ".join(sorted(pair))
        for pair in arrows
        if pair[::-1] in arrows and not _holds(*pair) and not _holds(*pair[::-1])
    }
    importers = Counter(other for others in ever.values() for other in others)
    lonely = (
        f"{module.path} ({module.num_lines})"
        for module in modules
        if module.num_lines < SMALL_MODULE
        and importers[module.name] == 1
        and not module.path.endswith("__init__.py")
    )
    return {
        "circles": _counted(
            "circles of imports, as modules are loaded", circles(imports(modules, deep=False))
        ),
        "late_circles": _counted("circles of imports, with those in functions and for types", circles(ever)),
        "both_ways": _counted("pairs of folders that import each other", both_ways),
        "lonely_modules": _counted(f"modules under {SMALL_MODULE} lines with one importer", lonely),
    }


def _holds(folder: str, other: str) -> bool:
    return f"{other}.".startswith(f"{folder}.")


# Repeats: logic, class names and file names that are written twice.


def _repeats(modules: list[Module]) -> dict[str, Figure]:
    pairs = sorted(twins(modules))
    homes = defaultdict(set)
    for module in modules:
        for node in module.nodes:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].add(module.path)
    literals = list(_file_names(modules))
    again = Counter(name for name, _ in literals)
    return {
        "duplicates": Figure(
            f"pairs of functions that share {RUN} statements of one shape, per 1,000 lines",
            _per_thousand(len(pairs), modules),
            places=pairs,
        ),
        "same_class_names": _counted(
            "public class names in two modules",
            (f"{name}: {', '.join(sorted(paths))}" for name, paths in homes.items() if len(paths) > 1),
        ),
        "file_names": _counted(
            "file names as literals outside of `layout` modules",
            (f"{place} {name}" for name, place in literals),
        ),
        "file_names_again": _counted(
            "file names that stand as a literal in two places or more",
            (f"{name} ({count})" for name, count in again.items() if count > 1),
        ),
    }


def _documented(node: ast.AST) -> bool:
    return isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None


def _file_names(modules: list[Module]) -> Iterator[tuple[str, str]]:
    """Strings that are a file name and nothing else, with their places."""
    for module in modules:
        if module.name.rpartition(".")[2] == "layout":
            continue
        for node in module.nodes:
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and FILE_NAME.fullmatch(node.value):
                yield node.value, module.at(node)


# Types and sentences.


def _types_and_sentences(modules: list[Module]) -> dict[str, Figure]:
    nodes = [(module, node) for module in modules for node in module.nodes]
    untyped = sum(isinstance(node, ast.Name) and node.id == "Any" for _, node in nodes)
    # An empty `__init__` has nothing to say.
    public = [(module, node) for module in modules for node in _public(module.tree) if module.text]
    bare = sorted(module.at(node) for module, node in public if not _documented(node))
    spoken = [(m, node, ast.get_docstring(node) or "") for m, node in nodes if _documented(node)]
    return {
        "any": Figure("`Any` per 1,000 lines", _per_thousand(untyped, modules)),
        "documented": Figure(
            "% of public names with a docstring",
            round(100 * (1 - len(bare) / max(len(public), 1)), 2),
            "higher",
            bare,
        ),
        "docstrings": Figure("docstrings", len(spoken), ""),
        "fragments": _counted(
            "docstrings that begin with " + ", ".join(sorted(FRAGMENTS)),
            (
                f"{m.at(node)}: {said.splitlines()[0]}"
                for m, node, said in spoken
                if _first_word(said) in FRAGMENTS
            ),
        ),
    }


def _public(node: ast.AST) -> Iterator[ast.AST]:
    """A module, its public classes and functions, and their public methods."""
    yield node
    if isinstance(node, FUNCTIONS):
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*FUNCTIONS, ast.ClassDef)) and not child.name.startswith("_"):
            yield from _public(child)


def _first_word(text: str) -> str:
    found = WORD.search(text)
    return found[0].lower() if found else ""
