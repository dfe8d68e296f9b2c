"""Training a round's model: in this process, or on Ray Train workers that read the labels as a shard."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from xal_ray import config
from xal_ray.engine import actors
from xal_ray.engine.session import check_capacity, gpus_per_worker, start
from xal_ray.errors import StageError, XalRayError
from xal_ray.model.learner import fit
from xal_ray.model.minibatches import LabelledImages
from xal_ray.model.network import ModelSpec, Network, freeze_backbone
from xal_ray.model.weights import build_network, load_model, save_model
from xal_ray.pool.activations import ActivationReader
from xal_ray.pool.schema import PoolReader
from xal_ray.progress import Reporter
from xal_ray.seeds import derive_seed
from xal_ray.storage import write_bytes


@dataclass(frozen=True)
class TrainRequest:
    """All that a training needs; it can be sent to a worker.

    Attributes:
        pool: The packed pool.
        train: Labelled rows, sorted by image_id: `image_id, part, row, label` (label: class index, int64).
        val: Validation rows, likewise.
        model: The network.
        settings: How it is trained.
        previous: The previous round's model folder, for `train.init: previous`.
        round_number: The round, from 0.
        seed: The run's seed.
        activations: What the frozen backbone made of the pool; read instead of its pixels.
    """

    pool: PoolReader
    train: pa.Table
    val: pa.Table
    model: config.Model
    settings: config.Train
    previous: Path | None
    round_number: int
    seed: int
    activations: ActivationReader | None = None


def train(
    request: TrainRequest, out: Path, resources: config.Ray, reporter: Reporter, *, verbose: bool = False
) -> None:
    """Train a model and leave `model.safetensors` and, last, `model.json` in a folder.

    Args:
        request: What to train on.
        out: The round's folder.
        resources: CPUs and GPUs a worker.
        reporter: Hears about progress.
        verbose: Let Ray speak.

    Raises:
        ModelError: The weights can't be had.
        StageError: Ray Train failed.
    """
    if request.settings.num_workers == 0:
        images = _load(request, request.train)
        with reporter.bar("training", request.settings.max_steps, "steps") as advance:
            _fit_and_save(request, images, out, on_progress=advance)
    else:
        _train_on_workers(request, out, resources, reporter, verbose=verbose)


def _fit_and_save(
    request: TrainRequest, images: LabelledImages, out: Path, *, sync: Any = None, on_progress: Any = None
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, spec = _build(request)
    labels = request.train["label"].to_numpy()
    history = fit(
        network.to(device),
        spec,
        images,
        _load(request, request.val) if request.val.num_rows else None,
        request.settings,
        seed=derive_seed(request.seed, request.round_number, "train"),
        device=device,
        sync=sync,
        on_progress=on_progress,
        class_counts=np.bincount(labels, minlength=len(spec.classes)),
    )
    if sync is None or sync.rank == 0:
        extra = {"round": request.round_number, "num_labels": len(labels), "history": history}
        backbone = request.activations.backbone if request.activations else None
        save_model(out, network, spec, extra, backbone=backbone)


def _build(request: TrainRequest) -> tuple[Network, ModelSpec]:
    pool = request.pool
    spec = ModelSpec(request.model.backbone, pool.classes, pool.image_size, pool.channels)
    init_seed = derive_seed(request.seed, request.round_number, "init")
    if request.settings.init == "previous" and request.previous is not None:
        network, _, _ = load_model(request.previous)
    else:
        weights = "none" if request.settings.init == "scratch" else request.model.weights
        network = build_network(spec, weights, init_seed)
    if request.model.freeze == "backbone":
        freeze_backbone(network)
    return network, spec


def _load(request: TrainRequest, rows: pa.Table) -> LabelledImages:
    """Labelled images; of a frozen backbone whose activations are kept, what its last layer sees of them."""
    labels = rows["label"].to_numpy()
    if request.activations is not None:
        return LabelledImages(request.activations.read_embeddings(rows), labels)
    return LabelledImages(request.pool.read_rows(rows).pixels, labels)


def _train_on_workers(
    request: TrainRequest, out: Path, resources: config.Ray, reporter: Reporter, *, verbose: bool
) -> None:
    start(resources, verbose=verbose)
    from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    workers = request.settings.num_workers
    gpus_each = gpus_per_worker(resources.gpus_per_worker, workers)
    check_capacity("training", workers, resources.cpus_per_worker, gpus_each)
    _make_room(workers, resources.cpus_per_worker, gpus_each)
    _build(request)  # what is wrong with the weights is said here: Ray would try again and again
    reporter.line(f"training on {workers} worker{'s' * (workers > 1)}: {request.train.num_rows} labels")
    # A folder of its own for every try: Ray Train resumes silently where it finds the name of an earlier one.
    storage = Path(tempfile.mkdtemp(prefix="xal-ray-train-"))
    try:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"request": request},
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=gpus_each > 0,
                resources_per_worker={"CPU": resources.cpus_per_worker, **_gpu_entry(gpus_each)},
            ),
            run_config=RunConfig(
                name=f"round-{request.round_number:03d}",
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=2),
            ),
            datasets={"train": _dataset(request)},
            dataset_config=DataConfig(datasets_to_split=["train"]),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's own deprecations are not the user's business
            checkpoint = trainer.fit().checkpoint
        with checkpoint.as_directory() as folder:
            _adopt(Path(folder), out)
    except XalRayError:
        raise
    except Exception as error:
        raise _unwrap(error) from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _make_room(workers: int, cpus_each: float, gpus_each: float) -> None:
    """End the scoring actors where they and the workers don't fit side by side."""
    import ray

    have, holding = ray.cluster_resources(), actors.held()
    cpus = workers * cpus_each + 1.0 + holding.num_actors * holding.cpus_per_actor
    gpus = workers * gpus_each + holding.num_actors * holding.gpus_per_actor
    if cpus > have.get("CPU", 0.0) or gpus > have.get("GPU", 0.0):
        actors.release()


