"""Says what a strategy owes, and holds those of other packages to it.

A strategy ranks the unlabelled images that have scores. Its record (`registry/strategies.py`) says by which
columns, and by which kind of code. Two kinds rank row by row (the third, `batch`, is in `acquire/batch.py`):

`row_wise`   `(columns, settings) -> utilities`: the columns of some rows, (n,) float64 each, by the names
             that the record has, to the rows' utilities. It is called chunk by chunk.
`ranker`     `(replay, settings, seed) -> rank`: goes over all rows, as often as it needs to, for what it
             must know of them, and answers with a function that makes a `Ranking` of any chunk of them. It
             may hold a fixed amount of memory, not a column: a pool may have a hundred million rows.

Either owes:
- utilities (n,), from 0 to 1 and finite; the largest are labelled first. The columns that it reads are from 0
  to 1 themselves; those of regions of interest (`ROI_COLUMNS`) are NaN where an image has none, and it is to
  have a utility all the same;
- that a row's utility depends on this row alone and, with a ranker, on what it has learnt of the whole table:
  never on the rows beside it, on their order or on where the chunks are cut. What is drawn is drawn from the
  seed and the image's id (`acquire/draws.py`), so that a run can be repeated;
- that it leaves its arguments as they are, and does without the keys of `select` that its record's `settings`
  lack: these are at their defaults, since they are no part of a run's identity.

Order, ties, the cap per group, the number of images and the checks are `select`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from xal_ray.acquire.distribution import FloatArray
from xal_ray.acquire.streaming import Candidates, Replay
from xal_ray.config import Select
from xal_ray.errors import PluginError, XalRayError
from xal_ray.registry.importing import blaming
from xal_ray.registry.strategies import SETTINGS, UNCERTAINTY, StrategySpec

_MOST_SHOWN = 3  # columns in a reason


@dataclass(frozen=True)
class Ranking:
    """Holds what a strategy answers about a chunk.

    Attributes:
        utilities: (n,) float64 in [0, 1]; higher is chosen first.
        reason: A row's reason, a short sentence; asked for the chosen rows only.
        second: (n,) float64, finite: what decides between rows of one utility; None = nothing.
    """

    utilities: FloatArray
    reason: Callable[[int], str]
    second: FloatArray | None = None


Columns = Mapping[str, FloatArray]
RowWise = Callable[[Columns, Select], FloatArray]
Rank = Callable[[Candidates], Ranking]
Ranker = Callable[[Replay, Select, int], Rank]


def rank_of(spec: StrategySpec, replay: Replay, settings: Select, seed: int) -> Rank:
    """Load a strategy, and let it learn what it must know of the whole table.

    Args:
        spec: Its record.
        replay: Goes over the scored images.
        settings: The `select` section.
        seed: Of this round.

    Returns:
        What ranks any chunk of them.

    Raises:
        PluginError: It is another package's and failed or breaks its contract. What is returned raises it
            too.
    """
    code, own = spec.load(), own_settings(spec, settings)
    if spec.origin is None:
        return _as_rank(spec, code, replay, own, seed)
    rank = _as_rank(spec, _blaming(spec, code), lambda: map(_read_only, replay()), own, seed)
    return _Held(spec, _blaming(spec, rank) if spec.kind == "ranker" else rank).rank


def own_settings(spec: StrategySpec, settings: Select) -> Select:
    """Return the section with what the strategy does not read at its default, so that it can't matter."""
    usual = {key: Select.model_fields[key].default for key in SETTINGS if not spec.reads(key)}
    return settings.model_copy(update=usual)


def short(value: float) -> str:
    """Return two decimals without the leading zero: .81."""
    return f"{value:.2f}".removeprefix("0")


def breach(spec: StrategySpec, expected: str, found: str) -> PluginError:
    """Make the error for a strategy of another package that does not keep its contract."""
    return PluginError(
        f"the strategy {spec.title} breaks its contract",
        expected=expected,
        found=found,
        next_step="mend it (xal_ray.acquire.contract says what it owes), and give the same command again",
    )


def checked_reason(spec: StrategySpec, text: Any) -> str:
    """Return a strategy's reason for a pick.

    Raises:
        PluginError: It is no text, or blank.
    """
    if not isinstance(text, str) or not text.strip():
        raise breach(spec, "reasons that are sentences", repr(text))
    return text


