"""A command needs these of its process: standard streams, a folder, and signals that end it in order."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import TextIO

from xal_ray.errors import ConfigError

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
BROKEN_PIPE = 128 + signal.SIGPIPE
_GRACE_S = 5.0  # for an orderly end, before a second signal ends the process as it stands


_first: tuple[float, int] | None = None  # when a signal came, and which


def take_signals() -> None:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does; what is ignored (nohup) stays so."""
    for number in SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _stop)


def _stop(number: int, _: FrameType | None) -> None:
    """The first signal unwinds; those of the next seconds are its echoes (to the group, to each process)."""
    global _first
    now = time.monotonic()
    if _first is None:
        _first = now, number
        raise KeyboardInterrupt
    if now - _first[0] > _GRACE_S:
        os._exit(128 + number)


def stop_code() -> int | None:
    """Return the exit code that a shell expects after the signal that came, or None where none did.

    It is kept here, since what is raised may reach a command as another `KeyboardInterrupt` (of Ray's, say).
    """
    return 128 + _first[1] if _first is not None else None


def finish_signals() -> None:
    """Keep a late echo of a signal from changing the exit code: Python drops its handlers before it ends."""
    if _first is not None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def open_streams() -> None:
    """Give the process three standard streams on which any text can be written.

    Where one is closed (`2>&-`), the next file that is opened would get its number, and be written to by
    whoever writes to standard error.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number, inheritable=True)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # in another encoding, or a name that is not UTF-8


def nobody_reads() -> bool:
    """Tell whether the reader of a standard stream has gone (`| head`).

    From now on what is written to that stream goes nowhere, so that the end of the process is silent, too.
    """
    gone = [stream for stream in (sys.stdout, sys.stderr) if _is_broken(stream)]
    for stream in gone:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return bool(gone)


def _is_broken(stream: TextIO) -> bool:
    try:
        stream.flush()
        os.write(stream.fileno(), b"")
    except BrokenPipeError:
        return True
    except (OSError, ValueError):
        return False
    import select

    waiting = select.poll()
    waiting.register(stream.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in waiting.poll(0))


def check_folder() -> None:
    """Refuse to work in a folder that has been removed.

    Raises:
        ConfigError: It has been removed.
    """
    try:
        os.getcwd()  # noqa: PTH109 - Path.cwd() is the same call
    except OSError:
        raise ConfigError(
            "the current folder is gone", next_step="cd to a folder that is there, and run the command again"
        ) from None
