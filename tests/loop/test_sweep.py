"""Sweeps on Ray Tune: a trial is a run, and nothing but its folder counts."""

import contextlib
import io
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from process_tree import is_below
from rich.console import Console
from run_outputs import outputs
from small_sweeps import small, statuses

from xal_ray.config import load_config
from xal_ray.errors import ConfigError, InputError, RunError
from xal_ray.loop import run
from xal_ray.progress import QUIET, Reporter
from xal_ray.record.layout import RunLayout
from xal_ray.record.ledger import Ledger, locked
from xal_ray.storage import read_table
from xal_ray.sweep import settings_of, sweep
from xal_ray.sweep.plan import plan_arm
from xal_ray.sweep.trial import Setting, run_trial

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning:mlflow.*", "ignore::DeprecationWarning:sqlalchemy.*"
    ),
]


@pytest.fixture(scope="module")
def base_of(phantom_pool, tiny_run_of):
    """Gives a sweep's configuration on the phantom."""
    return lambda **sections: small(tiny_run_of(phantom_pool), **sections)


@pytest.fixture(scope="module")
def finished(base_of, ray_session, tmp_path_factory):
    """A finished sweep of two arms and two seeds, what it said, and its configuration. Read only."""
    out = tmp_path_factory.mktemp("sweeps") / "tiny"
    with (out.parent / "said.txt").open("w") as said:
        reporter = Reporter(Console(file=said, width=200))
        outcome = sweep(base_of(), out, reporter)
    return outcome, out, (out.parent / "said.txt").read_text(), base_of()


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished sweep's folder."""
    shutil.copytree(finished[1], tmp_path / "copy")
    return tmp_path / "copy"


def test_every_arm_is_run_with_every_seed(finished):
    outcome, _, said, _ = finished
    assert statuses(outcome) == [
        (f"select.strategy={strategy}", seed, "finished")
        for strategy in ("random", "margin")
        for seed in (0, 1)
    ]
    assert [trial.arm.is_baseline for trial in outcome.trials] == [True, True, False, False]
    assert len({trial.folder for trial in outcome.trials}) == 4
    assert "4 trials, 2 at once" in said
    assert said.count("\ntrial ") == 4
    assert "trial 4/4: select.strategy=" in said
    assert outcome.page.is_file()
    assert outcome.best is not None
    assert any("baseline" in line for line in outcome.in_words())


def test_a_trials_bytes_are_those_of_a_run(finished, tmp_path):
    """A trial scores in its own process, a run by itself on actors: the same function, the same bytes."""
    outcome, _, _, base = finished
    trial = outcome.trials[2]
    settings = base.model_copy(
        update={
            "seed": trial.seed,
            "select": base.select.model_copy(update={"strategy": "margin"}),
            "ray": base.ray.model_copy(update={"num_actors": 1}),
        }
    )
    run(settings, tmp_path / "run", QUIET)
    assert outputs(tmp_path / "run") == outputs(trial.folder)
    assert len(outputs(trial.folder)) > 10
    mine, theirs = (
        Ledger(RunLayout(folder).ledger).records[0].data for folder in (tmp_path / "run", trial.folder)
    )
    assert mine["run_id"] == theirs["run_id"]


def test_arms_of_a_seed_begin_with_the_same_labels(finished):
    outcome, _, _, _ = finished
    initial = [read_table(RunLayout(trial.folder).initial.selection) for trial in outcome.trials]
    assert initial[0].equals(initial[2])
    assert initial[1].equals(initial[3])
    assert not initial[0].equals(initial[1])


def test_a_trial_is_a_run_like_any_other(finished):
    outcome, _, _, base = finished
    trial = outcome.trials[3]
    settings = load_config(RunLayout(trial.folder).config)
    assert (settings.seed, settings.select.strategy) == (1, "margin")
    assert run(settings, trial.folder, QUIET).status == "already_finished"
    assert not RunLayout(trial.folder).report.exists()
    best = load_config(finished[0].best)
    assert best.ray == base.ray
    assert best.select.query_size == base.select.query_size