def _dataset(request: TrainRequest) -> Any:
    """The labelled rows as a Ray Data set: references go in, pixels are read where they are needed."""
    import ray.data

    return ray.data.from_arrow(request.train).map_batches(
        _read_pixels, fn_kwargs={"pool": request.pool}, batch_format="pyarrow", num_cpus=0.5
    )


def _read_pixels(rows: pa.Table, pool: PoolReader) -> pa.Table:
    pixels = [image.tobytes() for image in pool.read_rows(rows).pixels]
    return rows.select(["image_id", "label"]).append_column("pixels", pa.array(pixels, pa.binary()))


def _worker(arguments: dict[str, TrainRequest]) -> None:
    """What each Ray Train worker does; rank 0 reports the model."""
    import ray.train

    request = arguments["request"]
    context = ray.train.get_context()
    batches = ray.train.get_dataset_shard("train").iter_batches(batch_size=256, batch_format="pyarrow")
    images = _gather(list(batches), request.pool)
    sync = _Distributed(context.get_world_rank(), context.get_world_size())
    with tempfile.TemporaryDirectory() as folder:
        _fit_and_save(request, images, Path(folder), sync=sync)
        checkpoint = ray.train.Checkpoint.from_directory(folder) if sync.rank == 0 else None
        ray.train.report({}, checkpoint=checkpoint)


def _gather(batches: Sequence[pa.Table], pool: PoolReader) -> LabelledImages:
    """A worker's shard in memory, by image_id: Ray Data promises no order that a model could rely on."""
    rows = pa.concat_tables(batches).combine_chunks().sort_by("image_id")
    shape = (rows.num_rows, pool.image_size, pool.image_size, pool.channels)
    pixels = np.frombuffer(b"".join(rows["pixels"].to_pylist()), dtype=np.uint8).reshape(shape)
    return LabelledImages(pixels, rows["label"].to_numpy())


class _Distributed:
    """Data-parallel training among Ray Train's workers (the learner's `Sync`)."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size

    def wrap(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module whose gradients are averaged over the workers."""
        if self.world_size == 1:
            return module
        return torch.nn.parallel.DistributedDataParallel(module)

    def broadcast(self, value: float) -> float:
        """The value of rank 0."""
        if self.world_size == 1:
            return value
        import torch.distributed

        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        cell = torch.tensor([value], dtype=torch.float64, device=device)
        torch.distributed.broadcast(cell, src=0)
        return float(cell.item())


def _gpu_entry(gpus_each: float) -> dict[str, float]:
    return {"GPU": gpus_each} if gpus_each > 0 else {}


def _adopt(source: Path, out: Path) -> None:
    """Take a finished model over; `model.json` comes last, since it says that the model is whole."""
    for name in ("model.safetensors", "model.json"):
        write_bytes(out / name, (source / name).read_bytes())


def _unwrap(error: Exception) -> XalRayError:
    """Our own error out of Ray Train's wrapping, or a StageError that names Ray's."""
    seen: list[BaseException] = [error]
    for candidate in seen:
        if isinstance(candidate, XalRayError):
            return candidate
        inner = [candidate.__cause__, *getattr(candidate, "worker_failures", {}).values()]
        seen.extend(cause for cause in inner if isinstance(cause, BaseException) and cause not in seen)
    return StageError(
        "training failed inside Ray Train",
        found=f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}",
        next_step="run the same command again; --verbose shows more, train.num_workers=0 trains in-process",
    )
