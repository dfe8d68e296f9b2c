"""A dry run refuses what the run would, writes nothing, and asks neither a cloud nor MLflow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from xal_ray.config import build_config
from xal_ray.engine import prepare as engine
from xal_ray.engine.context import StageContext
from xal_ray.errors import ConfigError, InputError, PoolError, StorageError
from xal_ray.loop import describe, run
from xal_ray.loop.score_pool import describe_pass
from xal_ray.loop.state import check_folder, open_run
from xal_ray.pool.schema import PoolReader
from xal_ray.progress import QUIET, Reporter
from xal_ray.record.layout import RunLayout
from xal_ray.sweep import describe_sweep
from xal_ray.sweep import run as sweep_run

pytestmark = [pytest.mark.slow]


@pytest.fixture
def phantom(tmp_path):
    """The tree of a run whose pool is not made yet."""
    return {
        "name": "x",
        "pool": {"path": str(tmp_path / "pool"), "image_size": 64, "source": {"kind": "phantom"}},
        "select": {"strategy": "entropy"},
        "sweep": {"params": {"select.strategy": ["margin"]}, "seeds": 1},
    }


def folder_of_images(path, names):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32), 90, np.uint8)).save(path / name)
    return {"path": str(path)}


def everything(path):
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["model.weights=none.pth"], r"none\.pth"),
        (["model.weights=broken.pth"], r"broken\.pth"),
        (["model.weights=other.pth"], "other.pth"),
        (["train.num_workers=9"], r"train\.num_workers=9 would starve"),
        (["ray.num_cpus=1"], "num_decoders"),
        (["num_rounds=40", "select.query_size=100"], "more labels than the source has images"),
        (["pool.source.kind=folder", "pool.source.path=nowhere"], "nowhere"),
        (["labels.from_run=elsewhere"], "labels could be taken over"),
        (["pool.compare_with=[other_pool]"], "other_pool"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(change, words, phantom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    torch.save({"nothing.that.fits": torch.zeros(3)}, tmp_path / "other.pth")
    before = everything(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        describe(build_config(phantom, change), tmp_path / "run")
    assert caught.value.exit_code == 2
    assert everything(tmp_path) == before


def test_what_a_folder_lacks_is_known_before_an_image_is_decoded(phantom, tmp_path):
    names = [f"{label}/p{number}.png" for label in ("a", "b") for number in range(30)]
    for number, (source, change, words) in enumerate(
        [
            (names, [], "group"),
            ([name.partition("/")[2] for name in names], ["pool.group_by=image"], "no label|class"),
            (names, ["pool.group_by=image", "select.strategy=dual"], "the source has none"),
        ]
    ):
        given = folder_of_images(tmp_path / f"images{number}", source)
        tree = {**phantom, "pool": {**phantom["pool"], "source": given}}
        with pytest.raises(InputError, match=words):
            describe(build_config(tree, change), tmp_path / "run")
    assert not (tmp_path / "pool").exists()


def test_another_configurations_folder_is_refused(phantom, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "holiday.jpg").touch()
    with pytest.raises(InputError, match="something else"):
        describe(build_config(phantom), out)
    assert everything(out) == ["holiday.jpg"]


@pytest.mark.parametrize(
    "change", ["labels.from_run=s3://bucket/run", "pool.compare_with=[s3://bucket/pool]"]
)
def test_a_dry_run_of_what_begins_elsewhere_says_what_it_did_not_look_at(change, phantom, tmp_path):
    lines = describe(build_config(phantom, [change]), tmp_path / "run")
    assert any(line.startswith("note") and "not looked at" in line for line in lines)


def test_a_pool_to_compare_with_is_known_to_be_there_before_an_image_is_decoded(
    phantom, tmp_path, monkeypatch
):
    monkeypatch.setattr(engine, "start", lambda *_, **__: pytest.fail("Ray was started"))
    config = build_config(phantom, [f"pool.compare_with=[{tmp_path}/none]"])
    with pytest.raises(PoolError, match="none"):
        engine.prepare(config.pool, tmp_path / "pool", StageContext(config.ray, QUIET))
    assert everything(tmp_path) == []


def test_a_place_below_a_file_is_refused_before_an_image_is_decoded(phantom, tmp_path):
    (tmp_path / "taken").touch()
    config, out = build_config(phantom), tmp_path / "taken" / "run"
    for call in (describe, describe_sweep, lambda *words: run(*words, QUIET)):
        with pytest.raises(StorageError, match="taken is no folder"):
            call(config, out)
    assert everything(tmp_path) == ["taken"]


def test_each_arm_of_a_sweep_is_held_against_its_own_budget(phantom, tmp_path):
    phantom["sweep"]["params"] = {"num_rounds": [1, 400]}
    with pytest.raises(ConfigError, match="more labels than the source has"):
        describe_sweep(build_config(phantom), tmp_path / "sweep")


def test_no_cloud_is_asked(phantom, tmp_path, monkeypatch):
    from xal_ray.places import RemotePath

    def refuse(self, *_, **__):
        raise AssertionError("a cloud was asked")

    monkeypatch.setattr(RemotePath, "fs", property(refuse))
    remote = [
        "pool.path=s3://bucket/pool",
        "pool.source.path=s3://bucket/x.csv",
        "model.weights=s3://bucket/w.pth",
    ]
    tree = {**phantom, "pool": {"image_size": 64}}
    config = build_config(tree, remote)
    from xal_ray.places import place

    lines = describe(config, place("s3://bucket/run"))
    assert any("object store, which is not asked here" in line for line in lines)
    assert any("s3://bucket/w.pth are not on this machine" in line for line in lines)
    local_pool = build_config(tree, [f"pool.path={tmp_path / 'pool'}", *remote[1:]])
    assert any(
        "s3://bucket/x.csv, in an object store" in line for line in describe(local_pool, tmp_path / "r")
    )
    assert describe_sweep(config, place("s3://bucket/sweep"))
    places = [place(f"s3://bucket/{name}") for name in ("run/rounds/001", "pool", "out")]
    assert describe_pass(*places, config, splits=("pool",), query_size=5)


def test_a_sweeps_dry_run_makes_no_database(phantom, tmp_path):
    pytest.importorskip("mlflow")
    config = build_config(phantom, [f"sweep.mlflow=sqlite:///{tmp_path}/m.db"])
    describe_sweep(config, tmp_path / "sweep")
    assert everything(tmp_path) == []


def test_what_nobody_asked_to_keep_is_no_reason_to_stop(phantom, tmp_path, monkeypatch):
    """Activations that a sweep would keep to save time, on a pool that can't be written to."""
    config = build_config(phantom)
    cached = []

    def sweep(settings, *_, **__):
        arm = sweep_run.propose(
            settings.model_copy(
                update={
                    "model": settings.model.model_copy(update={"freeze": "backbone", "weights": "imagenet"}),
                    "train": settings.train.model_copy(update={"augment": "none"}),
                }
            )
        )[1].arms[0]
        cached.append(arm.config.model.cache_activations)
        if cached[-1]:
            with sweep_run._optional_cache(settings, arm):
                raise StorageError("the disk refused a write", found="Read-only file system", where="pool")
        return "done"

    said = []
    monkeypatch.setattr(sweep_run, "_sweep", sweep)
    monkeypatch.setattr(Reporter, "line", lambda _, text: said.append(text))
    assert sweep_run.sweep(config, tmp_path / "sweep", QUIET) == "done"
    assert cached == [True, False]
    assert said == [
        "activations can't be kept beside the pool (pool: Read-only file system): trials do without "
        "(sweep.cache=never)"
    ]
    wanted = config.model_copy(update={"model": config.model.model_copy(update={"cache_activations": True})})
    arm = sweep_run.propose(config)[1].arms[0]
    with pytest.raises(ConfigError), sweep_run._optional_cache(wanted, arm):
        raise ConfigError("this was asked for")


def test_weights_that_were_replaced_under_a_begun_run_are_named_as_what_differs(phantom, tmp_path):
    pool, layout = PoolReader(tmp_path, {"content_hash": "0" * 64}), RunLayout(tmp_path / "run")
    (tmp_path / "w.pth").write_bytes(b"before")
    config = build_config(phantom, [f"model.weights={tmp_path}/w.pth"])
    open_run(config, pool, layout, StageContext(config.ray, QUIET))
    check_folder(config, pool, layout)
    (tmp_path / "w.pth").write_bytes(b"after")
    with pytest.raises(InputError, match="another configuration") as caught:
        check_folder(config, pool, layout)
    assert "w.pth, as it was when the run began" in caught.value.details["expected"]
