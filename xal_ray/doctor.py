"""Says what this machine can do: versions, processors, GPUs, disk, decoders, and whether Ray starts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import features

from xal_ray import config
from xal_ray.engine.session import start, stop
from xal_ray.errors import XalRayError
from xal_ray.images.capabilities import decoder_capabilities
from xal_ray.machine import private_folder, settle, usable_cpus
from xal_ray.registry.backbones import BACKBONES

_PACKAGES = ("xal-ray", "ray", "torch", "torchvision", "grad-cam", "pyarrow", "numpy", "pandas")
_PILLOW_CODECS = {"PNG": "zlib", "JPEG": "jpg", "TIFF (compressed)": "libtiff", "WebP": "webp"}
_EXTRAS = {
    **{f"backbone {spec.name}": (spec.package, spec.extra) for spec in BACKBONES if spec.package},
    "object store s3://": ("s3fs", "s3"),
    "object store gs://": ("gcsfs", "gs"),
    "search of a sweep, optuna": ("optuna", "optuna"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's answer.

    Attributes:
        topic: What was looked at.
        text: What was found.
        state: `warning` where something is unsafe or short, `missing` where runs can't work without it.
    """

    topic: str
    text: str
    state: Literal["ok", "warning", "missing"] = "ok"


def examine(folder: Path, *, with_ray: bool = True) -> Iterator[Finding]:
    """Look at this machine.

    Args:
        folder: Where runs and pools would be written.
        with_ray: Also start a local Ray, which takes a few seconds.
    """
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in _PACKAGES:
        yield _version(package)
    yield _processors()
    yield Finding("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB")
    yield _disk("disk", folder, 2e9)
    yield from _temporary()
    if Path("/dev/shm").is_dir():  # noqa: S108 - where Ray's object store lives
        yield _disk("shared memory", Path("/dev/shm"), 0.5e9)  # noqa: S108
    yield _gpus()
    for name, codec in _PILLOW_CODECS.items():
        found = features.check(codec)
        yield Finding(
            f"decoder {name}", "yes" if found else "not in this Pillow", "ok" if found else "warning"
        )
    for decoder in decoder_capabilities():
        yield Finding(f"decoder {decoder.kind}", decoder.text)
    for name, (module, extra) in _EXTRAS.items():
        found = importlib.util.find_spec(module) is not None
        hint = "installed" if found else f"not installed; the optional extra '{extra}' holds it"
        yield Finding(name, hint)
    yield from _auth_token()
    if with_ray:
        yield _ray()


def _version(package: str) -> Finding:
    try:
        return Finding(package, importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return Finding(package, "not installed", "missing")


def _processors() -> Finding:
    there, usable = os.cpu_count() or 1, usable_cpus()
    limited = "" if usable == there else f", of which this process may use {usable}"
    return Finding("processors", f"{there}{limited}")


def _temporary() -> Iterator[Finding]:
    """Look where temporary files and Ray's sockets go, and whether there is a home folder."""
    try:
        for remark in settle():
            yield Finding("temporary files", remark, "warning")
        folder = private_folder()
    except XalRayError as error:
        yield Finding("temporary files", f"no: {error}", "missing")
        return
    yield _disk("temporary files of Ray", folder.parent, 0.5e9)
    home = Path(os.environ.get("HOME", "/"))
    if home == folder:
        yield Finding("home folder", "none: nothing is kept there from one command to the next", "warning")
    elif not os.access(home, os.W_OK):
        yield Finding("home folder", f"{home} can't be written to; nothing here needs that", "ok")


def _disk(topic: str, folder: Path, enough_bytes: float) -> Finding:
    try:
        folder = folder.absolute()
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(topic, f"can't be looked at: {error}", "warning")
    return Finding(
        topic, f"{free / 1e9:.1f} GB free at {folder}", "ok" if free >= enough_bytes else "warning"
    )


def _gpus() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", "none: everything runs on the processor")
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return Finding("GPU", ", ".join(names))


def _auth_token() -> Iterator[Finding]:
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    token = Path(named) if named else Path(os.path.expanduser("~")) / ".ray" / "auth_token"  # noqa: PTH111
    if token.is_file() and token.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        text = f"others on this machine can read {token}: chmod 600 {token}"
        yield Finding("Ray's token", text, "warning")


def _ray() -> Finding:
    begin = time.monotonic()
    try:
        start(config.Ray())
    except Exception as error:  # whatever it is, the answer is that it does not start
        return Finding("Ray starts", f"no: {error}", "missing")
    finally:
        stop()
    return Finding("Ray starts", f"yes, in {time.monotonic() - begin:.1f} s")
