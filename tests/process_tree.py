"""Who started whom (Linux)."""

import contextlib
from pathlib import Path


def below(ancestor):
    """All processes that another has started, directly or not."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if folder.name != str(ancestor) and is_below(int(folder.name), ancestor):
                found.append(int(folder.name))
    return found


def is_below(pid, ancestor):
    """Whether a process was started by another, directly or not."""
    while pid > 1 and pid != ancestor:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid == ancestor
