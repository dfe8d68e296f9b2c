"""The tree of errors that a user can meet.

    XalRayError                 exit 1
    ├── InputError              exit 2   something the user gave is wrong
    │   ├── ConfigError                  the configuration file or a --set
    │   │   └── PluginError              or code of another package that it names
    │   ├── SourceError                  manifest, image folder, image, mask or box
    │   ├── PoolError                    a packed pool
    │   ├── RunError                     a run folder
    │   ├── LabelError                   labels that come in
    │   ├── ModelError                   a model file or its weights
    │   └── StorageError                 the disk: full, read-only, not allowed
    └── StageError              exit 1   a stage failed or stood still

Every message says what is wrong, what was expected and found, where, and what to do next.
"""

from __future__ import annotations

from typing import Any


class XalRayError(Exception):
    """Base of every error that is shown to the user without a traceback.

    Args:
        what: One sentence: what is wrong.
        expected: What would have been right.
        found: What was there instead.
        where: File, row, key or round.
        next_step: What the user can do now.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        where: str | None = None,
        next_step: str | None = None,
    ) -> None:
        self.what = what
        self.details = {"expected": expected, "found": found, "where": where, "next": next_step}
        lines = [what]
        lines += [f"  {name + ':':<10}{text}" for name, text in self.details.items() if text]
        super().__init__("\n".join(lines))

    def with_next_step(self, text: str) -> XalRayError:
        """Return the same error with another advice."""
        return _rebuild(type(self), self.what, {**self.details, "next": text})

    def at(self, where: str) -> XalRayError:
        """Return the same error with another place."""
        return _rebuild(type(self), self.what, {**self.details, "where": where})

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions cross process borders (Ray); the default would lose the keyword arguments.
        return _rebuild, (type(self), self.what, self.details)


def _rebuild(kind: type[XalRayError], what: str, details: dict[str, str | None]) -> XalRayError:
    return kind(
        what,
        expected=details["expected"],
        found=details["found"],
        where=details["where"],
        next_step=details["next"],
    )


class InputError(XalRayError):
    """Something that the user gave is wrong: exit code 2."""

    exit_code = 2


class ConfigError(InputError):
    """The configuration file or a `--set` is wrong."""


class PluginError(ConfigError):
    """A strategy, source or backbone of another package can't be had, or breaks its contract."""


class SourceError(InputError):
    """A manifest, image folder, image, mask or box is wrong."""


class PoolError(InputError):
    """A packed pool is missing, damaged, or of another schema version."""


class RunError(InputError):
    """A run folder is missing, damaged, in use, or belongs to another configuration."""


class LabelError(InputError):
    """Labels that come in do not fit the pool or the run."""


class ModelError(InputError):
    """A model file or its weights can't be used."""


class StorageError(InputError):
    """The disk refused: full, read-only, or not allowed."""


class StageError(XalRayError):
    """A stage failed for a reason that is not the user's input, or stood still."""
