"""What a sweep leaves behind, from small run folders whose areas are known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from xal_ray.config import Config, build_config, load_config
from xal_ray.metrics.paired import smallest_sign_flip_p
from xal_ray.record.layout import RunLayout
from xal_ray.record.ledger import Ledger
from xal_ray.storage import read_json, read_table, write_json
from xal_ray.sweep.arms import Arm, Trial, Value
from xal_ray.sweep.outcome import verdict_tree, write_results
from xal_ray.sweep.results.comparison import compare
from xal_ray.sweep.results.readings import METRICS, arm_key, read_trials, table_schema
from xal_ray.sweep.results.wording import Verdict, give_verdict, seeds_needed

BASELINE = Arm({"select.strategy": "random"}, is_baseline=True)
SEED = 5
# What a seed adds to every arm: paired differences don't see it.
SEED_EFFECTS = (0.03, -0.02, 0.01, -0.04, 0.02, 0.0, -0.01, 0.04, -0.03, 0.05)
# What a trial has of its own; no two agree, so that signs can flip to different means.
WIGGLES = (0.001, -0.002, 0.0015, 0.0005, -0.001, 0.002, -0.0005, 0.0012, -0.0018, 0.0008)


@dataclass(frozen=True)
class Curve:
    """A trial's validation values at 10, 20 and 40 labels, and how it ended."""

    values: tuple[float | None, ...]
    status: str = "finished"
    cause: str | None = None
    test_values: tuple[float | None, ...] | None = None


def weight(value: Value) -> Arm:
    return Arm({"select.weight": value})


def base_config(num_seeds: int, **changes: Any) -> Config:
    sweep = {"params": {"select.weight": "0:1:0.5"}, "seeds": num_seeds}
    tree = {"name": "demo", "seed": SEED, "num_rounds": 2, "pool": {"path": "pools/demo"}, "sweep": sweep}
    return build_config(tree | changes)


def split_metrics(value: float | None) -> dict[str, Any]:
    return {
        **{name: 0.1 * place for place, name in enumerate(METRICS)},
        "balanced_accuracy": value,
        "auroc": None,
        "num_groups": 12,
        "alignment": {"soft_dice": 0.4, "lift": None, "shuffled": {"soft_dice": 0.1, "lift": 0.05}},
    }


def write_trial(folder: Path, base: Config, arm: Arm, seed: int, curve: Curve) -> Trial:
    trial = Trial(arm, seed, folder / "trials" / arm.label / f"seed-{seed}", curve.status, curve.cause)
    layout = RunLayout(trial.folder)
    tests = curve.test_values or curve.values
    ledger = Ledger(layout.ledger)
    for number, (value, test_value) in enumerate(zip(curve.values, tests, strict=True)):
        files = layout.round(number)
        splits = {"val": split_metrics(value), "test": split_metrics(test_value)}
        write_json(files.metrics, {"num_labels": 10 * 2**number, "splits": splits})
        ledger.append("stage_finished", round_number=number, stage="train", seconds=3.0)
        ledger.append("stage_finished", round_number=number, stage="score", seconds=1.5)
        files.committed.touch()
    tree = base.model_dump(mode="json", exclude={"sweep"}) | {"seed": seed, "name": "inner"}
    tree["select"] |= {key.partition(".")[2]: value for key, value in arm.params.items()}
    tree["pool"]["path"] = "/packed/pool"
    tree["train"]["num_threads"] = 1
    tree["ray"]["num_cpus"] = 1
    layout.config.parent.mkdir(parents=True, exist_ok=True)
    layout.config.write_text(yaml.dump(tree, Dumper=yaml.CSafeDumper))
    return trial


