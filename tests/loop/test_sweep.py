"""Sweeps on Ray Tune: a trial is a run, and nothing but its folder counts."""

import contextlib
import importlib.util
import io
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from rich.console import Console
from run_outputs import outputs

from xal_ray.config import build_config, load_config
from xal_ray.errors import ConfigError, InputError, RunError
from xal_ray.layout import RunLayout
from xal_ray.ledger import Ledger, locked
from xal_ray.loop import run
from xal_ray.progress import QUIET, Reporter
from xal_ray.storage import read_json, read_table, write_table
from xal_ray.sweep import describe_sweep, settings_of, sweep
from xal_ray.sweep.planning import plan_arm
from xal_ray.sweep.proposing import propose
from xal_ray.sweep.trial import Setting, run_trial

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning:mlflow.*", "ignore::DeprecationWarning:sqlalchemy.*"
    ),
]


def small(tree, **sections):
    """A base that fine-tunes for two steps in each of two rounds."""
    tree = {**tree, "num_rounds": 1, "train": {**tree["train"], "max_steps": 2}, "ray": {"num_cpus": 6}}
    sweep_section = {
        "params": {"select.strategy": ["margin"]},
        "seeds": 2,
        "trials_at_once": 2,
        **sections.pop("sweep", {}),
    }
    return build_config({**tree, **sections, "sweep": sweep_section})


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


def statuses(outcome):
    return [(trial.arm.label, trial.seed, trial.status) for trial in outcome.trials]


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
            "ray": base.ray.model_copy(update={"num_actors": 2}),
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


def is_below(pid, ancestor):
    """Whether a process was started by another, directly or not."""
    while pid > 1 and pid != ancestor:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid == ancestor


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
    settings = base_of(seed=1, sweep={"params": {"select.strategy": ["entropy"]}})
    outcome = sweep(settings, out, Reporter(Console(file=said, width=200)))
    return outcome, out, before, killed, said.getvalue()


def test_more_arms_and_seeds_add_to_what_is_there(extended):
    outcome, out, before, _, said = extended
    assert [(label, seed) for label, seed, _ in statuses(outcome)] == [
        (f"select.strategy={strategy}", seed) for strategy in ("random", "entropy") for seed in (1, 2)
    ]
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(out.rglob("ledger.jsonl"))) == len(before) + 3
    assert "1 are there already" in said


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


@pytest.fixture(scope="module")
def failing(base_of, ray_session, tmp_path_factory):
    """A sweep of which one arm fails, for with one label one of two classes has no example; and its folder.

    It is told to MLflow too, where MLflow and its database are installed.
    """
    out = tmp_path_factory.mktemp("sweeps") / "failing"
    can_track = all(importlib.util.find_spec(name) for name in ("mlflow", "sqlalchemy"))
    uri = f"sqlite:///{out.parent / 'mlflow.db'}" if can_track else None
    params = {"select.initial_labels": [1, 12]}
    settings = base_of(sweep={"params": params, "seeds": 1, "mlflow": uri})
    return sweep(settings, out, QUIET), out, uri


def test_a_trial_that_fails_is_named_with_its_cause_and_the_others_go_on(failing):
    outcome, out, _ = failing
    assert statuses(outcome) == [
        ("select.strategy=random", 0, "finished"),
        ("select.initial_labels=1", 0, "failed"),
        ("select.initial_labels=12", 0, "finished"),
    ]
    assert "has no example in the initial set" in outcome.trials[1].cause
    (line,) = [line for line in outcome.in_words() if line.startswith("failed: ")]
    assert line.startswith("failed: select.initial_labels=1, seed 0: class '")
    assert "select.initial_labels" in read_json(out / "verdict.json")["warnings"][0]


def test_tensorboard_gets_every_round_with_the_arm(failing):
    _, out, _ = failing
    events = {path.parent.name.partition(",")[0]: path for path in (out / "tune").rglob("events.out.*")}
    assert set(events) >= {"select.strategy=random", "select.initial_labels=12"}
    content = events["select.initial_labels=12"].read_bytes()
    for name in (b"val/balanced_accuracy", b"test/balanced_accuracy", b"objective"):
        assert content.count(b"ray/tune/" + name) >= 2
    assert b"arm/select.initial_labels" in content


def test_mlflow_gets_every_round_with_the_arm(failing):
    _, _, uri = failing
    if uri is None:
        pytest.skip("MLflow or its database is not installed")
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == "tiny"]
    runs = {
        run.data.params.get("arm/select.initial_labels"): run
        for run in client.search_runs([experiment.experiment_id])
    }
    assert set(runs) == {None, "1", "12"}
    assert len(client.get_metric_history(runs["12"].info.run_id, "val/balanced_accuracy")) == 2
    assert runs["12"].info.status == "FINISHED"


