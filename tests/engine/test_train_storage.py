"""What another driver may go on with, and what travels to workers instead of a local file."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch

from xal_ray import config
from xal_ray.engine.training.request import TrainRequest, build, packed, unpacked
from xal_ray.engine.training.storage import request_hash, train_storage
from xal_ray.pool.schema import PoolReader

pytestmark = pytest.mark.slow

CARD = {"classes": ["a", "b"], "image_size": 32, "channels": 1, "content_hash": "c0ffee"}
JOINED = config.Ray(address="auto")


@pytest.fixture
def request_(tmp_path):
    rows = pa.table({"image_id": ["x", "y"], "part": [0, 0], "row": [0, 1], "label": np.array([0, 1])})
    pool = PoolReader(tmp_path / "pool", CARD)
    model = config.Model(backbone="efficientnet_b0")
    return TrainRequest(pool, rows, rows.slice(0, 1), model, config.Train(), None, 3, 11)


def changed(request):
    labels = pa.array([1, 1])
    yield replace(request, train=request.train.set_column(3, "label", labels))
    yield replace(request, val=request.val.slice(0, 0))
    yield replace(request, pool=PoolReader(request.pool.path, {**CARD, "content_hash": "decaf"}))
    yield replace(request, settings=request.settings.model_copy(update={"max_steps": 7}))
    yield replace(request, model=request.model.model_copy(update={"freeze": "backbone"}))
    yield replace(request, round_number=4)
    yield replace(request, seed=12)


def test_the_name_says_all_that_results_depend_on(request_):
    whole = request_hash(request_, b"weights")
    others = [request_hash(other, b"weights") for other in changed(request_)]
    assert len({whole, request_hash(request_, b"other weights"), *others}) == len(others) + 2
    moved = replace(request_, pool=PoolReader(request_.pool.path / "elsewhere", CARD))
    assert request_hash(moved, b"weights") == whole


def a_run(folder, *, listed=("checkpoint_1",), text=None):
    (folder / "checkpoint_1").mkdir(parents=True)
    snapshot = {"checkpoint_results": [{"checkpoint_dir_name": name} for name in listed]}
    text = json.dumps(snapshot) if text is None else text
    (folder / "checkpoint_manager_snapshot.json").write_text(text)


class DriverDiedError(Exception):
    """In the middle of a training."""


def die_in_a_training(request, out, resources, look):
    with train_storage(request, b"w", out, resources) as storage:
        look(storage)
        raise DriverDiedError


def test_on_a_cluster_only_the_same_request_goes_on(request_, tmp_path):
    out = tmp_path / "round"
    names = []

    def leave_two_runs(storage):
        names.append(storage.name)
        assert storage.settings == {"storage_path": str(out / "training")}
        a_run(out / "training" / storage.name)
        a_run(out / "training" / "another")

    def find_one(storage):
        assert storage.name == names[0]
        assert (out / "training" / storage.name / "checkpoint_1").is_dir()
        assert not (out / "training" / "another").exists()

    for look in (leave_two_runs, find_one):
        with pytest.raises(DriverDiedError):
            die_in_a_training(request_, out, JOINED, look)
    with train_storage(request_, b"other", out, JOINED):
        assert not (out / "training" / names[0]).exists()
    assert not (out / "training").exists()


@pytest.mark.parametrize("damage", [{"listed": ("checkpoint_1", "checkpoint_2")}, {"text": '{"checkpoint_r'}])
def test_a_list_that_is_not_true_is_not_gone_on_with(request_, tmp_path, damage):
    out = tmp_path / "round"
    with train_storage(request_, b"w", out, JOINED) as storage:
        name = storage.name
    a_run(out / "training" / name, **damage)
    with train_storage(request_, b"w", out, JOINED):
        assert not (out / "training" / name).exists()


def test_on_a_ray_of_our_own_nothing_stays(request_, tmp_path):
    seen = []
    with pytest.raises(DriverDiedError):
        die_in_a_training(request_, tmp_path / "round", config.Ray(), seen.append)
    assert not seen[0].folder.exists()
    assert not (tmp_path / "round").exists()


def test_workers_need_no_file_of_the_drivers_machine(request_, tmp_path):
    """Values and their order in memory are those of the driver's network: sums depend on both."""
    path = tmp_path / "weights.safetensors"
    source = build(replace(request_, seed=99)).model.state_dict()
    safetensors.torch.save_file({name: value.contiguous() for name, value in source.items()}, path)
    model = request_.model.model_copy(update={"weights": str(path), "freeze": "backbone"})
    request = replace(request_, model=model)
    network = build(request)
    path.unlink()
    received = unpacked(request, packed(network))
    assert received.frozen
    for (name, mine), theirs in zip(
        network.state_dict().items(), received.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name
        assert mine.stride() == theirs.stride(), name
    assert torch.equal(received.model.state_dict()["features.0.0.weight"], source["features.0.0.weight"])
