"""A run that is open: its configuration, pool, files and ledger, bound together and locked."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from xal_ray.config import Config
from xal_ray.engine.activations import keep_activations
from xal_ray.engine.context import StageContext
from xal_ray.errors import RunError
from xal_ray.loop.binding import (
    PLUG_IN_CHANGED,
    bound_to,
    differing_keys,
    identify,
    is_only_unused_code,
    other_config,
)
from xal_ray.places import is_remote, place
from xal_ray.pool.activations import ActivationReader
from xal_ray.pool.schema import PoolReader, rows_of_splits
from xal_ray.record.events import RecordData, StageFigures
from xal_ray.record.layout import INITIAL, RoundLayout, RunLayout
from xal_ray.record.ledger import CheckLock, Ledger, is_lock
from xal_ray.storage import TEMPORARY_SUFFIX, digest, names_in, remove_leftovers, write_bytes

_PACKAGES = ("xal-ray", "ray", "torch", "torchvision", "pyarrow", "numpy", "grad-cam")


@dataclass(frozen=True)
class Run:
    """An open run.

    Attributes:
        config: Its configuration. `num_rounds` is not below the number of rounds that have chosen.
        context: What its stages share.
        answerable: Ids of the images that can be labelled at all; None: all.
    """

    config: Config
    pool: PoolReader
    layout: RunLayout
    ledger: Ledger
    context: StageContext
    answerable: pa.Array | None = None

    @property
    def run_id(self) -> str:
        """Return the identity that the ledger is bound to."""
        return str(bound_to(self.ledger).data["run_id"])

    @cached_property
    def index(self) -> pa.Table:
        """Return the pool's index."""
        return self.pool.index()

    def make_activations(self) -> ActivationReader | None:
        """Run the frozen backbone over the pool, if the configuration keeps what it makes of the images.

        The first call does the pass, or opens what an earlier run has kept; later calls return the same.
        """
        return self._kept_activations if self.config.model.cache_activations else None

    @cached_property
    def _kept_activations(self) -> ActivationReader:
        return keep_activations(self.pool, self.config.model, self.context)

    def labels(self) -> dict[str, str]:
        """Return what is labelled now: the manifest's labelled rows, and the fold over the ledger."""
        given = rows_of_splits(self.index, "labeled")
        known = dict(zip(given["image_id"].to_pylist(), given["label"].to_pylist(), strict=True))
        return known | self.ledger.labels()

    def candidates(self) -> npt.NDArray[np.bool_]:
        """(n,) which rows of the index may be chosen: of the pool split, not chosen yet, answerable."""
        image_ids = self.index["image_id"]
        chosen = pc.is_in(image_ids, pa.array(list(self.ledger.chosen()), pa.string()))
        open_rows = pc.and_(pc.equal(self.index["split"], "pool"), pc.invert(chosen))
        if self.answerable is not None:
            open_rows = pc.and_(open_rows, pc.is_in(image_ids, self.answerable))
        found: npt.NDArray[np.bool_] = open_rows.to_numpy()
        return found

    def unlabelled(self) -> pa.Table:
        """Index rows of the candidates."""
        return self.index.filter(pa.array(self.candidates()))

    def absent_classes(self) -> list[str]:
        """Return the classes that no label names yet."""
        present = set(self.labels().values())
        return [name for name in self.pool.classes if name not in present]

    def asks(self, files: RoundLayout) -> bool:
        """Return whether a round chooses; the one after the last query only trains and evaluates."""
        return files.number < self.config.num_rounds

    def found_none_left(self, files: RoundLayout) -> bool:
        """Return whether a committed round had nothing left to choose from: it is the last."""
        record = self.ledger.commit(files.number)
        chosen = self.ledger.has_chosen(files.number) and record is not None
        return chosen and not (record.data["selected"].get("images") if record else None)

    def is_finished(self) -> bool:
        """Return whether nothing is left to do."""
        if self.ledger.records[-1].event != "run_finished":
            return False
        last = max(record.round or 0 for record in self.ledger.records if record.event == "round_committed")
        return last >= self.config.num_rounds or self.found_none_left(self.layout.round(last))

    def with_class_index(self, labels: dict[str, str]) -> pa.Table:
        """References and class indices of labelled rows, sorted by image_id: what training reads."""
        rows = self.index.filter(pc.is_in(self.index["image_id"], pa.array(list(labels), pa.string())))
        positions = {name: number for number, name in enumerate(self.pool.classes)}
        indices = np.array([positions[labels[key]] for key in rows["image_id"].to_pylist()], dtype=np.int64)
        return rows.select(["image_id", "part", "row"]).append_column("label", pa.array(indices, pa.int64()))

    def is_committed(self, files: RoundLayout) -> bool:
        """Return whether a round is over. A crash between the ledger's line and the marker is mended here.

        A round that only trained is open again where `num_rounds` was raised since.
        """
        record = self.ledger.commit(files.number)
        if record is None:
            if files.committed.exists():
                raise RunError(
                    f"{files.title} is marked as committed, but the ledger does not know of it",
                    where=str(files.committed),
                    next_step="restore ledger.jsonl from a backup, or start a new run with another --out",
                )
            return False
        if files.number != INITIAL and self.asks(files) and not self.ledger.has_chosen(files.number):
            files.committed.unlink(missing_ok=True)
            return False
        if not files.committed.exists():
            write_bytes(files.committed, record.hash.encode() + b"\n")
        return True

    @contextmanager
    def stage(self, name: str, files: RoundLayout) -> Iterator[StageFigures]:
        """Record how long a stage took, and what it puts into the dictionary that it is given."""
        begin = time.monotonic()
        record: StageFigures = {}
        yield record
        seconds = round(time.monotonic() - begin, 3)
        self.ledger.append("stage_finished", round_number=files.number, stage=name, seconds=seconds, **record)


