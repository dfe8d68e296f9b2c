"""Who imports whom, and in which circles."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from house_measures.modules import FUNCTIONS, Module


def imports(modules: list[Module], *, deep: bool) -> dict[str, set[str]]:
    """For each module those that it imports; `deep`: inside functions and for types alone, too."""
    names = {module.name for module in modules}
    return {m.name: set(_imported(m, m.tree.body, names, deep=deep)) for m in modules}


def _imported(module: Module, body: list[ast.stmt], names: set[str], *, deep: bool) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names - {module.name})
        elif isinstance(node, ast.ImportFrom):
            source = source_of(module, node)
            found = (_module_of(source, alias.name, names) for alias in node.names)
            yield from (name for name in found if name in names - {module.name})
        elif deep or not (isinstance(node, FUNCTIONS) or _for_types(node)):
            for block in ("body", "orelse", "finalbody", "handlers", "cases"):
                yield from _imported(module, getattr(node, block, []), names, deep=deep)


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def source_of(module: Module, node: ast.ImportFrom) -> str:
    """The dotted name behind `from`, from the root on."""
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    kept = len(parts) - node.level + module.is_package
    return ".".join([*parts[:kept], *([node.module] if node.module else [])])


def _module_of(source: str, name: str, names: set[str]) -> str:
    """`from a import b` imports the module `a.b` where there is one, otherwise `a`."""
    return f"{source}.{name}" if f"{source}.{name}" in names else source


def circles(graph: Mapping[str, set[str]]) -> list[str]:
    """The strongly connected components of more than one module (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[str] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                found.append(", ".join(sorted(members)))

    for node in graph:
        if node not in index:
            visit(node)
    return found
