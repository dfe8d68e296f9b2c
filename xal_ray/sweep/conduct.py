"""A sweep from its configuration to its page: plan, pools, trials, results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xal_ray.config import MAP_STRATEGIES, Config, build_config
from xal_ray.engine import actors
from xal_ray.engine.activations import keep_activations
from xal_ray.engine.session import capacity, start
from xal_ray.engine.shared import checks, sharing
from xal_ray.errors import ConfigError, InputError, StorageError
from xal_ray.ledger import locked
from xal_ray.loop.plan import check_budget, check_model, open_or_prepare
from xal_ray.loop.rehearsal import has_source, rehearse
from xal_ray.machine import settle, usable_cpus
from xal_ray.places import is_remote
from xal_ray.pool.activations import refuse_remote
from xal_ray.pool.schema import PoolReader, open_pool
from xal_ray.progress import Reporter
from xal_ray.sweep.arms import Trial
from xal_ray.sweep.binding import RECORD_NAME, bind, own_folder, refuse_strangers
from xal_ray.sweep.capacity import Share, share_out
from xal_ray.sweep.page.page import PAGE_NAME
from xal_ray.sweep.planning import ArmPlan, Plan, is_cache_chosen, plan_arms, warnings_of
from xal_ray.sweep.progress import SweepProgress
from xal_ray.sweep.proposing import known_arms, propose
from xal_ray.sweep.results.best import BEST_NAME
from xal_ray.sweep.results.outcome import write_results
from xal_ray.sweep.results.wording import Verdict
from xal_ray.sweep.space import Space, parse_pairs, scalar
from xal_ray.sweep.trial import Setting, TrialPlan

_NO_CHECK = {"weight": 0.5, "normalise": "rank"}  # keys on whose values no check depends
_MAX_FAILURES = 5  # that are named on the command line


@dataclass(frozen=True)
class SweepOutcome:
    """How a sweep ended.

    Attributes:
        trials: All of them.
        verdict: What was found, in words and numbers.
        page: The page.
        best: The chosen arm as a configuration; None where none is chosen.
    """

    trials: tuple[Trial, ...]
    verdict: Verdict
    page: Path
    best: Path | None

    def in_words(self) -> list[str]:
        """The verdict, the first failures with their causes, and where the rest is."""
        failed = [trial for trial in self.trials if trial.status == "failed"]
        lines = [self.verdict.headline, *self.verdict.remarks]
        lines += [
            f"failed: {trial.arm.label}, seed {trial.seed}: {trial.cause}" for trial in failed[:_MAX_FAILURES]
        ]
        if len(failed) > _MAX_FAILURES:
            lines.append(f"failed: {len(failed) - _MAX_FAILURES} more; the page names them all")
        lines.append(f"Page: {self.page}")
        return lines if self.best is None else [*lines, f"Best arm: {self.best}"]


def settings_of(
    base: Config, params: Sequence[str], baseline: Sequence[str], options: Mapping[str, Any]
) -> Config:
    """A configuration with a sweep's options of the command line in its section `sweep`.

    Args:
        base: As the file and --set give it.
        params: `KEY=SPEC` texts; any replace those of the section.
        baseline: `KEY=VALUE` texts; likewise.
        options: Keys of the section to values; None leaves the section's.

    Raises:
        ConfigError: A text or a value does not fit.
    """
    tree = base.sweep.model_dump(mode="json")
    if params:
        tree["params"] = parse_pairs("--param", params)
    if baseline:
        pairs = parse_pairs("--baseline", baseline)
        tree["baseline"] = {key: scalar(value) for key, value in pairs.items()}
    tree |= {key: value for key, value in options.items() if value is not None}
    checked = build_config({"name": base.name, "sweep": tree}, where="the command line")
    return base.model_copy(update={"sweep": checked.sweep})


def sweep(settings: Config, out: Path, reporter: Reporter, *, verbose: bool = False) -> SweepOutcome:
    """Run every arm with every seed, or what is left of that, and compare the arms with the baseline.

    Trials whose runs have finished are never run again: the same call goes on where it stopped, and one with
    more arms or seeds adds to what is there.

    Args:
        settings: The base of all arms, with its section `sweep`.
        out: The sweep's folder.
        reporter: Hears about progress.
        verbose: Let Ray speak.

    Raises:
        InputError: Something the user gave is wrong.
        StageError: Tune itself failed; the same call goes on from there.
    """
    for line in settle():
        reporter.line(line)
    try:
        return _sweep(settings, out, reporter, verbose=verbose)
    except _CacheError as found:
        reporter.line(
            f"activations can't be kept beside the pool ({found}): trials do without (sweep.cache=never)"
        )
        chosen = settings.sweep.model_copy(update={"cache": "never"})
        return _sweep(settings.model_copy(update={"sweep": chosen}), out, reporter, verbose=verbose)


class _CacheError(InputError):
    """Activations that nobody asked for, and that would only have saved time, can't be had here."""


