import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from xal_ray import config
from xal_ray.engine.context import StageContext
from xal_ray.engine.training.stage import TrainRequest, train
from xal_ray.errors import ConfigError, LabelError, ModelError
from xal_ray.pool.schema import rows_of_splits
from xal_ray.progress import Reporter

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture(scope="module")
def labelled(phantom_pool):
    def of(split):
        rows = rows_of_splits(phantom_pool.index(), split)
        numbers = np.array([phantom_pool.classes.index(label) for label in rows["label"].to_pylist()])
        return rows.select(["image_id", "part", "row"]).append_column("label", pa.array(numbers, pa.int64()))

    return of("test"), of("val")


def request(phantom_pool, labelled, model=None, previous=None, **train_changes):
    rows, val = labelled
    settings = config.Train(
        **{"max_steps": 4, "eval_every_steps": 2, "minibatch_size": 8, "num_threads": 1, **train_changes}
    )
    return TrainRequest(phantom_pool, rows, val, model or config.Model(), settings, previous, 0, 11)


def test_no_worker_and_one_worker_give_the_same_files(phantom_pool, labelled, tmp_path, stages):
    train(request(phantom_pool, labelled), tmp_path / "0", stages)
    train(request(phantom_pool, labelled, num_workers=1), tmp_path / "1", stages)
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
    card = json.loads((tmp_path / "0" / "model.json").read_text())
    assert card["num_labels"] == labelled[0].num_rows
    assert [row["step"] for row in card["history"]] == [2, 4]


def test_on_a_cluster_the_drivers_own_training_is_told_once(phantom_pool, labelled, tmp_path, ray_session):
    joined = ray_session.model_copy(update={"address": "auto"})
    heard = io.StringIO()
    first = request(phantom_pool, labelled, config.Model(backbone="efficientnet_b0"), max_steps=1)
    for each in (first, replace(first, round_number=1)):
        reporter = Reporter(Console(file=heard, width=400))
        train(each, tmp_path / str(each.round_number), StageContext(joined, reporter))
    assert heard.getvalue().count("train.num_workers=1") == 1


def test_two_workers_train_one_model(phantom_pool, labelled, tmp_path, stages):
    train(request(phantom_pool, labelled, num_workers=2), tmp_path, stages)
    card = json.loads((tmp_path / "model.json").read_text())
    assert [row["step"] for row in card["history"]] == [2, 4]
    assert all(np.isfinite(row["val_loss"]) for row in card["history"])


def test_no_label_is_lost_between_workers(phantom_pool, labelled, ray_session):
    from xal_ray.engine.training.dealing import DealtRows

    rows = labelled[0].slice(0, 13)
    dealt = [
        [
            name
            for batch in part["train"].iter_batches(batch_format="pyarrow")
            for name in batch["image_id"].to_pylist()
        ]
        for part in DealtRows(rows, phantom_pool).configure({"train": None}, 3)
    ]
    assert [len(names) for names in dealt] == [5, 4, 4]
    assert sorted(name for names in dealt for name in names) == rows["image_id"].to_pylist()


def test_too_few_labels_for_the_workers_are_refused_before_any_starts(
    phantom_pool, labelled, tmp_path, stages
):
    few = replace(request(phantom_pool, labelled, num_workers=2), train=labelled[0].slice(0, 3))
    with pytest.raises(LabelError, match="at least 4: 2 for each worker"):
        train(few, tmp_path, stages)


def test_init_previous_goes_on_from_the_last_model(phantom_pool, labelled, tmp_path, stages):
    train(request(phantom_pool, labelled), tmp_path / "first", stages)
    still = {"learning_rate": 1e-12, "weight_decay": 0.0, "max_steps": 1}
    again = request(phantom_pool, labelled, previous=tmp_path / "first", init="previous", **still)
    train(again, tmp_path / "second", stages)
    fresh = request(phantom_pool, labelled, previous=tmp_path / "first", **still)
    train(fresh, tmp_path / "fresh", stages)
    losses = [
        json.loads((tmp_path / name / "model.json").read_text())["history"] for name in ("second", "fresh")
    ]
    assert losses[0][0]["train_loss"] != losses[1][0]["train_loss"]

    from safetensors.numpy import load_file

    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    for name, value in first.items():
        if "running" not in name and "num_batches" not in name:
            np.testing.assert_allclose(second[name], value, atol=1e-6)


def test_weights_that_can_not_be_had_are_explained_through_ray_train_too(
    phantom_pool, labelled, tmp_path, stages
):
    for workers in (0, 1):
        model = config.Model(weights=str(tmp_path / "none.pth"))
        with pytest.raises(ModelError, match=r"none\.pth"):
            train(
                request(phantom_pool, labelled, model, num_workers=workers),
                tmp_path / "x",
                stages,
            )
    assert not (tmp_path / "x" / "model.json").exists()


def test_more_workers_than_there_are_processors_are_refused(phantom_pool, labelled, tmp_path, stages):
    with pytest.raises(ConfigError, match="starve"):
        train(request(phantom_pool, labelled, num_workers=64), tmp_path, stages)
