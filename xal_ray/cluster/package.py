"""Packs what travels to the cluster: this very code, the resolved configuration, small files that it names.

A folder of the shape
    code/xal_ray/        the package as it is here; every process of the job imports it
    code/NAME            and so with packages of plug-ins that no installed distribution has
    work/config.yaml     the current folder of the job and of its workers
    work/NAME.py         plug-ins that are single modules
    work/weights/NAME    where model.weights is a file of this machine
    work/model/          where `score --model` is one
    work/run/            of that model's run: what it has labelled and picked, which is not chosen again
    work/exclude/        where `score --exclude` names files of this machine
    work/xal_ray-VERSION.dist-info   what package is this? machines need not have it installed
No credentials: machines of a cluster have a role, or an environment of their own.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

import xal_ray
from xal_ray.cluster.request import JobRequest
from xal_ray.code_version import sha256_of_files
from xal_ray.config import Config, flatten
from xal_ray.errors import ConfigError
from xal_ray.labels.exclusions import files_of_run
from xal_ray.model.files import BACKBONE_FILE, CARD_FILE, WEIGHTS_FILE
from xal_ray.places import is_remote
from xal_ray.registry.lookup import Entry
from xal_ray.registry.plug_in_files import files_of
from xal_ray.registry.registries import REGISTRIES_BY_KEY
from xal_ray.storage import read_json
from xal_ray.sweep.space import Choices, parse_space

CONFIG_NAME = "config.yaml"
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
_NO_FILE = ("none", "imagenet")


@dataclass(frozen=True)
class JobPackage:
    """Holds what is submitted.

    Attributes:
        entrypoint: The job's shell command.
        runtime_env: As `JobSubmissionClient.submit_job` takes it.
        code_sha256: Of the package's files, with their paths.
        config_sha256: Of the resolved configuration and the job's command.
    """

    entrypoint: str
    runtime_env: dict[str, Any]
    code_sha256: str
    config_sha256: str


@contextmanager
def packed(request: JobRequest) -> Iterator[JobPackage]:
    """Pack a request into a folder that lives as long as the block.

    Raises:
        ConfigError: A file that the configuration names is not there.
    """
    with TemporaryDirectory(prefix="xal-ray-") as name:
        code, work = Path(name) / "code", Path(name) / "work"
        work.mkdir()
        shutil.copytree(Path(xal_ray.__file__).parent, code / "xal_ray", ignore=_LEFT_OUT)
        _write_card(work)
        tree = request.settings.model_dump(mode="json")
        tree["model"]["weights"] = _pack_weights(request.settings.model.weights, work)
        text = yaml.safe_dump(tree, sort_keys=False)
        packages = _pack_plug_ins(request.settings, code, work)
        (work / CONFIG_NAME).write_text(text, encoding="utf-8")
        model = None if request.model is None else _pack_model(request.model, work)
        request = replace(
            request, run=_pack_run(request.run, work), exclude=_pack_lists(request.exclude, work)
        )
        entrypoint = shlex.join(request.command_line(CONFIG_NAME, model))
        yield JobPackage(
            entrypoint,
            {
                "working_dir": str(work),
                "py_modules": [str(code / name) for name in ("xal_ray", *packages)],
                "env_vars": _environment(),
            },
            sha256_of_files(code),
            hashlib.sha256(f"{entrypoint}\n{text}".encode()).hexdigest(),
        )


def is_here(path: Path) -> bool:
    """Return whether a place is a file or folder of this machine."""
    return not is_remote(path) and path.exists()


def _environment() -> dict[str, str]:
    """Return what Ray's workers read when they start; on this machine they inherit it from the driver."""
    from xal_ray.engine import session

    return {**session.ENVIRONMENT, "PYTHONUNBUFFERED": "1", "RAY_COLOR_PREFIX": "0"}


