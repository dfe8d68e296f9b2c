"""Says where things lie in a run folder.

runs/<name>/
  config.yaml, ledger.jsonl, report.html
  initial/            selection.parquet, labels.parquet, COMMITTED
  rounds/000/         model.safetensors, model.json, scores/, holdout/, metrics.json,
                      selection.parquet, labels.parquet, COMMITTED,
                      runners_up.parquet and subsample.json where only a part is scored,
                      labelled/ for a batch strategy, and
                      shortfall.json where fewer were chosen than were asked for
  rounds/000/to_label selection.csv and the picked images, for a run that exports
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from xal_ray.acquire.strategies import Selection
from xal_ray.model.files import CARD_FILE
from xal_ray.storage import names_in

INITIAL = -1  # the round number of the initial set in the ledger
LEAST_LABELS = 2  # that a model is trained on, for each training worker

LEDGER_FILE = "ledger.jsonl"
REPORT_FILE = "report.html"
SELECTION_FILE = "selection.parquet"
TO_LABEL_TABLE = "selection.csv"
SCORE_RECORD = "score.json"  # of a pass without a run

# What a strategy ranks by; null where it looks at something else, or an image has none.
_MEASURED = ("uncertainty", "misalignment", "shuffled_misalignment", "roi_area")
SELECTION_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("utility", pa.float64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        *(pa.field(name, pa.float64()) for name in _MEASURED),
    ]
)
RUNNERS_UP_SCHEMA = pa.schema([pa.field("image_id", pa.string(), nullable=False)])
RECEIVED_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("roi", pa.binary()),  # coverage 0..255 at the pool's size, where the annotator drew one
    ]
)


def selection_table(picks: Selection) -> pa.Table:
    """Picks in their order (`SELECTION_SCHEMA`)."""
    nothing = np.full(len(picks.image_ids), np.nan)
    columns = {
        "image_id": picks.image_ids,
        "rank": np.arange(len(picks.image_ids), dtype=np.int32),
        "utility": picks.utilities,
        "reason": picks.reasons,
        **{name: pa.array(picks.measured.get(name, nothing), from_pandas=True) for name in _MEASURED},
    }
    return pa.table(columns, schema=SELECTION_SCHEMA)


@dataclass(frozen=True)
class RoundLayout:
    """The files of one round."""

    folder: Path
    number: int

    @property
    def title(self) -> str:
        """Return how a person calls this round."""
        return "initial set" if self.number == INITIAL else f"round {self.number}"

    @property
    def scores(self) -> Path:
        """Score shards of the unlabelled images."""
        return self.folder / "scores"

    @property
    def holdout(self) -> Path:
        """Score shards of the validation and test images."""
        return self.folder / "holdout"

    @property
    def labelled(self) -> Path:
        """Score shards of the labelled images; for a strategy that compares candidates with them."""
        return self.folder / "labelled"

    @property
    def model_card(self) -> Path:
        """Written after `model.safetensors`: where it exists, the model is whole."""
        return self.folder / CARD_FILE

    @property
    def metrics(self) -> Path:
        """Metrics on validation and test."""
        return self.folder / "metrics.json"

    @property
    def selection(self) -> Path:
        """Return the ranked picks (`SELECTION_SCHEMA`)."""
        return self.folder / SELECTION_FILE

    @property
    def runners_up(self) -> Path:
        """Return who came after the picks, best first (`RUNNERS_UP_SCHEMA`); with `score.runners_up`."""
        return self.folder / "runners_up.parquet"

    @property
    def subsample(self) -> Path:
        """Return what scoring a part of the pool did to the picks; with `score.subsample` below 1."""
        return self.folder / "subsample.json"

    @property
    def shortfall(self) -> Path:
        """Return how many were asked for and chosen, and why not all; where fewer were chosen."""
        return self.folder / "shortfall.json"

    @property
    def labels(self) -> Path:
        """Return the labels received so far (`RECEIVED_SCHEMA`)."""
        return self.folder / "labels.parquet"

    @property
    def passed_over(self) -> Path:
        """Return the picks that were given up, since nobody can label them (`RUNNERS_UP_SCHEMA`); if any."""
        return self.folder / "passed_over.parquet"

    @property
    def to_label(self) -> Path:
        """Return what an annotator gets: `selection.csv` and the images."""
        return self.folder / "to_label"

    @property
    def committed(self) -> Path:
        """Return the marker that is written last."""
        return self.folder / "COMMITTED"


@dataclass(frozen=True)
class RunLayout:
    """The files of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """Return the resolved configuration."""
        return self.path / "config.yaml"

    @property
    def ledger(self) -> Path:
        """Return the append-only record."""
        return self.path / LEDGER_FILE

    @property
    def report(self) -> Path:
        """Return the page."""
        return self.path / REPORT_FILE

    @property
    def initial(self) -> RoundLayout:
        """Return the initial labelled set."""
        return RoundLayout(self.path / "initial", INITIAL)

    def round(self, number: int) -> RoundLayout:
        """Round `number`, from 0."""
        return RoundLayout(self.path / "rounds" / f"{number:03d}", number)

    def rounds(self) -> list[RoundLayout]:
        """Return the rounds that have begun, in their order, without the initial set."""
        names = [name for name in names_in(self.path / "rounds") if name.isdecimal()]
        return [self.round(int(name)) for name in names]