def test_test_labels_change_no_choice(finished, phantom_pool, base_of, tmp_path):
    """Neither what is selected in a trial nor which arm is chosen."""
    outcome, out, _, _ = finished
    shutil.copytree(phantom_pool.path, tmp_path / "pool")
    index = read_table(tmp_path / "pool" / "index.parquet")
    other = {"lesion": "normal", "normal": "lesion"}
    labels = [other[row["label"]] if row["split"] == "test" else row["label"] for row in index.to_pylist()]
    position = index.schema.get_field_index("label")
    write_table(tmp_path / "pool" / "index.parquet", index.set_column(position, "label", pa.array(labels)))
    mirrored = sweep(base_of(pool={"path": str(tmp_path / "pool")}), tmp_path / "out", QUIET)
    for mine, theirs in zip(mirrored.trials, outcome.trials, strict=True):
        ours, others = outputs(mine.folder), outputs(theirs.folder)
        differing = {name for name in ours if ours[name] != others[name]}
        assert differing == {f"rounds/{number:03d}/metrics.json" for number in range(2)}
    mine, theirs = (yaml.safe_load(path.read_text()) for path in (mirrored.best, outcome.best))
    del mine["pool"]["path"], theirs["pool"]["path"]
    assert mine == theirs
    arms = [read_json(folder / "verdict.json")["arms"] for folder in (tmp_path / "out", out)]
    assert [arm["objectives"] for arm in arms[0]] == [arm["objectives"] for arm in arms[1]]


def test_asha_stops_trials_but_never_the_baseline(base_of, ray_session, tmp_path):
    params = {"train.max_steps": [2, 3, 4, 5, 6]}
    settings = base_of(
        num_rounds=2, sweep={"params": params, "seeds": 1, "scheduler": "asha", "metric": "auroc"}
    )
    outcome = sweep(settings, tmp_path / "out", QUIET)
    found = [status for *_, status in statuses(outcome)]
    assert found[0] == "finished"
    assert set(found[1:]) == {"finished", "stopped"}
    stopped = next(trial for trial in outcome.trials if trial.status == "stopped")
    assert [files.committed.exists() for files in RunLayout(stopped.folder).rounds()] == [True, True]
    assert any("asha" in text for text in read_json(tmp_path / "out" / "verdict.json")["warnings"])
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("ledger.jsonl")}
    again = sweep(settings, tmp_path / "out", QUIET)  # what was stopped stays so
    assert statuses(again) == statuses(outcome)
    assert {path: path.read_bytes() for path in before} == before


def test_random_search_draws_the_same_arms_again(base_of, tmp_path):
    """That they then run is Tune's grid."""
    params = {"select.weight": "0:1", "train.learning_rate": "1e-4:1e-2:log", "select.query_size": "4:6"}
    settings = base_of(sweep={"params": params, "search": "random", "num_samples": 30, "seeds": 1})
    plan = propose(settings)[1]
    assert [each.name for each in plan.arms] == [each.name for each in propose(settings)[1].arms]
    drawn = [each.arm.params for each in plan.arms if not each.arm.is_baseline]
    assert len(drawn) == 30
    assert {params["select.query_size"] for params in drawn} == {4, 5, 6}
    for params in drawn:
        assert 0 <= params["select.weight"] <= 1
        assert 1e-4 <= params["train.learning_rate"] <= 1e-2
        assert float(f"{params['select.weight']:.6g}") == params["select.weight"]
    assert 10 <= sum(params["train.learning_rate"] < 1e-3 for params in drawn) <= 20  # by its logarithm
    other = propose(settings.model_copy(update={"seed": 5}))[1]
    assert {each.name for each in other.arms[1:]}.isdisjoint(each.name for each in plan.arms[1:])
    assert sum(line.startswith("arm ") for line in describe_sweep(settings, tmp_path)) == 31


def test_optuna_tries_each_suggestion_with_all_seeds(base_of, ray_session, tmp_path):
    pytest.importorskip("optuna")
    params = {"select.weight": "0:1:0.1", "train.learning_rate": "1e-4:1e-2:log"}
    settings = base_of(sweep={"params": params, "search": "optuna", "num_samples": 2})
    outcome = sweep(settings, tmp_path / "out", QUIET)
    assert {trial.status for trial in outcome.trials} == {"finished"}
    assert [trial.arm.is_baseline for trial in outcome.trials[:2]] == [True, True]
    suggested = outcome.trials[2:]
    assert [trial.seed for trial in suggested] == [0, 1] * (len(suggested) // 2)
    assert 1 <= len({trial.arm.label for trial in suggested}) <= 2
    for trial in suggested:
        assert round(trial.arm.params["select.weight"], 1) == trial.arm.params["select.weight"]
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("ledger.jsonl")}
    assert statuses(sweep(settings, tmp_path / "out", QUIET)) == statuses(outcome)
    assert {path: path.read_bytes() for path in before} == before


def test_trials_with_actors_and_training_workers_of_their_own_do_not_starve(base_of, ray_session, tmp_path):
    """2 x (.01 + 1 x .5 + 1 x 1 + 1 for reads) of 6 logical CPUs, on two cores."""
    settings = base_of(
        train={
            "max_steps": 2,
            "eval_every_steps": 2,
            "minibatch_size": 8,
            "num_threads": 1,
            "num_workers": 1,
        },
        ray={"num_cpus": 6, "num_actors": 1},
        sweep={"seeds": 1},
    )
    outcome = sweep(settings, tmp_path / "out", QUIET)
    assert {trial.status for trial in outcome.trials} == {"finished"}
    assert len(outcome.trials) == 2


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