def write_trials(
    folder: Path,
    gains: Sequence[tuple[Arm, float]],
    num_seeds: int,
    others: Mapping[tuple[int, int], Curve] | None = None,
    test_shift: float = 0.0,
) -> list[Trial]:
    """Trials with flat curves `.7 + seed effect + gain + wiggle`; `others` replaces (arm, place of seed)."""
    trials = []
    for number, (arm, gain) in enumerate(gains):
        for place in range(num_seeds):
            wiggle = WIGGLES[(place + 3 * number) % len(WIGGLES)] if number else 0.0
            value = 0.7 + SEED_EFFECTS[place] + gain + wiggle
            tests = (value + test_shift * (-1) ** (number + place),) * 3
            curve = (others or {}).get((number, place), Curve((value,) * 3, test_values=tests))
            trials.append(write_trial(folder, base_config(num_seeds), arm, SEED + place, curve))
    return trials


def verdict_of(
    folder: Path,
    gains: Sequence[tuple[Arm, float]],
    num_seeds: int = 8,
    others: Mapping[tuple[int, int], Curve] | None = None,
) -> tuple[Verdict, dict[str, Any]]:
    """The verdict and its tree alone."""
    trials = write_trials(folder, gains, num_seeds, others)
    readings = read_trials(folder, trials, "balanced_accuracy")
    verdict = give_verdict(compare(base_config(num_seeds), readings))
    return verdict, verdict_tree(verdict, [])


def write_sweep(
    folder: Path,
    gains: Sequence[tuple[Arm, float]],
    num_seeds: int = 8,
    others: Mapping[tuple[int, int], Curve] | None = None,
    test_shift: float = 0.0,
) -> tuple[Verdict, dict[str, Any]]:
    """All that a sweep leaves behind; the verdict, and its tree from the file."""
    trials = write_trials(folder, gains, num_seeds, others, test_shift)
    verdict = write_results(folder, base_config(num_seeds), trials, ["mind the gap"])
    return verdict, read_json(folder / "verdict.json")


@pytest.fixture(autouse=True)
def neither_flushed_nor_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of small files, tens of pages: nothing here is about power cuts or figures."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda _, file, **__: file.write(b"<svg/>"))


def test_objective_is_the_area_over_the_labels(tmp_path: Path) -> None:
    base = base_config(1)
    trial = write_trial(tmp_path, base, BASELINE, SEED, Curve((0.5, 0.7, 0.9), test_values=(0.1, 0.1, 0.4)))
    (reading,) = read_trials(tmp_path, [trial], "balanced_accuracy")
    assert reading.objective == pytest.approx((10 * 0.6 + 20 * 0.8) / 30)
    assert reading.test_area == pytest.approx((10 * 0.1 + 20 * 0.25) / 30)
    assert reading.seconds == pytest.approx(13.5)
    assert reading.name == f"trials/{BASELINE.label}/seed-{SEED}"


@pytest.mark.parametrize("status", ["stopped", "failed", "unfinished"])
def test_only_finished_trials_have_an_objective(tmp_path: Path, status: str) -> None:
    trial = write_trial(tmp_path, base_config(1), BASELINE, SEED, Curve((0.5, 0.7, 0.9), status))
    (reading,) = read_trials(tmp_path, [trial], "balanced_accuracy")
    assert reading.objective is None
    assert reading.test_area is None
    assert len(reading.rounds) == 3


def test_gaps_and_uncommitted_rounds_are_left_out(tmp_path: Path) -> None:
    trial = write_trial(tmp_path, base_config(1), BASELINE, SEED, Curve((0.5, 0.7, None)))
    (reading,) = read_trials(tmp_path, [trial], "balanced_accuracy")
    assert reading.objective is None
    RunLayout(trial.folder).round(2).committed.unlink()
    (reading,) = read_trials(tmp_path, [trial], "balanced_accuracy")
    assert reading.objective == pytest.approx(0.6)


def test_resumed_stages_add_up(tmp_path: Path) -> None:
    trial = write_trial(tmp_path, base_config(1), BASELINE, SEED, Curve((0.5, 0.7, 0.9)))
    Ledger(RunLayout(trial.folder).ledger).append(
        "stage_finished", round_number=1, stage="score", seconds=0.25
    )
    (reading,) = read_trials(tmp_path, [trial], "balanced_accuracy")
    assert reading.rounds[1].seconds == {"train": 3.0, "score": 1.75}


