"""Whose region of interest (ROI) an image gets where ROIs are shuffled: that of an image of another group.

Images of one group (a patient's slices) show the same lesion: with an ROI of its own group, a control would
know where to look.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xal_ray.acquire.distribution import IntArray
from xal_ray.acquire.draws import digests, uniform
from xal_ray.acquire.streaming import GroupsOf, Replay, TopRows

MOST_DONORS = 4096  # of a pool, whatever its size


class Donors:
    """Images whose ROIs are lent to images of other groups.

    Who lends to an image depends on the seed, its id and group, and on the set of donors: neither on the
    order of donors nor on which other images ask. A donor may lend to several.

    Args:
        image_ids: k donors.
        groups: Their groups.
        seed: Of the draw.
    """

    def __init__(self, image_ids: Sequence[str], groups: Sequence[str], *, seed: int) -> None:
        self._digest = digests("donor", seed)
        rows = zip(groups, image_ids, range(len(image_ids)), strict=True)
        ordered = sorted(rows)
        self._order = np.array([number for *_, number in ordered], dtype=np.intp)
        names, first, counts = np.unique(
            np.array([group for group, *_ in ordered], dtype=object), return_index=True, return_counts=True
        )
        self._span = dict(zip(names.tolist(), zip(first.tolist(), counts.tolist(), strict=True), strict=True))

    @property
    def num_groups(self) -> int:
        """Return how many groups lend."""
        return len(self._span)

    def of(self, image_ids: Sequence[str], groups: Sequence[str]) -> IntArray:
        """(n,) each image's donor, by its position among the donors; -1 where all are of the image's group.

        Args:
            image_ids: n images.
            groups: Their groups.
        """
        spans = [self._span.get(group, (0, 0)) for _, group in zip(image_ids, groups, strict=True)]
        first, own = np.array(spans, dtype=np.intp).reshape(-1, 2).T
        others = len(self._order) - own
        place = (uniform(self._digest, image_ids) * others).astype(np.intp)
        place += np.where(place >= first, own, 0)  # past the image's own group
        donors = np.full(len(spans), -1, dtype=np.intp)
        lent = others > 0
        donors[lent] = self._order[place[lent]]
        return donors


def draw_donors(replay: Replay, groups: GroupsOf, *, seed: int) -> Sequence[str]:
    """Draw the donors of a pool: images with an ROI, uniformly, in one pass and in bounded memory.

    Args:
        replay: Goes over the pool, with the column `roi_area`.
        groups: The groups of image_ids.
        seed: Of the draw.

    Returns:
        At most `MOST_DONORS` ids, which depend on the set of images alone. At most half of them are of one
        group, so that its images find donors too.
    """
    digest = digests("lends", seed)
    best = TopRows(MOST_DONORS, seed=seed, cap=MOST_DONORS // 2, groups=groups)
    for chunk in replay():
        with_roi = np.flatnonzero(chunk.column("roi_area") > 0.0)
        if len(with_roi):
            lenders = chunk.take(with_roi)
            best.add(lenders, uniform(digest, lenders.image_ids))
    return best.best().image_ids
