"""Reads a run folder into plain, typed values: what the report shows, and nothing else.

Only rounds with a COMMITTED file count as finished; their metrics make the curves. The picks of an unfinished
round are shown too, because they are what an annotator is waiting to see.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from xal_ray.acquire.strategies import uncertainty_column
from xal_ray.config import Config, load_config
from xal_ray.errors import RunError
from xal_ray.metrics.alignment_test import Verdict
from xal_ray.record.layout import RoundLayout, RunLayout
from xal_ray.scoring.shards import rows_of
from xal_ray.storage import read_json, read_table

ALIGNMENT_KEYS = ("soft_dice", "iou", "pointing_game", "energy_in_roi", "lift")
VIEW_COLUMNS = ("probs", "predicted", "misalignment", "saliency", "error_code")
SPLIT_NAMES = ("val", "test")

State = Literal["finished", "awaiting labels", "in progress"]


@dataclass(frozen=True)
class ClassMetrics:
    """One class of one split; a metric is None where it is undefined (no such image)."""

    name: str
    recall: float | None
    precision: float | None
    f1: float | None
    support: int
    num_groups: int


@dataclass(frozen=True)
class MeasureResult:
    """Holds what the permutation test says of a measure; see `metrics.alignment_test`."""

    own: float
    donors: float
    effect: float
    ci95: tuple[float, float] | None
    p: float | None
    verdict: Verdict


@dataclass(frozen=True)
class AlignmentTest:
    """The permutation test of a split, by measure."""

    num_groups: int
    smallest_p: float
    measures: Mapping[str, MeasureResult]


@dataclass(frozen=True)
class Alignment:
    """Means over the images that have an ROI; both mappings have the keys `ALIGNMENT_KEYS`."""

    num_images: int
    values: Mapping[str, float | None]
    shuffled: Mapping[str, float | None]
    test: AlignmentTest | None


@dataclass(frozen=True)
class SplitMetrics:
    """Holds what a round's model did on the validation or the test split. `ci95` is over groups."""

    num_images: int
    num_groups: int
    accuracy: float | None
    balanced_accuracy: float | None
    macro_f1: float | None
    auroc: float | None
    ece: float | None
    ci95: Mapping[str, tuple[float, float]]
    per_class: tuple[ClassMetrics, ...]
    alignment: Alignment | None


@dataclass(frozen=True)
class Pick:
    """A selected image. What the model said of it is None for initial picks and failed rows.

    Attributes:
        saliency: (g, g) float32 in [0, 1].
        uncertainty: The column `shown_uncertainty`.
    """

    rank: int
    image_id: str
    utility: float | None
    reason: str
    label: str | None
    is_passed_over: bool = False
    predicted: str | None = None
    probability: float | None = None
    uncertainty: float | None = None
    misalignment: float | None = None
    error_code: str | None = None
    saliency: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Picks:
    """The head of a selection, how long it is, and for how many of it a label came in.

    Attributes:
        effect: What scoring a part of the pool did to it (`subsample.json`); None where all was scored.
        shortfall: Why it is shorter than was asked for (`shortfall.json`); None where it is not.
    """

    shown: tuple[Pick, ...]
    num_picks: int
    num_labelled: int
    effect: Mapping[str, Any] | None = None
    shortfall: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Round:
    """A round's folder. `model` and `metrics` are empty, and `splits` too, while they are not written yet.

    `absent_classes` are those that the round's model was trained without.
    """

    index: int
    files: RoundLayout
    committed: bool
    model: Mapping[str, Any]
    num_labels: int | None
    scoring: Mapping[str, int]
    splits: Mapping[str, SplitMetrics]
    picks: Picks | None
    absent_classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunReading:
    """A run folder. `versions` holds name and version of what the run was made with, where it is recorded."""

    path: Path
    config: Config
    initial: Picks | None
    rounds: tuple[Round, ...]
    versions: Mapping[str, str]

    @property
    def committed(self) -> tuple[Round, ...]:
        """Return the finished rounds, in order."""
        return tuple(a_round for a_round in self.rounds if a_round.committed)

    @property
    def state(self) -> State:
        """Return where the run stands. A committed round that selects nothing closes the run."""
        last = self.rounds[-1] if self.rounds else None
        if last is not None and last.committed and (last.picks is None or not last.picks.num_picks):
            return "finished"
        picks = last.picks if last is not None else self.initial
        waiting = picks is not None and picks.num_labelled < picks.num_picks
        if waiting and self.config.labels.source == "export":
            return "awaiting labels"
        return "in progress"