@pytest.mark.parametrize("damage", ["metrics", "ledger", "key"])
def test_damaged_trial_counts_as_failed(tmp_path: Path, damage: str) -> None:
    trial = write_trial(tmp_path, base_config(1), BASELINE, SEED, Curve((0.5, 0.7, 0.9)))
    layout = RunLayout(trial.folder)
    if damage == "ledger":
        layout.ledger.write_text(layout.ledger.read_text().replace("3.0", "2.0", 1))
    else:
        layout.round(1).metrics.write_text("{" if damage == "metrics" else "{}")
    (reading,) = read_trials(tmp_path, [trial], "balanced_accuracy")
    assert reading.trial.status == "failed"
    assert "can't be read" in str(reading.trial.cause)
    assert reading.rounds == ()


def test_table_has_a_row_for_each_round(tmp_path: Path) -> None:
    write_sweep(
        tmp_path,
        [(BASELINE, 0.0), (weight(0.5), 0.02)],
        num_seeds=2,
        others={(1, 1): Curve((), "failed", "no memory"), (1, 0): Curve((0.6, 0.7), "stopped")},
    )
    table = read_table(tmp_path / "sweep.parquet")
    rows = table.to_pylist()
    assert [(row["seed"], row["round"]) for row in rows] == [
        (5, 0), (5, 1), (5, 2), (6, 0), (6, 1), (6, 2), (5, 0), (5, 1), (6, None),
    ]  # fmt: skip
    first, stopped, failed = rows[0], rows[6], rows[8]
    assert first["arm"] == "select.strategy=random"
    assert first["is_baseline"]
    assert first["select.weight"] is None
    assert first["select.strategy"] == "random"
    assert first["num_labels"] == 10
    assert (first["train_s"], first["score_s"]) == (3.0, 1.5)
    assert first["objective"] == pytest.approx(0.73)
    assert first["val_balanced_accuracy"] == pytest.approx(0.73)
    assert first["test_ece"] == pytest.approx(0.4)
    assert first["val_auroc"] is None
    assert (first["val_soft_dice"], first["val_soft_dice_shuffled"]) == (0.4, 0.1)
    assert (first["test_lift"], first["test_lift_shuffled"]) == (None, 0.05)
    assert (stopped["status"], stopped["objective"], stopped["select.weight"]) == ("stopped", None, 0.5)
    assert (failed["status"], failed["cause"], failed["num_labels"]) == ("failed", "no memory", None)


def test_swept_columns_are_numbers_where_all_values_are() -> None:
    arms = [
        BASELINE,
        Arm({"a": 1, "b": 1, "c": True, "d": "x"}),
        Arm({"a": 0.5, "b": "auto", "c": False, "e": 2}),
    ]
    schema = table_schema(arms)
    types = {name: schema.field(name).type for name in ("a", "b", "c", "d", "e", "select.strategy")}
    assert types == {
        "a": pa.float64(),
        "b": pa.string(),
        "c": pa.string(),
        "d": pa.string(),
        "e": pa.float64(),
        "select.strategy": pa.string(),
    }
    assert schema.names[:9] == [
        "trial", "arm", "is_baseline", "a", "b", "c", "d", "e", "select.strategy",
    ]  # fmt: skip
    assert not schema.field("seed").nullable
    assert schema.field("round").type == pa.int32()


def test_mixed_values_are_written_as_they_are_configured(tmp_path: Path) -> None:
    arms = [
        (BASELINE, 0.0),
        (Arm({"select.weight": True}), 0.0),
        (Arm({"select.weight": 1}), 0.0),
        (Arm({"select.weight": "auto"}), 0.0),
    ]
    base = base_config(1)
    trials = [Trial(arm, SEED, tmp_path / str(place), "unfinished") for place, (arm, _) in enumerate(arms)]
    write_results(tmp_path, base, trials, [])
    assert read_table(tmp_path / "sweep.parquet")["select.weight"].to_pylist() == [None, "true", "1", "auto"]
    assert len({arm_key(arm) for arm, _ in arms}) == 4