@contextmanager
def _optional_cache(settings: Config, each: ArmPlan) -> Iterator[None]:
    """What goes wrong with activations that the sweep chose by itself is no reason to stop.

    Raises:
        _CacheError: In the place of the error.
    """
    try:
        yield
    except (StorageError, ConfigError) as error:
        if not is_cache_chosen(settings, each.arm.params):
            raise
        details = error.details
        raise _CacheError(": ".join(filter(None, [details["where"], details["found"]]))) from error


def _sweep(settings: Config, out: Path, reporter: Reporter, *, verbose: bool) -> SweepOutcome:
    spaces, plan = propose(settings)
    share = _share(settings, plan, spaces)
    folder = out.absolute()
    for line in _about_dropped(plan):
        reporter.line(line)
    known = known_arms(settings, plan, spaces)
    with locked(folder, what="sweep"), own_folder(folder), sharing([folder], settings.ray):
        _open_pools(settings, known, folder, reporter, verbose=verbose)
        setting = Setting(
            settings,
            folder,
            Path.cwd(),
            share.resources,
            settings.sweep.scheduler != "none",
            spaces,
            math.inf if settings.sweep.search == "optuna" else 60.0,
            checks(),
        )
        if _is_something_left(setting, plan):
            _build_models(settings, known, reporter, verbose=verbose)
            actors.release()  # what decoded the images must not hold the processors of the trials
            plan = _run_trials(setting, plan, share, reporter, verbose=verbose)
        trials = [trial.outcome(stops_count=setting.stops_count) for trial in _trials(setting, plan)]
        keys = {key for each in plan.arms for key in each.arm.params}
        verdict = write_results(folder, settings, trials, warnings_of(settings, keys))
    best = out / BEST_NAME
    return SweepOutcome(tuple(trials), verdict, out / PAGE_NAME, best if best.exists() else None)


def describe_sweep(settings: Config, out: Path, *, here: bool = True) -> list[str]:
    """What a sweep would do, without doing any of it or asking a cloud or MLflow.

    Raises:
        InputError: It can't be done.
    """
    spaces, plan = propose(settings, ask=False)
    share = _share(settings, plan, spaces)
    notes = _rehearse(settings, known_arms(settings, plan, spaces), out, here=here)
    chosen = settings.sweep
    seeds = _seeds(settings)
    drawn = f", and {chosen.num_samples} that Optuna suggests" if chosen.search == "optuna" else ""
    there = " (there is one: it goes on)" if not is_remote(out) and (out / RECORD_NAME).exists() else ""
    return [
        f"sweep      {out}{there}",
        *(
            f"arm        {each.arm.label}{' (baseline)' if each.arm.is_baseline else ''}"
            for each in plan.arms
        ),
        *(f"left out   {line}" for line in _about_dropped(plan)),
        f"seeds      {len(seeds)}: {seeds[0]} to {seeds[-1]}",
        f"trials     {len(plan.arms)} arms{drawn}, in all {_num_trials(settings, plan)} runs of "
        f"{settings.num_rounds} rounds",
        f"at once    {share.trials_at_once}, each with {share.cpus:g} CPUs, {share.gpus:g} GPUs and "
        f"{share.resources.num_actors} actors",
        f"search     {chosen.search}, scheduler {chosen.scheduler}",
        f"compared   area under the validation curve of {chosen.metric}, seed by seed",
        *(f"note       {text}" for text in notes),
    ]


def _rehearse(settings: Config, arms: Sequence[ArmPlan], out: Path, *, here: bool) -> list[str]:
    """Check what `sweep` checks before the first trial, and write nothing; returns what to bear in mind."""
    pools: dict[Path, PoolReader] = {}
    notes: dict[str, None] = {}
    seen = set()
    for each in arms:
        chosen = each.config
        key = chosen.pool_path(), chosen.model, chosen.train.init, chosen.select.model_copy(update=_NO_CHECK)
        if key in seen:
            continue
        seen.add(key)
        if not has_source(chosen):
            notes["there is no pool yet, and no pool.source to make it from"] = None
            continue
        found = rehearse(chosen, whole_queries=True, here=here)
        notes |= dict.fromkeys(found.notes)
        if found.pool is not None:
            _check_validation(found.pool)
            pools[chosen.pool_path()] = found.pool
    if not is_remote(out):
        refuse_strangers(out)
        if base := pools.get(settings.pool_path()) or next(iter(pools.values()), None):
            bind(settings, base, out, only_check=True)
    return list(notes)


def _share(settings: Config, plan: Plan, spaces: Mapping[str, Space]) -> Share:
    return share_out(
        [each.config for each in known_arms(settings, plan, spaces)],
        settings.ray,
        settings.sweep.trials_at_once,
        _num_trials(settings, plan),
        have=capacity(settings.ray),
        cores=usable_cpus(),
    )