def _write_card(work: Path) -> None:
    version = importlib.metadata.version("xal-ray")
    card = work / f"xal_ray-{version}.dist-info" / "METADATA"
    card.parent.mkdir()
    card.write_text(f"Metadata-Version: 2.1\nName: xal-ray\nVersion: {version}\n", encoding="utf-8")


def _pack_plug_ins(settings: Config, code: Path, work: Path) -> tuple[str, ...]:
    """Pack plug-ins that no distribution has; returns the names of their packages.

    Ray takes folders alone for modules that travel: a single file lies in the job's working directory, where
    plug-ins are looked for too. Beside the code it counts into the code's hash.
    """
    packages: dict[str, None] = {}
    for entry in _plug_ins_of(settings):
        if entry.origin is not None and entry.origin.sha256 is not None:
            for relative, path in files_of(sys.modules[entry.path.partition(":")[0]]):
                (code / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, code / relative)
                package, is_package, _ = relative.partition("/")
                if is_package:
                    packages[package] = None
                else:
                    shutil.copy(path, work / relative)
    return tuple(packages)


def _plug_ins_of(settings: Config) -> Iterator[Entry]:
    """Go over the records of all that a configuration names, and of what its sweep tries of them."""
    given = flatten(settings.model_dump(mode="json"))
    swept = settings.sweep.params
    for key, registry in REGISTRIES_BY_KEY.items():
        space = parse_space(key, swept[key]) if key in swept else None
        tried = space.values if isinstance(space, Choices) else ()
        for name in (given[key], settings.sweep.baseline.get(key), *tried):
            if isinstance(name, str):
                yield registry[name]


def _pack_weights(weights: str, work: Path) -> str:
    """Pack a weights file of this machine; returns the name under which the job finds it.

    An absolute path that is not here may be one of a shared file system: the job will see.
    """
    if weights in _NO_FILE or "://" in weights:
        return weights
    path = Path(weights)
    if not path.is_file():
        if path.is_absolute():
            return weights
        raise ConfigError(
            "the weights are not there",
            expected="none, imagenet, or the path of a .safetensors or .pth file",
            found=weights,
            where="model.weights",
        )
    (work / "weights").mkdir()
    shutil.copy(path, work / "weights" / path.name)
    return f"weights/{path.name}"


def _pack_model(model: Path, work: Path) -> str:
    """Pack a model of this machine; returns the name under which the job finds it."""
    if is_remote(model) or (model.is_absolute() and not model.exists()):
        return str(model)
    folder = model if model.is_dir() else model.parent
    wanted = [WEIGHTS_FILE if model.is_dir() else model.name, CARD_FILE]
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise ConfigError("the model is not there", expected=missing[0], where=str(folder))
    backbone = folder / BACKBONE_FILE
    if backbone.is_file():
        other = str(read_json(backbone)["path"])
        if not ("://" in other or Path(other).is_absolute()):
            raise ConfigError(
                "the model's backbone lies beside its pool, on this machine",
                found=other,
                where=str(backbone),
                next_step="give a model that was trained on a place that the cluster sees",
            )
        wanted.append(backbone.name)
    (work / "model").mkdir()
    for name in wanted:
        shutil.copy(folder / name, work / "model" / name)
    return "model" if model.is_dir() else f"model/{model.name}"


def _pack_run(run: Path | None, work: Path) -> Path | None:
    """Pack what says which images a run of this machine has labelled or picked."""
    if run is None or not is_here(run):
        return run
    for path in files_of_run(run):
        target = work / "run" / path.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return Path("run")


def _pack_lists(lists: tuple[Path, ...], work: Path) -> tuple[Path, ...]:
    """Pack lists of images that are files of this machine."""
    packed = []
    for number, path in enumerate(lists):
        if is_here(path):
            target = Path("exclude") / f"{number}-{path.name}"
            (work / target.parent).mkdir(exist_ok=True)
            shutil.copy(path, work / target)
            path = target
        packed.append(path)
    return tuple(packed)