def test_order_of_trials_within_the_arms_changes_nothing(tmp_path: Path) -> None:
    base = base_config(3)
    arms = [BASELINE, weight(0.5), weight(0.25)]
    trials = [
        write_trial(tmp_path, base, arm, SEED + place, Curve((0.5 + 0.01 * place + 0.1 * number,) * 3))
        for number, arm in enumerate(arms)
        for place in range(3)
    ]
    write_results(tmp_path, base, trials, [])
    first = (tmp_path / "verdict.json").read_bytes(), (tmp_path / "sweep.parquet").read_bytes()
    by_seed = sorted(trials, key=lambda trial: -trial.seed)
    write_results(tmp_path, base, by_seed, [])
    assert ((tmp_path / "verdict.json").read_bytes(), (tmp_path / "sweep.parquet").read_bytes()) == first


def test_one_better_arm(tmp_path: Path) -> None:
    verdict, tree = write_sweep(tmp_path, [(BASELINE, 0.0), (weight(0.5), 0.03), (weight(1.0), 0.0001)])
    arm = tree["arms"][1]
    expected = [0.03 + WIGGLES[place + 3 if place < 7 else 0] for place in range(8)]
    assert arm["differences"] == {
        str(SEED + place): pytest.approx(value) for place, value in enumerate(expected)
    }
    assert arm["difference"]["mean"] == pytest.approx(sum(expected) / 8)
    assert 0.028 < arm["difference"]["low"] < arm["difference"]["mean"] < arm["difference"]["high"] < 0.032
    assert arm["p"] == pytest.approx(2 / 2**8)
    assert arm["adjusted_p"] == pytest.approx(2 * 2 / 2**8)
    assert arm["standing"] == "better"
    assert tree["arms"][2]["standing"] == "not shown"
    assert tree["best"] == "select.weight=0.5"
    assert tree["warnings"] == ["mind the gap"]
    mean = f"{arm['difference']['mean']:.3f}"
    assert verdict.headline.startswith(
        f"select.weight=0.5 is better than the baseline (select.strategy=random): +{mean} ["
    )
    assert "Holm-adjusted p = .016, 8 paired seeds" in verdict.headline
    assert "1 of 2 arms is better after Holm's correction, and 0 are worse" in verdict.headline
    assert any("optimistic" in remark and "largest of 3" in remark for remark in verdict.remarks)


def test_several_better_and_worse_arms(tmp_path: Path) -> None:
    gains = [(BASELINE, 0.0), (weight(0.1), 0.01), (weight(0.2), 0.03), (weight(0.3), -0.02)]
    verdict, tree = verdict_of(tmp_path, gains)
    assert [arm["standing"] for arm in tree["arms"]] == ["baseline", "better", "better", "worse"]
    assert verdict.headline.startswith("select.weight=0.2 is better")
    assert "2 of 3 arms are better after Holm's correction, and 1 is worse" in verdict.headline


def test_no_arm_is_better(tmp_path: Path) -> None:
    verdict, tree = verdict_of(tmp_path / "a", [(BASELINE, 0.0), (weight(0.1), 0.0), (weight(0.2), -0.02)])
    assert verdict.headline.startswith(
        "No arm is shown to be better than the baseline (select.strategy=random): the largest difference is "
    )
    assert "] for select.weight=0.1 (Holm-adjusted p = " in verdict.headline
    assert "1 of 2 is worse" in verdict.headline
    assert tree["best"] == "select.weight=0.1"

    verdict, tree = write_sweep(tmp_path / "b", [(BASELINE, 0.0), (weight(0.2), -0.02)])
    assert "for select.weight=0.2 (p = .008, 8 paired seeds; 1 of 1 is worse)" in verdict.headline
    assert tree["best"] == "select.strategy=random"
    assert tree["test"] is None
    assert any("the baseline has the largest mean" in remark for remark in verdict.remarks)
    assert not any("it is a control" in remark for remark in verdict.remarks)
    assert load_config(tmp_path / "b" / "best.yaml").select.strategy == "random"


def control(strategy: str = "shuffled_roi") -> Arm:
    return Arm({"select.strategy": strategy}, is_control=True)


