"""Scoring a part of the pool only."""

import json
import math

import pyarrow as pa
import pytest

from xal_ray.config import build_config
from xal_ray.errors import ConfigError
from xal_ray.loop import run
from xal_ray.pool.schema import rows_of_splits
from xal_ray.progress import QUIET
from xal_ray.record.layout import RUNNERS_UP_SCHEMA, RunLayout
from xal_ray.record.ledger import Ledger
from xal_ray.storage import read_shards, read_table

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture(scope="module")
def sampled(phantom_pool, tmp_path_factory, tiny_run_of):
    tree = tiny_run_of(phantom_pool)
    tree["score"] |= {"subsample": 0.4, "runners_up": 5, "mc_samples": 8}
    tree["select"] |= {"uncertainty": "bald", "query_size": 4}
    out = tmp_path_factory.mktemp("runs") / "sampled"
    assert run(build_config(tree), out, QUIET).status == "finished"
    return RunLayout(out)


def ids(table):
    return table["image_id"].to_pylist()


def test_a_round_scores_its_draw_and_the_last_runners_up(sampled, phantom_pool):
    left = set(ids(rows_of_splits(phantom_pool.index(), "pool"))) - set(
        ids(read_table(sampled.initial.selection))
    )
    draws = []
    for number, runners_up in ((0, []), (1, ids(read_table(sampled.round(0).runners_up)))):
        files = sampled.round(number)
        scored = ids(read_shards(files.scores, pa.schema([])))
        assert set(scored) <= left
        assert len(scored) == len(set(scored))
        assert set(runners_up) <= set(scored)
        assert math.ceil(0.4 * len(left)) <= len(scored) <= math.ceil(0.4 * len(left)) + len(runners_up)
        assert set(ids(read_table(files.selection))) <= set(scored)
        draws.append(set(scored))
        left -= set(ids(read_table(files.selection)))
    assert draws[0] != draws[1]


def test_the_effect_on_the_selection_is_told(sampled):
    files = sampled.round(1)
    effect = json.loads(files.subsample.read_text())
    picks, runners_up = ids(read_table(files.selection)), ids(read_table(sampled.round(0).runners_up))
    assert effect["num_picked_runners_up"] == len(set(picks) & set(runners_up))
    assert (
        effect["num_scored"] == read_shards(files.scores, pa.schema([])).num_rows < effect["num_unlabelled"]
    )
    assert 0 < effect["expected_overlap"] <= 1
    (record,) = [r for r in Ledger(sampled.ledger).records if r.event == "round_committed" and r.round == 1]
    assert {"subsample.json", "runners_up.parquet"} <= set(record.data["files"])
    assert f"{effect['num_scored']} of {effect['num_unlabelled']}" in sampled.report.read_text()


def test_runners_up_come_after_the_picks(sampled):
    files = sampled.round(0)
    table = read_table(files.runners_up)
    assert table.schema.equals(RUNNERS_UP_SCHEMA)
    assert table.num_rows == 5
    assert not set(ids(table)) & set(ids(read_table(files.selection)))


def test_the_same_run_elsewhere_scores_the_same_rows(sampled, phantom_pool, tmp_path):
    config = build_config(_tree_of(sampled))
    run(config, tmp_path / "again", QUIET)
    for name in ("selection", "runners_up", "subsample"):
        first, second = (
            getattr(RunLayout(path).round(1), name) for path in (sampled.path, tmp_path / "again")
        )
        assert first.read_bytes() == second.read_bytes()


def _tree_of(layout):
    import yaml

    return yaml.safe_load(layout.config.read_text())


def test_bald_without_samples_is_refused(phantom_pool, tiny_run_of):
    with pytest.raises(ConfigError, match=r"score\.mc_samples=50"):
        build_config(tiny_run_of(phantom_pool), ["select.strategy=bald"])
