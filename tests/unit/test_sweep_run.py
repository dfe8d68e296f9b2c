"""A sweep from call to call, with trials that are written instead of run: neither Ray nor torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from xal_ray.config import Config, build_config, load_config
from xal_ray.pool.schema import open_pool
from xal_ray.progress import QUIET
from xal_ray.record.layout import RunLayout
from xal_ray.record.ledger import Ledger
from xal_ray.storage import read_table, write_json
from xal_ray.sweep import run
from xal_ray.sweep.plan import ArmPlan, Plan
from xal_ray.sweep.record import bind
from xal_ray.sweep.trial import Setting, TrialPlan

# What an arm's validation curve lies above that of random picks.
GAINS = {
    "random": 0.0,
    "entropy": 0.03,
    "margin": 0.03,
    "dual": 0.01,
    "shuffled_roi": 0.05,
    "smallest_roi": -0.1,
}
WIGGLE = (0.001, -0.002, 0.0015, 0.0005, -0.001, 0.002, -0.0005, 0.0012, -0.0018, 0.0008)


def split_metrics(value: float) -> dict[str, Any]:
    names = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")
    return {**dict.fromkeys(names, value), "num_groups": 12, "alignment": None}


def write_run(trial: TrialPlan) -> None:
    """A finished run of a trial, as its folder shows it."""
    layout, strategy = RunLayout(trial.folder), trial.config.select.strategy
    value = 0.7 + GAINS[strategy] + WIGGLE[(trial.seed + len(strategy)) % len(WIGGLE)]
    ledger = Ledger(layout.ledger)
    for number in range(2):
        files = layout.round(number)
        splits = {"val": split_metrics(value), "test": split_metrics(value - 0.3)}
        write_json(files.metrics, {"num_labels": 10 * (number + 1), "splits": splits})
        files.committed.touch()
    ledger.append("run_finished")
    tree = trial.config.model_dump(mode="json", exclude={"sweep"})
    layout.config.write_text(yaml.dump(tree, Dumper=yaml.CSafeDumper))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, int]]:
    """Trials are written instead of run; which, in their order. The pool has cards but no images."""
    done: list[tuple[str, int]] = []
    for name, classes in (("two", ["a", "b"]), ("three", ["a", "b", "c"])):
        card = {"schema_version": 2, "classes": classes, "content_hash": name, "counts": {"val": 9}}
        write_json(tmp_path / name / "card.json", card | {"image_size": 8, "channels": 1})

    def open_pools(settings: Config, arms: list[ArmPlan], folder: Path, *_: Any, **__: Any) -> Any:
        pools = {each.config.pool_path(): open_pool(each.config.pool_path()) for each in arms}
        bind(settings, next(iter(pools.values())), folder)
        return pools

    def run_trials(setting: Setting, plan: Plan, *_: Any, **__: Any) -> Plan:
        for each in plan.arms:
            for seed in setting.seeds:
                trial = setting.trial_of(each, seed)
                if not trial.is_finished():
                    done.append((each.arm.label, seed))
                    write_run(trial)
        return plan

    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda _, file, **__: file.write(b"<svg/>"))
    monkeypatch.setattr(run, "_open_pools", open_pools)
    monkeypatch.setattr(run, "_run_trials", run_trials)
    monkeypatch.setattr(run, "_build_models", lambda *_, **__: None)
    monkeypatch.setattr(run, "settle", lambda: ())
    monkeypatch.setattr(run, "lacking_seeds", lambda arms, pools, seeds: {})
    return done


def call(tmp_path: Path, strategies: list[str], *, pool: str = "three", seed: int = 0, **sweep: Any) -> Any:
    tree = {
        "name": "s",
        "seed": seed,
        "num_rounds": 1,
        "pool": {"path": str(tmp_path / pool)},
        "sweep": {"params": {"select.strategy": strategies}, "seeds": 8} | sweep,
    }
    run.sweep(build_config(tree), tmp_path / "out", QUIET)
    return json.loads((tmp_path / "out" / "verdict.json").read_text())


def labels(verdict: Any) -> list[str]:
    return [arm["params"]["select.strategy"] for arm in verdict["arms"]]


def test_a_later_call_adds_to_all_that_comes_out(ran: list[tuple[str, int]], tmp_path: Path) -> None:
    first = call(tmp_path, ["entropy"])
    assert labels(first) == ["random", "entropy"]
    assert load_config(tmp_path / "out" / "best.yaml").select.strategy == "entropy"
    later = call(tmp_path, ["dual", "shuffled_roi"])
    assert labels(later) == ["random", "entropy", "dual", "shuffled_roi"]
    assert later["num_compared"] == 3
    assert later["arms"][1]["p"] == first["arms"][1]["p"]
    assert later["arms"][1]["adjusted_p"] == 3 * first["arms"][1]["adjusted_p"]
    assert load_config(tmp_path / "out" / "best.yaml").select.strategy == "entropy"
    table = read_table(tmp_path / "out" / "sweep.parquet")
    assert set(table["arm"].to_pylist()) == {arm["label"] for arm in later["arms"]}
    page = (tmp_path / "out" / "sweep.html").read_text(encoding="utf-8")
    assert all(f"strategy={name}" in page for name in labels(later))
    assert "entropy, dual, shuffled_roi" in page  # what was tried
    assert len(ran) == 4 * 8


def test_the_same_call_again_changes_no_byte(ran: list[tuple[str, int]], tmp_path: Path) -> None:
    call(tmp_path, ["entropy", "dual"])
    names = ("sweep.json", "sweep.parquet", "verdict.json", "best.yaml", "sweep.html")
    before = [(tmp_path / "out" / name).read_bytes() for name in names]
    call(tmp_path, ["entropy", "dual"])
    assert [(tmp_path / "out" / name).read_bytes() for name in names] == before


def test_another_baseline_compares_all_that_is_there(ran: list[tuple[str, int]], tmp_path: Path) -> None:
    call(tmp_path, ["entropy", "dual"])
    done = len(ran)
    verdict = call(tmp_path, ["dual"], baseline={"select.strategy": "entropy"})
    assert len(ran) == done
    assert verdict["baseline"] == "select.strategy=entropy"
    assert [arm["standing"] for arm in verdict["arms"]] == ["baseline", "worse", "worse"]
    assert labels(verdict) == ["entropy", "random", "dual"]


def test_more_seeds_for_some_arms_keep_the_others(ran: list[tuple[str, int]], tmp_path: Path) -> None:
    call(tmp_path, ["entropy"], seeds=8)
    verdict = call(tmp_path, ["dual"], seeds=10)
    assert [arm["seeds"] for arm in verdict["arms"]] == [10, 8, 10]
    assert [len(arm["differences"] or {}) for arm in verdict["arms"]] == [0, 8, 10]
    verdict = call(tmp_path, ["entropy"], seeds=10)
    assert [arm["seeds"] for arm in verdict["arms"]] == [10, 10, 10]
    assert verdict["best"] == "select.strategy=entropy"


def test_equal_arms_are_run_once_and_it_is_said(ran: list[tuple[str, int]], tmp_path: Path) -> None:
    verdict = call(tmp_path, ["entropy", "margin"], pool="two")
    assert labels(verdict) == ["random", "entropy"]
    assert any("select.strategy=margin is select.strategy=entropy" in text for text in verdict["warnings"])
    assert labels(call(tmp_path, ["margin", "dual"], pool="two")) == ["random", "entropy", "dual"]
    assert {label for label, _ in ran} == {
        f"select.strategy={name}" for name in ("random", "entropy", "dual")
    }


def test_seeds_that_lack_a_class_are_left_out_of_every_call(
    ran: list[tuple[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "lacking_seeds", lambda arms, pools, seeds: {3: "c"} if 3 in seeds else {})
    verdict = call(tmp_path, ["entropy"])
    assert 3 not in {seed for _, seed in ran}
    assert verdict["seeds"] == [0, 1, 2, 4, 5, 6, 7]
    assert any(
        "1 seed is left out of all arms" in text and "3 (no 'c')" in text for text in verdict["warnings"]
    )
    assert [arm["standing"] for arm in verdict["arms"]] == ["baseline", "better"]
    assert call(tmp_path, ["dual"], seed=5)["seeds"] == [0, 1, 2, *range(4, 13)]


def test_an_arm_whose_folder_is_gone_is_no_part_of_it(ran: list[tuple[str, int]], tmp_path: Path) -> None:
    call(tmp_path, ["entropy", "dual"])
    (folder,) = (tmp_path / "out" / "trials").glob("select.strategy=entropy-*")
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    assert labels(call(tmp_path, ["dual"])) == ["random", "dual"]
