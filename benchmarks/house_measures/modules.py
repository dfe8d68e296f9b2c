"""The files of a package as syntax trees."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Module:
    """A file of the package."""

    name: str
    path: str
    text: str
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.endswith("__init__.py")

    @property
    def folder(self) -> str:
        """The folder it lies in, dotted; a module beside the folders stands for itself."""
        return self.name if self.is_package or self.name.count(".") < 2 else self.name.rpartition(".")[0]

    @cached_property
    def num_lines(self) -> int:
        return len(self.text.splitlines())

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @property
    def functions(self) -> list[Function]:
        return [node for node in self.nodes if isinstance(node, FUNCTIONS)]

    def at(self, node: ast.AST) -> str:
        """`path:line name`, as the places of a figure are listed."""
        return f"{self.path}:{getattr(node, 'lineno', 1)} {getattr(node, 'name', '')}".rstrip()


def read_modules(root: Path, folder: str) -> list[Module]:
    """Every Python file below `root/folder`; names are dotted paths from `root`."""
    modules = []
    for path in sorted((root / folder).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        modules.append(Module(name, path.relative_to(root).as_posix(), text, ast.parse(text)))
    return modules