def open_run(
    config: Config,
    pool: PoolReader,
    layout: RunLayout,
    context: StageContext,
    check_lock: CheckLock = lambda: None,
    answerable: pa.Array | None = None,
) -> Run:
    """Begin a run in a new folder, or take up the one that is there.

    Args:
        config: As it was given; what is no part of a run's identity may differ from what the run began with.
        pool: The pool.
        layout: The run's folder.
        context: What the run's stages share.
        check_lock: What `locked` gave.
        answerable: Ids of the images that can be labelled at all; None: all.

    Raises:
        RunError: The folder belongs to another configuration or holds something else.
    """
    ledger = Ledger(layout.ledger, check_lock)
    run_id = identify(config, pool)
    config = _not_below_what_was_asked(config, layout, ledger)
    resolved = _as_yaml(config)
    bound: RecordData = {"run_id": run_id, "config_hash": digest(config.identity())}
    if config.plug_ins():
        bound["plug_ins"] = config.plug_ins()
    if not ledger.records:
        _refuse_strangers(layout, resolved)
        write_bytes(layout.config, resolved)
        bound["pool_hash"] = pool.content_hash
        bound["versions"] = {name: importlib.metadata.version(name) for name in _PACKAGES}
        ledger.append("run_started", **bound)
    elif bound_to(ledger).data["run_id"] != run_id:
        if not is_only_unused_code(config, pool, layout, ledger):
            raise other_config(config, pool, layout, ledger)
        context.reporter.line(
            f"{config.select.spec.title} has changed; it has chosen nothing yet, so the run goes on"
        )
        ledger.append(PLUG_IN_CHANGED, **bound)
    remove_leftovers(layout.path)
    run = Run(config, pool, layout, ledger, context, answerable)
    if not run.is_finished() and layout.config.read_bytes() != resolved:
        write_bytes(layout.config, resolved)
    return run


def check_folder(config: Config, pool: PoolReader | None, layout: RunLayout) -> None:
    """Refuse a folder that `open_run` would refuse, without writing to it.

    Args:
        config: The run.
        pool: Its pool; None: not known yet, so that only the keys are compared.
        layout: The run's folder, on a disk.

    Raises:
        RunError: It belongs to another configuration or holds something else.
    """
    ledger = Ledger(layout.ledger)
    if not ledger.records:
        _refuse_strangers(layout, _as_yaml(config))
    elif pool is None or is_remote(place(config.model.weights)):
        if differing_keys(config, layout, ledger):
            raise other_config(config, pool, layout, ledger)
    elif bound_to(ledger).data["run_id"] != identify(config, pool) and not is_only_unused_code(
        config, pool, layout, ledger
    ):
        raise other_config(config, pool, layout, ledger)


def _not_below_what_was_asked(config: Config, layout: RunLayout, ledger: Ledger) -> Config:
    """With as many rounds as have asked for labels, where `num_rounds` was lowered: they were paid for."""
    asked = [
        files.number
        for files in layout.rounds()
        if ledger.has_chosen(files.number) or files.selection.exists()
    ]
    least = max(asked, default=-1) + 1
    return config.model_copy(update={"num_rounds": max(config.num_rounds, least)})


def _as_yaml(config: Config) -> bytes:
    """Return the resolved configuration; the pool's path is absolute, so that it is found from anywhere."""
    tree = config.model_dump(mode="json")
    tree["pool"]["path"] = str(config.pool_path().resolve())
    return yaml.safe_dump(tree, sort_keys=False).encode()


def _refuse_strangers(layout: RunLayout, resolved: bytes) -> None:
    # A crash right at its beginning leaves a run with its configuration and an empty ledger at most.
    names = names_in(layout.path)
    own = {name for name in names if is_lock(name)}
    own |= {
        name
        for name in names
        if name.startswith(f".{layout.config.name}.") and name.endswith(TEMPORARY_SUFFIX)
    }
    if layout.config.name in names and layout.config.read_bytes() == resolved:
        own.add(layout.config.name)
    if layout.ledger.name in names and not layout.ledger.stat().st_size:
        own.add(layout.ledger.name)
    strangers = [name for name in names if name not in own]
    if strangers:
        raise RunError(
            "the output folder holds something else than a run",
            found=strangers[0],
            where=str(layout.path),
            next_step="give another --out",
        )
