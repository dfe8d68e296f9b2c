"""What a single pass leaves out of its choice: what a run has labelled or picked, and what a list names."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.errors import LabelError, RunError, StorageError
from xal_ray.layout import RunLayout
from xal_ray.ledger import Ledger
from xal_ray.pool.schema import PoolReader, rows_of_splits
from xal_ray.storage import digest, read_table

ID_COLUMN = "image_id"


@dataclass(frozen=True)
class LeftOut:
    """Images of a pool that are not chosen again.

    Attributes:
        image_ids: Sorted, unique, all in the split `pool`.
        reasons: How many of them for what reason, in words.
    """

    image_ids: pa.Array
    reasons: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of the ids."""
        return digest(self.image_ids.to_pylist())

    def in_words(self, num_pool: int) -> str:
        """Who is left to choose from, of so many images of the split `pool`."""
        parts = [f"{num_pool} images in the pool", *self.reasons]
        return f"{', '.join(parts)}: {num_pool - len(self.image_ids)} to choose from"


def left_out(pool: PoolReader, run: Path | None, lists: tuple[Path, ...] = ()) -> LeftOut:
    """The images of a pool that a run has labelled or picked, and those that lists name.

    Raises:
        RunError: There is no run.
        LabelError: A list can't be read, or names no image of the pool.
    """
    in_pool = rows_of_splits(pool.index(), "pool")[ID_COLUMN].combine_chunks()
    found: list[pa.Array] = []
    reasons = []
    if run is not None:
        known = in_pool.filter(pc.is_in(in_pool, value_set=labelled_or_picked(run)))
        found.append(known)
        same = _pool_hash(run) == pool.content_hash
        note = "" if same else " (found by image_id: that run was on another pool)"
        reasons.append(f"{len(known)} labelled or picked in {run} left out{note}")
    for path in lists:
        named = read_ids(path)
        known = in_pool.filter(pc.is_in(in_pool, value_set=named))
        if (
            len(named)
            and not pc.any(pc.is_in(named, value_set=pool.index()[ID_COLUMN].combine_chunks())).as_py()
        ):
            raise LabelError(
                "no image of a list is in the pool",
                expected=f"values of the pool's column {ID_COLUMN}",
                found=repr(named[0].as_py()),
                where=str(path),
                next_step="give the list that belongs to this pool, or leave out --exclude",
            )
        found.append(known)
        reasons.append(f"{len(known)} of {path} left out")
    ids = pa.concat_arrays(found) if found else pa.array([], pa.string())
    return LeftOut(pa.array(sorted(set(ids.to_pylist())), pa.string()), tuple(reasons))


def run_of_model(model: Path) -> Path | None:
    """The run that a model belongs to, where it lies in one: `RUN/rounds/NNN` or its weights file."""
    folder = model.parent if model.suffix == ".safetensors" else model
    run = folder.parent.parent
    is_one = folder.parent.name == "rounds" and folder.name.isdecimal() and RunLayout(run).ledger.is_file()
    return run if is_one else None


def labelled_or_picked(run: Path) -> pa.Array:
    """The ids of all images that a run has a label of, or waits for one, round by round.

    Raises:
        RunError: There is no run, or its ledger is damaged.
    """
    ledger, *selections = files_of_run(run)
    ids = set(Ledger(ledger).labels())
    for selection in selections:
        ids.update(read_table(selection, [ID_COLUMN])[ID_COLUMN].to_pylist())
    return pa.array(sorted(ids), pa.string())


def files_of_run(run: Path) -> list[Path]:
    """The files that say which images a run has labelled or picked: the ledger, then each selection.

    Raises:
        RunError: There is no run.
    """
    layout = RunLayout(run)
    if not layout.ledger.is_file():
        raise RunError(
            "there is no run here",
            expected="a folder with a ledger.jsonl, made by `xal-ray run`",
            where=str(run),
            next_step="give the run's folder as --run",
        )
    selections = [files.selection for files in [layout.initial, *layout.rounds()]]
    return [layout.ledger, *(path for path in selections if path.is_file())]


def _pool_hash(run: Path) -> str:
    return str(Ledger(RunLayout(run).ledger).records[0].data["pool_hash"])


def read_ids(path: Path) -> pa.Array:
    """The ids that a list names: a Parquet or CSV file with a column `image_id`, or a plain id a line.

    Raises:
        LabelError: It can't be read.
    """
    try:
        if path.suffix == ".parquet":
            return read_table(path, [ID_COLUMN])[ID_COLUMN].combine_chunks().cast(pa.string())
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError, StorageError, pa.ArrowException) as error:
        raise LabelError(
            "a list of images can't be read",
            expected=f"a Parquet or CSV file with a column {ID_COLUMN}, or a plain id a line, in UTF-8",
            found=str(error).split("\n")[0],
            where=str(path),
            next_step="correct --exclude",
        ) from error
    header = [name.strip() for name in next(csv.reader(lines[:1]), [])]
    if ID_COLUMN in header:
        at = header.index(ID_COLUMN)
        ids = [row[at] for row in csv.reader(lines[1:]) if len(row) > at]
    elif len(header) > 1:
        raise LabelError(
            f"a list of images lacks the column '{ID_COLUMN}'",
            expected=f"a column {ID_COLUMN}, or a plain id a line",
            found=", ".join(header),
            where=str(path),
            next_step="name the column, or give the ids alone",
        )
    else:
        ids = lines
    # An exported table has a quote before an id that a spreadsheet would take for a formula.
    return pa.array([text for name in ids if (text := name.strip().removeprefix("'"))], pa.string())
