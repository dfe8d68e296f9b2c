"""Who started whom (Linux)."""

from pathlib import Path


def is_below(pid, ancestor):
    """Whether a process was started by another, directly or not."""
    while pid > 1 and pid != ancestor:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid == ancestor
