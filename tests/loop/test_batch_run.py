"""A strategy that sees a batch, through a run, a single pass and a kill."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from run_outputs import outputs
from scipy.spatial.distance import cdist

from xal_ray.config import build_config
from xal_ray.loop import run
from xal_ray.loop.score_pool import score_pool, settings_of_pass
from xal_ray.progress import QUIET
from xal_ray.record.layout import SELECTION_SCHEMA, RunLayout
from xal_ray.record.ledger import Ledger
from xal_ray.scoring.scorer import score_schema
from xal_ray.storage import read_shards, read_table

pytestmark = [pytest.mark.slow, pytest.mark.ray]

DRIVER = Path(__file__).parents[1] / "fault" / "kill_driver.py"
WIDTH = 1280  # of EfficientNet-Lite0's last layer


def tree_of(tiny_run_of, pool):
    tree = tiny_run_of(pool)
    tree["select"] |= {"strategy": "kcenter", "uncertainty": "margin", "shortlist": 20, "max_per_group": 1}
    return tree


@pytest.fixture(scope="module")
def finished(phantom_pool, tmp_path_factory, tiny_run_of):
    """Two rounds, scored by actors. Read only."""
    out = tmp_path_factory.mktemp("runs") / "kcenter"
    assert run(build_config(tree_of(tiny_run_of, phantom_pool)), out, QUIET).status == "finished"
    return RunLayout(out)


def shards(folder):
    return read_shards(folder, pa.schema([]))


def vectors(table):
    return np.array(table["embedding"].to_pylist(), dtype=np.float64)


def test_embeddings_are_written_where_they_are_read_and_nowhere_else(finished, phantom_pool):
    plain = score_schema(len(phantom_pool.classes))
    for number in (0, 1):
        files = finished.round(number)
        assert shards(files.scores).schema.equals(score_schema(len(phantom_pool.classes), WIDTH))
        assert shards(files.holdout).schema.equals(plain)
    assert not finished.round(2).labelled.exists()  # it only trains and evaluates


def test_what_is_labelled_is_scored_in_the_same_round_and_hashed(finished):
    labelled = set(read_table(finished.initial.labels)["image_id"].to_pylist())
    for record in Ledger(finished.ledger).records:
        if record.event != "round_committed" or record.round not in (0, 1):
            continue
        files = finished.round(record.round)
        assert set(shards(files.labelled)["image_id"].to_pylist()) == labelled
        assert "labelled/00000.parquet" in record.data["files"]
        labelled |= set(read_table(files.labels)["image_id"].to_pylist())


def test_picks_are_the_farthest_of_the_most_uncertain(finished, phantom_pool):
    """Worked out anew from the files, in float64, with a shortlist made by sorting."""
    index = phantom_pool.index()
    group_of = dict(zip(index["image_id"].to_pylist(), index["group_id"].to_pylist(), strict=True))
    for number in (0, 1):
        files = finished.round(number)
        scores, picks = shards(files.scores), read_table(files.selection)
        assert picks.schema.equals(SELECTION_SCHEMA)
        rows = sorted(scores.to_pylist(), key=lambda row: -row["margin"])
        # A cap of 1 and 20 rows for 6 picks: at most 3 of a patient; a phantom's patient has two.
        shortlist = rows[:20]
        points = np.array([row["embedding"] for row in shortlist], dtype=float)
        centres = vectors(shards(files.labelled))
        expected, groups = [], set()
        for _ in range(6):
            nearest = cdist(points, centres).min(axis=1)
            nearest[[group_of[row["image_id"]] in groups for row in shortlist]] = -1.0
            best = int(nearest.argmax())
            expected.append((shortlist[best]["image_id"], nearest[best], shortlist[best]["margin"]))
            groups.add(group_of[shortlist[best]["image_id"]])
            centres = np.vstack([centres, points[best]])
        assert picks["image_id"].to_pylist() == [name for name, _, _ in expected]
        np.testing.assert_allclose(picks["utility"].to_pylist(), [far for _, far, _ in expected], rtol=1e-5)
        assert picks["uncertainty"].to_pylist() == [margin for _, _, margin in expected]
        assert picks["misalignment"].null_count == 6


def test_the_report_says_why_each_was_picked(finished):
    page = finished.report.read_text()
    assert "to the nearest labelled or picked image" in page
    assert "k-center" in page


def test_killed_and_begun_again_without_actors_it_ends_with_the_same_bytes(
    finished, phantom_pool, tiny_run_of, tmp_path
):
    tree = tree_of(tiny_run_of, phantom_pool)
    tree["ray"] = {**tree["ray"], "num_actors": 0}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(tree))
    command = [sys.executable, str(DRIVER), str(config), str(tmp_path / "killed"), "12,6,5,4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("killed") == 4, done.stdout
    found = outputs(tmp_path / "killed")
    assert any("labelled" in name for name in found)
    assert found == outputs(finished.path)


def test_a_single_pass_chooses_what_the_runs_round_chose(finished, phantom_pool, tmp_path):
    """The model of round 1, and what the run had labelled by then: its own picks are left out, so others."""
    settings = settings_of_pass(finished.path, {}, ["ray.num_actors=0"], where="--set")
    out = tmp_path / "pass"
    outcome = score_pool(finished.round(2).folder, phantom_pool.path, out, settings, QUIET, query_size=6)
    assert outcome.num_chosen == 6
    known = set(Ledger(finished.ledger).labels())
    assert set(shards(out / "labelled")["image_id"].to_pylist()) == known
    longer = build_config(yaml.safe_load(finished.config.read_text()), ["num_rounds=3", "ray.num_actors=0"])
    run(longer, tmp_path / "run", QUIET)
    third = RunLayout(tmp_path / "run").round(2)
    assert read_table(out / "selection.parquet")["image_id"].equals(read_table(third.selection)["image_id"])
