"""Ray, started once for a process and quiet."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from xal_ray import config
from xal_ray.engine.actors import ActorShape
from xal_ray.engine.code_check import job_settings
from xal_ray.engine.own_ray import forget_own_token, start_own
from xal_ray.errors import ConfigError
from xal_ray.machine import usable_cpus

# Read by Ray when it is imported and by its processes. Without auto-connect, a thread that outlives a stopped
# Ray can't start another; an actor that asked for no GPU must see none; the settings of Train halve the fixed
# cost of a `fit()`; those of Tune leave console, current folder and Ctrl-C to us, and let a trial fail before
# its first result. The settings of malloc keep an actor's memory instead of handing every
# activation back to the system and asking for it again: an eighth of the time of scoring on a processor. One
# arena, because each thread that reads ahead would leave what it held behind in an arena of its own.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
}
IN_PROCESS = ActorShape(0, 0.0)
_LOGGERS = {
    "ray": logging.ERROR,
    "ray.data": logging.CRITICAL,  # its errors are raised as well, and then said once, in our words
    "ray.train": logging.ERROR,
    "ray.tune": logging.ERROR,
}


def start(resources: config.Ray, *, verbose: bool = False) -> None:
    """Start Ray on this machine or join the cluster that is named, unless this process already uses a Ray.

    By default the cluster is our own (`address="local"`): a plain `ray.init()` would join whatever
    cluster a machine happens to run.

    Raises:
        ConfigError: There is no cluster at `ray.address`.
    """
    prepare_environment(verbose=verbose)
    import ray
    import ray.data

    if not ray.is_initialized():
        with warnings.catch_warnings(), _native_stderr_closed(not verbose), _signals_kept():
            warnings.simplefilter("ignore")  # Ray's own deprecations are not the user's business
            _start_or_join(resources, verbose)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    if not verbose:
        for logger, level in _LOGGERS.items():
            logging.getLogger(logger).setLevel(level)


def _start_or_join(resources: config.Ray, verbose: bool) -> None:
    import ray

    spoken = {"logging_level": logging.INFO if verbose else logging.ERROR, "log_to_driver": verbose}
    if resources.address == "local":
        start_own(resources, spoken)
        return
    try:
        ray.init(address=resources.address, job_config=job_settings(), **spoken)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            "the Ray cluster can't be joined",
            expected="a running cluster of which this machine is a node",
            found=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            where=f"ray.address={resources.address}",
            next_step="submit from outside with --cluster FILE or --address URL, or set ray.address=local",
        ) from error


def is_joined(resources: config.Ray) -> bool:
    """Return whether the Ray is a cluster that others own, whose nodes may come and go."""
    return resources.address != "local"


def keeps_actors(resources: config.Ray) -> bool:
    """Return whether actors stay from stage to stage; `auto`: not where others may need what they hold."""
    return not is_joined(resources) if resources.keep_actors == "auto" else resources.keep_actors


def prepare_environment(*, verbose: bool = False) -> None:
    """Set what Ray and its processes read; what a user has set stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


