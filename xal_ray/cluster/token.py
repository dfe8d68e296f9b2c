"""The token that a cluster's machines share: whoever lacks it can't talk to Ray.

Where RAY_AUTH_MODE=token, Ray reads it from `~/.ray/auth_token` or the file that `RAY_AUTH_TOKEN_PATH` names.
It is a password: never printed, logged or put into a run folder. It does not encrypt what machines say.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from xal_ray.errors import ConfigError, StorageError

ON_A_NODE = "~/.ray/auth_token"  # where Ray looks, on every machine


def token_path() -> Path:
    """Return where this machine's token lies: `RAY_AUTH_TOKEN_PATH`, or Ray's own place."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"


def ensure_token() -> str:
    """This machine's token; made where there is none, and readable by its owner alone afterwards.

    A file that others could read is closed, not replaced: clusters that stand know the old token.

    Returns:
        The token. Never show it.

    Raises:
        ConfigError: `RAY_AUTH_TOKEN` names another token than the file, or the file is empty.
        StorageError: The file can't be made, read or closed to others.
    """
    path = token_path()
    try:
        token = _read(path) if path.exists() else _make(path)
    except OSError as error:
        raise StorageError(
            "Ray's token can't be made, read, or closed to other users",
            expected="a file that you own, mode 600",
            found=error.strerror or type(error).__name__,
            where=str(path),
            next_step="remove the file to have a new one made, or set RAY_AUTH_TOKEN_PATH",
        ) from error
    if not token:
        raise ConfigError(
            "Ray's token is empty", where=str(path), next_step="remove the file to have a new one made"
        )
    if os.environ.get("RAY_AUTH_TOKEN", token) != token:
        raise ConfigError(
            "RAY_AUTH_TOKEN names another token than the file that is copied to the nodes",
            where=str(path),
            next_step="unset RAY_AUTH_TOKEN, or write the same token into the file",
        )
    return token


def _read(path: Path) -> str:
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        path.chmod(0o600)
    return path.read_text(encoding="utf-8").strip()


def _make(path: Path) -> str:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = secrets.token_hex(32)  # as `ray get-auth-token --generate`
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # another process was first
        return _read(path)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(token)
    return token
