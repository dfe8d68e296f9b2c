"""Splits: groups are dealt out to pool, validation and test, whole and by hash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from xal_ray.config import Splits
from xal_ray.pool.manifest import side_of
from xal_ray.seeds import derive_seed


@dataclass
class _Group:
    """The rows of one group."""

    group_id: str
    draw: float  # in [0, 1), from the group's id and the seed alone
    labels: Counter[str | None] = field(default_factory=Counter)
    split: str | None = None  # as the source has it

    @property
    def num_images(self) -> int:
        return self.labels.total()

    @property
    def majority_label(self) -> str:
        return min((-count, str(label)) for label, count in self.labels.items())[1]


def assign_splits(table: pa.Table, settings: Splits) -> pa.Table:
    """Give every row a split, so that no group is cut.

    Rows that have a split keep it, and the rest of their group follows (`pool` for a group that has rows in
    `labeled`). Groups with a row without a label go to `pool`: nothing can be measured on it, and its patient
    must not stand in the test set beside the pool. All other groups are dealt out by a hash of their id and
    the seed: the order of rows does not matter.

    With `stratify` the fractions hold within each class (a group counts for its most frequent label, and by
    its images), and a class with three groups or more has one in `val` and `test` each; groups that come
    later may move others. Without, a group's split depends on its id, the seed and the fractions alone.

    Args:
        table: Rows with `group_id`, `label` and `split`: of a manifest, or what reading made of it.
        settings: Fractions, of what is dealt out, and seed.

    Returns:
        The table with its rows in the same order and no null in `split`.
    """
    groups = _collect(table, settings.seed)
    dealt = [group for group in groups.values() if group.split is None and None not in group.labels]
    test_and_val = _deal_within_classes(dealt, settings) if settings.stratify else _deal_each(dealt, settings)
    split_of = {group_id: group.split or "pool" for group_id, group in groups.items()} | test_and_val
    splits = [
        split or split_of[group]
        for split, group in zip(table["split"].to_pylist(), table["group_id"].to_pylist(), strict=True)
    ]
    position = table.schema.get_field_index("split")
    return table.set_column(position, table.schema.field("split"), pa.array(splits, pa.string()))


def _collect(table: pa.Table, seed: int) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    columns = (table[name].to_pylist() for name in ("group_id", "label", "split"))
    for group_id, label, split in zip(*columns, strict=True):
        if group_id not in groups:
            groups[group_id] = _Group(group_id, derive_seed("split", seed, group_id) / 2**63)
        groups[group_id].labels[label] += 1
        if split is not None:
            groups[group_id].split = "pool" if side_of(split) == "train" else split
    return groups


def _deal_each(groups: Iterable[_Group], settings: Splits) -> dict[str, str]:
    """Deal out each group by itself: its draw falls into test, val, or neither."""
    dealt = {}
    for group in groups:
        if group.draw < settings.test:
            dealt[group.group_id] = "test"
        elif group.draw < settings.test + settings.val:
            dealt[group.group_id] = "val"
    return dealt


def _deal_within_classes(groups: Iterable[_Group], settings: Splits) -> dict[str, str]:
    strata: dict[str, list[_Group]] = {}
    for group in sorted(groups, key=lambda group: (group.draw, group.group_id)):
        strata.setdefault(group.majority_label, []).append(group)
    dealt: dict[str, str] = {}
    for stratum in strata.values():
        num_images = sum(group.num_images for group in stratum)
        left = stratum
        for split, fraction, reserved in (
            ("test", settings.test, 1 + (settings.val > 0)),
            ("val", settings.val, 1),
        ):
            # At least one group stays in the pool, and one is kept for val if there are three.
            reserved = reserved if len(stratum) >= 3 else 1
            taken = _take(left, fraction * num_images, len(left) - reserved, must=len(stratum) >= 3)
            dealt |= {group.group_id: split for group in taken}
            left = [group for group in left if group.group_id not in dealt]
    return dealt


def _take(groups: list[_Group], quota: float, at_most: int, *, must: bool) -> list[_Group]:
    """Take groups in their order, each if it brings the number of images nearer to the quota.

    Args:
        groups: In the order of their draws.
        quota: Images to take; 0 takes nothing.
        at_most: Groups to take.
        must: Take one even if each is too large: the smallest.
    """
    if quota == 0:
        return []
    taken: list[_Group] = []
    num_images = 0
    for group in groups:
        if len(taken) < at_most and abs(num_images + group.num_images - quota) < abs(num_images - quota):
            taken.append(group)
            num_images += group.num_images
    if must and not taken:
        taken.append(min(groups, key=lambda group: group.num_images))
    return taken
