"""Functions that do the same with other names."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

from house_measures.modules import FUNCTIONS, Module

RUN = 4  # statements of one shape, in a row, make a pair
TOO_COMMON = 8  # a run that stands in more places than this is an idiom
BLOCKS = ("body", "handlers", "cases", "orelse", "finalbody")


def twins(modules: list[Module]) -> set[str]:
    """Pairs of functions that share a run of `RUN` statements; how many runs they share does not matter.

    A function is the list of its statements in the order of the text, docstring left out, compound ones by
    their heads. Two statements have one shape if they are equal but for variables and constants: attributes,
    the names that are called, and keywords count. A run in more than `TOO_COMMON` places is left out.
    """
    places: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for module in modules:
        for function in module.functions:
            shapes = [
                _shape(statement)
                for statement in _statements(function.body[ast.get_docstring(function) is not None :])
            ]
            for start in range(len(shapes) - RUN + 1):
                places[tuple(shapes[start : start + RUN])].add(module.at(function))
    groups = (found for found in places.values() if len(found) <= TOO_COMMON)
    return {" ~ ".join(pair) for found in groups for pair in combinations(sorted(found), 2)}


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, (*FUNCTIONS, ast.ClassDef, ast.Import, ast.ImportFrom)):
            continue  # a function in a function is looked at by itself
        yield statement
        for block in BLOCKS:
            yield from _statements(getattr(statement, block, []))


def _shape(statement: ast.AST) -> str:
    """What a statement does, without whose variables it does it to."""
    called = {id(node.func) for node in ast.walk(statement) if isinstance(node, ast.Call)}

    def text(node: object) -> str:
        if isinstance(node, ast.Name):
            return node.id if id(node) in called else "_"
        if isinstance(node, ast.Constant):
            return type(node.value).__name__
        if isinstance(node, list):
            return "[" + " ".join(text(one) for one in node) + "]"
        if isinstance(node, ast.AST):
            inner = (text(value) for name, value in ast.iter_fields(node) if not _is_block(node, name))
            return f"({type(node).__name__} {' '.join(inner)})"
        return str(node)

    return text(statement)


def _is_block(node: ast.AST, name: str) -> bool:
    return name in BLOCKS and isinstance(node, (ast.stmt, ast.ExceptHandler, ast.match_case))
