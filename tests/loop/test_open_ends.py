"""Runs that go on for longer, end earlier, or begin with less than one would like."""

import csv
import json
import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from run_outputs import outputs

from xal_ray.config import build_config
from xal_ray.errors import LabelError, RunError, StageError
from xal_ray.labels.inbox import import_labels
from xal_ray.loop import describe, run
from xal_ray.pool.schema import INDEX_SCHEMA, LABEL_SCHEMA
from xal_ray.progress import QUIET, Reporter
from xal_ray.record.layout import RunLayout
from xal_ray.record.ledger import Ledger
from xal_ray.storage import read_json, read_table, write_json, write_table

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]


class Heard(Reporter):
    """Keeps what is said."""

    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def line(self, text):
        self.lines.append(text)


@pytest.fixture
def alone(tiny_run):
    """The configuration of a run that needs no Ray."""
    return {**tiny_run, "ray": {"num_actors": 0}}


@pytest.fixture
def own_pool(phantom_pool, tmp_path):
    """A copy of the pool that a test may change, and what changes one of its tables."""
    path = tmp_path / "pool"
    shutil.copytree(phantom_pool.path, path)

    def change(name, schema, function):
        rows = [row for row in map(function, read_table(path / name).to_pylist()) if row is not None]
        write_table(path / name, pa.Table.from_pylist(rows, schema=schema))

    return path, change


def events(layout):
    return [record.event for record in Ledger(layout.ledger).records]


def test_a_finished_run_goes_on_where_num_rounds_is_raised(alone, tmp_path):
    """It ends with the bytes of a run that was asked for as many at once; lowered, nothing is undone."""
    layout = RunLayout(tmp_path / "run")
    assert run(build_config(alone, ["num_rounds=1"]), layout.path, QUIET).status == "finished"
    longer = build_config(alone, ["num_rounds=2", "score.max_error_fraction=0.5", "select.initial_labels=12"])
    assert run(longer, layout.path, QUIET).status == "finished"
    run(build_config(alone), tmp_path / "at_once", QUIET)
    assert outputs(layout.path) == outputs(tmp_path / "at_once")
    assert "num_rounds: 2" in layout.config.read_text()
    shorter = build_config(alone, ["num_rounds=1"])
    assert run(shorter, layout.path, QUIET).status == "already_finished"
    assert outputs(layout.path) == outputs(tmp_path / "at_once")
    assert "3 of 3 models" in layout.report.read_text()


def test_labels_for_a_round_that_was_added_can_be_imported(alone, tmp_path):
    """With the labels that were asked for before num_rounds was lowered again."""
    layout = RunLayout(tmp_path / "run")
    alone |= {"labels": {"source": "export"}, "num_rounds": 1}
    truth = {
        row["image_id"]: row["label"]
        for row in read_table(pool_of(alone) / "hidden_labels.parquet").to_pylist()
    }
    for _ in range(2):
        answer(run(build_config(alone), layout.path, QUIET), layout, truth)
    assert run(build_config(alone), layout.path, QUIET).status == "finished"
    outcome = run(build_config(alone, ["num_rounds=2"]), layout.path, QUIET)
    assert (outcome.status, outcome.waiting.title) == ("awaiting_labels", "round 1")
    assert "awaiting labels" in layout.report.read_text()
    assert run(build_config(alone), layout.path, QUIET).status == "awaiting_labels"
    answer(outcome, layout, truth)
    assert run(build_config(alone), layout.path, QUIET).status == "finished"
    assert json.loads(layout.round(2).metrics.read_text())["num_labels"] == 24


def pool_of(tree):
    return build_config(tree).pool.path


def answer(outcome, layout, truth, close=False):
    """Label what a run waits for, as a person would."""
    path = outcome.waiting.to_label / "selection.csv"
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    filled = layout.path.parent / "filled.csv"
    with filled.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "label": truth.get(row["image_id"], "")} for row in rows)
    return import_labels(layout.path, filled, close=close)


def test_the_last_query_takes_what_is_left(alone, phantom_pool, tmp_path):
    left = phantom_pool.card["counts"]["pool"]
    heard = Heard()
    size = (left - 12) // 2 + 3
    run(build_config(alone, [f"select.query_size={size}"]), tmp_path / "run", heard)
    layout = RunLayout(tmp_path / "run")
    assert len(Ledger(layout.ledger).labels()) == left
    chosen = left - 12 - size
    assert f"round 1: {chosen} of {size}: no more candidates are left" in heard.lines
    assert read_json(layout.round(1).shortfall)["chosen"] == chosen
    assert f"{chosen} of {size}" in layout.report.read_text()
    files = [r.data["files"] for r in Ledger(layout.ledger).records if r.event == "round_committed"]
    assert [("shortfall.json" in found) for found in files] == [False, False, True, False]


