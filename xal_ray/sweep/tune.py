"""Ray Tune over trials. Import it after `engine.session.start`: Ray reads its settings when it is imported.

An experiment of Tune is a grid of arms and seeds, or a search. It is bound by its name to what it tries, so
that the same command restores it; but what counts as done is what the trials' own folders say.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray import tune
from ray.exceptions import RayActorError
from ray.tune.schedulers import ASHAScheduler

from xal_ray.engine.actors import WarmActors
from xal_ray.errors import StageError, StorageError
from xal_ray.places import RemotePath, is_remote
from xal_ray.storage import digest, read_json, remove_tree, write_json
from xal_ray.sweep.arms import Arm, Value
from xal_ray.sweep.capacity import Share
from xal_ray.sweep.draws import ARM, OBJECTIVE, SEED, SEED_INDEX, optuna_search, read_drawn
from xal_ray.sweep.plan import ArmPlan
from xal_ray.sweep.progress import SweepProgress
from xal_ray.sweep.record import RecordedArm, add_to_record
from xal_ray.sweep.space import Space
from xal_ray.sweep.tracking import loggers
from xal_ray.sweep.trial import ROUNDS_DONE, Setting, cause_of, record_failure, run_trial

_MAX_DEATHS = 2  # of a trial's worker before the trial counts as failed
_ENDED = "ENDED.json"  # in an experiment's folder, once it has come to its end: its arms
_REDUCTION = 3
_LEAST_ROUNDS = 2  # that a scheduler lets pass: an area needs two points


@dataclass(frozen=True)
class Grid:
    """Arms, each with each seed; all arms of a seed come before the next seed."""

    plans: Sequence[ArmPlan]
    seeds: Sequence[int]
    may_stop: bool = False


@dataclass(frozen=True)
class Search:
    """Arms that Optuna suggests."""

    spaces: Mapping[str, Space]
    count: int
    seeds: Sequence[int]
    may_stop: bool = False


class Tuning:
    """Runs experiments of Tune in a sweep's folder.

    Args:
        setting: What trials share.
        share: What each trial gets.
        progress: Hears of each trial's end.
        verbose: Let Tune speak.
    """

    def __init__(
        self, setting: Setting, share: Share, progress: SweepProgress, *, verbose: bool = False
    ) -> None:
        self.setting = setting
        self.share = share
        self.progress = progress
        self.verbose = verbose
        self.folder = setting.folder / "tune"

    def run_grid(self, grid: Grid) -> None:
        """Run what is left of a grid.

        Raises:
            StageError: Tune itself failed.
        """
        if not self._left(grid):
            return
        arms = [dict(plan.arm.params) for plan in grid.plans]
        path = self._path("grid", arms, grid.seeds, grid.may_stop)
        space = {ARM: tune.grid_search(arms), SEED: tune.grid_search(list(grid.seeds))}
        if self._restore(path) and not self._left(grid):
            return
        # Nothing to restore, an experiment that had ended, or one that knew less than the folders do.
        self._fit(path, self._new(path, space, None, 1, may_stop=grid.may_stop))
        write_json(path / _ENDED, {"arms": arms})

    def run_search(self, search: Search) -> list[dict[str, Value]]:
        """Run what is left of a search; returns its arms, in the order in which they were suggested.

        Raises:
            StageError: Tune itself failed.
        """
        spaces = {key: repr(space) for key, space in search.spaces.items()}
        path = self._path("optuna", spaces, search.count, search.seeds, search.may_stop)
        if not (path / _ENDED).exists():
            searcher = optuna_search(search.spaces, len(search.seeds), self.setting.base.seed)
            results = self._restore(path)
            if results is None:
                count = search.count * len(search.seeds)
                results = self._fit(path, self._new(path, {}, searcher, count, may_stop=search.may_stop))
            suggested = {}
            for result in results:
                params = read_drawn(search.spaces, result.config[ARM])
                suggested[digest(params)] = params
            write_json(path / _ENDED, {"arms": list(suggested.values())})
        arms: list[dict[str, Value]] = read_json(path / _ENDED)["arms"]
        return arms

    def ended(self, trial: Any) -> None:
        """Write down what a scheduler stopped, and tell people how a trial ended."""
        plan, result = self.setting.drawn_trial(trial.config), trial.last_result or {}
        if plan.outcome(stops_count=True).status == "unfinished":
            write_json(plan.stop, {"round": result.get("round")})
        self.progress.ended(plan, result.get(OBJECTIVE), result.get("time_total_s", 0.0))

    def begins(self, trial: Any) -> None:
        """Write down an arm that a search suggests, so that the folder knows it if the sweep is killed."""
        if SEED_INDEX in trial.config:
            each = self.setting.drawn_trial(trial.config)
            entry = RecordedArm(each.plan.name, each.plan.arm.params, (each.seed,))
            add_to_record(self.setting.folder, [entry], self.setting.base)

    def begins_again(self, trial: Any) -> None:
        """Tell people that a trial's worker died."""
        plan = self.setting.drawn_trial(trial.config)
        self.progress.say(f"the worker of {plan.title} died; the trial goes on in another")

    def gave_up(self, trial: Any) -> None:
        """Write down why Tune tries a trial no more, and tell people."""
        plan, error = self.setting.drawn_trial(trial.config), trial.get_pickled_error()
        cause = f"its worker died {1 + _MAX_DEATHS} times, as by a lack of memory"
        if error is not None and not isinstance(error, RayActorError):
            cause = cause_of(error)
        record_failure(plan, cause, str(trial.get_error()))
        self.progress.ended(plan, None, 0.0)

    def _left(self, grid: Grid) -> bool:
        outcomes = (
            self.setting.trial_of(plan, seed).outcome(stops_count=self.setting.stops_count)
            for plan in grid.plans
            for seed in grid.seeds
        )
        return any(outcome.status in ("unfinished", "failed") for outcome in outcomes)

    def _path(self, kind: str, *tried: Any) -> Path:
        """Return an experiment's folder, named by what it tries and on what."""
        share = [self.share.cpus, self.share.gpus, self.share.trials_at_once]
        seen = [self.setting.base.seed, self.setting.base.sweep.mlflow]
        return self.folder / f"{kind}-{digest([*tried, share, seen])[:12]}"

    def _restore(self, path: Path) -> Any:
        """Run the rest of an experiment that was interrupted; None where there is none, or it is torn."""
        storage = _tunes_storage(path)
        if (path / _ENDED).exists() or not tune.Tuner.can_restore(**storage):
            return None
        try:
            with _quiet(self.verbose):
                tuner = tune.Tuner.restore(
                    trainable=self._trainable(), resume_unfinished=True, resume_errored=True, **storage
                )
            return self._fit(path, tuner)
        except Exception:
            self.progress.say("what Ray Tune remembers of this sweep can't be used; its finished trials can")
            return None

    def _new(self, path: Path, space: dict[str, Any], searcher: Any, count: int, *, may_stop: bool) -> Any:
        chosen = self.setting.base.sweep
        with suppress(StorageError):
            remove_tree(path)
        storage = _tunes_storage(path.parent)
        with _quiet(self.verbose):
            return tune.Tuner(
                self._trainable(),
                param_space=space,
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=self._scheduler() if may_stop else None,
                    num_samples=count,
                    max_concurrent_trials=self.share.trials_at_once,
                    reuse_actors=True,  # a worker's imports take seconds; a trial may take less
                    trial_name_creator=_name_of,
                    trial_dirname_creator=_name_of,
                ),
                run_config=tune.RunConfig(
                    name=path.name,
                    storage_path=storage["path"],
                    storage_filesystem=storage.get("storage_filesystem"),
                    failure_config=tune.FailureConfig(max_failures=_MAX_DEATHS),
                    callbacks=[_Listener(), *loggers(chosen.mlflow, self.setting.base.name)],
                    verbose=0,
                ),
            )

    def _fit(self, path: Path, tuner: Any) -> Any:
        global _at_work
        _at_work = self
        try:
            with _quiet(self.verbose):
                return tuner.fit()
        except tune.TuneError as error:
            raise StageError(
                "the sweep failed inside Ray Tune",
                found=f"{type(error).__name__}: {error}",
                next_step="run the same command again: finished trials are kept; --debug shows more",
            ) from error
        finally:
            _at_work = None

    def _trainable(self) -> Any:
        setting, actors = self.setting, WarmActors()  # each worker's own, and warm for its next trial

        def trial(drawn: dict[str, Any]) -> None:
            run_trial(setting, drawn, tune.report, actors)

        return tune.with_resources(trial, {"cpu": self.share.cpus, "gpu": self.share.gpus})

    def _scheduler(self) -> Any:
        rounds = self.setting.base.num_rounds
        return ASHAScheduler(
            time_attr=ROUNDS_DONE,
            metric=OBJECTIVE,
            mode="max",
            max_t=rounds + 1,
            grace_period=min(_LEAST_ROUNDS, rounds),
            reduction_factor=_REDUCTION,
        )