def test_a_finished_sweep_is_not_run_again(finished, copy):
    _, out, _, base = finished
    before = {trial.name: trial.read_bytes() for trial in copy.rglob("ledger.jsonl")}
    shutil.rmtree(copy / "tune")  # whatever Tune remembers
    again = sweep(base, copy, QUIET)
    assert {status for *_, status in statuses(again)} == {"finished"}
    assert {trial.name: trial.read_bytes() for trial in copy.rglob("ledger.jsonl")} == before
    assert not (copy / "tune").exists()
    assert (copy / "verdict.json").read_bytes() == (out / "verdict.json").read_bytes()


def test_what_tune_remembers_may_be_torn(finished, copy):
    """Tune can't restore then; the trials' folders can."""
    outcome, out, _, base = finished
    folders = [copy / trial.folder.relative_to(out) for trial in outcome.trials]
    shutil.rmtree(folders[3])
    before = {path: path.read_bytes() for path in copy.rglob("ledger.jsonl")}
    (state,), (ended,) = copy.glob("tune/*/tuner.pkl"), copy.glob("tune/*/ENDED.json")
    state.write_bytes(state.read_bytes()[:100])
    ended.unlink()
    said = io.StringIO()
    again = sweep(base, copy, Reporter(Console(file=said, width=200)))
    assert statuses(again) == statuses(outcome)
    assert "4 trials, 2 at once; 3 are there already" in said.getvalue()
    assert "what Ray Tune remembers of this sweep can't be used" in said.getvalue()
    assert len(before) == 3
    assert {path: path.read_bytes() for path in before} == before
    assert outputs(folders[3]) == outputs(outcome.trials[3].folder)


def kill_a_trial_at_work(out, killed):
    """Kill the first worker of this process's Ray that has begun a new trial."""
    known = set(out.rglob("rounds"))
    while not set(out.rglob("rounds")) - known:
        time.sleep(0.01)
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            is_trial = b"ray::ImplicitFunc" in (folder / "cmdline").read_bytes()
            if is_trial and is_below(int(folder.name), os.getpid()) and not killed:
                os.kill(int(folder.name), signal.SIGKILL)
                killed.append(int(folder.name))


@pytest.fixture(scope="module")
def extended(finished, base_of, tmp_path_factory):
    """A finished sweep to which another arm and another seed are added, while a worker is killed."""
    out = tmp_path_factory.mktemp("sweeps") / "extended"
    shutil.copytree(finished[1], out)
    before = {path: path.read_bytes() for path in out.rglob("ledger.jsonl")}
    said, killed = io.StringIO(), []
    threading.Thread(target=kill_a_trial_at_work, args=(out, killed), daemon=True).start()
    settings = base_of(seed=1, sweep={"params": {"select.strategy": ["entropy", "smallest_roi"]}})
    outcome = sweep(settings, out, Reporter(Console(file=said, width=200)))
    return outcome, out, before, killed, said.getvalue()


def test_more_arms_and_seeds_add_to_what_is_there(extended):
    outcome, out, before, _, said = extended
    assert [(label, seed) for label, seed, _ in statuses(outcome)] == [
        (f"select.strategy={strategy}", seed)
        for strategy, seeds in (("random", (0, 1, 2)), ("margin", (0, 1, 2)), ("smallest_roi", (1, 2)))
        for seed in seeds
    ]
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(out.rglob("ledger.jsonl"))) == len(before) + 4
    assert "2 are there already" in said


def test_a_sweep_is_its_folder(extended):
    """Table, verdict, page and best.yaml are of the arms of both calls; equal arms count once."""
    _, out, _, _, said = extended
    assert (
        "another arm in effect, and counted once: select.strategy=entropy is select.strategy=margin" in said
    )
    verdict = json.loads((out / "verdict.json").read_text())
    assert [arm["params"]["select.strategy"] for arm in verdict["arms"]] == [
        "random",
        "margin",
        "smallest_roi",
    ]
    assert verdict["num_compared"] == 2
    assert verdict["best"] != "select.strategy=smallest_roi"
    assert load_config(out / "best.yaml").select.strategy in ("random", "margin")
    table = read_table(out / "sweep.parquet")
    assert set(table["select.strategy"].to_pylist()) == {"random", "margin", "smallest_roi"}
    page = (out / "sweep.html").read_text()
    assert "strategy=margin" in page
    assert "strategy=smallest_roi" in page


