"""Sweeps that search, stop early, fail in part, or give their trials a Ray's workers of their own."""

import importlib.util

import pytest
from small_sweeps import small, statuses

from xal_ray.progress import QUIET
from xal_ray.record.layout import RunLayout
from xal_ray.storage import read_json
from xal_ray.sweep import describe_sweep, sweep
from xal_ray.sweep.proposal import propose

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
    assert line.startswith("failed: select.initial_labels=1, seed 0: there are too few labels to begin with")
    assert "select.initial_labels" in read_json(out / "verdict.json")["warnings"][0]


def test_tensorboard_gets_every_round_with_the_arm(failing):
    _, out, _ = failing
    events = {path.parent.name.partition(",")[0]: path for path in (out / "tune").rglob("events.out.*")}
    assert set(events) >= {"select.strategy=random", "select.initial_labels=12"}
    content = events["select.initial_labels=12"].read_bytes()
    for name in (b"val/balanced_accuracy", b"objective"):
        assert content.count(b"ray/tune/" + name) >= 2
    assert b"test/" not in content
    for path in (out / "tune").rglob("*"):  # nor what Tune itself writes: nobody chooses by it
        assert not path.is_file() or b"test/" not in path.read_bytes(), path
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
    assert not any(name.startswith("test") for run in runs.values() for name in run.data.metrics)
    assert runs["12"].info.status == "FINISHED"


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
