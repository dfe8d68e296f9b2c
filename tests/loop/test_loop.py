import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from run_outputs import outputs

from xal_ray.config import build_config
from xal_ray.errors import ConfigError, LabelError, ModelError, PoolError, RunError
from xal_ray.loop import describe, run
from xal_ray.pool.schema import LABEL_SCHEMA, rows_of_splits
from xal_ray.progress import QUIET
from xal_ray.record.layout import INITIAL, RECEIVED_SCHEMA, SELECTION_SCHEMA, RunLayout
from xal_ray.record.ledger import LOCK_NAME, Ledger, locked
from xal_ray.scoring.scorer import score_schema
from xal_ray.storage import digest, read_shards, read_table, sha256_file, write_table

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def finished(phantom_pool, tmp_path_factory, tiny_run_of):
    """A finished run of two rounds and its configuration. Read only."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    config = build_config(tiny_run_of(phantom_pool))
    assert run(config, out, QUIET).status == "finished"
    return config, RunLayout(out)


def test_a_run_leaves_its_files_with_their_schemas(finished, phantom_pool):
    _, layout = finished
    assert layout.report.read_text().lower().startswith("<!doctype html>")
    for number in range(2):
        files = layout.round(number)
        assert read_table(files.selection).schema.equals(SELECTION_SCHEMA)
        assert read_table(files.labels).schema.equals(RECEIVED_SCHEMA)
        scores = read_shards(files.scores, pa.schema([]))
        assert scores.schema.equals(score_schema(2))
        assert files.committed.exists()
    last = layout.round(2)
    assert last.committed.exists()
    assert last.metrics.exists()
    assert not last.selection.exists()
    assert not layout.round(3).folder.exists()


def test_labels_grow_by_query_size_and_never_leave_the_pool_split(finished, phantom_pool):
    _, layout = finished
    in_pool = set(rows_of_splits(phantom_pool.index(), "pool")["image_id"].to_pylist())
    seen: set[str] = set()
    for files, count in ((layout.initial, 12), (layout.round(0), 6), (layout.round(1), 6)):
        picked = read_table(files.selection)["image_id"].to_pylist()
        assert len(picked) == len(set(picked)) == count
        assert set(picked) <= in_pool - seen
        seen |= set(picked)
    labelled = [json.loads(layout.round(n).metrics.read_text())["num_labels"] for n in range(3)]
    assert labelled == [12, 18, 24]


def test_only_unlabelled_and_holdout_rows_are_scored(finished, phantom_pool):
    _, layout = finished
    index = phantom_pool.index()
    holdout = rows_of_splits(index, "val", "test")["image_id"].to_pylist()
    known = set(read_table(layout.initial.selection)["image_id"].to_pylist())
    for number in range(2):
        files = layout.round(number)
        scored = read_shards(files.scores, pa.schema([]))["image_id"].to_pylist()
        assert set(scored) == set(rows_of_splits(index, "pool")["image_id"].to_pylist()) - known
        assert read_shards(files.holdout, pa.schema([]))["image_id"].to_pylist() == holdout
        known |= set(read_table(files.selection)["image_id"].to_pylist())


def test_labels_are_those_of_the_source(finished, phantom_pool):
    _, layout = finished
    hidden = read_table(phantom_pool.path / "hidden_labels.parquet").to_pylist()
    truth = {row["image_id"]: row["label"] for row in hidden}
    known = Ledger(layout.ledger).labels()
    assert len(known) == 24
    assert all(truth[image_id] == label for image_id, label in known.items())


def test_metrics_agree_with_the_scores(finished, phantom_pool):
    _, layout = finished
    files = layout.round(1)
    metrics = json.loads(files.metrics.read_text())
    scores = {row["image_id"]: row for row in read_shards(files.holdout, pa.schema([])).to_pylist()}
    for split in ("val", "test"):
        rows = rows_of_splits(phantom_pool.index(), split).to_pylist()
        right = [phantom_pool.classes[scores[row["image_id"]]["predicted"]] == row["label"] for row in rows]
        assert metrics["splits"][split]["accuracy"] == pytest.approx(np.mean(right))
        assert metrics["splits"][split]["num_groups"] == len({row["group_id"] for row in rows})
        dices = [scores[row["image_id"]]["soft_dice"] for row in rows]
        dices = [dice for dice in dices if dice is not None]
        assert metrics["splits"][split]["alignment"]["soft_dice"] == pytest.approx(np.mean(dices), abs=1e-6)
        assert set(metrics["splits"][split]["alignment"]["shuffled"]) >= {"soft_dice", "lift"}


def test_the_ledger_says_what_was_chosen_and_why(finished, phantom_pool):
    config, layout = finished
    ledger = Ledger(layout.ledger)
    commits = [record for record in ledger.records if record.event == "round_committed"]
    assert [record.round for record in commits] == [INITIAL, 0, 1, 2]
    picks = commits[1].data["selected"]
    selection = read_table(layout.round(0).selection).to_pylist()
    scores = {row["image_id"]: row for row in read_shards(layout.round(0).scores, pa.schema([])).to_pylist()}
    for entry, row in zip(picks["images"], selection, strict=True):
        assert {name: entry[name] for name in row} == row
        assert entry["uncertainty"] == scores[row["image_id"]]["entropy"]
        assert entry["misalignment"] == scores[row["image_id"]]["misalignment"]
        assert entry["content_sha256"]
    assert picks["config_hash"] == digest(config.identity())
    assert picks["pool_size"] == phantom_pool.card["counts"]["pool"] - 12
    for name, sha256 in commits[2].data["files"].items():
        assert sha256_file(layout.round(1).folder / name) == sha256
    assert layout.round(1).committed.read_text().strip() == commits[2].hash


def test_a_finished_run_is_left_alone(finished):
    config, layout = finished
    before = {
        path: path.stat().st_mtime_ns for path in layout.path.rglob("*") if path != layout.path / LOCK_NAME
    }
    assert run(config, layout.path, QUIET).status == "already_finished"
    after = {
        path: path.stat().st_mtime_ns for path in layout.path.rglob("*") if path != layout.path / LOCK_NAME
    }
    assert before == after


def test_the_same_configuration_gives_the_same_bytes_elsewhere(finished, tmp_path):
    config, layout = finished
    """Without actors, for one; tests/fault/test_kill.py has one actor."""
    none = config.model_copy(update={"ray": config.ray.model_copy(update={"num_actors": 0})})
    run(none, tmp_path / "again", QUIET)
    assert outputs(tmp_path / "again") == outputs(layout.path)


def test_hidden_labels_of_images_that_are_not_selected_change_nothing(finished, phantom_pool, tmp_path):
    """The oracle reveals the selected ids alone: with all others flipped, no choice and no score moves."""
    config, layout = finished
    selected = Ledger(layout.ledger).labels()
    shutil.copytree(phantom_pool.path, tmp_path / "pool")
    hidden = read_table(tmp_path / "pool" / "hidden_labels.parquet").to_pylist()
    other = {"lesion": "normal", "normal": "lesion"}
    flipped = [
        row if row["image_id"] in selected else {**row, "label": other[row["label"]]} for row in hidden
    ]
    write_table(
        tmp_path / "pool" / "hidden_labels.parquet", pa.Table.from_pylist(flipped, schema=LABEL_SCHEMA)
    )
    pool = config.pool.model_copy(update={"path": tmp_path / "pool"})
    run(config.model_copy(update={"pool": pool}), tmp_path / "run", QUIET)
    assert outputs(tmp_path / "run") == outputs(layout.path)


def test_test_labels_change_no_choice(finished, phantom_pool, tmp_path):
    """The test split is read for the curve and decides nothing."""
    config, layout = finished
    shutil.copytree(phantom_pool.path, tmp_path / "pool")
    index = read_table(tmp_path / "pool" / "index.parquet")
    other = {"lesion": "normal", "normal": "lesion"}
    labels = [other[row["label"]] if row["split"] == "test" else row["label"] for row in index.to_pylist()]
    position = index.schema.get_field_index("label")
    write_table(tmp_path / "pool" / "index.parquet", index.set_column(position, "label", pa.array(labels)))
    pool = config.pool.model_copy(update={"path": tmp_path / "pool"})
    run(config.model_copy(update={"pool": pool}), tmp_path / "run", QUIET)
    mine, theirs = outputs(tmp_path / "run"), outputs(layout.path)
    differing = {name for name in mine if mine[name] != theirs[name]}
    assert differing == {f"rounds/{number:03d}/metrics.json" for number in range(3)}


def test_a_folder_of_another_configuration_is_refused_with_the_key(finished):
    config, layout = finished
    other = config.model_copy(update={"select": config.select.model_copy(update={"weight": 0.123})})
    with pytest.raises(RunError, match="another configuration") as caught:
        run(other, layout.path, QUIET)
    assert "select.weight" in str(caught.value)


def test_a_folder_of_something_else_is_left_alone(tiny_run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("dear")
    with pytest.raises(RunError, match="something else"):
        run(build_config(tiny_run), tmp_path / "run", QUIET)
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name != LOCK_NAME] == ["thesis.txt"]


def test_a_configuration_that_lies_in_the_output_folder_is_not_overwritten(tiny_run, tmp_path):
    (tmp_path / "config.yaml").write_text("name: mine\n")
    with pytest.raises(RunError, match="something else"):
        run(build_config(tiny_run), tmp_path, QUIET)
    assert (tmp_path / "config.yaml").read_text() == "name: mine\n"


def test_a_run_in_use_is_refused(finished):
    config, layout = finished
    with locked(layout.path), pytest.raises(RunError, match="another process"):
        run(config, layout.path, QUIET)


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("select.query_size=1000", ConfigError, "12 + 2 x 1000 = 2012"),
        ("select.initial_labels=0", ConfigError, "nothing to begin with"),
        ("select.initial_labels=1", LabelError, "has no example in the initial set"),
        ("pool.path=nowhere", ConfigError, "no source"),
        ("model.weights=nowhere.pth", ModelError, "nowhere.pth"),
    ],
)
def test_what_can_not_work_is_refused_and_leaves_nothing(tiny_run, tmp_path, override, error, message):
    with pytest.raises(error) as caught:
        run(build_config(tiny_run, [override]), tmp_path / "run", QUIET)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_strategy_that_needs_rois_is_refused_on_a_pool_without(tiny_run, phantom_pool, tmp_path):
    shutil.copytree(phantom_pool.path, tmp_path / "pool")
    card = json.loads((tmp_path / "pool" / "card.json").read_text())
    (tmp_path / "pool" / "card.json").write_text(json.dumps({**card, "roi": {"not_annotated": 80}}))
    with pytest.raises(ConfigError, match="needs regions of interest"):
        run(build_config(tiny_run, [f"pool.path={tmp_path / 'pool'}"]), tmp_path / "run", QUIET)


def test_a_pool_of_other_settings_is_refused(tiny_run, tmp_path):
    overrides = ["pool.source.kind=phantom", "pool.image_size=48"]
    with pytest.raises(PoolError, match="other settings"):
        run(build_config(tiny_run, overrides), tmp_path / "run", QUIET)


def test_the_initial_set_is_the_same_for_every_strategy(finished, tmp_path):
    config, layout = finished
    random = config.model_copy(
        update={"num_rounds": 1, "select": config.select.model_copy(update={"strategy": "random"})}
    )
    run(random, tmp_path / "random", QUIET)
    mine = RunLayout(tmp_path / "random")
    assert read_table(mine.initial.selection).equals(read_table(layout.initial.selection))
    assert mine.round(0).folder.joinpath("model.safetensors").read_bytes() == (
        layout.round(0).folder.joinpath("model.safetensors").read_bytes()
    )
    assert not read_table(mine.round(0).selection)["image_id"].equals(
        read_table(layout.round(0).selection)["image_id"]
    )


def test_a_dry_run_says_what_would_happen_and_does_nothing(tiny_run, phantom_pool, tmp_path):
    lines = "\n".join(describe(build_config(tiny_run), tmp_path / "run"))
    assert f"pool {phantom_pool.card['counts']['pool']}" in lines
    assert "12 + 2 x 6 = 24" in lines
    assert "2 actors" in lines
    unprepared = [f"pool.path={tmp_path / 'none'}", "pool.source.kind=phantom"]
    assert "not there yet" in "\n".join(describe(build_config(tiny_run, unprepared), tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_a_round_without_any_roi_column_selects_by_uncertainty(tiny_run, tmp_path):
    overrides = ["roi.source=none", "select.strategy=margin", "num_rounds=1"]
    run(build_config(tiny_run, overrides), tmp_path / "run", QUIET)
    files = RunLayout(tmp_path / "run").round(0)
    scores = read_shards(files.scores, pa.schema([]))
    assert scores["misalignment"].null_count == scores.num_rows
    assert scores["saliency"].null_count == pc.sum(pc.is_valid(scores["error_code"])).as_py()
    order = sorted(scores.to_pylist(), key=lambda row: (-row["margin"], row["image_id"]))
    assert read_table(files.selection)["image_id"].to_pylist() == [row["image_id"] for row in order[:6]]
    assert json.loads(files.metrics.read_text())["splits"]["val"]["alignment"] is None
