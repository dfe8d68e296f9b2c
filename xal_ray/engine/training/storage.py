"""Says where Ray Train keeps a round's checkpoints until its model is there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from xal_ray import config
from xal_ray.engine.session import is_joined
from xal_ray.engine.training.request import TrainRequest
from xal_ray.errors import StorageError
from xal_ray.places import is_remote
from xal_ray.storage import digest, read_json, remove_tree, sha256_bytes

FOLDER = "training"  # beside the model
_SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's own list of checkpoints


@dataclass(frozen=True)
class TrainStorage:
    """A place for Ray Train, and the name of the run in it.

    Attributes:
        name: Ray Train goes on, without a word, where it finds a run of this name.
        folder: Where it lies.
        settings: How Ray Train's `RunConfig` is told.
    """

    name: str
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)


@contextmanager
def train_storage(
    request: TrainRequest, weights: bytes, out: Path, resources: config.Ray
) -> Iterator[TrainStorage]:
    """Give a storage that is removed once the model is there.

    On a Ray of our own it is a fresh folder of this machine. On a cluster that was joined it is a folder
    beside the model, which all nodes reach, and stays when a training fails or its driver dies: the next
    driver goes on from its last checkpoint. Only one of exactly the same request does: the name says which.

    Args:
        request: What is trained.
        weights: The network that it begins with, packed.
        out: The round's folder.
        resources: Say whose the cluster is.

    Raises:
        StorageError: The object store refused.
    """
    name = f"round-{request.round_number:03d}-{request_hash(request, weights)[:16]}"
    if not is_joined(resources):
        folder = Path(tempfile.mkdtemp(prefix="xal-ray-train-"))
        try:
            yield TrainStorage(name, folder, {"storage_path": str(folder)})
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    folder = out / FOLDER
    _remove_what_is_stale(folder, name)
    yield TrainStorage(name, folder, _shared(folder))
    remove_tree(folder)


def request_hash(request: TrainRequest, weights: bytes) -> str:
    """Return what a training's result depends on: equal for requests of which one can go on for the other."""
    import ray

    def rows(table: Any) -> list[Any]:
        return [table["image_id"].to_pylist(), table["label"].to_pylist()]

    return digest(
        {
            "train": rows(request.train),
            "val": rows(request.val),
            "pool": request.pool.content_hash,
            "weights": sha256_bytes(weights),
            "freeze": request.model.freeze,
            "spec": request.spec.to_json(),
            "settings": request.settings.model_dump(mode="json"),
            "round": request.round_number,
            "seed": request.seed,
            "versions": [version("xal-ray"), torch.__version__, ray.__version__],
        }
    )


def _shared(folder: Path) -> dict[str, Any]:
    if not is_remote(folder):
        return {"storage_path": str(folder.absolute())}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    # The file system of all other files, so that credentials, endpoint and retries are the same.
    remote: Any = folder
    return {"storage_path": remote.address, "storage_filesystem": PyFileSystem(FSSpecHandler(remote.fs))}


def _remove_what_is_stale(folder: Path, name: str) -> None:
    """Leave only the run of this name, and it only if Ray Train's list of its checkpoints is true."""
    if not folder.exists():
        return
    for other in [path for path in folder.iterdir() if path.name != name]:
        if other.is_dir():
            remove_tree(other)
    run = folder / name
    if not (run / _SNAPSHOT).exists():
        return
    try:
        listed = [entry["checkpoint_dir_name"] for entry in read_json(run / _SNAPSHOT)["checkpoint_results"]]
        whole = all((run / one).is_dir() for one in listed)
    except (StorageError, KeyError, TypeError):
        whole = False  # cut off when its driver died
    if not whole:
        remove_tree(run)
