"""CONTRIBUTING's recipes for plug-ins, as they stand: their files are written, and their commands run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from recipes import blocks, write_modules, write_scans

from xal_ray.storage import read_json, read_table

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

RUN = {
    "name": "recipe",
    "num_rounds": 1,
    "pool": {"path": "pools/scans"},
    "train": {"max_steps": 4, "eval_every_steps": 2, "minibatch_size": 8, "num_threads": 1},
    "select": {"strategy": "margin", "initial_labels": 8, "query_size": 4},
    "ray": {"num_cpus": 2, "num_actors": 1, "num_decoders": 1, "object_store_mb": 200},
}


def run_commands(title: str, folder: Path) -> None:
    for block in blocks(title, "bash"):
        for line in block.splitlines():
            xal_ray(shlex.split(line)[1:], folder)


def xal_ray(words: list[str], folder: Path, code: int = 0) -> str:
    command = [str(Path(sys.executable).parent / "xal-ray"), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder outside the project, with images of 24 patients, and the recipe's pool of them."""
    folder = tmp_path_factory.mktemp("outside")
    write_scans(folder / "scans", 24, 2)
    write_modules("Add a source", folder)
    run_commands("Add a source", folder)
    return folder


def test_the_source_s_pool_is_bound_to_its_code(folder):
    card = read_json(folder / "pools" / "scans" / "card.json")
    assert card["class_counts"] == {"a": 24, "b": 24}
    assert sum(card["num_groups"].values()) == 24
    assert re.fullmatch(r"my_scans:scans \(sha256 [0-9a-f]{16}\)", card["settings"]["source"]["kind"])


def test_the_backbone_trains_scores_and_comes_back(folder):
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN))
    write_modules("Add a backbone", folder)
    run_commands("Add a backbone", folder)
    model = folder / "runs" / "recipe" / "rounds" / "000"
    assert json.loads((model / "model.json").read_text())["plugin"].startswith("my_net:tiny (sha256 ")
    score = ["score", "--model", str(model), "--pool", "pools/scans", "--out", "scored"]
    xal_ray([*score, "--set", "ray.num_actors=0"], folder)
    assert list((folder / "scored" / "scores").glob("*.parquet"))
    # What has changed since is another run, and another model.
    path = folder / "my_net.py"
    path.write_text(path.read_text().replace("16", "24"))
    again = xal_ray(["run", "run.yaml", "--set", "model.backbone=my_net:tiny"], folder, code=2)
    assert "model.backbone" in again
    refused = xal_ray([*score[:-1], "again", "--set", "ray.num_actors=0"], folder, code=2)
    assert "has changed since the model was trained" in refused


def test_the_strategy_chooses_and_says_so(folder, monkeypatch):
    here = {"name": "unsure", "ray": RUN["ray"] | {"num_actors": 0}}
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN | here))
    write_modules("Add a strategy", folder)
    run_commands("Add a strategy", folder)
    run = folder / "runs" / "unsure"
    assert (
        "my_strategies:unsure: Uncertain by entropy and by margin, both." in (run / "report.html").read_text()
    )
    picks = read_table(run / "rounds" / "000" / "selection.parquet").to_pylist()
    scores = read_table(run / "rounds" / "000" / "scores").to_pylist()
    utility = {row["image_id"]: row["entropy"] * row["margin"] for row in scores}
    best = sorted(utility.values(), reverse=True)[: len(picks)]
    assert [pick["utility"] for pick in picks] == pytest.approx(best)
    started = json.loads((run / "ledger.jsonl").read_text().splitlines()[0])
    assert started["data"]["plug_ins"]["select.strategy"].startswith("my_strategies:unsure (sha256 ")

    # As an installed package, by the name that it gives; in a sweep's trials, which are processes of Ray's.
    site = folder / "site"
    card = site / "my_strategies-1.0.dist-info"
    card.mkdir(parents=True)
    (folder / "my_strategies.py").rename(site / "my_strategies.py")
    (card / "METADATA").write_text("Metadata-Version: 2.1\nName: my-strategies\nVersion: 1.0\n")
    (card / "RECORD").write_text("my_strategies.py,,\n")
    (card / "entry_points.txt").write_text("[xal_ray.strategies]\nunsure = my_strategies:unsure\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    listed = xal_ray(["strategies"], folder)
    assert re.search(r"unsure +my_strategies:unsure \(my-strategies 1.0\) +Uncertain by entropy", listed)
    sweep = ["sweep", "run.yaml", "--param", "select.strategy=unsure", "--seeds", "1", "--out", "sweep"]
    xal_ray(sweep, folder)
    (trial,) = (folder / "sweep" / "trials").glob("*unsure*/seed-0000")
    assert (trial / "rounds" / "000" / "selection.parquet").exists()

    # What has changed since is another run; what breaks its contract is named.
    path = folder / "my_strategies.py"
    text = (site / "my_strategies.py").read_text()
    monkeypatch.delenv("PYTHONPATH")
    path.write_text(text + "\n")
    again = xal_ray(["run", "run.yaml", "--set", "select.strategy=my_strategies:unsure"], folder, code=2)
    assert "my_strategies:unsure (sha256 " in again
    path.write_text(text.replace("return", "return 9 *"))
    words = ["score", "--model", str(run / "rounds" / "000"), "--pool", "pools/scans", "--query-size", "4"]
    words += ["--set", "select.strategy=my_strategies:unsure", "--set", "ray.num_actors=0", "--out", "chosen"]
    broken = xal_ray(words, folder, code=2)
    assert "the strategy my_strategies:unsure" in broken
    assert "utilities from 0 to 1" in broken
    assert "single pass" in broken
    path.write_text(text)
    xal_ray(words, folder)  # mended, the same command goes on
