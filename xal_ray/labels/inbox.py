"""The inbox: labels that people made go into the round that waits for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from xal_ray.config import load_config
from xal_ray.errors import LabelError, RunError
from xal_ray.labels.table import merge, read_labels
from xal_ray.pool.leakage import check_groups
from xal_ray.pool.schema import open_pool
from xal_ray.record.layout import (
    INITIAL,
    LEAST_LABELS,
    RECEIVED_SCHEMA,
    RUNNERS_UP_SCHEMA,
    TO_LABEL_TABLE,
    RoundLayout,
    RunLayout,
)
from xal_ray.record.ledger import CheckLock, Ledger, locked
from xal_ray.storage import read_table, sha256_file, write_table


@dataclass(frozen=True)
class Received:
    """Holds what an import did.

    Attributes:
        round_title: The round that the labels are for.
        num_new: Labels that were not known before.
        num_missing: Picks of the round that still wait for one.
        num_passed_over: Picks that were given up.
    """

    round_title: str
    num_new: int
    num_missing: int
    num_passed_over: int = 0


def import_labels(
    run: Path,
    file: Path,
    *,
    label_column: str = "label",
    close: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Received:
    """Import labels into the round of a run that waits for them. Importing a file twice changes nothing.

    Args:
        run: The run's folder.
        file: The labels (see `labels/table.py`).
        label_column: The column with the classes.
        close: Pass over the picks that still have no label: the run goes on without, and never asks for them
            again.
        tell: Hears how the file was understood, where that is not plain.

    Raises:
        RunError: There is no run here, or another process works on it.
        LabelError: No round waits for labels, or a line does not fit; then nothing is imported.
        SourceError: A group of the pool stands on two sides of the splits.
    """
    layout = RunLayout(run)
    if not layout.ledger.is_file():
        raise RunError(
            "there is no run here",
            expected="a folder with a ledger.jsonl",
            where=str(run),
            next_step="give the run's folder first, then the file: xal-ray labels import RUN FILE",
        )
    with locked(run) as check_lock:
        ledger = Ledger(layout.ledger, check_lock)
        files = _waiting_round(layout, ledger, file)
        received = _import(layout, files, ledger, file, check_lock, label_column, tell)
        if close and received.num_missing and not ledger.has_chosen(files.number):
            received = _close(received, files, ledger, check_lock)
        return received


def _import(
    layout: RunLayout,
    files: RoundLayout,
    ledger: Ledger,
    file: Path,
    check_lock: CheckLock,
    label_column: str,
    tell: Callable[[str], None],
) -> Received:
    pool = open_pool(load_config(layout.config).pool_path())
    check_groups(pool.index())  # again, at each import: what is labelled must stay apart from what judges
    picked = read_table(files.selection)["image_id"].to_pylist()
    known = read_table(files.labels) if files.labels.exists() else RECEIVED_SCHEMA.empty_table()
    received = read_labels(file, pool, picked, label_column=label_column, tell=tell)
    merged = merge(known, received, files.labels)
    num_new = merged.num_rows - known.num_rows
    if num_new:
        check_lock()
        write_table(files.labels, merged)
    # More than these have no record where an import was killed between the two writes.
    num_to_record = max(num_new, merged.num_rows - _num_recorded(ledger, files))
    if num_to_record:
        ledger.append(
            "labels_imported",
            round_number=files.number,
            file_sha256=sha256_file(file),
            num_new=num_to_record,
        )
    waiting = set(picked) - set(merged["image_id"].to_pylist()) - _passed_over(files)
    return Received(files.title, num_new, len(waiting))


def _num_recorded(ledger: Ledger, files: RoundLayout) -> int:
    """Return how many labels of a round the ledger knows to have been imported."""
    imports = [record for record in ledger.records if record.event == "labels_imported"]
    return sum(record.data["num_new"] for record in imports if record.round == files.number)


def _passed_over(files: RoundLayout) -> set[str]:
    if not files.passed_over.exists():
        return set()
    return set(read_table(files.passed_over)["image_id"].to_pylist())


def _close(received: Received, files: RoundLayout, ledger: Ledger, check_lock: CheckLock) -> Received:
    """Pass over the picks without a label: images that nobody can label must not hold up the others."""
    labelled = set(read_table(files.labels)["image_id"].to_pylist()) if files.labels.exists() else set()
    if files.number == INITIAL and len(labelled) < LEAST_LABELS:
        raise LabelError(
            "there are too few labels to go on with",
            expected=f"at least {LEAST_LABELS} in the initial set",
            found=str(len(labelled)),
            where=str(files.folder),
            next_step="import more labels, then close the round",
        )
    picked = read_table(files.selection)["image_id"].to_pylist()
    passed_over = [image_id for image_id in picked if image_id not in labelled]
    check_lock()
    write_table(files.passed_over, pa.table({"image_id": passed_over}, schema=RUNNERS_UP_SCHEMA))
    ledger.append("labels_closed", round_number=files.number, num_passed_over=len(passed_over))
    return Received(received.round_title, received.num_new, 0, len(passed_over))


def _waiting_round(layout: RunLayout, ledger: Ledger, file: Path) -> RoundLayout:
    """Return the round that is exported and not committed; else the one that this very file went into."""
    exported = [
        files for files in [layout.initial, *layout.rounds()] if (files.to_label / TO_LABEL_TABLE).exists()
    ]
    if not exported:
        raise LabelError(
            "no round of this run waits for labels",
            where=str(layout.path),
            next_step="`xal-ray run` a configuration with labels.source=export until it says that it waits",
        )
    waiting = [files for files in exported if not ledger.has_chosen(files.number)]
    if waiting:
        return waiting[0]
    content = sha256_file(file) if file.is_file() else None
    for record in ledger.records:
        if record.event == "labels_imported" and record.data["file_sha256"] == content:
            return next(files for files in exported if files.number == record.round)
    raise LabelError(
        "no round of this run waits for labels: all that were exported are committed",
        where=str(layout.path),
        next_step="run the same `xal-ray run` command: it goes on",
    )