def test_a_control_is_compared_and_never_chosen(tmp_path: Path) -> None:
    gains = [(BASELINE, 0.0), (weight(0.5), 0.01), (control(), 0.02)]
    verdict, tree = write_sweep(tmp_path, gains)
    assert [arm["standing"] for arm in tree["arms"]] == ["baseline", "better", "better"]
    assert tree["best"] == "select.weight=0.5"
    assert load_config(tmp_path / "best.yaml").select.weight == 0.5
    assert verdict.headline.startswith("select.weight=0.5 is better than")
    (remark,) = (remark for remark in verdict.remarks if "control" in remark)
    assert remark.startswith("A control has as large a mean as the chosen arm (select.strategy=shuffled_roi ")
    assert "It is never chosen" in remark


def test_a_control_with_other_seeds_is_held_against_the_chosen_arm_seed_by_seed(tmp_path: Path) -> None:
    """Seeds differ by more than arms: a mean over the easy ones says nothing of the control."""
    usual = [(BASELINE, 0.0), (weight(0.5), 0.01)]
    easy = np.argsort(SEED_EFFECTS[:8])[-2:]
    for gain, is_named in ((0.0, False), (0.06, True)):
        folder = tmp_path / str(gain)
        readings = write_trials(folder, usual, 8)
        added = write_trials(folder / "added", [(BASELINE, 0.0), (control(), gain)], 8)[8:]
        readings += [added[place] for place in easy]
        verdict = give_verdict(compare(base_config(1), read_trials(folder, readings, "balanced_accuracy")))
        assert verdict.comparison.arms[2].estimate.mean > verdict.comparison.best.estimate.mean
        assert any("A control has as large a mean" in remark for remark in verdict.remarks) is is_named


def test_where_only_controls_are_better_the_baseline_is_chosen(tmp_path: Path) -> None:
    verdict, tree = verdict_of(tmp_path, [(BASELINE, 0.0), (weight(0.5), -0.01), (control(), 0.02)])
    assert verdict.headline.startswith("No arm but a control is shown to be better than the baseline")
    assert tree["best"] == BASELINE.label
    verdict, tree = verdict_of(tmp_path / "alone", [(Arm(control().params, True, True), 0.0)], 2)
    assert tree["best"] is None
    assert any("No arm but a control finished" in remark for remark in verdict.remarks)


def test_test_metrics_are_those_of_the_choice_and_the_baseline_alone(tmp_path: Path) -> None:
    write_sweep(tmp_path, [(BASELINE, 0.0), (weight(0.1), 0.01), (weight(0.2), 0.03)], num_seeds=3)
    rows = read_table(tmp_path / "sweep.parquet").to_pylist()
    names = [name for name in rows[0] if name.startswith("test_")]
    assert len(names) == 9
    seen = {row["arm"] for row in rows if any(row[name] is not None for name in names)}
    assert seen == {BASELINE.label, "select.weight=0.2"}
    assert all(row["val_balanced_accuracy"] is not None for row in rows)


def test_without_a_choice_no_test_metric_is_written(tmp_path: Path) -> None:
    write_sweep(tmp_path, [(BASELINE, 0.0)], 2, {(0, 1): Curve((0.5,), "stopped")})
    rows = read_table(tmp_path / "sweep.parquet").to_pylist()
    assert all(row["test_balanced_accuracy"] is None for row in rows)


def test_a_later_choice_says_that_the_test_split_was_seen(tmp_path: Path) -> None:
    first, _ = write_sweep(tmp_path, [(BASELINE, 0.0), (weight(0.1), 0.01)])
    gains = [(BASELINE, 0.0), (weight(0.1), 0.01), (weight(0.2), 0.03)]
    trials = write_trials(tmp_path / "again", gains, 8)
    verdict = write_results(tmp_path, base_config(8), trials, [])
    assert not any("shown before" in remark for remark in first.remarks)
    (remark,) = (remark for remark in verdict.remarks if "shown before" in remark)
    assert "for select.weight=0.1" in remark
    assert read_json(tmp_path / "verdict.json")["shown_on_test"] == [
        BASELINE.label, "select.weight=0.1", "select.weight=0.2",
    ]  # fmt: skip


