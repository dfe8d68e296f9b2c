import os
import signal
import time

import numpy as np
import pyarrow as pa
import pytest

from xal_ray import config
from xal_ray.engine import scoring, session
from xal_ray.engine.actors import ActorShape
from xal_ray.engine.shards import Shard, run_shards
from xal_ray.errors import ConfigError, ModelError, StageError
from xal_ray.model.network import ModelSpec
from xal_ray.model.weights import build_network, save_model
from xal_ray.pool.schema import rows_of_splits
from xal_ray.scoring.scorer import ALIGNMENT_COLUMNS, Scorer, score_schema
from xal_ray.storage import read_shards, write_table

pytestmark = [pytest.mark.slow, pytest.mark.ray]

SETTINGS = config.Score(batch_size=8, rows_per_shard=16, precision="fp32")


@pytest.fixture(scope="module")
def model(tmp_path_factory, phantom_pool):
    folder = tmp_path_factory.mktemp("model")
    spec = ModelSpec(
        "efficientnet_lite0", phantom_pool.classes, phantom_pool.image_size, phantom_pool.channels
    )
    save_model(folder, build_network(spec, "imagenet", seed=3), spec, {})
    return folder


def score(pool, model, folder, rows, stages, **changes):
    context = stages.with_resources(stages.resources.model_copy(update=changes))
    scoring.score(pool, model, {folder: rows}, SETTINGS, config.Roi(), context)
    return read_shards(folder, score_schema(len(pool.classes)))


def test_rays_scores_equal_a_plain_loops_row_for_row(phantom_pool, model, tmp_path, stages):
    rows = phantom_pool.index()
    scores = score(phantom_pool, model, tmp_path / "scores", rows, stages)
    scorer = Scorer(model, SETTINGS, use_roi=True)
    plain = {}
    for image_id in rows["image_id"].to_pylist():
        one = rows.filter(pa.compute.equal(rows["image_id"], image_id))
        plain[image_id] = scorer(phantom_pool.read_rows(one)).to_pylist()[0]
    assert scores.num_rows == len(plain)
    for row in scores.to_pylist():
        expected = plain[row["image_id"]]
        for name, value in row.items():
            if isinstance(value, float | list):
                np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
            else:
                assert value == expected[name], name


def test_the_same_batches_in_a_plain_loop_give_the_same_bits(phantom_pool, model, tmp_path, stages):
    rows = phantom_pool.index()
    scores = score(phantom_pool, model, tmp_path / "scores", rows, stages)
    scorer = Scorer(model, SETTINGS, use_roi=True)
    shards = [scorer(phantom_pool.read_rows(rows.slice(start, 16))) for start in range(0, rows.num_rows, 16)]
    assert scores.equals(pa.concat_tables(shards))


def test_a_warm_actor_takes_up_the_model_that_lies_at_the_path_now(phantom_pool, tmp_path, stages):
    rows = phantom_pool.index().slice(0, 4)
    spec = ModelSpec(
        "efficientnet_lite0", phantom_pool.classes, phantom_pool.image_size, phantom_pool.channels
    )
    probs = []
    for seed in (3, 4):
        save_model(tmp_path / "model", build_network(spec, "imagenet", seed), spec, {})
        scores = score(phantom_pool, tmp_path / "model", tmp_path / f"{seed}", rows, stages, num_actors=1)
        probs.append(scores["probs"])
    assert not probs[0].equals(probs[1])


def test_the_number_of_actors_changes_no_byte(phantom_pool, model, tmp_path, stages):
    rows = phantom_pool.index()
    score(phantom_pool, model, tmp_path / "one", rows, stages, num_actors=1)
    score(phantom_pool, model, tmp_path / "three", rows, stages, num_actors=3)
    shards = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert shards == [f"{number:05d}.parquet" for number in range(5)]
    for name in shards:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()


def test_only_requested_rows_are_scored_and_finished_shards_are_kept(phantom_pool, model, tmp_path, stages):
    rows = rows_of_splits(phantom_pool.index(), "pool")
    first = score(phantom_pool, model, tmp_path / "scores", rows, stages)
    assert first["image_id"].to_pylist() == rows["image_id"].to_pylist()
    assert rows.num_rows < phantom_pool.card["num_rows"]
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "scores").iterdir()}
    lost = tmp_path / "scores" / "00001.parquet"
    content = lost.read_bytes()
    lost.unlink()
    score(phantom_pool, model, tmp_path / "scores", rows, stages)
    assert lost.read_bytes() == content
    changed = {p.name for p in (tmp_path / "scores").iterdir() if p.stat().st_mtime_ns != stamps[p.name]}
    assert changed == {"00001.parquet"}