def _num_trials(settings: Config, plan: Plan) -> int:
    suggested = settings.sweep.num_samples if settings.sweep.search == "optuna" else 0
    return (len(plan.arms) + suggested) * settings.sweep.seeds


def _seeds(settings: Config) -> list[int]:
    return [settings.seed + number for number in range(settings.sweep.seeds)]


def _trials(setting: Setting, plan: Plan) -> list[TrialPlan]:
    return [setting.trial_of(each, seed) for each in plan.arms for seed in _seeds(setting.base)]


def _about_dropped(plan: Plan) -> list[str]:
    if not plan.dropped:
        return []
    shown = "; ".join(plan.dropped[:3]) + ("; ..." if len(plan.dropped) > 3 else "")
    return [f"{len(plan.dropped)} combinations are another arm in effect: {shown}"]


def _open_pools(
    settings: Config, arms: Sequence[ArmPlan], folder: Path, reporter: Reporter, *, verbose: bool
) -> None:
    """Open or prepare the arms' pools, and refuse what can't work with them before any trial runs.

    Raises:
        InputError: A pool or a budget does not fit; or the folder belongs to another sweep.
    """
    pools: dict[Path, PoolReader] = {}
    for each in arms:
        path = each.config.pool_path()
        if path not in pools:
            pools[path] = open_or_prepare(each.config, reporter, verbose=verbose)
            _check_validation(pools[path])
        if each.config.model.cache_activations:
            with _optional_cache(settings, each):
                refuse_remote(path)
        check_budget(each.config, pools[path], whole_queries=True)
    bind(settings, pools.get(settings.pool_path()) or next(iter(pools.values())), folder)


def _build_models(base: Config, arms: Sequence[ArmPlan], reporter: Reporter, *, verbose: bool) -> None:
    """Build each network once, and run those backbones over their pools whose activations trials will share.

    Raises:
        ModelError: Weights can't be had or do not fit.
        StorageError: The disk has no room for activations.
    """
    seen = set()
    for each in arms:
        settings = each.config
        looks_at_maps = settings.select.strategy in MAP_STRATEGIES
        key = settings.pool_path(), settings.model, settings.train.init, looks_at_maps
        if key not in seen:
            seen.add(key)
            pool = open_pool(settings.pool_path())
            check_model(settings, pool, reporter.line)
            if settings.model.cache_activations:
                with _optional_cache(base, each):
                    keep_activations(pool, settings.model, settings.ray, reporter, verbose=verbose)


def _check_validation(pool: PoolReader) -> None:
    if not pool.card["counts"].get("val"):
        raise ConfigError(
            "a sweep compares arms on the validation split, and the pool has no labelled image there",
            where=str(pool.path),
            next_step="set pool.splits.val above 0, or give rows with split 'val' in the manifest",
        )


def _run_trials(setting: Setting, plan: Plan, share: Share, reporter: Reporter, *, verbose: bool) -> Plan:
    """Run what has not ended yet; returns the arms, with those that a search suggested."""
    chosen = setting.base.sweep
    trials = _trials(setting, plan)
    known = {trial.title for trial in trials if _has_ended(setting, trial)}
    total = _num_trials(setting.base, plan)
    there = f"; {len(known)} are there already" if known else ""
    reporter.line(f"{total} trials, {share.trials_at_once} at once{there}")
    start(setting.base.ray, verbose=verbose)
    from xal_ray.sweep.tuning import Grid, Search, Tuning

    tuning = Tuning(setting, share, SweepProgress(reporter, total, known), verbose=verbose)
    seeds, may_stop = _seeds(setting.base), chosen.scheduler != "none"
    if chosen.search != "optuna":
        # The baseline is what all others are compared with: it is never stopped.
        first, rest = (plan.arms[:1], plan.arms[1:]) if may_stop else (plan.arms, ())
        tuning.run_grid(Grid(first, seeds))
        if rest:
            tuning.run_grid(Grid(rest, seeds, may_stop))
        return plan
    tuning.run_grid(Grid(plan.arms, seeds))
    suggested = tuning.run_search(Search(setting.spaces, chosen.num_samples, seeds, may_stop))
    plan = plan_arms(setting.base, suggested)
    tuning.run_grid(Grid(plan.arms[1:], seeds, may_stop))  # those that failed or were cut off before
    return plan


def _is_something_left(setting: Setting, plan: Plan) -> bool:
    is_search = setting.base.sweep.search == "optuna"
    return is_search or not all(_has_ended(setting, trial) for trial in _trials(setting, plan))


def _has_ended(setting: Setting, trial: TrialPlan) -> bool:
    return trial.outcome(stops_count=setting.stops_count).status in ("finished", "stopped")