def joined(folder: Path, *calls: tuple[Sequence[tuple[Arm, float]], int]) -> tuple[Verdict, dict[str, Any]]:
    """Arms that came with as many seeds, each with those that it was given."""
    trials = [
        trial
        for number, (gains, num_seeds) in enumerate(calls)
        for trial in write_trials(folder / str(number), gains, num_seeds)
    ]
    verdict = give_verdict(compare(base_config(1), read_trials(folder, trials, "balanced_accuracy")))
    return verdict, verdict_tree(verdict, [])


def test_arms_of_all_calls_are_one_family(tmp_path: Path) -> None:
    """Each arm is paired over the seeds that it was given; Holm's correction counts all of them."""
    few = [(weight(0.1), 0.05), (weight(0.2), -0.01)]
    verdict, tree = joined(tmp_path, ([(BASELINE, 0.0), (weight(0.5), 0.03)], 10), (few, 8))
    assert [arm["seeds"] for arm in tree["arms"]] == [10, 10, 8, 8]
    assert [len(arm["differences"] or {}) for arm in tree["arms"]] == [0, 10, 8, 8]
    assert tree["num_compared"] == 3
    assert tree["arms"][1]["adjusted_p"] == pytest.approx(3 * 2 / 2**10)
    assert tree["seeds"] == list(range(SEED, SEED + 10))
    # The arm with the largest mean has fewer than ten seeds, beside others that have ten.
    assert tree["best"] == "select.weight=0.5"
    assert any("2 arms with fewer seeds can't be chosen" in remark for remark in verdict.remarks)


def test_ten_seeds_are_enough_beside_more(tmp_path: Path) -> None:
    _, tree = joined(tmp_path, ([(BASELINE, 0.0), (weight(0.5), 0.01)], 9), ([(weight(0.1), 0.05)], 8))
    assert tree["best"] == "select.weight=0.5"
    _, tree = joined(tmp_path / "b", ([(BASELINE, 0.0), (weight(0.5), 0.01)], 8), ([(weight(0.1), 0.05)], 8))
    assert tree["best"] == "select.weight=0.1"


def test_an_arm_without_a_seed_of_the_baseline_is_not_compared(tmp_path: Path) -> None:
    gains = [(BASELINE, 0.0), (weight(0.5), 0.03), (weight(0.1), 0.9)]
    others = {(2, place): Curve((), "failed", "no") for place in range(8)}
    trials = write_trials(tmp_path, gains, 8, others)
    kept = [trial for trial in trials if trial.arm != weight(0.1)]
    stray = write_trial(tmp_path / "b", base_config(1), weight(0.1), 99, Curve((0.9,) * 3))
    readings = read_trials(tmp_path, [*kept, stray], "balanced_accuracy")
    comparison = compare(base_config(8), readings)
    assert comparison.arms[2].standing == "not compared"
    assert comparison.best is not None
    assert comparison.best.label == "select.weight=0.5"


@pytest.mark.parametrize(
    ("num_arms", "needed"),
    [(1, 6), (2, 7), (10, 9), (100, 12), (204, 13), (250, 14), (251, None)],
)
def test_seeds_needed_are_those_that_would_do(num_arms: int, needed: int | None) -> None:
    """`300 x 2 / 2^14` is below .05, but with so many seeds the test has no more than 10,000 flips."""
    assert seeds_needed(num_arms) == needed
    if needed is not None:
        assert num_arms * smallest_sign_flip_p(needed) < 0.05
        assert num_arms * smallest_sign_flip_p(needed - 1) >= 0.05


def test_equal_arms_go_to_the_earlier(tmp_path: Path) -> None:
    base = base_config(2)
    trials = [
        write_trial(tmp_path, base, arm, SEED + place, Curve((0.5,) * 3))
        for arm in (BASELINE, weight(0.9), weight(0.1))
        for place in range(2)
    ]
    verdict = write_results(tmp_path, base, trials, [])
    assert verdict.comparison.best is not None
    assert verdict.comparison.best.arm.is_baseline
    assert [arm.difference.p for arm in verdict.comparison.compared if arm.difference] == [1.0, 1.0]


