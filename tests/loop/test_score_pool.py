"""One pass of a run's model: what it chooses, and what its folder is bound to."""

import json

import pyarrow as pa
import pytest

from xal_ray.config import build_config
from xal_ray.errors import ConfigError, RunError
from xal_ray.loop import run
from xal_ray.loop.score_pool import describe_pass, score_pool, settings_of_pass
from xal_ray.pool.schema import rows_of_splits
from xal_ray.progress import QUIET
from xal_ray.record.layout import RunLayout
from xal_ray.record.ledger import Ledger, locked
from xal_ray.storage import read_shards, read_table

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]

ALONE = ["ray.num_actors=0"]


@pytest.fixture(scope="module")
def finished(phantom_pool, tmp_path_factory, tiny_run_of):
    """A finished run of one round that chooses at most one image of a patient. Read only."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    tree = tiny_run_of(phantom_pool)
    tree |= {"num_rounds": 1, "seed": 4}
    tree["select"] |= {"strategy": "margin", "max_per_group": 1}
    run(build_config(tree, ALONE), out, QUIET)
    return RunLayout(out)


def settings_for(layout, *overrides, tree=None):
    return settings_of_pass(layout.path, tree or {}, [*ALONE, *overrides], where="--set")


def choose(layout, pool, out, size, *overrides, **more):
    return score_pool(
        layout.round(1).folder,
        pool.path,
        out,
        settings_for(layout, *overrides),
        QUIET,
        query_size=size,
        **more,
    )


def picks_of(out):
    return read_table(out / "selection.parquet")["image_id"].to_pylist()


def test_a_pass_with_a_runs_model_chooses_what_its_next_round_would(
    finished, phantom_pool, tmp_path, tiny_run_of
):
    """Neither labelled nor picked, and by the run's own section `select`."""
    outcome = choose(finished, phantom_pool, tmp_path / "out", 6)
    known = set(Ledger(finished.ledger).labels())
    num_pool = phantom_pool.card["counts"]["pool"]
    assert (outcome.num_scored, outcome.num_chosen) == (num_pool, 6)
    assert len(known) == 18
    assert not known & set(picks_of(tmp_path / "out"))
    longer = build_config(json_of(finished), ["num_rounds=2"])
    run(longer, tmp_path / "run", QUIET)
    assert picks_of(tmp_path / "out") == picks_of(RunLayout(tmp_path / "run").round(1).folder)


def json_of(layout):
    import yaml

    return yaml.safe_load(layout.config.read_text())


def test_the_plan_names_the_counts(finished, phantom_pool, tmp_path):
    left = phantom_pool.card["counts"]["pool"] - 18
    lines = describe_pass(
        finished.round(1).folder,
        phantom_pool.path,
        tmp_path / "out",
        settings_for(finished),
        splits=["pool"],
        query_size=6,
    )
    assert f"18 labelled or picked in {finished.path} left out: {left} to choose from" in lines[-1]
    assert list(tmp_path.iterdir()) == []


def test_what_is_said_otherwise_goes_before_the_run(finished):
    assert settings_for(finished).select.strategy == "margin"
    assert settings_for(finished, "select.strategy=entropy").select.strategy == "entropy"
    of_file = settings_for(finished, tree={"name": "x", "select": {"strategy": "random"}})
    assert (of_file.select.strategy, of_file.select.max_per_group, of_file.seed) == ("random", 0, 4)


def test_a_folder_keeps_the_choice_that_it_has(finished, phantom_pool, tmp_path):
    out = tmp_path / "out"
    outcome = choose(finished, phantom_pool, out, 0)
    assert outcome.num_chosen == 0
    assert not (out / "selection.parquet").exists()
    choose(finished, phantom_pool, out, 4)  # scores alone, and now a choice from them
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    choose(finished, phantom_pool, out, 4)
    choose(finished, phantom_pool, out, 0)
    choose(finished, phantom_pool, out, 4, "score.max_error_fraction=0.5", "select.weight=0.1")
    exclude = tmp_path / "more.txt"
    exclude.write_text("\n".join(picks_of(out)))
    for key, size, overrides, more in (
        ("query_size", 5, [], {}),
        ("select.strategy", 4, ["select.strategy=entropy"], {}),
        ("select.max_per_group", 4, ["select.max_per_group=0"], {}),
        ("left_out.count", 4, [], {"exclude": (exclude,)}),
        ("scores.seed", 4, ["seed=5"], {}),
        ("scores.score.saliency", 4, ["score.saliency=layercam"], {}),
    ):
        with pytest.raises(RunError, match="the output folder holds") as caught:
            choose(finished, phantom_pool, out, size, *overrides, **more)
        assert key in str(caught.value)
        assert "--out" in caught.value.details["next"]
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_further_images_are_left_out_by_a_list(finished, phantom_pool, tmp_path):
    choose(finished, phantom_pool, tmp_path / "first", 5)
    choose(
        finished,
        phantom_pool,
        tmp_path / "second",
        5,
        exclude=(tmp_path / "first" / "selection.parquet",),
    )
    assert not set(picks_of(tmp_path / "first")) & set(picks_of(tmp_path / "second"))


def test_more_than_are_left_is_all_that_are_left(finished, phantom_pool, tmp_path):
    left = phantom_pool.card["counts"]["pool"] - 18
    assert choose(finished, phantom_pool, tmp_path, 500, "select.max_per_group=0").num_chosen == left
    assert json.loads((tmp_path / "shortfall.json").read_text())["chosen"] == left


def test_a_part_of_the_pool_is_a_part_of_those_that_may_be_chosen(finished, phantom_pool, tmp_path):
    choose(finished, phantom_pool, tmp_path, 5, "score.subsample=0.3")
    scored = set(read_shards(tmp_path / "scores", pa.schema([]))["image_id"].to_pylist())
    assert not scored & set(Ledger(finished.ledger).labels())
    assert json.loads((tmp_path / "subsample.json").read_text())["num_scored"] == len(scored)


@pytest.mark.parametrize("splits", [("val",), ("pool", "test"), ("labeled",)])
def test_what_judges_or_is_labelled_is_scored_and_never_chosen(finished, phantom_pool, tmp_path, splits):
    with pytest.raises(ConfigError, match="can't be chosen"):
        choose(finished, phantom_pool, tmp_path / "out", 3, splits=splits)
    assert list(tmp_path.iterdir()) == []
    outcome = choose(finished, phantom_pool, tmp_path / "out", 0, splits=splits)
    assert outcome.num_scored == rows_of_splits(phantom_pool.index(), *splits).num_rows


def test_a_folder_in_use_or_of_something_else_is_refused(finished, phantom_pool, tmp_path):
    with locked(tmp_path / "out"), pytest.raises(RunError, match="another process is working on this pass"):
        choose(finished, phantom_pool, tmp_path / "out", 3)
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "thesis.txt").write_text("dear")
    with pytest.raises(RunError, match="something else"):
        choose(finished, phantom_pool, tmp_path / "out", 3)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "dear"