def test_values_are_in_their_ranges_and_null_without_a_roi(phantom_pool, model, tmp_path, stages):
    rows = phantom_pool.index()
    scores = score(phantom_pool, model, tmp_path / "scores", rows, stages).to_pylist()
    has_roi = {row["image_id"]: row["roi_state"] == "present" for row in rows.to_pylist()}
    for row in scores:
        assert sum(row["probs"]) == pytest.approx(1, abs=1e-6)
        for name in ("entropy", "margin", "least_confidence"):
            assert 0 <= row[name] <= 1
        assert row["logit_gap"] >= 0
        assert row["predicted"] == int(np.argmax(row["probs"]))
        if row["error_code"] is None:
            assert 0 <= min(row["saliency"]) <= max(row["saliency"]) <= 1
        if not has_roi[row["image_id"]]:
            assert all(row[name] is None for name in ALIGNMENT_COLUMNS)
        elif row["error_code"] is None:
            assert row["misalignment"] == pytest.approx(1 - row["soft_dice"], abs=1e-6)
    assert any(row["misalignment"] is not None for row in scores)


def test_a_model_that_answers_nonsense_gets_error_codes_not_scores(phantom_pool, model, tmp_path):
    scorer = Scorer(model, SETTINGS, use_roi=True)
    with_nan = scorer.network.classifier
    with_nan.bias.data[:] = float("nan")
    table = scorer(phantom_pool.read_rows(phantom_pool.index().slice(0, 5)))
    assert table["error_code"].to_pylist() == ["non_finite_output"] * 5
    for name in ("probs", "predicted", "entropy", "misalignment", "saliency"):
        assert table[name].null_count == 5, name


def test_a_map_without_contrast_keeps_its_uncertainty_and_has_no_misalignment(phantom_pool, model):
    scorer = Scorer(model, SETTINGS, use_roi=True)
    scorer.network.classifier.weight.data[:] = 0.0
    table = scorer(phantom_pool.read_rows(phantom_pool.index().slice(0, 5)))
    assert table["error_code"].to_pylist() == ["undefined_map"] * 5
    assert table["entropy"].null_count == 0
    assert table["misalignment"].null_count == 5


def test_too_many_rows_without_a_score_stop_the_stage(phantom_pool, tmp_path, stages):
    spec = ModelSpec(
        "efficientnet_lite0", phantom_pool.classes, phantom_pool.image_size, phantom_pool.channels
    )
    network = build_network(spec, "imagenet", seed=3)
    network.classifier.bias.data[:] = float("inf")
    save_model(tmp_path / "model", network, spec, {})
    with pytest.raises(StageError, match="no score"):
        score(phantom_pool, tmp_path / "model", tmp_path / "scores", phantom_pool.index(), stages)


def test_an_actors_own_error_reaches_the_caller_as_it_is(phantom_pool, tmp_path, stages):
    with pytest.raises(ModelError, match=r"model\.json"):
        score(phantom_pool, tmp_path / "nothing", tmp_path / "scores", phantom_pool.index(), stages)


def writer():
    """Work that writes a shard; told to, it dies once on the way. Local, so that it travels by value."""

    class Write:
        def __init__(self, die_at: str | None = None, sleep_s: float = 0.0) -> None:
            self.die_at = die_at
            self.sleep_s = sleep_s

        def __call__(self, path, rows):
            time.sleep(self.sleep_s)
            tombstone = path.parent / "died"
            if path.name == self.die_at and not tombstone.exists():
                tombstone.write_text("")
                os.kill(os.getpid(), signal.SIGKILL)
            write_table(path, rows)

    return Write


def shards_of(tmp_path, count=6):
    return [Shard(tmp_path / f"{n:05d}.parquet", pa.table({"n": [n, n + 100]})) for n in range(count)]


@pytest.mark.fault
def test_an_actor_that_is_killed_is_replaced_and_nothing_is_lost(tmp_path, stages):
    run_shards(
        "writing", shards_of(tmp_path), writer(), {"die_at": "00003.parquet"}, ActorShape(2, 0.5), stages
    )
    assert (tmp_path / "died").exists()
    table = read_shards(tmp_path, pa.schema([("n", pa.int64())]))
    assert sorted(table["n"].to_pylist()) == sorted([*range(6), *range(100, 106)])


def test_a_stage_that_stands_still_is_named(tmp_path, stages):
    shards, work = shards_of(tmp_path, 1), writer()
    short = stages.with_resources(config.Ray(stall_timeout_s=0.5))
    with pytest.raises(StageError, match=r"stood still for 0\.5 s") as caught:
        run_shards("writing", shards, work, {"sleep_s": 3.0}, ActorShape(1, 0.5), short)
    assert "ray.num_cpus" in str(caught.value)


