"""A pool without any label: people label what the loop asks for, round by round."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from xal_ray import config
from xal_ray.config import build_config
from xal_ray.engine.prepare import prepare
from xal_ray.errors import SourceError
from xal_ray.labels.inbox import import_labels
from xal_ray.loop import run
from xal_ray.progress import QUIET
from xal_ray.record.layout import RunLayout
from xal_ray.record.ledger import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture
def unlabelled_folder(tmp_path):
    """Thirty images without labels; those with an even number are bright."""
    folder = tmp_path / "images"
    folder.mkdir()
    chance = np.random.default_rng(0)
    for number in range(30):
        low = 120 if number % 2 == 0 else 0
        image = chance.integers(low, low + 120, (40, 40), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{number:02d}.png")
    return folder


def pool_settings(folder, **changes):
    source = config.Source(path=folder)
    return config.Pool(image_size=64, source=source, group_by="image", **changes)


def label_as_a_person_would(path):
    """Fill in the label column by looking at the image files beside the table."""
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        bright = np.asarray(Image.open(path.parent / row["file"])).mean() > 120
        row["label"] = "bright" if bright else "dark"
    filled = path.parent.parent / "filled.csv"
    with filled.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return filled, rows


def test_classes_must_be_named(unlabelled_folder, tmp_path, stages):
    with pytest.raises(SourceError, match="classes"):
        prepare(pool_settings(unlabelled_folder), tmp_path / "pool", stages)


def test_two_rounds_with_labels_imported_between_them(unlabelled_folder, tmp_path, ray_session, stages):
    settings = pool_settings(unlabelled_folder, classes=("bright", "dark"))
    pool = prepare(settings, tmp_path / "pool", stages)
    assert pool.card["counts"] == {"pool": 30}
    tree = {
        "name": "export",
        "num_rounds": 2,
        "pool": {"path": str(tmp_path / "pool")},
        "roi": {"source": "none"},
        "model": {"backbone": "efficientnet_lite0", "weights": "imagenet"},
        "train": {"max_steps": 6, "eval_every_steps": 3, "minibatch_size": 8, "num_threads": 1},
        "score": {"batch_size": 8},
        "select": {"strategy": "entropy", "initial_labels": 8, "query_size": 4},
        "labels": {"source": "export"},
        "ray": ray_session.model_dump(),
    }
    layout = RunLayout(tmp_path / "run")
    asked: list[str] = []
    for title, count in (("initial set", 8), ("round 0", 4), ("round 1", 4)):
        for _ in range(2):  # asking twice changes nothing
            outcome = run(build_config(tree), layout.path, QUIET)
            assert (outcome.status, outcome.num_missing) == ("awaiting_labels", count)
        assert outcome.waiting.title == title
        assert outcome.report.exists()
        filled, rows = label_as_a_person_would(outcome.waiting.to_label / "selection.csv")
        asked += [row["image_id"] for row in rows]
        received = import_labels(layout.path, filled)
        assert (received.round_title, received.num_new, received.num_missing) == (title, count, 0)
        assert import_labels(layout.path, filled).num_new == 0
    assert run(build_config(tree), layout.path, QUIET).status == "finished"
    assert len(asked) == len(set(asked)) == 16
    known = Ledger(layout.ledger).labels()
    assert set(known) == set(asked)
    metrics = json.loads(layout.round(2).metrics.read_text())
    assert metrics["num_labels"] == 16
    assert metrics["splits"] == {"val": None, "test": None}
    names = {path.stem: path for path in unlabelled_folder.iterdir()}
    assert len(names) == 30  # the sources are as they were