def test_too_few_seeds_are_told(tmp_path: Path) -> None:
    gains = [(BASELINE, 0.0), (weight(0.1), 0.05), (weight(0.2), 0.06)]
    verdict, _ = verdict_of(tmp_path / "few", gains, num_seeds=4)
    assert verdict.headline.startswith("No arm is shown to be better")
    (remark,) = (remark for remark in verdict.remarks if remark.startswith("Too few seeds"))
    assert "with 4 paired seeds and 2 compared arms" in remark
    assert "(the smallest is 0.25). It takes 7 seeds." in remark
    assert any("does not show that it is better" in remark for remark in verdict.remarks)
    enough, _ = verdict_of(tmp_path / "enough", gains, num_seeds=7)
    assert not any(remark.startswith("Too few seeds") for remark in enough.remarks)
    assert enough.headline.startswith("select.weight=0.2 is better")


def test_single_seed_has_neither_interval_nor_significance(tmp_path: Path) -> None:
    verdict, tree = verdict_of(tmp_path, [(BASELINE, 0.0), (weight(0.1), 0.05)], num_seeds=1)
    assert tree["arms"][1]["difference"]["low"] is None
    assert tree["arms"][1]["standing"] == "not shown"
    assert "1 paired seed)" in verdict.headline


def test_arms_with_missing_seeds_are_not_compared(tmp_path: Path) -> None:
    others = {(1, 0): Curve((0.6,), "failed", "no memory"), (2, 3): Curve((0.6, 0.7), "stopped")}
    gains = [(BASELINE, 0.0), (weight(0.1), 0.2), (weight(0.2), 0.3), (weight(0.3), 0.02)]
    verdict, tree = verdict_of(tmp_path, gains, others=others)
    assert [arm["standing"] for arm in tree["arms"]] == ["baseline", "not compared", "not compared", "better"]
    assert tree["arms"][1]["difference"] is None
    assert len(tree["arms"][1]["objectives"]) == 7
    assert tree["arms"][1]["trials"] == {"finished": 7, "stopped": 0, "failed": 1, "unfinished": 0}
    assert list(tree["arms"][1]["causes"].values()) == ["no memory"]
    assert tree["best"] == "select.weight=0.3"
    assert tree["num_compared"] == 1
    (remark,) = (remark for remark in verdict.remarks if "not compared" in remark)
    assert remark.startswith("2 of 4 arms are not compared")
    assert "(1 stopped by the scheduler, 1 failed)" in remark


def test_baseline_with_a_missing_seed_pairs_the_others(tmp_path: Path) -> None:
    others = {(0, 2): Curve((), "failed", "no memory")}
    verdict, tree = verdict_of(tmp_path, [(BASELINE, 0.9), (weight(0.1), 0.93)], others=others)
    assert sorted(tree["arms"][1]["differences"]) == sorted(
        str(SEED + place) for place in range(8) if place != 2
    )
    assert tree["num_pairs"] == 7
    assert tree["best"] == "select.weight=0.1"
    assert any("a result for 7 of 8 seeds only" in remark for remark in verdict.remarks)


def test_nothing_to_compare(tmp_path: Path) -> None:
    failed = Curve((), "failed", "no")
    gains = [(BASELINE, 0.0), (weight(0.1), 0.1)]
    verdict, tree = verdict_of(tmp_path / "base", gains, 2, {(0, 0): failed, (0, 1): failed})
    assert verdict.headline.startswith("No trial of the baseline (select.strategy=random) finished")
    assert tree["best"] == "select.weight=0.1"

    gaps = Curve((0.5, None, 0.5))
    verdict, _ = verdict_of(tmp_path / "gaps", gains, 2, {(0, 0): gaps, (0, 1): gaps})
    assert "has gaps in every trial" in verdict.headline

    verdict, tree = verdict_of(tmp_path / "arm", gains, 2, {(1, 0): failed})
    assert verdict.headline.startswith("No other arm finished all 2 seeds")
    assert tree["best"] == "select.strategy=random"

    verdict, _ = verdict_of(tmp_path / "one", [(BASELINE, 0.0)], 2)
    assert verdict.headline.startswith("Only the baseline (select.strategy=random) was tried")

    verdict, _ = verdict_of(tmp_path / "no", [(weight(0.1), 0.0)], 2)
    assert verdict.headline.startswith("The sweep has no baseline")