class _Listener(tune.Callback):  # type: ignore[misc]  # mypy does not follow Ray
    """Passes on how trials end. It holds nothing, since Tune stores it with the experiment."""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial is about to run."""
        if _at_work is not None:
            _at_work.begins(trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended by itself, or was stopped."""
        if _at_work is not None:
            _at_work.ended(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune gave a trial up."""
        if _at_work is not None:
            _at_work.gave_up(trial)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's worker died; Tune tries it again."""
        if _at_work is not None:
            _at_work.begins_again(trial)


_at_work: Tuning | None = None


def _tunes_storage(path: Path) -> dict[str, Any]:
    """A place as Ray Tune takes it: a path and, where it is remote, the file system that we use ourselves."""
    if not is_remote(path):
        return {"path": str(path)}
    remote = cast(RemotePath, path)
    return {"path": remote.address, "storage_filesystem": PyFileSystem(FSSpecHandler(remote.fs))}


def _name_of(trial: Any) -> str:
    """Return a trial's name in Tune and TensorBoard."""
    params = Arm(trial.config[ARM]).label.replace(", ", ",")
    seed = trial.config[SEED] if SEED in trial.config else trial.config[SEED_INDEX]
    return re.sub(r"[^A-Za-z0-9._=,+-]+", "_", f"{params[:80]},seed={seed}_{trial.trial_id}")


@contextmanager
def _quiet(verbose: bool) -> Iterator[None]:
    """Keep from the user what Tune warns of itself, and the traces of workers that died: we say that."""
    logger = logging.getLogger("ray.tune")
    before = logger.level
    with warnings.catch_warnings():
        if not verbose:
            warnings.simplefilter("ignore")
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(before)
