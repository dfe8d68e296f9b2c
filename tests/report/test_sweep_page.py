"""The page of a sweep on small synthetic run folders: what it says, what it must not say, what it draws."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from page_text import visible_text

from xal_ray.config import Config, build_config
from xal_ray.record.layout import RunLayout
from xal_ray.record.ledger import Ledger
from xal_ray.report.numbers import p_words
from xal_ray.storage import write_json
from xal_ray.sweep.arms import Arm, Trial, Value
from xal_ray.sweep.outcome import write_results
from xal_ray.sweep.page import canvas, figures
from xal_ray.sweep.page.parallel_figure import parallel_figure
from xal_ray.sweep.page.parameters import swept_axes
from xal_ray.sweep.results.wording import arm_name, one_line, without_folders

CANARY = "Jane-Doe-1957"
HOSTILE = "<script>alert(1)</script>$x_1$\u2028\n- é𝄞"
NUM_LABELS = (20, 40, 60)
BASELINE = Arm({"select.strategy": "random"}, is_baseline=True)
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")
# What an arm's validation curve lies above .6, and its test curve above .4.
Gain = Callable[[Mapping[str, Value]], float]


def split_metrics(value: float, num_groups: int) -> dict[str, Any]:
    alignment = {"soft_dice": 0.4, "lift": 0.2}
    return {
        **dict.fromkeys(METRICS, value),
        "num_groups": num_groups,
        "alignment": {**alignment, "shuffled": dict.fromkeys(alignment, 0.1)},
    }


def write_trial(trial: Trial, base: Config, gain: float, num_groups: int, rounds: int) -> Trial:
    """A run folder; seeds shift val and test alike, and each trial has some noise of its own."""
    layout = RunLayout(trial.folder)
    if layout.config.exists():
        return trial
    noise = np.random.default_rng([trial.seed, len(trial.arm.label)]).normal(0.0, 0.004)
    shift = 0.02 * ((trial.seed * 7) % 5 - 2)
    ledger = Ledger(layout.ledger)
    for number in range(rounds):
        val = 0.6 + 0.05 * number + shift + gain + noise
        files = layout.round(number)
        metrics = {"val": split_metrics(val, num_groups), "test": split_metrics(val - 0.2, num_groups)}
        write_json(files.metrics, {"num_labels": NUM_LABELS[number], "splits": metrics})
        ledger.append("stage_finished", round_number=number, stage="train", seconds=4.0)
        ledger.append("stage_finished", round_number=number, stage="score", seconds=2.0)
        files.committed.touch()
    tree = base.model_dump(mode="json", exclude={"sweep"}) | {"seed": trial.seed}
    layout.config.parent.mkdir(parents=True, exist_ok=True)
    layout.config.write_text(yaml.safe_dump(tree))
    return trial


def base_config(num_seeds: int, **changes: Any) -> Config:
    sweep = {
        "params": {"select.weight": "0:1:0.5"},
        "seeds": num_seeds,
        "mlflow": f"https://me:{CANARY}@host",
    }
    tree = {
        "name": "demo",
        "seed": 3,
        "num_rounds": 2,
        "pool": {"path": f"/data/{CANARY}/pool"},
        "sweep": sweep | changes,
    }
    return build_config(tree)


def write_sweep(
    folder: Path,
    arms: Sequence[Arm],
    gain: Gain,
    *,
    num_seeds: int = 8,
    num_groups: int = 12,
    ends: Mapping[tuple[int, int], tuple[str, str | None]] | None = None,
    warnings: Sequence[str] = (),
    **changes: Any,
) -> tuple[str, Any]:
    """Write trials and results; `ends` gives (arm, seed) another status and cause. Page and verdict."""
    base = base_config(num_seeds, **changes)
    trials = []
    for place, arm in enumerate(arms):
        for seed in range(base.seed, base.seed + num_seeds):
            status, cause = (ends or {}).get((place, seed), ("finished", None))
            path = folder / "trials" / f"arm-{place}" / f"seed-{seed}"
            trial = Trial(arm, seed, path, status, cause)
            rounds = len(NUM_LABELS) if status == "finished" else 1
            trials.append(write_trial(trial, base, gain(arm.params), num_groups, rounds))
    verdict = write_results(folder, base, trials, warnings)
    return (folder / "sweep.html").read_text(encoding="utf-8"), verdict


def weight_arms() -> list[Arm]:
    return [BASELINE, *(Arm({"select.weight": weight}) for weight in (0.0, 0.5, 1.0))]


def peak_at_half(params: Mapping[str, Value]) -> float:
    return 0.05 - 0.2 * abs(float(params["select.weight"]) - 0.5) if "select.weight" in params else 0.0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    return write_sweep(tmp_path_factory.mktemp("sweep"), weight_arms(), peak_at_half)


def test_page_is_self_contained_and_runs_nothing(finished: tuple[str, Any]) -> None:
    tags: list[tuple[str, dict[str, str | None]]] = []

    class Collector(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attrs)))

    html, _ = finished
    Collector().feed(html)
    names = {tag for tag, _ in tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "form", "a", "base"}
    images = [attrs["src"] for tag, attrs in tags if tag == "img"]
    assert len(images) == 4  # differences, parameter, validation, test; one parameter has no parallel axes
    assert all(source.startswith("data:image/svg+xml;base64,") for source in images)
    assert not [key for _, attrs in tags for key in attrs if key.startswith("on")]
    policies = [attrs["content"] for _, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "url(" not in html
    assert "@import" not in html


@pytest.mark.slow
def test_same_trials_give_same_bytes(tmp_path: Path) -> None:
    files = ("sweep.html", "verdict.json", "best.yaml", "sweep.parquet")
    write_sweep(tmp_path, weight_arms(), peak_at_half)
    first = [(tmp_path / name).read_bytes() for name in files]
    write_sweep(tmp_path, weight_arms(), peak_at_half)
    assert [(tmp_path / name).read_bytes() for name in files] == first


def test_page_says_what_the_verdict_says(finished: tuple[str, Any]) -> None:
    html, verdict = finished
    text = visible_text(html)
    assert verdict.headline in text
    assert all(remark in text for remark in verdict.remarks)
    assert "32 of 32 trials finished" in text
    best = verdict.comparison.best
    assert best.label == "select.weight=0.5"
    row = f"{best.estimate.mean:.3f} {best.estimate.low:.3f} to {best.estimate.high:.3f}"
    assert row in text
    assert "8 of 8 18.0 s 60" in text
    assert "The test split, read after the choice" in text
    assert f"{verdict.comparison.test.chosen.mean:.3f}" in text


def test_no_folder_and_no_address_is_shown(tmp_path: Path) -> None:
    arms = [BASELINE, Arm({"model.weights": f"/data/{CANARY}/a.pth?key={CANARY}"})]
    params = {"model.weights": [f"/data/{CANARY}/a.pth", f"/data/{CANARY}/b.pth"]}
    ends = {(1, 3): ("failed", f"can't read /data/{CANARY}/a.pth: denied")}
    html, _ = write_sweep(
        tmp_path, arms, lambda _: 0.0, params=params, ends=ends, warnings=[f"see s3://{CANARY}/x/log.txt"]
    )
    assert CANARY not in html
    text = visible_text(html)
    assert "weights=a.pth" in text
    assert "can't read …/a.pth: denied" in text
    assert "Warning: see …/log.txt" in text


def test_hostile_text_is_escaped_and_drawn(tmp_path: Path) -> None:
    arms = [
        BASELINE,
        Arm({"model.weights": HOSTILE, "score.saliency": HOSTILE}),
        Arm({"score.saliency": "a"}),
    ]
    ends = {(2, 4): ("failed", HOSTILE)}
    html, _ = write_sweep(
        tmp_path, arms, lambda _: 0.0, params={"score.saliency": [HOSTILE]}, ends=ends, warnings=[HOSTILE]
    )
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)") >= 3
    header = (tmp_path / "best.yaml").read_text().partition("name:")[0]
    assert all(line.startswith("#") for line in header.splitlines())


def test_failed_and_stopped_trials_are_listed(tmp_path: Path) -> None:
    ends = {(1, 3): ("failed", "out of memory"), (2, 4): ("stopped", None), (3, 5): ("unfinished", None)}
    html, _ = write_sweep(tmp_path, weight_arms(), peak_at_half, ends=ends)
    text = visible_text(html)
    assert "trials/arm-1/seed-3 weight=0 3 failed 1 out of memory" in text
    assert "trials/arm-2/seed-4 weight=0.5 4 stopped 1" in text
    assert "trials/arm-3/seed-5 weight=1 5 unfinished 1" in text
    assert text.count(" not compared 7 of 8") == 3
    assert "7 of 8, 1 failed" in text
    assert "3 of 4 arms are not compared" in text


def test_few_groups_are_shown_with_a_warning(tmp_path: Path) -> None:
    """Counts of people are suppressed elsewhere; the figures are what a sweep was run for."""
    html, verdict = write_sweep(tmp_path, weight_arms(), peak_at_half, num_groups=9)
    text = visible_text(html)
    assert "Warning: The validation split has 9 groups (patients) only" in text
    assert "Warning: The test split has 9 groups (patients) only" in text
    assert html.count("<img") == 4
    assert verdict.headline in text
    assert f"{verdict.comparison.best.estimate.mean:.3f}" in text
    assert "Warning: The validation" not in visible_text(
        write_sweep(tmp_path / "more", [BASELINE], lambda _: 0.0, num_groups=10)[0]
    )


def test_one_arm_alone_and_no_finished_trial_still_make_a_page(tmp_path: Path) -> None:
    text = visible_text(write_sweep(tmp_path / "one", [BASELINE], lambda _: 0.0)[0])
    assert "there is nothing to compare" in text
    ends = {(place, seed): ("failed", "no") for place in range(4) for seed in range(3, 6)}
    html, verdict = write_sweep(tmp_path / "none", weight_arms(), peak_at_half, num_seeds=3, ends=ends)
    assert "No trial of the baseline (select.strategy=random) finished" in visible_text(html)
    assert verdict.comparison.best is None
    assert "<img" not in html


@pytest.mark.slow
def test_many_arms_of_mixed_parameters_are_drawn(tmp_path: Path) -> None:
    arms = [BASELINE] + [
        Arm(
            {"select.strategy": strategy, **({"select.weight": weight} if strategy == "dual" else {})} | extra
        )
        for strategy, weight in (("dual", 0.2), ("dual", 0.8), ("margin", 0.0))
        for extra in ({"train.learning_rate": 1e-4}, {"train.learning_rate": 1e-2}, {"model.weights": "none"})
    ]
    html, verdict = write_sweep(tmp_path, arms, lambda params: 0.01 * len(params), num_seeds=2)
    assert html.count("<img") == 5
    axes = {axis.key: axis for axis in swept_axes(verdict.comparison)}
    assert list(axes) == ["select.strategy", "select.weight", "train.learning_rate", "model.weights"]
    assert axes["train.learning_rate"].logarithmic
    assert axes["train.learning_rate"].place(1e-3) == pytest.approx(0.5)
    assert axes["select.strategy"].values == ("random", "dual", "margin")
    assert not axes["select.weight"].logarithmic
    assert parallel_figure(verdict.comparison) is not None
    assert "Grey: all other arms." in html


def test_curves_are_means_over_seeds(finished: tuple[str, Any]) -> None:
    _, verdict = finished
    arm = verdict.comparison.arms[2]
    points = figures.curve(arm, "val", "balanced_accuracy")
    assert [point[0] for point in points] == list(NUM_LABELS)
    expected = np.mean([reading.rounds[1].values["val_balanced_accuracy"] for reading in arm.readings])
    assert points[1][1] == pytest.approx(expected)
    assert points[1][2] < points[1][1] < points[1][3]


def test_names_are_short_where_that_is_clear() -> None:
    assert canvas.short_keys(["select.weight", "select.strategy", "select.weight"]) == {
        "select.weight": "weight",
        "select.strategy": "strategy",
    }
    assert canvas.short_keys(["pool.path", "source.path"]) == {
        "pool.path": "pool.path",
        "source.path": "source.path",
    }
    assert canvas.names_of([Arm({"select.weight": 0.25, "model.weights": "/a/b.pth"})]) == [
        "weight=0.25, weights=b.pth"
    ]
    assert len(canvas.fitted("x" * 500)) == canvas.MAX_CHARACTERS
    assert canvas.fitted("a𝄞") == "a\N{REPLACEMENT CHARACTER}"


def test_words() -> None:
    assert [p_words(p) for p in (1.0, 0.414, 0.0419, 0.0004)] == [
        "p = 1.00",
        "p = .41",
        "p = .042",
        "p < .001",
    ]
    assert one_line("a\n# b\x00\u2029c") == "a # b c"
    assert without_folders("in /a/b/c.py and ~/d/e: 1/2 of file:///x/y") == "in …/c.py and …/e: 1/2 of …/y"
    assert (
        arm_name(Arm({"model.weights": "s3://b/k/w.pth?sig=1", "x": True})) == "model.weights=w.pth, x=true"
    )
    assert not re.search(r"[\n\r]", arm_name(Arm({"x": HOSTILE})))
