"""Training a round's model: in this process, or on Ray Train workers that read the labels as a shard."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xal_ray import config
from xal_ray.engine.context import StageContext
from xal_ray.engine.session import check_capacity, gpus_per_worker, is_joined, keeps_actors, start
from xal_ray.engine.shared import checks
from xal_ray.engine.training.request import TrainRequest, build, fit_and_save, load_images, packed
from xal_ray.engine.training.storage import TrainStorage, train_storage
from xal_ray.engine.training.worker import WorkerTask, work
from xal_ray.engine.watchdog import GROWTH_TIMEOUT_S
from xal_ray.errors import StageError, XalRayError
from xal_ray.model.files import CARD_FILE, WEIGHTS_FILE
from xal_ray.model.training.minibatches import check_number
from xal_ray.progress import Reporter
from xal_ray.storage import write_bytes

__all__ = ["TrainRequest", "train"]

_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
# How long Ray Train waits for so many workers before it counts anew how many the cluster has room for. Its
# count is up to 20 s old, so that shortly after the loss of a node it waits in vain.
_START_TIMEOUT_S = 30.0


def train(request: TrainRequest, out: Path, context: StageContext) -> None:
    """Train a model and leave `model.safetensors` and, last, `model.json` in a folder.

    Args:
        request: What to train on.
        out: The round's folder.
        context: Its resources are CPUs and GPUs a worker, checkpoints, and what may be lost; its reporter
            hears about progress; its actors make room where they have to.

    Raises:
        ModelError: The weights can't be had.
        StageError: Ray Train failed.
    """
    if request.settings.num_workers > 0:
        _train_on_workers(request, out, context)
        return
    if is_joined(context.resources) and request.round_number == 0:
        context.reporter.line(
            "training runs in the process that drives the run, with that machine's cores and GPU; "
            "train.num_workers=1 places it on the cluster and gives the same model"
        )
    network, images = build(request), load_images(request, request.train)
    with context.reporter.bar("training", request.settings.max_steps, "steps") as advance:
        advance(0)
        fit_and_save(request, network, images, out, on_progress=advance)


def _train_on_workers(request: TrainRequest, out: Path, context: StageContext) -> None:
    resources, reporter = context.resources, context.reporter
    # What is wrong with the weights is said here: Ray would try again and again. And they may be a file that
    # workers on other machines don't have.
    workers = request.settings.num_workers
    weights = packed(build(request))
    start(resources, verbose=context.verbose)
    each = _resources_of_a_worker(resources, workers)
    _check_and_make_room(workers, each, context)
    check_number(request.train.num_rows, at_least=2 * workers)  # said here: Ray would try again and again
    reporter.line(f"training on {workers} worker{'s' * (workers > 1)}: {request.train.num_rows} labels")
    with train_storage(request, weights, out, resources) as storage:
        try:
            result = _fit(request, weights, each, storage, resources)
            with result.checkpoint.as_directory() as folder:
                _adopt(Path(folder), out)
        except XalRayError:
            raise
        except Exception as error:
            raise _unwrap(error, storage) from error
    _tell(result.metrics or {}, workers, reporter)


def _fit(
    request: TrainRequest,
    weights: bytes,
    each: dict[str, float],
    storage: TrainStorage,
    resources: config.Ray,
) -> Any:
    """Ray Train's result; its checkpoint is the model."""
    import ray.data
    from ray.train import CheckpointConfig, RunConfig
    from ray.train.torch import TorchTrainer

    from xal_ray.engine.training.dealing import DealtRows

    class Trainer(TorchTrainer):  # type: ignore[misc]  # mypy does not follow Ray
        def _register_sigint_handler(self, controller: Any) -> None:
            """A Ctrl-C is the command's: Ray Train's handler would stay, and end later rounds with code 0."""

    task = WorkerTask(request, ray.put(weights), resources.checkpoint_every_steps, checks())
    trainer = Trainer(
        work,
        train_loop_config={"task": task},
        scaling_config=_scaling(request.settings.num_workers, each, resources),
        run_config=RunConfig(
            name=storage.name,
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=_failures(resources),
            **storage.settings,
        ),
        datasets={"train": ray.data.from_blocks([request.train])},
        dataset_config=DealtRows(request.train, request.pool),
    )
    with warnings.catch_warnings(), _start_timeout():
        warnings.simplefilter("ignore")  # Ray's own deprecations are not the user's business
        return trainer.fit()


