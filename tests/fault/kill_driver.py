"""Runs a configuration again and again, each time in a child that dies by SIGKILL at one of its disk syncs.

Every atomic write syncs twice, before and after the file appears under its name, and every ledger line once:
so counting syncs walks through all moments between two durable states. Children are forked from a process
that has imported everything and started nothing, which saves the seconds of each start.

Usage: python kill_driver.py CONFIG.yaml OUT KILLS   where KILLS is "3,2,5": a sync for each attempt
"""

import os
import signal
import sys
from pathlib import Path

import torch._dynamo  # noqa: F401 - an optimiser's first, and it takes seconds

import xal_ray.engine.training.stage
import xal_ray.loop
import xal_ray.report.page
from xal_ray.config import load_config
from xal_ray.progress import QUIET


def die_at_sync(number: int) -> None:
    real, count = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = fsync


def attempt(config: Path, out: Path, die_at: int | None) -> int:
    child = os.fork()
    if child == 0:
        if die_at is not None:
            die_at_sync(die_at)
        outcome = xal_ray.loop.run(load_config(config), out, QUIET)
        from xal_ray.engine import session

        session.stop()
        os._exit(0 if outcome.status in ("finished", "already_finished") else 3)
    return os.waitpid(child, 0)[1]


def main() -> None:
    config, out, kills = Path(sys.argv[1]), Path(sys.argv[2]), [int(text) for text in sys.argv[3].split(",")]
    for number, die_at in enumerate(kills):
        status = attempt(config, out, die_at)
        print(f"attempt {number}: {'killed' if os.WIFSIGNALED(status) else f'ended {status}'}", flush=True)
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))
    sys.exit(os.waitstatus_to_exitcode(attempt(config, out, None)))


if __name__ == "__main__":
    main()