def config_of_run(path: Path) -> Config:
    """Read the configuration of a run.

    Args:
        path: The run's folder.

    Raises:
        RunError: There is no run here.
        ConfigError: Its configuration can't be read.
    """
    layout = RunLayout(path)
    if not layout.config.is_file():
        raise RunError(
            "there is no run here",
            expected="a folder with a config.yaml, made by `xal-ray run`",
            where=str(path),
            next_step="give the path of a run's folder, for example runs/NAME",
        )
    return load_config(layout.config)


def read_run(path: Path, classes: Sequence[str], max_shown: int) -> RunReading:
    """Read a run folder.

    Args:
        path: The folder.
        classes: The pool's class names, in the order of probabilities.
        max_shown: How many picks of a selection are read in full.

    Raises:
        RunError: There is no run here, or a file of it lacks what it should hold.
        StorageError: A file can't be read.
    """
    layout, config = RunLayout(path), config_of_run(path)
    return RunReading(
        path=path,
        config=config,
        initial=_read_picks(layout.initial, config, classes, max_shown),
        rounds=tuple(_read_round(files, config, classes, max_shown) for files in layout.rounds()),
        versions=_read_versions(layout.ledger),
    )


def _read_round(files: RoundLayout, config: Config, classes: Sequence[str], max_shown: int) -> Round:
    committed = files.committed.is_file()
    model = read_json(files.model_card) if committed or files.model_card.is_file() else {}
    metrics = read_json(files.metrics) if committed or files.metrics.is_file() else {}
    picks = _read_picks(files, config, classes, max_shown)
    with _complete(files.metrics):
        found = metrics["splits"] if metrics else {}
        return Round(
            index=files.number,
            files=files,
            committed=committed,
            model=model,
            num_labels=int(metrics["num_labels"]) if metrics else None,
            scoring=dict(metrics.get("scoring") or {}),
            splits={name: _split(found[name]) for name in SPLIT_NAMES if found.get(name) is not None},
            picks=picks,
            absent_classes=tuple(metrics.get("absent_classes") or ()),
        )


def _split(found: Mapping[str, Any]) -> SplitMetrics:
    alignment = found["alignment"]
    return SplitMetrics(
        num_images=int(found["num_images"]),
        num_groups=int(found["num_groups"]),
        accuracy=_float(found["accuracy"]),
        balanced_accuracy=_float(found["balanced_accuracy"]),
        macro_f1=_float(found["macro_f1"]),
        auroc=_float(found["auroc"]),
        ece=_float(found["ece"]),
        ci95={key: (float(pair[0]), float(pair[1])) for key, pair in (found["ci95"] or {}).items() if pair},
        per_class=tuple(
            ClassMetrics(
                name=str(row["class"]),
                recall=_float(row["recall"]),
                precision=_float(row["precision"]),
                f1=_float(row["f1"]),
                support=int(row["support"]),
                num_groups=int(row["num_groups"]),
            )
            for row in found["per_class"]
        ),
        alignment=Alignment(
            num_images=int(alignment["num_images"]),
            values={key: _float(alignment[key]) for key in ALIGNMENT_KEYS},
            shuffled={key: _float(alignment["shuffled"][key]) for key in ALIGNMENT_KEYS},
            test=_test(alignment.get("test")),  # runs older than the test have none
        )
        if alignment
        else None,
    )


