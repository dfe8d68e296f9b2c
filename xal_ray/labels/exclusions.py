"""Leaves out of a pass's choice what a run has labelled or picked, and what a list names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.errors import LabelError, RunError
from xal_ray.labels.answers import Ids
from xal_ray.pool.schema import PoolReader, rows_of_splits
from xal_ray.record.layout import RunLayout
from xal_ray.record.ledger import Ledger
from xal_ray.storage import digest, read_table
from xal_ray.tables import open_written

ID_COLUMN = "image_id"


@dataclass(frozen=True)
class Exclusions:
    """Images of a pool that are not chosen again.

    Attributes:
        image_ids: Sorted, unique, all in the split `pool`.
        reasons: How many of them for what reason, in words.
    """

    image_ids: pa.Array
    reasons: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Hash the ids."""
        return digest(self.image_ids.to_pylist())

    def in_words(self, num_pool: int) -> str:
        """Return who is left to choose from, of so many images of the split `pool`."""
        parts = [f"{num_pool} images in the pool", *self.reasons]
        return f"{', '.join(parts)}: {num_pool - len(self.image_ids)} to choose from"


def find_exclusions(pool: PoolReader, run: Path | None, lists: tuple[Path, ...] = ()) -> Exclusions:
    """Return the images of a pool that a run has labelled or picked, and those that lists name.

    Raises:
        RunError: There is no run.
        LabelError: A list can't be read, or names no image of the pool.
    """
    in_pool = rows_of_splits(pool.index(), "pool")[ID_COLUMN].combine_chunks()
    found: list[pa.Array] = []
    reasons = []
    ids = Ids(set(pool.index()[ID_COLUMN].to_pylist()), ()) if lists else None
    if run is not None:
        known = in_pool.filter(pc.is_in(in_pool, value_set=labelled_or_picked(run)))
        found.append(known)
        same = _pool_hash(run) == pool.content_hash
        note = "" if same else " (found by image_id: that run was on another pool)"
        reasons.append(f"{len(known)} labelled or picked in {run} left out{note}")
    for path in lists:
        named = read_ids(path, ids)
        known = in_pool.filter(pc.is_in(in_pool, value_set=named))
        strange = sum(name not in ids.known for name in named.to_pylist()) if ids else 0
        if strange and strange == len(named):
            raise LabelError(
                "no image of a list is in the pool",
                expected=f"values of the pool's column {ID_COLUMN}",
                found=repr(named[0].as_py()),
                where=str(path),
                next_step="give the list that belongs to this pool, or leave out --exclude",
            )
        found.append(known)
        of_no_image = f" ({strange} of its rows name no image of this pool)" if strange else ""
        reasons.append(f"{len(known)} of {path} left out{of_no_image}")
    if run is None and not lists:
        reasons.append("none left out (the model lies in no run: --run or --exclude says what is labelled)")
    left = pa.concat_arrays(found) if found else pa.array([], pa.string())
    return Exclusions(pa.array(sorted(set(left.to_pylist())), pa.string()), tuple(reasons))


def run_of_model(model: Path) -> Path | None:
    """Return the run that a model belongs to, where it lies in one: `RUN/rounds/NNN` or its weights file.

    A path may lead there by a link, or from within (`.`).
    """
    for path in (model, model.resolve()):
        folder = path.parent if path.suffix == ".safetensors" else path
        run = folder.parent.parent
        if folder.parent.name == "rounds" and folder.name.isdecimal() and RunLayout(run).ledger.is_file():
            return run
    return None


def labelled_or_picked(run: Path) -> pa.Array:
    """Return the ids of all images that a run has a label of, or waits for one, round by round.

    Raises:
        RunError: There is no run, or its ledger is damaged.
    """
    ledger, *selections = files_of_run(run)
    ids = set(Ledger(ledger).labels())
    for selection in selections:
        ids.update(read_table(selection, [ID_COLUMN])[ID_COLUMN].to_pylist())
    return pa.array(sorted(ids), pa.string())


def files_of_run(run: Path) -> list[Path]:
    """Return the files that say which images a run has labelled or picked: the ledger, then each selection.

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


def read_ids(path: Path, ids: Ids | None = None) -> pa.Array:
    """Return the ids that a list names: any table with a column `image_id`, or a plain id a line.

    Args:
        path: The list.
        ids: Those of a pool: then names of image files are read as ids, too.

    Raises:
        LabelError: It can't be read, or lacks the column.
    """
    data = _bytes_of(path)
    table = open_written(path, "a list of images", LabelError, (ID_COLUMN,), data=data)
    names = table.header.names
    at = table.header.find(ID_COLUMN)
    if at is None and len(names) == 1 and not data.startswith(b"PAR1"):
        (column,) = table.read([0]).columns
        cells: list[str | None] = [names[0], *column]
    elif at is not None:
        (cells,) = table.read([at]).columns
    elif not names:
        cells = []
    else:
        near = table.header.nearest(ID_COLUMN, ())
        raise LabelError(
            f"a list of images lacks the column '{ID_COLUMN}'",
            expected=f"a column {ID_COLUMN}, or a plain id a line",
            found=table.header.shown(),
            where=str(path),
            next_step=f"rename '{near}' to {ID_COLUMN}" if near else "name the column, or give the ids alone",
        )
    # An exported table has a quote before an id that a spreadsheet would take for a formula.
    texts = [cell.removeprefix("'") for cell in cells if cell]
    return pa.array([(ids.of(text) if ids else None) or text for text in texts], pa.string())


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LabelError(
            "a list of images can't be read",
            expected=f"a Parquet or CSV file with a column {ID_COLUMN}, or a plain id a line",
            found=error.strerror or type(error).__name__,
            where=str(path),
            next_step="correct --exclude",
        ) from error
