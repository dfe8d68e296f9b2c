"""Functions, classes and methods that nothing uses, unless it is a test."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from house_measures.imports import imports, source_of
from house_measures.modules import FUNCTIONS, Function, Module, read_modules

WORD = re.compile(r"\w+")
DOTTED = re.compile(r"\w+([.:]\w+)+")


def test_only(root: Path, package: str, modules: list[Module]) -> Iterator[str]:
    """Places of what neither the package nor `benchmarks` uses.

    A function or class of a module is used where
    - the module names it outside of its own lines;
    - another module imports it by name (an `__init__` that only hands it on does not count);
    - another module imports the module, or imports modules by names made at run time, and reads such an
      attribute;
    - a string ends with `:name` or `.name`, or stands in a module that has this module's name as a string;
    - the package that the module lies in says by a `Protocol` that its modules have it, and it is read.

    A method is used where its name is an attribute, a string or a word of a template. What a decorator
    registers, and what a base class may call, is left out: its name need not stand anywhere.
    """
    users = modules + read_modules(root, "benchmarks")
    named = _named_by_import(modules, users)
    attributes = {
        module.name: {n.attr for n in module.nodes if isinstance(n, ast.Attribute)} for module in users
    }
    strings = {module.name: set(_strings(module)) for module in users}
    reads = _reads_by_module(users, attributes, strings)
    pointed = _entry_points(root).union(*(map(_last_part, found) for found in strings.values()))
    in_words = _words_of_templates(root / package).union(*attributes.values(), *strings.values())
    promised = _promised(modules)
    for module in modules:
        loaded = Counter(_loaded(module.nodes))
        outside = (
            named[module.name]
            | reads[module.name]
            | pointed
            | (promised[module.name.rpartition(".")[0]] & in_words)
        )
        for node in _defined(module.tree.body):
            at_home = loaded[node.name] - list(_loaded(ast.walk(node))).count(node.name)
            if not at_home and node.name not in outside:
                yield module.at(node)
        yield from (module.at(method) for method in _methods(module.tree.body) if method.name not in in_words)


def _reads_by_module(
    users: list[Module], attributes: dict[str, set[str]], strings: dict[str, set[str]]
) -> dict[str, set[str]]:
    """For each module the attributes that may be read of it."""
    reads: dict[str, set[str]] = defaultdict(set)
    for name, others in imports(users, deep=True).items():
        for other in others:
            reads[other] |= attributes[name]
    for user in users:
        for module in users:
            if module.name in strings[user.name]:
                reads[module.name] |= strings[user.name]
            elif "import_module" in attributes[user.name]:
                reads[module.name] |= attributes[user.name]
    return reads


def _promised(modules: list[Module]) -> dict[str, set[str]]:
    """For each package the methods of the protocols in its `__init__`: it loads modules that keep to them."""
    promised: dict[str, set[str]] = defaultdict(set)
    for module in modules:
        for node in module.tree.body if module.is_package else ():
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases):
                promised[module.name] |= {one.name for one in node.body if isinstance(one, FUNCTIONS)}
    return promised


def _named_by_import(modules: list[Module], users: list[Module]) -> dict[str, set[str]]:
    """For each module the names that others import from it, directly or from a package that hands them on."""
    by_name = {module.name: module for module in modules}
    named: dict[str, set[str]] = defaultdict(set)
    handed_on: dict[tuple[str, str], str] = {}
    for module in modules:
        if module.is_package:
            for source, name in _taken(module):
                handed_on[module.name, name] = source
    for module in users:
        for source, name in _taken(module):
            if module.is_package and module.name in by_name and not _loads(module, name):
                continue
            while (source, name) in handed_on and handed_on[source, name] != source:
                source = handed_on[source, name]
            named[source].add(name)
    return named


def _loads(module: Module, name: str) -> bool:
    return name in set(_loaded(module.nodes))


def _taken(module: Module) -> Iterator[tuple[str, str]]:
    for node in module.nodes:
        if isinstance(node, ast.ImportFrom):
            yield from ((source_of(module, node), alias.name) for alias in node.names)


def _loaded(nodes: Iterable[ast.AST]) -> Iterator[str]:
    return (node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))


def _strings(module: Module) -> Iterator[str]:
    return (
        node.value for node in module.nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _last_part(text: str) -> str:
    """`c` of `a.b:c`; nothing of what is no such path."""
    return re.split(r"[:.]", text)[-1] if DOTTED.fullmatch(text) else ""


def _words_of_templates(folder: Path) -> set[str]:
    return {word for path in folder.rglob("*.j2") for word in WORD.findall(path.read_text(encoding="utf-8"))}


def _entry_points(root: Path) -> set[str]:
    path = root / "pyproject.toml"
    return set(re.findall(r':(\w+)"', path.read_text(encoding="utf-8"))) if path.is_file() else set()


def _defined(body: list[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
    for node in body:
        if isinstance(node, ast.ClassDef) or (isinstance(node, FUNCTIONS) and not _is_found_otherwise(node)):
            yield node


def _methods(body: list[ast.stmt]) -> Iterator[Function]:
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.bases:
            yield from (
                one for one in node.body if isinstance(one, FUNCTIONS) and not _is_found_otherwise(one)
            )


def _is_found_otherwise(node: Function) -> bool:
    """By its decorator (`@app.command()`, not `@property`), or by the language (`__getattr__`)."""
    registered = any(not isinstance(one, ast.Name) for one in node.decorator_list)
    return registered or node.name.startswith("__")