def test_a_class_without_an_example_is_trained_without(alone, own_pool, tmp_path):
    """For people's labels and for an oracle's: the labels that were paid for are used, and it is said."""
    path, change = own_pool
    change("hidden_labels.parquet", LABEL_SCHEMA, lambda row: {**row, "label": "normal"})
    heard = Heard()
    alone["pool"] = {"path": str(path)}
    alone["train"]["patience"] = 1
    run(build_config(alone, ["num_rounds=1"]), tmp_path / "run", heard)
    layout = RunLayout(tmp_path / "run")
    assert "round 0: no label yet of lesion: trained without, so it can't be predicted" in heard.lines
    metrics = json.loads(layout.round(1).metrics.read_text())
    assert metrics["absent_classes"] == ["lesion"]
    assert metrics["splits"]["val"]["per_class"][0]["recall"] == 0.0
    assert "no label of lesion yet" in layout.report.read_text()


def test_an_oracle_is_asked_for_what_it_knows_alone(alone, own_pool, phantom_pool, tmp_path):
    path, change = own_pool
    truth = read_table(path / "hidden_labels.parquet").to_pylist()
    known = {row["image_id"] for row in truth[::2]}
    change("hidden_labels.parquet", LABEL_SCHEMA, lambda row: row if row["image_id"] in known else None)
    heard = Heard()
    alone["pool"] = {"path": str(path)}
    run(build_config(alone, ["num_rounds=1"]), tmp_path / "run", heard)
    layout = RunLayout(tmp_path / "run")
    assert set(Ledger(layout.ledger).labels()) <= known
    assert any(f"so {len(known)} can be chosen" in line for line in heard.lines)
    change("hidden_labels.parquet", LABEL_SCHEMA, lambda row: None)
    with pytest.raises(LabelError, match="no oracle to ask"):
        run(build_config(alone), tmp_path / "none", QUIET)
    assert not (tmp_path / "none").exists()


def test_labels_that_are_there_and_people_for_the_rest(alone, own_pool, tmp_path):
    """`split=labeled` rows, no initial set, export: which six next?"""
    path, change = own_pool
    truth = {row["image_id"]: row["label"] for row in read_table(path / "hidden_labels.parquet").to_pylist()}
    given = set(sorted(truth)[:10])
    change(
        "index.parquet",
        INDEX_SCHEMA,
        lambda row: (
            {**row, "split": "labeled", "label": truth[row["image_id"]]} if row["image_id"] in given else row
        ),
    )
    card = read_json(path / "card.json")
    card["counts"] |= {"labeled": 10, "pool": card["counts"]["pool"] - 10}
    write_json(path / "card.json", card)
    alone |= {"pool": {"path": str(path)}, "labels": {"source": "export"}, "num_rounds": 1}
    alone["select"] |= {"initial_labels": 0}
    layout = RunLayout(tmp_path / "run")
    outcome = run(build_config(alone), layout.path, QUIET)
    assert (outcome.status, outcome.waiting.title, outcome.num_missing) == ("awaiting_labels", "round 0", 6)
    answer(outcome, layout, truth)
    assert run(build_config(alone), layout.path, QUIET).status == "finished"
    assert json.loads(layout.round(1).metrics.read_text())["num_labels"] == 16


def test_a_cap_that_binds_is_said_in_the_plan_each_round_and_in_the_report(alone, phantom_pool, tmp_path):
    index = phantom_pool.index()
    groups = index.filter(pc.equal(index["split"], "pool"))["group_id"].unique()
    num_groups = len(groups)
    settings = build_config(
        alone, ["select.max_per_group=1", f"select.query_size={num_groups + 3}", "num_rounds=1"]
    )
    assert num_groups + 3 + 12 <= phantom_pool.card["counts"]["pool"]
    plan = "\n".join(describe(settings, tmp_path / "run"))
    heard = Heard()
    run(settings, tmp_path / "run", heard)
    layout = RunLayout(tmp_path / "run")
    chosen = read_table(layout.round(0).selection).num_rows
    line = f"{chosen} of {num_groups + 3}: the cap of 1 per group (select.max_per_group) binds"
    assert f"round 0: {line}" in heard.lines
    assert line in layout.report.read_text()
    assert f"12 + {chosen} = {12 + chosen}" in plan
    assert line in plan