def _test(found: Mapping[str, Any] | None) -> AlignmentTest | None:
    if found is None:
        return None
    return AlignmentTest(
        num_groups=int(found["num_groups"]),
        smallest_p=float(found["smallest_p"]),
        measures={
            name: MeasureResult(
                own=float(entry["own"]),
                donors=float(entry["donors"]),
                effect=float(entry["effect"]),
                ci95=_pair(entry["ci95"]),
                p=_float(entry["p"]),
                verdict=entry["verdict"],
            )
            for name, entry in found["measures"].items()
        },
    )


def _pair(found: Sequence[float] | None) -> tuple[float, float] | None:
    return None if found is None else (float(found[0]), float(found[1]))


def shown_uncertainty(config: Config) -> str:
    """The uncertainty that the run's strategy ranks by; for one that looks at none, what is configured."""
    return uncertainty_column(config.select) or config.select.uncertainty


def _read_picks(files: RoundLayout, config: Config, classes: Sequence[str], max_shown: int) -> Picks | None:
    """A folder's selection, with labels and the model's view where there are such; None without one."""
    if not files.selection.is_file():
        return None
    selection = read_table(files.selection).sort_by("rank")
    received = files.labels.is_file()
    labels = read_table(files.labels, ["image_id", "label"]).to_pylist() if received else []
    label_of = {row["image_id"]: row["label"] for row in labels}
    passed_over = (
        set(read_table(files.passed_over)["image_id"].to_pylist()) if files.passed_over.is_file() else set()
    )
    head = selection.slice(0, max_shown).to_pylist()
    columns = [*VIEW_COLUMNS, shown_uncertainty(config)]
    scores = rows_of(files.scores, [row["image_id"] for row in head], columns)
    shown = tuple(
        Pick(
            rank=int(row["rank"]),
            image_id=row["image_id"],
            utility=_float(row["utility"]),
            reason=row["reason"] or "",
            label=label_of.get(row["image_id"]),
            is_passed_over=row["image_id"] in passed_over,
            **_view(scores.get(row["image_id"]), config, classes, files),
        )
        for row in head
    )
    effect = read_json(files.subsample) if files.subsample.is_file() else None
    shortfall = read_json(files.shortfall) if files.shortfall.is_file() else None
    return Picks(shown, selection.num_rows, num_labelled=len(labels), effect=effect, shortfall=shortfall)


def _view(
    score: Mapping[str, Any] | None, config: Config, classes: Sequence[str], files: RoundLayout
) -> dict[str, Any]:
    """Return what the model said of an image, as keywords of `Pick`; a failed row has nulls."""
    if score is None:
        return {}
    predicted = score["predicted"]
    return {
        "error_code": score["error_code"],
        "predicted": None if predicted is None else classes[predicted],
        "probability": None if predicted is None else float(score["probs"][predicted]),
        "uncertainty": _float(score[shown_uncertainty(config)]),
        "misalignment": _float(score["misalignment"]),
        "saliency": _grid(score["saliency"], files),
    }


def _grid(values: Sequence[float] | None, files: RoundLayout) -> npt.NDArray[np.float32] | None:
    if not values:
        return None
    side = math.isqrt(len(values))
    if side * side != len(values):
        raise RunError(
            "a saliency map is not square",
            expected="a square number of values",
            found=str(len(values)),
            where=str(files.scores),
            next_step="remove the round's folder and resume the run",
        )
    return np.asarray(values, dtype=np.float32).reshape(side, side)


def _read_versions(ledger: Path) -> dict[str, str]:
    """The versions in the ledger's record of the run's start; none where it is missing or says nothing."""
    if not ledger.is_file():
        return {}
    for line in ledger.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # A torn last line is the ledger's to mend, not the report's.
        if isinstance(record, dict) and record.get("event") == "run_started":
            versions = (record.get("data") or {}).get("versions") or {}
            return {str(name): str(version) for name, version in sorted(versions.items())}
    return {}


def _float(value: float | None) -> float | None:
    """Return the value, with null and NaN both as None."""
    return None if value is None or math.isnan(value) else float(value)


@contextmanager
def _complete(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            "a file of the run lacks what it should hold",
            found=f"{type(error).__name__}: {error}",
            where=str(path),
            next_step="was it written by another version of xal-ray? Remove the round's folder and resume",
        ) from error