def test_a_trial_whose_worker_dies_goes_on_in_another(extended):
    outcome, _, _, killed, said = extended
    assert len(killed) == 1
    assert said.count("died; the trial goes on in another") == 1
    assert {status for *_, status in statuses(outcome)} == {"finished"}
    for trial in outcome.trials:
        events = [record.event for record in Ledger(RunLayout(trial.folder).ledger).records]
        assert events.count("run_started") == events.count("run_finished") == 1


def test_another_base_is_refused_with_the_key(finished, base_of, copy):
    with pytest.raises(RunError, match="another base") as caught:
        sweep(base_of(score={"batch_size": 4, "rows_per_shard": 16}), copy, QUIET)
    assert "score.batch_size: 8" in str(caught.value)
    assert "score.batch_size: 4" in str(caught.value)


def test_a_folder_of_something_else_is_left_alone(base_of, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("dear")
    with pytest.raises(RunError, match="something else"):
        sweep(base_of(), tmp_path / "out", QUIET)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "dear"


def test_a_sweep_in_use_is_refused(base_of, copy):
    with locked(copy), pytest.raises(RunError, match="another process is working on this sweep"):
        sweep(base_of(), copy, QUIET)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"select": {"query_size": 1000, "initial_labels": 12}}, "more labels than the pool"),
        ({"sweep": {"trials_at_once": 7}}, "7 trials at once do not fit"),
        ({"model": {"backbone": "efficientnet_lite0", "weights": "nowhere.pth"}}, "weights"),
        ({"sweep": {"params": {"select.wieght": [0, 1]}}}, "unknown key"),
        ({"sweep": {"mlflow": "nonsense://nowhere"}}, "MLflow"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_runs(base_of, tmp_path, sections, message):
    with pytest.raises(InputError, match=message):
        sweep(base_of(**sections), tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_a_trial_waits_for_a_worker_that_an_earlier_sweep_left_behind(finished):
    outcome, out, _, base = finished
    setting = Setting(base, out, Path.cwd(), base.ray.model_copy(update={"num_actors": 0}), False, wait_s=0.0)
    trial = setting.trial_of(plan_arm(base, {"select.strategy": "margin"}), 0)
    assert trial.folder == outcome.trials[2].folder
    reports = []
    try:
        with locked(trial.folder):
            run_trial(setting, {"arm": {"select.strategy": "margin"}, "seed": 0}, reports.append)
        assert "another process" in json.loads(trial.failure.read_text())["cause"]
        run_trial(setting, {"arm": {"select.strategy": "margin"}, "seed": 0}, reports.append)
    finally:
        gone = not trial.failure.exists()
        trial.failure.unlink(missing_ok=True)
    assert gone
    assert [report["round"] for report in reports] == [0, 1]
    assert reports[0]["objective"] == reports[0]["val"]["balanced_accuracy"]
    values = [report["val"]["balanced_accuracy"] for report in reports]
    assert reports[1]["objective"] == pytest.approx(sum(values) / 2)
    assert [report["num_labels"] for report in reports] == [12, 18]


def test_options_of_the_command_line_come_before_the_section(base_of):
    base = base_of(sweep={"params": {"select.weight": "0:1:0.5"}, "seeds": 5})
    options = {"seeds": None, "search": "random", "trials_at_once": 3}
    found = settings_of(base, ["select.strategy=dual,margin"], ["select.strategy=entropy"], options).sweep
    assert found.params == {"select.strategy": "dual,margin"}
    assert found.baseline == {"select.strategy": "entropy"}
    assert (found.seeds, found.search, found.trials_at_once) == (5, "random", 3)
    assert settings_of(base, [], [], {}).sweep == base.sweep
    with pytest.raises(ConfigError, match="search"):
        settings_of(base, [], [], {"search": "grdi"})
