"""Reading in a child process whose memory and time are capped: strict mode.

    parent  --  function and arguments, pickled  -->  child      (a pipe)
    parent  <--  result or error, pickled  ---------  child      (another)

The child may be in the hands of a file that broke a decoder, so what comes back is unpickled by a reader that
knows arrays, paths and this package's results and errors, and nothing else. The child ends with its parent,
because its pipe does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import time
from typing import Any, BinaryIO

from xal_ray.code_version import python_of_ours
from xal_ray.config import Limits
from xal_ray.errors import XalRayError
from xal_ray.images.errors import ImageError

_CHILD = "XAL_RAY_CAPPED"  # set in the environment of a child
_LENGTH = struct.Struct(">Q")
_START_TIMEOUT_S = 120.0  # imports, on a busy machine
_GRACE_S = 5.0  # after which a child ends itself, should its parent be gone
_READY = b"ready"
_PRELOADED = ("pydicom.pixels", "nibabel", "h5py", "PIL.Image")
_PLAIN = {
    "builtins": {"bytearray", "complex", "frozenset", "range", "set", "slice"},
    "numpy": {"dtype", "ndarray"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath"},
    "xal_ray.errors": {"_rebuild"},
}


def is_child() -> bool:
    """Return whether this process is a capped child already."""
    return _CHILD in os.environ


class Sandbox:
    """Runs functions in a child process, one at a time; the child is started when it is first needed.

    Args:
        limits: `max_memory_mb` above what the child takes before its first file, `decode_timeout_s`.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._child: subprocess.Popen[bytes] | None = None
        self._prepared = ""

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, function: str, *arguments: Any) -> Any:
        """Run a function on arguments that can be pickled.

        Args:
            function: "module:name".
            arguments: What it is given.

        Returns:
            What it returns: plain values, arrays, paths, or data classes of this package.

        Raises:
            ImageError: What it raised; or it died (`decoder_crashed`), took too much memory (`out_of_memory`)
                or too long (`timeout`). The next call gets a new child.
            XalRayError: What it raised.
        """
        child = self._running(function)
        request = pickle.dumps((function, arguments))
        try:
            _send(child.stdin, request)
            answer = self._receive(child, self._limits.decode_timeout_s)
            failed, value = _load(answer)
        except TimeoutError:
            self.close()
            raise ImageError(
                "timeout",
                f"reading took longer than pool.limits.decode_timeout_s, {self._limits.decode_timeout_s:g}",
            ) from None
        except MemoryError:
            self.close()
            raise self._out_of_memory() from None
        except (OSError, EOFError, ValueError, pickle.UnpicklingError):
            self.close()
            raise ImageError("decoder_crashed", "the process that read the file died") from None
        if failed:
            raise self._error_of(value)
        return value

    def _error_of(self, raised: Any) -> Exception:
        if isinstance(raised, ImageError) and raised.code == "out_of_memory":
            self.close()  # its heap may be in pieces
            return self._out_of_memory()
        if isinstance(raised, ImageError | XalRayError):
            return raised
        return ImageError("unreadable", f"the file is damaged ({raised})")

    def close(self) -> None:
        """End the child, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            for pipe in filter(None, (child.stdin, child.stdout)):
                with contextlib.suppress(OSError):
                    pipe.close()
            child.wait()

    def memory_peak_mb(self) -> float:
        """Return the most resident memory that the present child has had; 0 without one (Linux)."""
        if self._child is None:
            return 0.0
        with contextlib.suppress(OSError), open(f"/proc/{self._child.pid}/status") as lines:  # noqa: PTH123
            return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
        return 0.0

    def _running(self, function: str) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is not None:
            self.close()
        if self._child is None:
            self._child = _start(self._limits, function)
            try:
                if self._receive(self._child, _START_TIMEOUT_S) != _READY:
                    raise EOFError
            except (OSError, EOFError):
                self.close()
                raise XalRayError(
                    "the process that reads files in strict mode did not start",
                    where="pool.limits.strict",
                    next_step="set pool.limits.strict=false, or free some memory",
                ) from None
        return self._child

    def _receive(self, child: subprocess.Popen[bytes], timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        (length,) = _LENGTH.unpack(_read_until(child.stdout, _LENGTH.size, deadline))
        if length > self._limits.max_memory_mb * 1024**2:
            raise EOFError
        return _read_until(child.stdout, length, deadline)

    def _out_of_memory(self) -> ImageError:
        return ImageError(
            "out_of_memory", f"reading took more than pool.limits.max_memory_mb, {self._limits.max_memory_mb}"
        )


def _start(limits: Limits, function: str) -> subprocess.Popen[bytes]:
    # One thread and one arena: others would take address space, which is what is capped.
    alone = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", _CHILD: "1"}
    python, paths = python_of_ours()
    return subprocess.Popen(
        [
            *python,
            "-m",
            __name__,
            str(limits.max_memory_mb),
            str(limits.decode_timeout_s),
            function.partition(":")[0],
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # decoders write there what they found
        env=os.environ | alone | paths,
        bufsize=0,
    )


def _send(pipe: Any, data: bytes) -> None:
    pending = memoryview(_LENGTH.pack(len(data)) + data)
    while pending:
        pending = pending[pipe.write(pending) :]


def _read_until(pipe: Any, num_bytes: int, deadline: float) -> bytes:
    """Exactly so many bytes from a pipe, before a time of the monotonic clock."""
    data = bytearray()
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN | select.POLLHUP)
    while len(data) < num_bytes:
        left = deadline - time.monotonic()
        if left <= 0 or not waiting.poll(left * 1000):
            raise TimeoutError
        piece = os.read(pipe.fileno(), min(num_bytes - len(data), 1 << 20))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


class _Answers(pickle.Unpickler):
    """Unpickles what a child may send: data, and nothing that does anything."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _PLAIN.get(module, ()):
            return super().find_class(module, name)
        if module.startswith("xal_ray.") and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and (
                dataclasses.is_dataclass(found) or issubclass(found, XalRayError | ImageError)
            ):
                return found
        raise pickle.UnpicklingError("a child sent what it may not")