@contextmanager
def _native_stderr_closed(closed: bool) -> Iterator[None]:
    """Keep what Ray's C++ code says while it starts from the user's terminal."""
    try:
        kept = os.dup(2) if closed else -1
    except OSError:  # there is no standard error
        kept = -1
    if kept < 0:
        yield
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and shows a native stack on it: what was set before is set again."""
    kept = {}
    if threading.current_thread() is threading.main_thread():
        kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            if handler not in (signal.SIG_DFL, None):
                signal.signal(number, handler)


def stop() -> None:
    """Stop the Ray that `start` started; whoever holds actors has released them before."""
    import ray

    if ray.is_initialized():
        ray.shutdown()
    forget_own_token()


def scoring_shape(resources: config.Ray) -> ActorShape:
    """Resolve `auto`: an actor for each GPU, with all of it; without GPUs one for each core.

    On a Ray of our own a given number of actors shares the GPUs out, at most one each. On a cluster that was
    joined each takes a whole one where there is any: what it has now says little of what it will have. No
    actors: this process does the work, and Ray need not have started.
    """
    wanted, gpus, custom = resources.num_actors, resources.gpus_per_actor, resources.actor_resources
    if wanted == 0:
        return IN_PROCESS
    if is_joined(resources):
        declared = round(_fitting("GPU", custom))
        num = (
            (declared or _one_a_declared_cpu(resources.cpus_per_actor, custom))
            if wanted == "auto"
            else wanted
        )
        each = float(min(1, declared)) if gpus == "auto" else float(gpus)
    else:
        declared = round(_declared("GPU"))
        num = (declared or _one_a_core(resources.cpus_per_actor)) if wanted == "auto" else wanted
        each = min(1.0, _declared("GPU") / num) if gpus == "auto" else float(gpus)
    return ActorShape(num, resources.cpus_per_actor, each, custom)


def ready_to_score(resources: config.Ray, *, verbose: bool = False) -> ActorShape:
    """`scoring_shape`, with Ray started where there are actors at all."""
    if resources.num_actors != 0:
        start(resources, verbose=verbose)
    return scoring_shape(resources)


def decoding_shape(resources: config.Ray) -> ActorShape:
    """Resolve `auto` for actors that decode: one for each core, and no GPU."""
    num, cpus, custom = resources.num_decoders, resources.cpus_per_decoder, resources.decoder_resources
    if num == "auto":
        num = _one_a_declared_cpu(cpus, custom) if is_joined(resources) else _one_a_core(cpus)
    return ActorShape(num, cpus, resources=custom)


def _one_a_core(cpus_each: float) -> int:
    """Return the cores that this process may use, as far as the logical CPUs go (one stays free)."""
    return max(1, min(usable_cpus(), int((_declared("CPU") - 1.0) / cpus_each)))


def _one_a_declared_cpu(cpus_each: float, custom: Mapping[str, float]) -> int:
    """An actor for each CPU that the nodes of a cluster declare now; a head without work declares none."""
    return max(1, sum(int(node["CPU"] / max(1.0, cpus_each)) for node in _nodes(custom) if "CPU" in node))


def _fitting(resource: str, custom: Mapping[str, float]) -> float:
    """Return how much of a resource the nodes declare that have the custom resources of one actor."""
    return sum(node.get(resource, 0.0) for node in _nodes(custom))


def _nodes(custom: Mapping[str, float]) -> list[dict[str, float]]:
    import ray

    declared = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [node for node in declared if all(node.get(name, 0.0) >= custom[name] for name in custom)]


def gpus_per_worker(wanted: float | str, num_workers: int) -> float:
    """Resolve `auto`: one GPU a worker, or none where there are fewer: workers can't share one."""
    return float(wanted) if wanted != "auto" else float(_declared("GPU") >= num_workers)


def capacity(resources: config.Ray) -> tuple[float, float]:
    """Logical CPUs and GPUs: of the Ray that runs, or else of the one that `start` would start."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return _declared("CPU"), _declared("GPU")
    import torch

    return float(resources.num_cpus), float(torch.cuda.device_count())


def _declared(resource: str) -> float:
    import ray

    return float(ray.cluster_resources().get(resource, 0.0))


def check_capacity(
    stage: str,
    num: int,
    cpus: float,
    gpus_each: float,
    *,
    custom: Mapping[str, float] | None = None,
    warn: Callable[[str], None] | None = None,
) -> None:
    """Refuse what could never be scheduled: Ray would wait for it for ever, without a word.

    Args:
        stage: What a person calls it.
        num: How many actors or workers.
        cpus: Logical CPUs of each.
        gpus_each: GPUs of each.
        custom: Custom resources of each, by name.
        warn: Told instead of refused: a cluster that was joined may bring more, and only it knows.

    Raises:
        ConfigError: The cluster has too few logical CPUs (one must stay free for reads) or GPUs.
    """
    import ray

    have = ray.cluster_resources()
    wanted = {"CPU": num * cpus, "GPU": num * gpus_each, **{k: num * v for k, v in (custom or {}).items()}}
    if warn is not None:
        short = [name for name, number in wanted.items() if number > have.get(name, 0.0)]
        texts = [f"{wanted[name]:g} {name} (it has {have.get(name, 0.0):g})" for name in short]
        if short:
            warn(f"{stage} asks for more than the cluster has now: {', '.join(texts)}")
        return
    if wanted["CPU"] + 1.0 > have.get("CPU", 0.0):
        raise ConfigError(
            f"{stage} would starve: its actors take all logical CPUs and the reads would wait for ever",
            expected=f"at least {wanted['CPU'] + 1.0:g} logical CPUs ({num} x {cpus:g}, and 1 for reads)",
            found=f"{have.get('CPU', 0.0):g}",
            where="ray",
            next_step="raise ray.num_cpus (it may exceed the cores), or use fewer actors or workers",
        )
    for name in list(wanted)[1:]:
        if wanted[name] > have.get(name, 0.0):
            raise ConfigError(
                f"{stage} asks for more {name}s than there are",
                expected=f"at most {have.get(name, 0.0):g}",
                found=f"{num} x {wanted[name] / num:g}",
                where="ray",
                next_step="lower ray.gpus_per_actor, ray.gpus_per_worker, or the number of actors or workers",
            )