def _scaling(workers: int, each: dict[str, float], resources: config.Ray) -> Any:
    """Ask for as many workers as are set; with `ray.min_workers`, for as many as there is room for.

    A group that is healthy is enlarged only if it can go on from a checkpoint.
    """
    from ray.train import ScalingConfig

    fewest = min(resources.min_workers or workers, workers)
    grows = {} if resources.checkpoint_every_steps else {"elastic_resize_monitor_interval_s": math.inf}
    return ScalingConfig(
        num_workers=workers if fewest == workers else (fewest, workers),
        use_gpu="GPU" in each,
        resources_per_worker=each,
        **grows,
    )


def _failures(resources: config.Ray) -> Any:
    """Return how often a group that has lost a worker starts again, and how long it waits for room."""
    from ray.train import FailureConfig

    patience_s = max(resources.stall_timeout_s, GROWTH_TIMEOUT_S if is_joined(resources) else 0.0)
    timeout_s = float(os.environ.get(_START_TIMEOUT, _START_TIMEOUT_S))
    return FailureConfig(
        max_failures=resources.max_failures, controller_failure_limit=math.ceil(patience_s / timeout_s)
    )


@contextmanager
def _start_timeout() -> Iterator[None]:
    """Ray Train reads it from the environment; what a user has set stays."""
    before = os.environ.get(_START_TIMEOUT)
    os.environ.setdefault(_START_TIMEOUT, str(_START_TIMEOUT_S))
    try:
        yield
    finally:
        if before is None:
            del os.environ[_START_TIMEOUT]


def _resources_of_a_worker(resources: config.Ray, workers: int) -> dict[str, float]:
    gpus_each = gpus_per_worker(resources.gpus_per_worker, workers)
    gpu = {"GPU": gpus_each} if gpus_each > 0 else {}
    return {"CPU": resources.cpus_per_worker, **gpu, **resources.worker_resources}


def _check_and_make_room(workers: int, each: dict[str, float], context: StageContext) -> None:
    """End the scoring actors where they and the workers don't fit side by side, or others may need them."""
    import ray

    resources, gpus_each = context.resources, each.get("GPU", 0.0)
    check_capacity(
        "training",
        workers,
        each["CPU"],
        gpus_each,
        custom=resources.worker_resources,
        warn=context.reporter.line if is_joined(resources) else None,
    )
    have, holding = ray.cluster_resources(), context.actors.held
    cpus = workers * each["CPU"] + 1.0 + holding.num_actors * holding.cpus_per_actor
    gpus = workers * gpus_each + holding.num_actors * holding.gpus_per_actor
    if not keeps_actors(resources) or cpus > have.get("CPU", 0.0) or gpus > have.get("GPU", 0.0):
        context.actors.release()


def _tell(metrics: dict[str, Any], workers: int, reporter: Reporter) -> None:
    """Say what a model's making does not show: where it went on, and with how many."""
    begun_after, ended_with = metrics.get("begun_after", 0), metrics.get("workers", workers)
    if begun_after:
        reporter.line(f"training was interrupted and went on after step {begun_after}")
    if ended_with != workers:
        reporter.line(
            f"training ended with {ended_with} of {workers} workers: the model is not the one that "
            f"{workers} would have made"
        )


def _adopt(source: Path, out: Path) -> None:
    """Take a finished model over; `model.json` comes last, since it says that the model is whole."""
    for name in (WEIGHTS_FILE, CARD_FILE):
        write_bytes(out / name, (source / name).read_bytes())


def _unwrap(error: Exception, storage: TrainStorage) -> XalRayError:
    """Return our own error out of Ray Train's wrapping, or a StageError that names Ray's."""
    seen: list[BaseException] = [error]
    for candidate in seen:
        if isinstance(candidate, XalRayError):
            return candidate
        inner = [candidate.__cause__, getattr(candidate, "cause", None)]  # the latter is Ray's
        inner += getattr(candidate, "worker_failures", {}).values()
        seen.extend(cause for cause in inner if isinstance(cause, BaseException) and cause not in seen)
    return StageError(
        "training failed inside Ray Train",
        found=f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}",
        where=str(storage.folder),
        next_step="run the same command again; --verbose shows more, train.num_workers=0 trains in-process",
    )