def test_what_could_never_be_scheduled_is_refused_at_once(tmp_path, stages):
    with pytest.raises(ConfigError, match="starve"):
        run_shards("writing", shards_of(tmp_path), writer(), {}, ActorShape(6, 1.0), stages)
    with pytest.raises(ConfigError, match="GPUs"):
        run_shards("writing", shards_of(tmp_path), writer(), {}, ActorShape(1, 0.5, 64.0), stages)


@pytest.mark.parametrize(
    ("declared", "num", "expected", "worker"),
    [
        (0, 2, (2, 0.0), 0.0),
        (1, 2, (2, 0.5), 0.0),
        (2, 2, (2, 1.0), 1.0),
        (8, 2, (2, 1.0), 1.0),
        (1, "auto", (1, 1.0), 0.0),
        (8, "auto", (8, 1.0), 1.0),
    ],
)
def test_auto_uses_the_gpus_that_the_cluster_declares(monkeypatch, declared, num, expected, worker):
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": float(declared)})
    shape = session.scoring_shape(config.Ray(num_actors=num))
    assert (shape.num_actors, shape.gpus_per_actor) == expected
    assert session.decoding_shape(config.Ray(num_actors=num, num_decoders=5)) == ActorShape(5, 0.5, 0.0)
    assert session.gpus_per_worker("auto", 2) == worker
    assert session.scoring_shape(config.Ray(num_actors=4, gpus_per_actor=0.25)) == ActorShape(4, 0.5, 0.25)
    assert session.gpus_per_worker(0.25, 2) == 0.25


def test_auto_without_a_gpu_is_an_actor_a_core_as_far_as_the_logical_cpus_go(monkeypatch):
    import ray

    monkeypatch.setattr(session, "usable_cpus", lambda: 16)
    for cpus, expected in ((6.0, 10), (3.0, 4), (1.0, 1), (64.0, 16)):
        monkeypatch.setattr(ray, "cluster_resources", lambda cpus=cpus: {"CPU": cpus})
        assert session.scoring_shape(config.Ray()).num_actors == expected


HEAD, SMALL, BIG = {"memory": 9.0}, {"CPU": 4.0, "fast": 1.0}, {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("nodes", "settings", "scoring_shape", "num_decoders"),
    [
        ([HEAD], {}, ActorShape(1, 0.5, 0.0), 1),
        ([HEAD, SMALL, SMALL], {}, ActorShape(8, 0.5, 0.0), 8),
        ([HEAD, SMALL, BIG], {}, ActorShape(2, 0.5, 1.0), 12),
        ([HEAD, SMALL, BIG], {"num_actors": 6}, ActorShape(6, 0.5, 1.0), 12),
        ([HEAD], {"num_actors": 6, "gpus_per_actor": 1.0}, ActorShape(6, 0.5, 1.0), 1),
        ([HEAD, SMALL], {"cpus_per_actor": 3.0, "cpus_per_decoder": 2.0}, ActorShape(1, 3.0, 0.0), 2),
        ([HEAD, SMALL, BIG], {"actor_resources": {"fast": 0.1}}, ActorShape(4, 0.5, 0.0, {"fast": 0.1}), 12),
    ],
)
def test_a_joined_cluster_is_counted_by_what_its_nodes_declare(
    monkeypatch, nodes, settings, scoring_shape, num_decoders
):
    import ray

    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    declared = [{"Alive": True, "Resources": node} for node in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: [*declared, {"Alive": False, "Resources": BIG}])
    resources = config.Ray(address="auto", **settings)
    assert session.scoring_shape(resources) == scoring_shape
    assert session.decoding_shape(resources).num_actors == num_decoders


def test_what_a_cluster_may_still_bring_is_told_and_not_refused(monkeypatch):
    import ray

    said = []
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    session.check_capacity("scoring", 4, 0.5, 1.0, custom={"fast": 0.1}, warn=said.append)
    text = "2 CPU (it has 1), 4 GPU (it has 0), 0.4 fast (it has 0)"
    assert said == [f"scoring asks for more than the cluster has now: {text}"]
    with pytest.raises(ConfigError, match="fast"):
        session.check_capacity("scoring", 1, 0.0, 0.0, custom={"fast": 0.1})


@pytest.mark.parametrize(
    ("address", "keep", "kept"),
    [("local", "auto", True), ("auto", "auto", False), ("auto", True, True), ("local", False, False)],
)
def test_actors_stay_where_nobody_else_may_need_what_they_hold(address, keep, kept):
    assert session.keeps_actors(config.Ray(address=address, keep_actors=keep)) == kept