def _load(answer: bytes) -> tuple[bool, Any]:
    try:
        failed, value = _Answers(io.BytesIO(answer)).load()
    except MemoryError:
        raise
    except Exception:  # a pickle from a broken child makes anything
        raise pickle.UnpicklingError from None
    return bool(failed), value


def _serve(max_memory_mb: int, timeout_s: float, module: str) -> None:
    """The child: read requests from the pipe until it ends."""
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    importlib.import_module(module)
    for name in _PRELOADED:  # what is imported now does not count as a file's memory
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    _cap_memory(max_memory_mb)
    _send(answers, _READY)
    while (request := _next_request(requests)) is not None:
        # A parent that is killed can't end a child that is at work.
        signal.setitimer(signal.ITIMER_REAL, timeout_s + _GRACE_S)
        answer = _answer(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(answers, answer)


def _next_request(pipe: BinaryIO) -> bytes | None:
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    data = bytearray()
    (length,) = _LENGTH.unpack(head)
    while len(data) < length:
        piece = pipe.read(length - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)


def _answer(request: bytes) -> bytes:
    try:
        function, arguments = pickle.loads(request)  # noqa: S301 - from our own parent
        module, _, name = function.partition(":")
        value = getattr(importlib.import_module(module), name)(*arguments)
        return pickle.dumps((False, value), protocol=5)
    except MemoryError:
        return pickle.dumps((True, ImageError("out_of_memory", "the pixels do not fit into memory")))
    except (ImageError, XalRayError) as error:
        return pickle.dumps((True, error))
    except Exception as error:
        return pickle.dumps((True, type(error).__name__))


def _cap_memory(max_memory_mb: int) -> None:
    """Let the address space grow by so much, and no further."""
    import resource

    with contextlib.suppress(OSError, ValueError):  # a limit that is lower already stays
        with open("/proc/self/statm") as numbers:  # noqa: PTH123
            now = int(numbers.read().split()[0]) * resource.getpagesize()
        most = now + max_memory_mb * 1024**2
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _serve(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