def test_what_has_no_effect_may_change_and_what_has_one_may_not(alone, tmp_path):
    settings = build_config(alone, ["num_rounds=1", "select.strategy=margin"])
    run(settings, tmp_path / "run", QUIET)
    for free in ("select.weight=0.1", "score.max_error_fraction=0.9", "score.mc_dropout=0.5", "num_rounds=1"):
        again = build_config(alone, ["num_rounds=1", "select.strategy=margin", free])
        assert run(again, tmp_path / "run", QUIET).status == "already_finished"
    for bound in ("select.strategy=dual", "seed=3", "score.mc_samples=2"):
        with pytest.raises(RunError, match="another configuration") as caught:
            run(
                build_config(alone, ["num_rounds=1", "select.strategy=margin", bound]),
                tmp_path / "run",
                QUIET,
            )
        assert bound.partition("=")[0] in str(caught.value)


def test_advice_to_change_what_a_begun_run_is_bound_to_says_where_to(alone, tmp_path):
    diverging = build_config(
        alone, ["train.learning_rate=1e30", "model.freeze=backbone", "train.augment=none"]
    )
    with pytest.raises(StageError, match="diverged") as caught:
        run(diverging, tmp_path / "run", QUIET)
    assert caught.value.details["next"].startswith("lower train.learning_rate")
    assert "--out" in caught.value.details["next"]


def test_labels_of_one_run_begin_another(alone, tmp_path, phantom_pool):
    """What people labelled for a run is not lost with its settings, half a round of it included."""
    truth = {
        row["image_id"]: row["label"]
        for row in read_table(pool_of(alone) / "hidden_labels.parquet").to_pylist()
    }
    alone |= {"labels": {"source": "export"}, "num_rounds": 1}
    old = RunLayout(tmp_path / "old")
    for _ in range(2):
        answer(run(build_config(alone), old.path, QUIET), old, truth)
    changed = ["train.learning_rate=0.01", f"labels.from_run={old.path}"]
    with pytest.raises(RunError, match="another configuration") as caught:
        run(build_config(alone, changed[:1]), old.path, QUIET)
    assert f"labels.from_run={old.path}" in caught.value.details["next"]
    heard = Heard()
    new = RunLayout(tmp_path / "new")
    outcome = run(build_config(alone, changed), new.path, heard)
    assert (outcome.status, outcome.waiting.title) == ("awaiting_labels", "round 0")
    assert f"initial set: 18 labels taken over from {old.path}" in heard.lines
    known = Ledger(new.ledger).labels()
    assert known == {image_id: truth[image_id] for image_id in known}
    assert set(known) == {
        *Ledger(old.ledger).labels(),
        *read_table(old.round(0).selection)["image_id"].to_pylist(),
    }
    assert "round 0: training on 18 labels" in heard.lines
    shutil.rmtree(old.path)  # it is read once
    answer(outcome, new, truth)
    assert run(build_config(alone, changed), new.path, QUIET).status == "finished"
    with pytest.raises(RunError, match="no run whose labels"):
        run(build_config(alone, changed), tmp_path / "third", QUIET)
    assert not (tmp_path / "third").exists()


def test_images_that_nobody_can_label_are_passed_over_and_not_asked_for_again(alone, phantom_pool, tmp_path):
    truth = {
        row["image_id"]: row["label"]
        for row in read_table(pool_of(alone) / "hidden_labels.parquet").to_pylist()
    }
    alone |= {"labels": {"source": "export"}, "num_rounds": 2}
    alone["select"] |= {"query_size": 20}
    layout = RunLayout(tmp_path / "run")
    outcome = run(build_config(alone), layout.path, QUIET)
    unclear = read_table(layout.initial.selection)["image_id"].to_pylist()[:3]
    with pytest.raises(LabelError, match="too few labels to go on with"):
        answer(outcome, layout, {}, close=True)
    answerable = {image_id: label for image_id, label in truth.items() if image_id not in unclear}
    assert answer(outcome, layout, answerable).num_missing == 3
    assert run(build_config(alone), layout.path, QUIET).num_missing == 3
    received = answer(outcome, layout, answerable, close=True)
    assert (received.num_new, received.num_missing, received.num_passed_over) == (0, 0, 3)
    for number in range(2):
        outcome = run(build_config(alone), layout.path, QUIET)
        assert outcome.waiting.title == f"round {number}"
        answer(outcome, layout, answerable)
    assert run(build_config(alone), layout.path, QUIET).status == "finished"
    known = Ledger(layout.ledger).labels()
    assert len(known) == 9 + 20 + 20
    assert not set(known) & set(unclear)
    assert phantom_pool.card["counts"]["pool"] - len(unclear) >= len(known)
