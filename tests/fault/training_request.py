"""A small training for the tests that interrupt it, and a thread that waits for its moment."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console

from xal_ray import config
from xal_ray.engine.training.stage import TrainRequest
from xal_ray.pool.schema import PoolReader, rows_of_splits
from xal_ray.progress import Reporter

MAX_STEPS = 40
EVERY_STEPS = 4


def small_request(pool: PoolReader, **changes: object) -> TrainRequest:
    """Dropout, shifts, and a best epoch that is kept: all that a checkpoint must hold."""

    def of(split: str) -> pa.Table:
        rows = rows_of_splits(pool.index(), split)
        numbers = np.array([pool.classes.index(label) for label in rows["label"].to_pylist()])
        return rows.select(["image_id", "part", "row"]).append_column("label", pa.array(numbers, pa.int64()))

    settings = config.Train(
        **{
            "max_steps": MAX_STEPS,
            "eval_every_steps": 6,
            "patience": 100,
            "minibatch_size": 8,
            "num_threads": 1,
            **changes,
        }
    )
    model = config.Model(backbone="efficientnet_b0")
    return TrainRequest(pool, of("test"), of("val"), model, settings, None, 0, 11)


class Lines(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.said: list[str] = []

    def line(self, text: str) -> None:
        self.said.append(text)


def reported_step(folder: Path) -> int:
    """The step of the last checkpoint that Ray Train has below a folder; 0: there is none."""
    for snapshot in folder.glob("*/checkpoint_manager_snapshot.json"):
        try:
            latest = json.loads(snapshot.read_text())["latest_checkpoint_result"]
        except (ValueError, OSError):
            return 0  # it is being written
        return int(latest["metrics"].get("step", 0)) if latest else 0
    return 0


class AtCheckpoint(threading.Thread):
    """Does something once, as soon as a checkpoint of a later step is there."""

    def __init__(self, folder: Path, after: int, act: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.folder, self.after, self.act = folder, after, act
        self.step = 0

    def run(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            step = reported_step(self.folder)
            if step > self.after:
                self.act()
                self.step = step
                return
            time.sleep(0.01)
