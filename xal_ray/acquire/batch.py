"""The third kind of strategy, `batch`: one that chooses images together, out of a shortlist with embeddings.

A strategy that ranks row by row can't know that two images are alike. One of this kind is a function
`(batch, settings, seed) -> Choice`: it gets the m most uncertain images, the input of the model's last layer
for them and for what is labelled, and answers with an order of them (the bare row numbers will do). It owes:

- rows of the shortlist, none of them twice, in the order in which they are to be labelled. The order may go
  on after `query_size`: the first that the cap per group leaves room for are the picks, and there must be as
  many as can be (`query_size`, or all that the cap leaves room for);
- utilities, if it gives any, that are finite: in a unit of its own, and in no order;
- that the answer depends on the arguments alone. What is drawn is drawn from the seed and the image's id
  (`acquire/draws.py`). The shortlist comes in an order that depends on the candidates and the seed, never on
  the order of files, so "the first of those that are equal" is a way to break ties;
- that it leaves its arguments as they are, and bounds its own memory: with `select.shortlist: all` the list
  is the whole pool.

The shortlist and the checks are `acquire/shortlist.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xal_ray.acquire.distribution import FloatArray
from xal_ray.config import Select

Halves = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Known:
    """Holds images that need no label any more, aligned by row, sorted by id.

    Attributes:
        image_ids: n ids: labelled, or, in a single pass, picked before and left out of this choice.
        groups: n groups.
        embeddings: (n, d) float16, finite, of the same model as the shortlist's.
        was_picked: (n,) which of them were chosen to be labelled; the others came with a label.
    """

    image_ids: Sequence[str]
    groups: Sequence[str]
    embeddings: Halves
    was_picked: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Batch:
    """Holds what a strategy chooses from: a shortlist of m images, aligned by row, and what is labelled.

    Attributes:
        image_ids: m ids, unique: uncertainty descending, a hash of seed and id where it is equal.
        groups: m groups.
        utilities: (m,) float64 in [0, 1], descending: the column that `select.uncertainty` names.
        columns: (m,) float64 by name: that column, and those of numbers that the strategy's record has;
            columns of regions of interest are NaN where an image has none.
        embeddings: (m, d) float16, finite: the input of the model's last linear layer; (m, 0) where the
            strategy's record does not have `embedding`.
        known: What is labelled already; nothing where the strategy's record does not have `embedding`.
    """

    image_ids: Sequence[str]
    groups: Sequence[str]
    utilities: FloatArray
    columns: Mapping[str, FloatArray]
    embeddings: Halves
    known: Known

    @property
    def num_rows(self) -> int:
        """Return m, how many images are on the shortlist."""
        return len(self.image_ids)


@dataclass(frozen=True)
class Choice:
    """Holds what a strategy answers.

    Attributes:
        rows: Row numbers of the shortlist in the order of the choice.
        utilities: (len(rows),) float64: what decided; None = the shortlist's.
        reason: Gives the reason of a row by its position in `rows`, a short sentence; asked for picks only;
            None = its place on the shortlist.
    """

    rows: npt.ArrayLike
    utilities: npt.ArrayLike | None = None
    reason: Callable[[int], str] | None = None


@dataclass(frozen=True)
class Embeddings:
    """Says where a batch's embeddings come from.

    Attributes:
        of: Reads those of scored candidates, (m, d) float16, by their ids; asked once, for the shortlist.
        known: What is labelled already.
    """

    of: Callable[[Sequence[str]], Halves]
    known: Known


BatchFunction = Callable[[Batch, Select, int], Choice | npt.ArrayLike]
EMPTY = np.empty((0, 0), dtype=np.float16)
NOBODY = Known((), (), EMPTY, np.empty(0, dtype=bool))
