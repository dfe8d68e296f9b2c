"""Processes of a Ray of our own end when the process that started it is killed.

Ray's raylet dies with its driver, and the workers with the raylet; but its agents were seen to stay much
longer. A small process waits for the end of a pipe that only the driver holds, and then ends whatever still
has a file open in the driver's private folder, where each process of a Ray has its logs and sockets.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

_PROGRAM = """
import os, shutil, signal, sys, time
folder, driver = sys.argv[1] + "/", int(sys.argv[2])
sys.stdin.buffer.read()
for _ in range(100):  # the pipe ends a little before the process does
    if os.getppid() != driver:
        break
    time.sleep(0.05)

def holds(pid):
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                if os.readlink(f"/proc/{pid}/fd/{name}").startswith(folder):
                    return True
            except OSError:
                pass
    except OSError:
        pass
    return False

for _ in range(20):
    pids = {int(name) for name in os.listdir("/proc") if name.isdigit()} - {driver}
    left = [pid for pid in pids if holds(pid)]
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    if not left:
        break
    time.sleep(0.1)
shutil.rmtree(folder, ignore_errors=True)
"""


@cache
def watch(folder: Path) -> Any:
    """End what works in a folder once this process is gone, however it goes, and remove the folder.

    Args:
        folder: Of this process alone.
    """
    if not Path("/proc/self/fd").is_dir():
        return None
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM, str(folder), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # a Ctrl-C of the terminal is not meant for it
    )
