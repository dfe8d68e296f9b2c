"""This machine as a process finds it: how many processors it may use, and folders that it may write to.

Containers, batch systems and services start programs with a user that has no name, without a home folder, or
with a temporary folder that is relative, missing, full or read-only. What can be settled is settled here,
before any work, for this process and all that it starts; what can't is an error that says so.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import getpass
import math
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from xal_ray.errors import ConfigError

# The path of a Unix socket has at most 107 bytes. Ray appends to its folder
# "/session_2026-11-29_14-13-05_301213_4194304/sockets/plasma_store", and we "/ray-xxxxxxxx/r" to its parent.
MAX_SOCKET_PATH = 107
MAX_PARENT = MAX_SOCKET_PATH - len(
    "/session_2026-11-29_14-13-05_301213_4194304/sockets/plasma_store/ray-xxxxxxxx/r"
)
_PROBE = b"\0" * (1 << 20)
_CPU_QUOTAS = (  # of a container, version 2 and 1 of cgroups: quota and period
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def usable_cpus() -> int:
    """Processors that this process may use: its affinity (taskset, SLURM) and its container's quota count."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux
        allowed = os.cpu_count() or 1
    return max(1, min(allowed, _quota()))


def _quota() -> int:
    for names in _CPU_QUOTAS:
        try:
            words = " ".join(Path(name).read_text(encoding="ascii") for name in names).split()
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):  # "max": no limit
            continue
        if quota > 0 and period > 0:
            return math.ceil(quota / period)
    return os.cpu_count() or 1


def settle() -> list[str]:
    """Give this process and its children a temporary folder, a home folder and a user's name that work.

    What the user has set and works stays. Called again, it finds all in order.

    Returns:
        What had to be changed and may surprise, in sentences.

    Raises:
        ConfigError: There is no folder for temporary files.
    """
    remarks = _settle_temporary()
    settle_user()
    return remarks


def _settle_temporary() -> list[str]:
    given = os.environ.get("TMPDIR")
    if not given:
        return []
    reason = why_not(Path(given).absolute())
    if reason is None:
        os.environ["TMPDIR"] = str(Path(given).absolute())  # children may stand in other folders
        return []
    del os.environ["TMPDIR"]
    tempfile.tempdir = None
    try:
        other = tempfile.gettempdir()
    except FileNotFoundError:
        raise _nowhere([f"TMPDIR={given} {reason}"]) from None
    return [f"TMPDIR={given} {reason}: temporary files go to {other}"]


def settle_user() -> None:
    """The part of `settle` that must come before matplotlib is imported: a home folder, and a user's name.

    Raises:
        ConfigError: There is no folder for temporary files.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a number without an entry in the list of users
        os.environ["USER"] = os.environ["LOGNAME"] = f"uid-{os.getuid()}"
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
    if home == "~" or not Path(home).is_dir():
        os.environ["HOME"] = home = str(private_folder())
    if "MPLCONFIGDIR" not in os.environ and not _can_keep_files(Path(home)):
        os.environ["MPLCONFIGDIR"] = str(private_folder() / "matplotlib")  # else it warns on each start


def _can_keep_files(home: Path) -> bool:
    return os.access(home, os.W_OK | os.X_OK) or os.access(home / ".config" / "matplotlib", os.W_OK)


def why_not(folder: Path) -> str | None:
    """Why temporary files can't go to a folder, in words that follow its name; None where they can."""
    if not folder.is_dir():
        return "is no folder" if folder.exists() else "does not exist"
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(_PROBE)
            stream.flush()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return "is full"
        return "is read-only" if error.errno == errno.EROFS else "may not be written to"
    return None


@cache
def private_folder() -> Path:
    """Return a folder of this process that nobody else may look into, removed when the process ends.

    Ray's sockets lie in it, whose paths are short by nature: it is below RAY_TMPDIR or TMPDIR where these are
    short enough, else below /tmp.

    Raises:
        ConfigError: No folder can be had.
    """
    found = []
    for name, folder in _parents():
        reason = why_not(folder)
        if reason is None and len(os.fsencode(folder)) > MAX_PARENT:
            reason = f"is too long for sockets ({len(os.fsencode(folder))} bytes, at most {MAX_PARENT})"
        if reason is None:
            made = Path(tempfile.mkdtemp(prefix="ray-", dir=folder))
            atexit.register(_remove, made, os.getpid())
            return made
        found.append(f"{name} {reason}")
    raise _nowhere(found)


def _parents() -> list[tuple[str, Path]]:
    given = [
        (f"{name}={os.environ[name]}", Path(os.environ[name]).absolute())
        for name in ("RAY_TMPDIR", "TMPDIR")
        if os.environ.get(name)
    ]
    return [*given, *((folder, Path(folder)) for folder in ("/tmp", "/var/tmp", "/dev/shm"))]  # noqa: S108


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder, ignore_errors=True)


def _nowhere(found: list[str]) -> ConfigError:
    return ConfigError(
        "there is no folder for temporary files",
        expected=f"one that can be written to, has room, and whose path has at most {MAX_PARENT} bytes",
        found="; ".join(found),
        where="TMPDIR",
        next_step="set TMPDIR to such a folder (mkdir -p /tmp/me && export TMPDIR=/tmp/me)",
    )
