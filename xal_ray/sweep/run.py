"""A sweep from its configuration to its page: plan, pools, trials, results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xal_ray.config import Config, build_config
from xal_ray.engine.activations import keep_activations
from xal_ray.engine.context import StageContext, open_context
from xal_ray.engine.session import start
from xal_ray.engine.shared import checks, sharing
from xal_ray.errors import ConfigError, InputError, StorageError
from xal_ray.loop.plan import check_budget, check_model, open_or_prepare
from xal_ray.machine import settle
from xal_ray.pool.activations import refuse_remote
from xal_ray.pool.schema import PoolReader, open_pool
from xal_ray.progress import Reporter
from xal_ray.record.ledger import locked
from xal_ray.storage import names_in
from xal_ray.sweep.arms import Trial
from xal_ray.sweep.capacity import Share
from xal_ray.sweep.family import Family, gather
from xal_ray.sweep.initial_sets import about_left_out, lacking_seeds, with_recorded
from xal_ray.sweep.layout import BEST_NAME, PAGE_NAME
from xal_ray.sweep.outcome import write_results
from xal_ray.sweep.plan import ArmPlan, Plan, is_cache_chosen, plan_arms, warnings_of
from xal_ray.sweep.progress import SweepProgress
from xal_ray.sweep.proposal import known_arms, propose
from xal_ray.sweep.record import RecordedArm, SweepRecord, add_to_record, bind, own_folder, read_record
from xal_ray.sweep.request import about_dropped, check_validation, num_classes, num_trials, seeds_of, share_of
from xal_ray.sweep.results.wording import Verdict
from xal_ray.sweep.space import parse_pairs, scalar
from xal_ray.sweep.trial import Setting, TrialPlan

_MAX_FAILURES = 5  # that are named on the command line


@dataclass(frozen=True)
class SweepOutcome:
    """Says how a sweep ended.

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
        """Return the verdict, the first failures with their causes, and where the rest is."""
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
    """Return a configuration with a sweep's options of the command line in its section `sweep`.

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
    more arms or seeds adds to what is there. What comes out is about all arms of the folder.

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
    with open_context(settings.ray, reporter, verbose=verbose) as context:
        try:
            return _sweep(settings, out, context)
        except _CacheError as found:
            reporter.line(
                f"activations can't be kept beside the pool ({found}): trials do without (sweep.cache=never)"
            )
            chosen = settings.sweep.model_copy(update={"cache": "never"})
            return _sweep(settings.model_copy(update={"sweep": chosen}), out, context)


class _CacheError(InputError):
    """Activations that nobody asked for, and that would only have saved time, can't be had here."""


