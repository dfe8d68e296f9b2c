"""Places: a local path, or the address of an object store (`s3://`, `gs://`), named in one way.

A local place is a `pathlib.Path`, a remote one has the same methods (`upath.UPath` over fsspec) without being
one. Code that only joins, lists, reads and opens need not know which it has; what a disk can and an object
store can't (rename, append, lock, flush) is in `storage`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import PlainSerializer, PlainValidator
from upath import UPath

from xal_ray.errors import ConfigError

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
REMOTE_SCHEMES = ("s3", "gs")
# Throttled requests are tried again, ever more slowly, for minutes. No listing is kept: other machines write
# too.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "use_listings_cache": False,
        "config_kwargs": {"retries": {"max_attempts": 12, "mode": "adaptive"}},
    },
    "gs": {"use_listings_cache": False},
}


def place(text: str | os.PathLike[str]) -> Path:
    """A path or a URI as an object with the methods of `pathlib.Path`.

    Credentials, regions and endpoints come from the environment or the instance's role alone.

    Raises:
        ConfigError: The URI has another scheme than s3 or gs, or what reads it is not installed.
    """
    if not isinstance(text, str):
        return cast(Path, text)
    match = _SCHEME.match(text)
    if match is None:
        return Path(text)
    scheme = match.group(1).lower()
    if scheme not in REMOTE_SCHEMES:
        raise ConfigError(
            "a place has a scheme that can't be used",
            expected="a local path, or one of " + ", ".join(f"{name}://" for name in REMOTE_SCHEMES),
            found=text,
        )
    try:
        return cast(Path, UPath(text, **_OPTIONS[scheme]))
    except ImportError as error:
        raise ConfigError(
            f"{scheme}:// needs a package that is not installed",
            found=str(error),
            where=text,
            next_step=f'pip install "xal-ray[{scheme}]"',
        ) from error


def is_remote(path: Path) -> bool:
    """Whether a place lies in an object store."""
    return not isinstance(path, Path)


def _validated(value: Any) -> Path:
    if isinstance(value, str | Path | UPath):
        return place(cast(str, value))
    raise ValueError("expected a path or a URI")


# A configuration's key that holds a path or a URI.
Place = Annotated[Path, PlainValidator(_validated), PlainSerializer(str, when_used="json")]