def _as_rank(spec: StrategySpec, code: Any, replay: Replay, settings: Select, seed: int) -> Rank:
    if spec.kind == "ranker":
        ranker: Ranker = code
        return ranker(replay, settings, seed)
    row_wise: RowWise = code
    names = {name: settings.uncertainty if name == UNCERTAINTY else name for name in spec.columns}
    label = spec.name.rpartition(":")[2].replace("_", " ")
    shown = [name for name in dict.fromkeys(names.values()) if name != spec.name][:_MOST_SHOWN]

    def rank(chunk: Candidates) -> Ranking:
        columns = {name: chunk.column(source) for name, source in names.items()}
        utilities = row_wise(columns, settings)

        def reason(row: int) -> str:
            known = ((name, chunk.columns[name][row]) for name in shown)
            of = ", ".join(f"{name.replace('_', ' ')} {short(v)}" for name, v in known if not np.isnan(v))
            return f"{label} {short(utilities[row])}" + (f" of {of}" if of else "")

        return Ranking(utilities, reason)

    return rank


class _Held:
    """Holds a strategy of another package to its contract chunk by chunk."""

    def __init__(self, spec: StrategySpec, rank: Rank) -> None:
        self._spec, self._rank = spec, rank
        self._is_tried = False

    def rank(self, chunk: Candidates) -> Ranking:
        """Return its ranking of a chunk.

        Raises:
            PluginError: It failed or breaks its contract.
        """
        found = self._checked(chunk)
        if not self._is_tried and chunk.num_rows > 1:
            self._is_tried = True
            # One half lacks the largest, the other the smallest: what it may have been scaled by.
            order = np.argsort(found.utilities, kind="stable")
            for rows in (order[: chunk.num_rows // 2], order[: chunk.num_rows // 2 - 1 : -1]):
                if not np.allclose(
                    self._checked(chunk.take(rows)).utilities, found.utilities[rows], rtol=1e-6
                ):
                    raise breach(
                        self._spec,
                        "utilities that do not depend on the rows beside a row",
                        "others for the same rows in a smaller chunk",
                    )
        return found

    def _checked(self, chunk: Candidates) -> Ranking:
        found = self._rank(_read_only(chunk))
        if not isinstance(found, Ranking):
            raise breach(self._spec, "a Ranking", f"a {type(found).__name__}")
        second = found.second
        if second is not None:
            second = self._numbers("second utilities", second, chunk.num_rows)
        utilities = self._numbers("utilities", found.utilities, chunk.num_rows)
        wrong = utilities[(utilities < 0.0) | (utilities > 1.0)]
        if len(wrong):
            raise breach(self._spec, "utilities from 0 to 1", f"{wrong[0]:g} ({len(wrong)} rows of a chunk)")
        return Ranking(utilities, self._reasons(found.reason), second)

    def _numbers(self, title: str, found: Any, num_rows: int) -> FloatArray:
        values = np.asarray(found)
        if values.shape != (num_rows,):
            raise breach(self._spec, f"{title} of shape ({num_rows},)", f"shape {values.shape}")
        if values.dtype.kind not in "fiub":
            raise breach(self._spec, f"{title} that are numbers", f"{values.dtype}")
        values = values.astype(np.float64)
        num_wrong = int((~np.isfinite(values)).sum())
        if num_wrong:
            wrong = values[~np.isfinite(values)][0]
            raise breach(self._spec, f"finite {title}", f"{wrong} ({num_wrong} rows of a chunk)")
        return values

    def _reasons(self, reason: Callable[[int], str]) -> Callable[[int], str]:
        ask = _blaming(self._spec, reason)
        return lambda row: checked_reason(self._spec, ask(row))


def _blaming(spec: StrategySpec, code: Callable[..., Any]) -> Callable[..., Any]:
    """Return the code of another package, so that what it raises is said to be its own."""

    def call(*arguments: Any) -> Any:
        with blamed(spec):
            return code(*arguments)

    return call


def _read_only(chunk: Candidates) -> Candidates:
    """Return the same rows, which nobody can write into."""
    columns = {name: column.view() for name, column in chunk.columns.items()}
    for column in columns.values():
        column.flags.writeable = False
    return Candidates(chunk.num_rows, columns, lambda: chunk.image_ids)


@contextmanager
def blamed(spec: StrategySpec) -> Iterator[None]:
    """Say of an error whose code it comes from."""
    with blaming(lambda raised: breach(spec, "code that raises nothing", raised), XalRayError):
        yield