@contextmanager
def _optional_cache(settings: Config, each: ArmPlan) -> Iterator[None]:
    """Mark what goes wrong with activations that the sweep chose by itself: it is no reason to stop.

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


def _sweep(settings: Config, out: Path, context: StageContext) -> SweepOutcome:
    reporter = context.reporter
    spaces, plan = propose(settings)
    share = share_of(settings, plan, spaces)
    folder = out.absolute()
    for line in about_dropped(plan.dropped):
        reporter.line(line)
    known = known_arms(settings, plan, spaces)
    with locked(folder, what="sweep"), own_folder(folder), sharing([folder], settings.ray):
        pools = _open_pools(settings, known, folder, context)
        lacking = lacking_seeds(known, pools, seeds_of(settings))
        left_out = with_recorded(lacking, read_record(folder).left_out, seeds_of(settings))
        seeds = [seed for seed in seeds_of(settings) if seed not in left_out]
        setting = Setting(
            settings,
            folder,
            Path.cwd(),
            share.resources,
            settings.sweep.scheduler != "none",
            spaces,
            math.inf if settings.sweep.search == "optuna" else 60.0,
            checks(),
            tuple(seeds),
        )
        family = _gather(setting, plan, pools)
        for line in (*about_dropped(family.twins), *about_left_out(left_out)):
            reporter.line(line)
        asked = [RecordedArm(each.name, each.arm.params, setting.seeds) for each in family.asked]
        add_to_record(folder, asked, settings, left_out, family.twins)
        if _is_something_left(setting, family.asked):
            _build_models(settings, known, context)
            context.actors.release()  # what decoded the images must not hold the processors of the trials
            plan = _run_trials(setting, Plan(family.asked), share, context)
            if settings.sweep.search == "optuna":  # only now are its arms known
                family = _gather(setting, plan, pools)
                add_to_record(folder, [], settings, twins=family.twins)
        record = read_record(folder)
        trials = _outcomes(setting, family, record)
        keys = {key for trial in trials for key in trial.arm.params}
        warnings = [
            *warnings_of(keys, record.searches, record.schedulers),
            *about_left_out(record.left_out),
            *about_dropped(record.twins),
        ]
        verdict = write_results(folder, settings, trials, warnings)
    best = out / BEST_NAME
    return SweepOutcome(tuple(trials), verdict, out / PAGE_NAME, best if best.exists() else None)


def _gather(setting: Setting, plan: Plan, pools: Mapping[Path, PoolReader]) -> Family:
    return gather(
        setting.base,
        plan,
        setting.seeds,
        read_record(setting.folder).arms,
        lambda each: num_classes(each, pools),
    )


def _outcomes(setting: Setting, family: Family, record: SweepRecord) -> list[Trial]:
    """Return how all trials of the folder stand, without arms of earlier calls whose folder is gone."""
    asked = {each.name for each in family.asked}
    there = asked | set(names_in(setting.folder / "trials"))
    return [
        # What a scheduler of an earlier call stopped stays stopped.
        setting.trial_of(member.plan, seed).outcome(
            stops_count=setting.stops_count or member.plan.name not in asked
        )
        for member in family.members
        if member.plan.name in there
        for seed in member.seeds
        if seed not in record.left_out
    ]


def _trials(setting: Setting, arms: Sequence[ArmPlan]) -> list[TrialPlan]:
    return [setting.trial_of(each, seed) for each in arms for seed in setting.seeds]


def _open_pools(
    settings: Config, arms: Sequence[ArmPlan], folder: Path, context: StageContext
) -> dict[Path, PoolReader]:
    """Open or prepare the arms' pools, by path, and refuse what can't work with them before any trial runs.

    Raises:
        InputError: A pool or a budget does not fit; or the folder belongs to another sweep.
    """
    pools: dict[Path, PoolReader] = {}
    for each in arms:
        path = each.config.pool_path()
        if path not in pools:
            pools[path] = open_or_prepare(each.config, context.with_resources(each.config.ray))
            check_validation(pools[path])
        if each.config.model.cache_activations:
            with _optional_cache(settings, each):
                refuse_remote(path)
        check_budget(each.config, pools[path], whole_queries=True)
    bind(settings, pools.get(settings.pool_path()) or next(iter(pools.values())), folder)
    return pools


def _build_models(base: Config, arms: Sequence[ArmPlan], context: StageContext) -> None:
    """Build each network once, and run those backbones over their pools whose activations trials will share.

    Raises:
        ModelError: Weights can't be had or do not fit.
        StorageError: The disk has no room for activations.
    """
    seen = set()
    for each in arms:
        settings = each.config
        looks_at_maps = settings.select.spec.needs_map
        key = settings.pool_path(), settings.model, settings.train.init, looks_at_maps
        if key not in seen:
            seen.add(key)
            pool = open_pool(settings.pool_path())
            check_model(settings, pool, context.reporter.line)
            if settings.model.cache_activations:
                with _optional_cache(base, each):
                    keep_activations(pool, settings.model, context.with_resources(settings.ray))


def _run_trials(setting: Setting, plan: Plan, share: Share, context: StageContext) -> Plan:
    """Run what has not ended yet; returns the arms, with those that a search suggested."""
    chosen = setting.base.sweep
    trials = _trials(setting, plan.arms)
    known = {trial.title for trial in trials if _has_ended(setting, trial)}
    total = num_trials(setting.base, plan, len(setting.seeds))
    there = f"; {len(known)} are there already" if known else ""
    context.reporter.line(f"{total} trials, {share.trials_at_once} at once{there}")
    start(setting.base.ray, verbose=context.verbose)
    from xal_ray.sweep.tune import Grid, Search, Tuning

    tuning = Tuning(setting, share, SweepProgress(context.reporter, total, known), verbose=context.verbose)
    seeds, may_stop = setting.seeds, chosen.scheduler != "none"
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


def _is_something_left(setting: Setting, arms: Sequence[ArmPlan]) -> bool:
    is_search = setting.base.sweep.search == "optuna"
    return is_search or not all(_has_ended(setting, trial) for trial in _trials(setting, arms))


def _has_ended(setting: Setting, trial: TrialPlan) -> bool:
    return trial.outcome(stops_count=setting.stops_count).status in ("finished", "stopped")
