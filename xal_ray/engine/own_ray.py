"""A Ray of our own: nobody else's cluster, in a private folder, gone when its driver is."""

from __future__ import annotations

import os
import secrets
from typing import Any

from xal_ray import config
from xal_ray.engine import orphans
from xal_ray.engine.code_check import job_settings
from xal_ray.engine.preflight import check_room
from xal_ray.errors import StageError
from xal_ray.machine import private_folder

_own_token: str | None = None  # the file of it, while a Ray of our own runs


def start_own(resources: config.Ray, spoken: dict[str, Any]) -> None:
    """A Ray whose sockets, logs and token lie in a folder that nobody else may look into."""
    import ray

    folder = private_folder()
    check_room(resources, folder)
    orphans.watch(folder)
    _use_own_token()
    try:
        ray.init(
            address="local",
            num_cpus=resources.num_cpus,
            object_store_memory=resources.object_store_mb * 1024**2,
            include_dashboard=False,
            _temp_dir=str(folder / "r"),
            job_config=job_settings(),
            **spoken,
        )
    except Exception as error:
        raise StageError(
            "Ray does not start on this machine",
            found=f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}",
            where=str(folder),
            next_step="xal-ray doctor says what is wrong; --verbose shows what Ray says itself",
        ) from error


def _use_own_token() -> None:
    """Give a Ray of our own a token of its own: what lies in the home folder is for clusters.

    The home folder may not be there, nor be writable; what the user has set stays.
    """
    global _own_token
    if any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    path = private_folder() / "token"
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # compiled

    if not path.exists():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:  # noqa: PTH123
            stream.write(secrets.token_hex(32))
    os.environ["RAY_AUTH_TOKEN_PATH"] = _own_token = str(path)
    AuthenticationTokenLoader.instance().reset_cache()


def forget_own_token() -> None:
    """Let what this process starts or joins later find the user's own token."""
    global _own_token
    if _own_token is None or os.environ.get("RAY_AUTH_TOKEN_PATH") != _own_token:
        return
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # compiled

    del os.environ["RAY_AUTH_TOKEN_PATH"]
    _own_token = None
    AuthenticationTokenLoader.instance().reset_cache()