def test_best_configuration_runs_as_the_trial_did(tmp_path: Path) -> None:
    write_sweep(tmp_path, [(BASELINE, 0.0), (weight(0.25), 0.05)])
    best = load_config(tmp_path / "best.yaml")
    assert best.name == "demo-best"
    assert best.seed == SEED
    assert best.select.weight == 0.25
    assert best.pool.path == Path("/packed/pool")
    assert best.train.num_threads == 1 != base_config(1).train.num_threads
    assert best.ray == base_config(1).ray
    assert best.sweep == build_config({"name": "x"}).sweep
    header = (tmp_path / "best.yaml").read_text().partition("name:")[0].splitlines()
    assert all(line.startswith("# ") for line in header)
    assert header[0] == "# The best arm of the sweep demo: select.weight=0.25"
    assert "mean of 8 seeds" in header[1]
    assert "p = .008, 8 paired seeds: better" in header[2]
    assert "validation split" in header[3]


def test_relative_places_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = base_config(1, model={"weights": "start.pth"})
    trial = write_trial(tmp_path, base, BASELINE, SEED, Curve((0.5, 0.6, 0.7)))
    config = RunLayout(trial.folder).config
    tree = yaml.safe_load(config.read_text())
    tree["pool"]["path"] = None
    tree["pool"]["source"]["path"] = "images.csv"
    config.write_text(yaml.dump(tree, Dumper=yaml.CSafeDumper))
    write_results(tmp_path, base, [trial], [])
    best = load_config(tmp_path / "best.yaml")
    assert best.pool.path == tmp_path.resolve() / "pools" / "demo"
    assert best.pool.source.path == tmp_path.resolve() / "images.csv"
    assert best.model.weights == str(tmp_path.resolve() / "start.pth")


def test_older_best_configuration_is_removed_where_none_is_chosen(tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_text("name: old\n")
    verdict, tree = write_sweep(tmp_path, [(BASELINE, 0.0)], 2, {(0, 1): Curve((0.5,), "stopped")})
    assert not (tmp_path / "best.yaml").exists()
    assert tree["best"] is None
    assert any("there is no best.yaml" in remark for remark in verdict.remarks)


def test_long_names_still_fit(tmp_path: Path) -> None:
    base = base_config(1, name="x" * 64)
    trial = write_trial(tmp_path, base, BASELINE, SEED, Curve((0.5, 0.6, 0.7)))
    write_results(tmp_path, base, [trial], [])
    assert load_config(tmp_path / "best.yaml").name == "x" * 59 + "-best"


def test_the_test_split_decides_nothing(tmp_path: Path) -> None:
    gains = [(BASELINE, 0.0), (weight(0.1), 0.01), (weight(0.2), 0.03), (weight(0.3), -0.02)]
    plain, first = write_sweep(tmp_path / "plain", gains, num_seeds=4)
    moved, second = write_sweep(tmp_path / "moved", gains, num_seeds=4, test_shift=0.2)
    assert first.pop("test") != second.pop("test")
    assert json.dumps(first) == json.dumps(second)
    assert (plain.headline, plain.remarks) == (moved.headline, moved.remarks)
    best = [(tmp_path / name / "best.yaml").read_bytes() for name in ("plain", "moved")]
    assert best[0] == best[1]


def test_test_area_is_read_in_pairs(tmp_path: Path) -> None:
    _, tree = write_sweep(tmp_path, [(BASELINE, 0.0), (weight(0.1), 0.03)], test_shift=0.1)
    shifts = [0.1 * (-1) ** place for place in range(8)]
    expected = [0.03 + WIGGLES[place + 3 if place < 7 else 0] - 2 * shifts[place] for place in range(8)]
    assert tree["test"]["difference"]["mean"] == pytest.approx(sum(expected) / 8)
    assert tree["test"]["num_pairs"] == 8
