"""Finds the record of a name: built in, of an installed package, or a path `module:attribute`."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from xal_ray.errors import ConfigError, PluginError, XalRayError
from xal_ray.nearest_name import nearest_name
from xal_ray.registry.importing import Origin, check_unchanged, import_object, origin_of

SPEC = "__xal_ray__"  # the attribute in which a plug-in's object carries its record


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Holds what is known of a name without loading its code.

    Attributes:
        name: As a configuration has it.
        path: Where the code lies: `module:attribute`.
        words: What it does, for people; one line.
        origin: Of a plug-in's code; None: it is built in.
    """

    name: str = ""
    path: str = ""
    words: str = ""
    origin: Origin | None = None

    @property
    def identity(self) -> str:
        """Return what results depend on: the name or, of a plug-in, the path and the version of its code."""
        return self.name if self.origin is None else str(self.origin)

    @property
    def title(self) -> str:
        """Return the name and, of a plug-in, where it comes from: for people."""
        if self.origin is None:
            return self.name
        return str(self.origin) if self.name == self.origin.path else f"{self.name}, {self.origin}"

    @property
    def summary(self) -> str:
        """Return what it does, in a line that needs no configuration to be understood."""
        return self.words

    def load(self) -> Any:
        """Return the code itself, which is imported on first use."""
        return import_object(self.path)


E = TypeVar("E", bound=Entry)


@dataclass(frozen=True)
class Broken:
    """Names a plug-in that is installed and can't be used.

    Attributes:
        name: Of its entry point.
        path: `module:attribute`.
        why: In one line.
    """

    name: str
    path: str
    why: str


class UnknownNameError(ConfigError):
    """Is raised for a name that stands for nothing.

    Attributes:
        known: The names that there are.
        near: The nearest of them, if any.
    """

    known: tuple[str, ...] = ()
    near: str | None = None


class Registry(Generic[E]):
    """Holds all that a configuration may name in one place.

    Args:
        kind: The class of the records.
        noun: What one of them is called, for people.
        group: Of the entry points by which installed packages add theirs.
        built_in: The records of this package, in the order in which they are shown.
        check: Refuses a plug-in's record, with what was expected and what is found; None where it is fine.
    """

    def __init__(
        self,
        kind: type[E],
        noun: str,
        group: str,
        built_in: Sequence[E],
        check: Callable[[E], tuple[str, str] | None] = lambda _: None,
    ) -> None:
        self.noun, self.group = noun, group
        self._kind, self._check = kind, check
        self._built_in = {entry.name: entry for entry in built_in}
        self._plug_ins: dict[str, E] = {}

    def __iter__(self) -> Iterator[E]:
        """Go over the built-in records."""
        return iter(self._built_in.values())

    def names(self) -> tuple[str, ...]:
        """Return the names of the built-in records."""
        return tuple(self._built_in)

    def __getitem__(self, name: str) -> E:
        """Return the record of a name; a plug-in's module is imported for it.

        Raises:
            UnknownNameError: It stands for nothing.
            PluginError: It is a plug-in's that can't be imported or is none.
            ConfigError: Two packages have given it.
        """
        entry = self._built_in.get(name) or self._plug_ins.get(name)
        if entry is None:
            entry = self._plug_ins[name] = self._plug_in(name, name if ":" in name else self._path_of(name))
        return entry

    def read_anew(self, name: str) -> E:
        """Return the record of a name as its files are now; for a name that a configuration gives.

        Raises:
            UnknownNameError, ConfigError: As above.
            PluginError: As above; or its files have changed since this process imported them.
        """
        known = self._plug_ins.get(name)
        if known is not None and known.origin is not None:
            check_unchanged(known.origin)
            del self._plug_ins[name]
        return self[name]

    def installed(self) -> list[E | Broken]:
        """Return what installed packages add, by name, with what is wrong with those that can't be used."""
        found: list[E | Broken] = []
        for point in sorted(self._points(), key=lambda each: (each.name, each.value)):
            try:
                if point.name in self._built_in:
                    raise PluginError(f"{point.name} is built in: it can be had as {point.value} only")
                self._path_of(point.name)
                found.append(self._plug_in(point.name, point.value))
            except XalRayError as error:
                why = " ".join(filter(None, (error.what, error.details["found"])))
                found.append(Broken(point.name, point.value, " ".join(why.split())))
        return found

    def plug_ins_in_use(self) -> dict[str, E]:
        """Return the plug-ins that this process has looked up, by the names that were asked for."""
        return dict(self._plug_ins)

    def _points(self) -> set[importlib.metadata.EntryPoint]:
        return set(importlib.metadata.entry_points(group=self.group))

    def _path_of(self, name: str) -> str:
        paths = sorted({point.value for point in self._points() if point.name == name})
        if len(paths) == 1:
            return paths[0]
        if paths:
            raise ConfigError(
                f"several installed packages have a {self.noun} of the name '{name}'",
                found=" and ".join(paths),
                next_step=f"name the one that is meant by its path: {paths[0]}",
            )
        known = tuple(dict.fromkeys([*self._built_in, *sorted(point.name for point in self._points())]))
        near = nearest_name(name, known)
        if near is None and name.count("."):
            near = ":".join(name.rsplit(".", 1))  # `module.function`
        error = UnknownNameError(
            f"there is no {self.noun} of the name '{name}'",
            expected=f"one of {', '.join(known)}, or MODULE:FUNCTION",
            found=name,
            next_step=f"did you mean {near}?" if near else None,
        )
        error.known, error.near = known, near
        raise error

    def _plug_in(self, name: str, path: str) -> E:
        spec = getattr(import_object(path), SPEC, None)
        if not isinstance(spec, self._kind):
            raise PluginError(
                f"{path} is not a {self.noun}",
                expected=f"an object that the decorator xal_ray.plugins.{self.noun} has been applied to",
                found=f"a {type(spec).__name__}" if isinstance(spec, Entry) else "one without",
                next_step=f"write @{self.noun}(...) above it; CONTRIBUTING.md has the recipe",
            )
        entry = replace(spec, name=name, path=path, origin=origin_of(path))
        if wrong := self._check(entry):
            raise PluginError(
                f"the {self.noun} {entry.title} can't be used", expected=wrong[0], found=wrong[1]
            )
        return entry
