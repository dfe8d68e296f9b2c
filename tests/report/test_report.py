"""The report on a small synthetic run: what it says, what it must not say, and what it draws."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from page_text import visible_text
from PIL import Image

from xal_ray.config import build_config
from xal_ray.errors import RunError
from xal_ray.metrics.intervals import share_interval
from xal_ray.pool.schema import INDEX_SCHEMA, PART_SCHEMA, SCHEMA_VERSION, PoolReader, open_pool
from xal_ray.report import figures, numbers, overlay, page, reader, sections
from xal_ray.report.area import area_interval
from xal_ray.storage import read_table, write_json, write_table

CLASSES = ["clear", "lesion", "<script>alert(1)</script>"]
ODD_ID = "a&b<img src=x onerror=alert(2)>\"'é"
DASH = "\N{EN DASH}"
CANARY = "Jane-Doe-1957"
NUM_POOL, NUM_TEST = 40, 24
SHUFFLED = {"soft_dice": 0.2, "iou": 0.1, "pointing_game": 0.3, "energy_in_roi": 0.15, "lift": 0.05}
TRUE = {"soft_dice": 0.5, "iou": 0.3, "pointing_game": 0.31, "energy_in_roi": 0.4, "lift": 0.3}


@dataclass(frozen=True)
class Recipe:
    """How a run folder is made up."""

    num_rounds: int = 3
    roi: str = "oracle"
    num_picks: int = 4
    num_groups: int = 12
    labels: str = "oracle"
    size: int = 32
    grid: int = 4


def image_ids() -> list[str]:
    return [ODD_ID] + [f"img{number:03d}" for number in range(1, NUM_POOL + NUM_TEST)]


def write_pool(path: Path, recipe: Recipe) -> PoolReader:
    rng = np.random.default_rng(5)
    ids, size = image_ids(), recipe.size
    pixels = rng.integers(0, 90, (len(ids), size, size, 1), dtype=np.uint8)
    roi = np.zeros((size, size), dtype=np.uint8)
    roi[size // 4 : size // 2, size // 4 : size // 2] = 255
    splits = ["pool"] * NUM_POOL + ["test"] * NUM_TEST
    index = {
        "image_id": ids,
        "group_id": [f"{CANARY}-{number // 2}" for number in range(len(ids))],
        "split": splits,
        "label": [None if split == "pool" else CLASSES[0] for split in splits],
        "roi_state": ["present"] * len(ids),
        "uri": [f"/data/{CANARY}/{number}.png" for number in range(len(ids))],
        "width": [size] * len(ids),
        "height": [size] * len(ids),
        "content_sha256": ["0" * 64] * len(ids),
        "part": [0] * len(ids),
        "row": list(range(len(ids))),
    }
    # The pool keeps its index sorted by id, its parts as they came.
    write_table(path / "index.parquet", pa.table(index, schema=INDEX_SCHEMA).sort_by("image_id"))
    rows = {
        "image_id": ids,
        "pixels": [image.tobytes() for image in pixels],
        "roi": [roi.tobytes()] * len(ids),
    }
    write_table(path / "parts" / "00000.parquet", pa.table(rows, schema=PART_SCHEMA), row_group_size=64)
    card = {
        "schema_version": SCHEMA_VERSION,
        "classes": CLASSES,
        "image_size": size,
        "channels": 1,
        "num_rows": len(ids),
        "counts": {"pool": NUM_POOL, "labeled": 0, "val": 6, "test": NUM_TEST},
        "num_groups": {"pool": 20, "labeled": 0, "val": 3, "test": 12},
        "class_counts": {CLASSES[0]: NUM_TEST},
        "roi": {"present": len(ids), "absent_confirmed": 0, "not_annotated": 0},
        "num_quarantined": 7,
        "duplicates_across_splits": 2,
        "excluded": [
            {"reason": "no_finding", "count": 11, "words": "show no finding"},
            {"reason": "truncated", "count": 7, "words": "end <early>"},
        ],
        "breakdown": {
            "min_groups": 10,
            "class": {
                "columns": ["pool", "test"],
                "rows": [
                    {
                        "value": CLASSES[2],
                        "others": 0,
                        "cells": [{"images": 33, "groups": 17}, "<10"],
                    },
                    {"value": None, "others": 0, "cells": ["hidden", {"images": 0, "groups": 0}]},
                ],
            },
            "site": {"columns": ["all"], "rows": [{"value": None, "others": 4, "cells": ["<10"]}]},
            **dict.fromkeys(("device", "sex", "age_band")),
        },
        "overlaps": ["all of it is in <another>"],
        "near_duplicates_across_splits": {"num_images": 1, "examples": [[CANARY, CANARY]]},
        "burned_in": {"num_images": 0, "warning": None},
        "source": {"kind": "table", "path": f"/data/{CANARY}/manifest.csv"},
        "content_hash": "c0ffee",
    }
    write_json(path / "card.json", card)
    return open_pool(path)


def write_selection(folder: Path, ids: list[str], *, labelled: bool) -> None:
    # Written out of order: the reader must go by rank.
    ranks = list(range(len(ids)))[::-1]
    table = {
        "image_id": ids[::-1],
        "rank": pa.array(ranks, pa.int32()),
        "utility": [1.0 - 0.01 * rank for rank in ranks],
        "reason": [f"reason of rank {rank}" for rank in ranks],
    }
    write_table(folder / "selection.parquet", pa.table(table))
    if labelled:
        labels = {"image_id": ids, "label": [CLASSES[number % 3] for number in range(len(ids))]}
        write_table(folder / "labels.parquet", pa.table(labels))
        (folder / "COMMITTED").touch()


def write_scores(path: Path, ids: list[str], recipe: Recipe, failed: str | None = None) -> None:
    count, cells = len(ids), recipe.grid**2
    good = [image_id != failed for image_id in ids]
    saliency = [np.linspace(0, 1, cells, dtype=np.float32) if ok else None for ok in good]
    has_roi = recipe.roi != "none"
    spread = np.where(np.arange(count) // 2 % 2, 0.02, -0.02)  # both images of a group alike
    alignment = {
        key: pa.array([value + spread[n] if has_roi else None for n in range(count)], pa.float32())
        for key, value in TRUE.items()
    }
    probs = pa.array([[0.1, 0.2, 0.7] if ok else None for ok in good], pa.list_(pa.float32(), 3))
    table = {
        "image_id": ids,
        "probs": probs,
        "predicted": pa.array([2 if ok else None for ok in good], pa.int32()),
        **{key: pa.array([0.61] * count, pa.float32()) for key in ("entropy", "margin", "least_confidence")},
        **alignment,
        "misalignment": pa.array([0.73 if has_roi else None] * count, pa.float32()),
        "saliency": pa.array(saliency, pa.list_(pa.float32())),
        "model_id": ["m"] * count,
        "error_code": [None if ok else "undefined_map" for ok in good],
    }
    write_table(path, pa.table(table))


def split_metrics(number: int, recipe: Recipe) -> dict[str, Any]:
    counts = [12, 11, 4]  # groups of each class: the last is below the limit
    return {
        "num_images": NUM_TEST,
        "num_groups": recipe.num_groups,
        "accuracy": 0.5 + 0.1 * number,
        "balanced_accuracy": 0.4 + 0.1 * number,
        "macro_f1": 0.4,
        "auroc": None,
        "ece": 0.1,
        "ci95": {"accuracy": [0.4, 0.9], "balanced_accuracy": [0.3 + 0.1 * number, 0.5 + 0.1 * number]},
        "per_class": [
            {
                "class": name,
                "recall": 0.87654,
                "precision": None,
                "f1": 0.5,
                "support": 8,
                "num_groups": groups,
            }
            for name, groups in zip(CLASSES, counts, strict=True)
        ],
        "alignment": None
        if recipe.roi == "none"
        else {"num_images": NUM_TEST, **TRUE, "shuffled": SHUFFLED, "test": alignment_test(recipe)},
    }


def alignment_test(recipe: Recipe) -> dict[str, Any]:
    found = {"own": 0.5, "donors": 0.2, "effect": 0.3, "ci95": [0.25, 0.35], "p": 0.0005, "verdict": "shown"}
    pointing = {"own": 0.31, "donors": 0.3, "effect": 0.01, "ci95": [-0.05, 0.07], "p": 0.42}
    measures = dict.fromkeys(("soft_dice", "energy_in_roi", "lift"), found)
    measures["pointing_game"] = pointing | {"verdict": "not shown"}
    return {"num_images": 24, "num_groups": recipe.num_groups, "smallest_p": 0.001, "measures": measures}


def write_round(folder: Path, number: int, ids: list[str] | None, recipe: Recipe, *, committed: bool) -> None:
    history = [
        {"step": step, "train_loss": 1 / step, "val_loss": None if step == 2 else 1.2} for step in (1, 2, 3)
    ]
    model = {"spec": {}, "model_id": f"model-{number}", "weights_sha256": "ab" * 32, "target_layer": "layer4"}
    write_json(folder / "model.json", model | {"history": history, "num_labels": 4 * (number + 1)})
    metrics = {
        "round": number,
        "num_labels": 4 * (number + 1),
        "model_id": f"model-{number}",
        "classes": CLASSES,
        "scoring": {"num_scored": 36, "num_errors": 1, "num_undefined_maps": 2, "num_without_alignment": 5},
        "selected": None,
        "splits": {"val": None, "test": split_metrics(number, recipe)},
    }
    write_json(folder / "metrics.json", metrics)
    write_scores(folder / "holdout" / "00000.parquet", image_ids()[NUM_POOL:], recipe)
    if ids is not None:
        unlabelled = image_ids()[:NUM_POOL]
        write_scores(folder / "scores" / "00000.parquet", unlabelled[:20], recipe, failed=ids[-1])
        write_scores(folder / "scores" / "00001.parquet", unlabelled[20:], recipe, failed=ids[-1])
        write_selection(folder, ids, labelled=committed)
    elif committed:
        (folder / "COMMITTED").touch()


def write_run(path: Path, recipe: Recipe, *, last_committed: bool = True) -> Path:
    strategy = "dual" if recipe.roi == "oracle" else "entropy"
    tree = {
        "name": "demo",
        "seed": 41,
        "num_rounds": 2,
        "roi": {"source": recipe.roi},
        "labels": {"source": recipe.labels},
        "select": {"strategy": strategy, "weight": 0.3, "query_size": recipe.num_picks},
        "pool": {"path": f"/data/{CANARY}/pool", "source": {"path": f"/data/{CANARY}/manifest.csv"}},
        "model": {"weights": f"/{CANARY}/start.safetensors?signature={CANARY}"},
    }
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(build_config(tree).model_dump(mode="json")))
    record = {"event": "run_started", "data": {"versions": {"torch": "9.8.7"}}}
    (path / "ledger.jsonl").write_text(json.dumps(record) + '\n{"event": "torn')
    take = recipe.num_picks
    ids = image_ids()
    write_selection(path / "initial", ids[-1 - take : -1], labelled=recipe.num_rounds > 0)
    for number in range(recipe.num_rounds):
        is_last = number == recipe.num_rounds - 1
        picks = None if is_last and last_committed else ids[number * take : (number + 1) * take]
        committed = last_committed or not is_last
        write_round(path / "rounds" / f"{number:03d}", number, picks, recipe, committed=committed)
    return path


def render(tmp_path: Path, recipe: Recipe, **options: Any) -> str:
    pool = write_pool(tmp_path / "pool", recipe)
    run = write_run(tmp_path / "runs" / "demo", recipe, **options)
    written = page.build_report(run, pool)
    assert written == run / "report.html"
    return written.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(tmp_path_factory.mktemp("finished"), Recipe())


def test_page_is_self_contained_and_runs_nothing(finished: str) -> None:
    tags: list[tuple[str, dict[str, str | None]]] = []

    class Collector(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attrs)))

    Collector().feed(finished)
    names = {tag for tag, _ in tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "form", "a", "base"}
    assert all(attrs["src"].startswith("data:image/") for tag, attrs in tags if tag == "img")
    assert not [key for _, attrs in tags for key in attrs if key.startswith("on")]
    policies = [attrs["content"] for _, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "url(" not in finished
    assert "@import" not in finished


def test_names_from_outside_are_escaped(finished: str) -> None:
    assert "<script" not in finished
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in finished
    assert "<img src=x" not in finished
    text = visible_text(finished)
    assert ODD_ID in text
    assert CLASSES[2] in text


def test_no_path_group_or_uri_is_shown(finished: str) -> None:
    assert CANARY not in finished
    assert "start.safetensors" in finished


@pytest.mark.slow
def test_same_run_gives_same_bytes(tmp_path: Path) -> None:
    recipe = Recipe(num_rounds=2)
    pool = write_pool(tmp_path / "pool", recipe)
    run = write_run(tmp_path / "demo", recipe)
    first = page.build_report(run, pool).read_bytes()
    assert page.build_report(run, pool).read_bytes() == first


def test_numbers_of_every_round_and_the_area(finished: str) -> None:
    text = visible_text(finished)
    for number in range(3):
        value, low, high = 0.4 + 0.1 * number, 0.3 + 0.1 * number, 0.5 + 0.1 * number
        assert f"{4 * (number + 1)} {value:.3f} {low:.2f}{DASH}{high:.2f} {0.5 + 0.1 * number:.3f}" in text
        assert f"{number} 36 1 2 5 layer4 model-{number}" in text
    # Trapezoids over 4, 8, 12 labels: (.45 * 4 + .55 * 4) / 8.
    assert "area 0.500" in text
    assert "finished 3 of 3 models trained and evaluated" in text
    assert "torch 9.8.7" in text
    assert "Seed 41" in text
    assert "c0ffee" in text


def test_request_names_the_roi_source_and_the_limits(finished: str) -> None:
    text = visible_text(finished)
    assert "0.3 \N{MULTIPLICATION SIGN} uncertainty + 0.7 \N{MULTIPLICATION SIGN} misalignment" in text
    assert text.count("oracle ROI") >= 5
    assert "Not for clinical use." in text
    assert "One run is one seed." in text
    assert "7 quarantined; 2 stand in more than one split" in text
    assert "pool (source: table)" in text


def test_who_is_in_the_pool_and_who_was_left_out(finished: str) -> None:
    text = visible_text(finished)
    assert "images / groups; 18 left out" in text
    assert f"class pool test {CLASSES[2]} 33 / 17 <10 not known hidden 0 / 0" in text
    assert "site all 4 others <10" in text
    assert "Not known of any image: device, sex, age." in text
    assert "show no finding 11 end <early> 7" in text
    assert "1 image of val or test looks nearly like one of another split and another group." in text
    assert "All of it is in <another>." in text


def test_a_card_without_a_breakdown_shows_none(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", Recipe())
    card = {
        key: value
        for key, value in pool.card.items()
        if key not in ("breakdown", "excluded", "overlaps", "near_duplicates_across_splits")
    }
    run = write_run(tmp_path / "runs" / "demo", Recipe(num_rounds=1))
    assert "Who is in the pool" not in page.build_report(run, replace(pool, card=card)).read_text("utf-8")


def test_small_groups_are_suppressed(finished: str) -> None:
    text = visible_text(finished)
    assert f"{CLASSES[1]} 0.877 {DASH} 0.500 8 11" in text
    assert f"{CLASSES[2]} 0.877 {DASH} 0.500 <10 groups" in text
    assert "val <10 groups" in text


def test_split_of_few_groups_is_shown_with_a_warning(tmp_path: Path) -> None:
    """Counts of people are suppressed, metrics are not."""
    text = visible_text(render(tmp_path, Recipe(num_rounds=2, num_groups=9)))
    assert "Warning: the test split has 9 groups only." in text
    assert f"0.400 0.30{DASH}0.50 0.500" in text
    assert "area 0.450" in text
    assert "val <10 groups" in text
    assert "Warning: the test" not in visible_text(render(tmp_path / "more", Recipe(num_rounds=1)))


def test_area_has_an_interval_over_groups(tmp_path: Path) -> None:
    """An image's own area: models of rounds 0 to 2 at 4, 8 and 12 labels weigh 1/4, 1/2 and 1/4."""
    recipe = Recipe()
    pool, path = write_pool(tmp_path / "pool", recipe), write_run(tmp_path / "demo", recipe)
    ids = image_ids()[NUM_POOL:]
    for number in range(3):
        # In round n every (n + 2)nd image is right, both images of a group alike.
        right = [place // 2 % (number + 2) == 0 for place in range(NUM_TEST)]
        table = pa.table(
            {"image_id": ids, "predicted": pa.array([0 if yes else 2 for yes in right], pa.int32())}
        )
        write_table(path / "rounds" / f"{number:03d}" / "holdout" / "00000.parquet", table)
    run = reader.read_run(path, CLASSES, 4)
    groups = np.arange(NUM_TEST // 2)
    areas = 2 * ((groups % 2 == 0) / 4 + (groups % 3 == 0) / 2 + (groups % 4 == 0) / 4)
    expected = share_interval(areas[:, None], np.full((len(groups), 1), 2))
    assert area_interval(run.committed, "test", pool.index(), CLASSES) == pytest.approx(expected)
    assert area_interval(run.committed[:1], "test", pool.index(), CLASSES) is None
    assert area_interval(run.committed, "val", pool.index(), CLASSES) is None
    failed = pa.table({"image_id": ids, "predicted": pa.array([None] * NUM_TEST, pa.int32())})
    write_table(path / "rounds" / "001" / "holdout" / "00000.parquet", failed)
    assert area_interval(run.committed, "test", pool.index(), CLASSES) is None


def test_alignment_is_held_against_other_groups(finished: str) -> None:
    text = visible_text(finished)
    assert "soft Dice 0.500 0.200 +0.300 0.250 to 0.350 < .001 shown" in text
    assert "pointing game 0.310 0.300 +0.010 \N{MINUS SIGN}0.050 to 0.070 = .42 not shown" in text
    assert "In the last round maps find their own ROI: soft Dice is 0.500 with the true ROI and 0.200" in text
    assert "a difference of +0.300 [0.250, 0.350] (p < .001, permutations of 12 groups)." in text
    assert "no better" not in text


def evidence(verdict: str, p: float | None, low: float, num_groups: int = 12) -> reader.AlignmentTest:
    found = reader.MeasureResult(0.30, 0.28, 0.02, (low, 0.06), p, verdict)
    return reader.AlignmentTest(num_groups, 0.17, dict.fromkeys(sections.MEASURES, found))


def test_verdict_says_not_shown_with_the_effect() -> None:
    describe = sections.describe_alignment
    words = describe(evidence("not shown", 0.3, -0.02))
    assert words.startswith(
        "In the last round it is not shown that maps find their own ROI: soft Dice is 0.300"
    )
    assert "+0.020 [\N{MINUS SIGN}0.020, 0.060] (p = .30, permutations of 12 groups)" in words
    assert "That does not show that they do not" in words
    few = describe(evidence("cannot be shown", None, -0.5, num_groups=3))
    assert few.startswith("Whether maps find their own ROI cannot be shown with 3 groups")
    assert "(the smallest is 0.17)" in few
    assert "reaches nought all the same" in describe(evidence("shown", 0.04, -0.001))
    assert "all the same" not in describe(evidence("shown", 0.001, 0.01))
    assert describe(None) == ""


def test_cards_say_what_the_model_said(finished: str) -> None:
    text = visible_text(finished)
    # Rank 0 of round 0 is the odd id; its label is class 0, the prediction class 2.
    said = f"label clear predicted {CLASSES[2]} 0.70 (wrong)"
    assert f"1 {ODD_ID} {said} entropy 0.61 misalignment 0.73 utility 1.00 reason of rank 0" in text
    failed = "4 img003 label clear no map: undefined_map reason of rank 3"
    assert failed in text


def test_only_picks_with_a_map_get_a_second_tile(finished: str) -> None:
    found = re.findall(r'<img( class=pair)? src="data:image/jpeg;base64,([^"]+)"', finished)
    assert len(found) == 4 + 2 * 4  # initial set, two rounds with picks
    pairs = [bool(mark) for mark, _ in found]
    assert pairs == [False] * 4 + [True, True, True, False] * 2
    for mark, encoded in found:
        width, height = Image.open(io.BytesIO(base64.b64decode(encoded))).size
        assert height == overlay.TILE_SIZE
        assert width == (2 * overlay.TILE_SIZE + overlay.TILE_GAP if mark else overlay.TILE_SIZE)


@pytest.mark.slow
def test_long_selection_is_cut(tmp_path: Path) -> None:
    html = render(tmp_path, Recipe(num_rounds=2, num_picks=30))
    assert html.count("and 6 more in selection.parquet") == 2
    assert html.count("data:image/jpeg") == 2 * page.MAX_SHOWN


@pytest.mark.slow
def test_run_without_roi_compares_nothing(tmp_path: Path) -> None:
    html = render(tmp_path, Recipe(num_rounds=2, roi="none"))
    text = visible_text(html)
    assert ">oracle ROI<" not in html
    assert "No ROI was used" in text
    assert "misalignment 0.73" not in text
    assert "with its ROI" not in html


@pytest.mark.parametrize(("source", "state"), [("export", "awaiting labels"), ("oracle", "in progress")])
def test_zero_rounds_still_make_a_page(tmp_path: Path, source: str, state: str) -> None:
    html = render(tmp_path, Recipe(num_rounds=0, labels=source))
    text = visible_text(html)
    assert f"{state} 0 of 3 models trained" in text
    assert "No round is finished yet" in text
    assert "Initial set 4 picks" in text
    assert html.count("data:image/jpeg") == 4
    assert "label not yet" in text


def test_a_pick_that_was_passed_over_waits_for_nothing(tmp_path: Path) -> None:
    recipe = Recipe(num_rounds=0, labels="export")
    pool = write_pool(tmp_path / "pool", recipe)
    run = write_run(tmp_path / "runs" / "demo", recipe)
    picked = read_table(run / "initial" / "selection.parquet")["image_id"].to_pylist()
    write_table(run / "initial" / "passed_over.parquet", pa.table({"image_id": picked[:1]}))
    text = visible_text(page.build_report(run, pool).read_text(encoding="utf-8"))
    assert text.count("label none: passed over") == 1
    assert text.count("label not yet") == len(picked) - 1


@pytest.mark.slow
def test_unfinished_round_is_shown_but_not_on_the_curve(tmp_path: Path) -> None:
    text = visible_text(render(tmp_path, Recipe(num_rounds=2, labels="export"), last_committed=False))
    assert "awaiting labels 1 of 3 models trained and evaluated; 4 of 4 picks still need a label" in text
    assert "Round 1 4 picks awaiting labels" in text
    assert f"0.500 0.40{DASH}0.60" not in text  # round 1's balanced accuracy


def test_no_run_and_foreign_pool_are_told(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", Recipe())
    with pytest.raises(RunError, match="there is no run here"):
        page.build_report(tmp_path, pool)
    run = write_run(tmp_path / "demo", Recipe(num_rounds=0))
    write_selection(run / "initial", ["stranger"], labelled=False)
    with pytest.raises(RunError, match="do not fit"):
        page.build_report(run, pool)


def test_incomplete_metrics_name_the_file(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo", Recipe(num_rounds=1))
    write_json(run / "rounds" / "000" / "metrics.json", {"num_labels": 3, "splits": {"test": {}}})
    with pytest.raises(RunError, match=r"metrics\.json"):
        reader.read_run(run, CLASSES, 4)


def test_contour_follows_the_edge() -> None:
    roi = np.zeros((64, 64), dtype=np.float32)
    roi[20:40, 10:50] = 1
    alpha = overlay.contour_alpha(roi)
    assert alpha[20, 30] > 0.5
    assert alpha[30, 10] > 0.5
    assert alpha[30, 30] == 0
    assert alpha[5, 5] == 0
    assert overlay.contour_alpha(np.zeros((8, 8), dtype=np.float32)).max() == 0
    whole = overlay.contour_alpha(np.ones((16, 16), dtype=np.float32))
    assert whole[0].min() > 0.4
    assert whole[8, 8] == 0
    # A lesion of a fraction of a pixel is still marked.
    tiny = np.zeros((32, 32), dtype=np.float32)
    tiny[16, 16] = 0.2
    assert overlay.contour_alpha(tiny)[14:19, 14:19].max() > 0.5


def test_overlay_places_the_map_where_it_belongs() -> None:
    pixels = np.full((16, 16, 1), 100, dtype=np.uint8)
    grid = np.zeros((2, 2), dtype=np.float32)
    grid[0, 1] = 1
    drawn = overlay.picture(pixels, None, grid)
    left, right = drawn[:, : overlay.TILE_SIZE], drawn[:, -overlay.TILE_SIZE :]
    assert (left == 100).all()
    brightness = right.astype(float).mean(axis=2)
    assert np.unravel_index(brightness.argmax(), brightness.shape)[0] < overlay.TILE_SIZE // 4
    assert brightness[5, -5] > brightness[5, 5]
    # Magma's ends, half and half with the grey: black below, nearly white at the top.
    np.testing.assert_array_equal(right[-1, 0], [50, 50, 52])
    np.testing.assert_array_equal(right[0, -1], [176, 176, 146])


def test_grid_is_upsampled_with_pixel_centres_at_one_half() -> None:
    ramp = np.array([[0.0, 1.0]], dtype=np.float32).repeat(2, axis=0)
    positions = (np.arange(8) + 0.5) * 2 / 8 - 0.5
    np.testing.assert_allclose(overlay.resize_plane(ramp, 8)[3], np.clip(positions, 0, 1), atol=1e-6)


def test_figures_leave_out_missing_points(tmp_path: Path) -> None:
    run = reader.read_run(write_run(tmp_path / "demo", Recipe()), CLASSES, 4)
    assert figures.learning_curve([], 3) is None
    drawn = figures.learning_curve(run.rounds, 3)
    assert drawn is not None
    assert drawn == figures.learning_curve(run.rounds, 3)
    assert b"<svg" in base64.b64decode(drawn.partition(",")[2])
    assert figures.training_history(run.rounds) is not None


def test_format_number() -> None:
    assert numbers.format_number(None) == DASH
    assert numbers.format_number(-0.125, 2) == "\N{MINUS SIGN}0.12"
