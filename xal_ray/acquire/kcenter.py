"""Greedy k-center: each pick is the image that is farthest from all that is labelled or picked already."""

from __future__ import annotations

import numpy as np

from xal_ray.acquire.batch import Batch, Choice
from xal_ray.acquire.distances import nearest_squared
from xal_ray.config import Select


def kcenter(batch: Batch, settings: Select, seed: int) -> Choice:
    """Cover the shortlist with balls around labelled and picked images, their largest radius small.

    The greedy radius is at most twice the smallest possible one, where no cap per group binds. Of equal
    distances, the image that is higher on the shortlist is picked. Where nothing is labelled yet, the
    shortlist's first image is the first pick. The utility of a pick is its distance to the nearest labelled
    or picked image when it was picked (of the shortlist's first image, the second pick's): Euclidean, in the
    unit of the embeddings, so it never rises.

    Args:
        batch: The shortlist and what is labelled.
        settings: Its `query_size` and `max_per_group`.
        seed: Unused: nothing is drawn.

    Returns:
        The picks in their order.

    Source:
        Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR
        2018, algorithm 1 (greedy, without the mixed integer program). There all unlabelled images take part:
        `select.shortlist: all`.
    """
    squares = nearest_squared(batch.embeddings, batch.known.embeddings)
    names, group_of = np.unique(batch.groups, return_inverse=True)
    room = np.full(len(names), settings.max_per_group or batch.num_rows)
    is_open = np.ones(batch.num_rows, dtype=bool)
    rows: list[int] = []
    distances: list[float] = []
    while len(rows) < settings.query_size and is_open.any():
        row = int(np.where(is_open, squares, -1.0).argmax())
        rows.append(row)
        distances.append(float(np.sqrt(squares[row])))
        is_open[row] = False
        room[group_of[row]] -= 1
        is_open &= room[group_of] > 0
        squares = np.minimum(squares, nearest_squared(batch.embeddings, batch.embeddings[row : row + 1]))
    starts_from_nothing = bool(rows) and np.isinf(distances[0])
    if starts_from_nothing:
        distances[0] = distances[1] if len(distances) > 1 else 0.0

    def reason(position: int) -> str:
        if starts_from_nothing and not position:
            return "first on the shortlist: no image is labelled yet"
        return f"distance {distances[position]:.3g} to the nearest labelled or picked image"

    return Choice(np.array(rows, dtype=np.intp), np.array(distances), reason)
