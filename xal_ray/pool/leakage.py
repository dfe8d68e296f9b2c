"""Leakage: what lets a model be judged on patients or pictures that it was trained on.

A group on two sides is an error. Pictures that look alike, and public sets that share images, are warned of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.errors import SourceError
from xal_ray.pool.breakdown import aligned
from xal_ray.pool.manifest import side_of
from xal_ray.pool.near_duplicates import Near, near_pairs, near_rows
from xal_ray.pool.perceptual_hash import codes_of
from xal_ray.pool.schema import SPLITS
from xal_ray.pool.warnings_table import Warned

_NUM_EXAMPLES = 3
_PSEUDONYM = r"^p-[0-9a-f]{16}$"

# Public sets that hold images of each other. Each fact is told by the set itself.
_OVERLAPS = {
    "rsna_pneumonia": ("all of its images are images of NIH ChestX-ray14 (nih_cxr14)",),
    "nih_cxr14": ("the images of the RSNA Pneumonia set (rsna_pneumonia) are some of these",),
    "vindr": ("VinBigData of Kaggle is VinDr-CXR's training set: the same images",),
    "brats": ("an edition of BraTS holds most cases of earlier ones, under other names",),
    "isic2018": ("its task 3 is HAM10000, which later ISIC sets hold too",),
    "chexlocalize": ("its images are the validation and test images of CheXpert",),
}


@dataclass(frozen=True)
class LookAlikes:
    """Images that look like one that they should not look like.

    Attributes:
        pairs: Each with the id that it is like, and how many of 256 bits differ.
    """

    pairs: tuple[tuple[str, str, int], ...]

    @property
    def num_images(self) -> int:
        """Return how many images have one."""
        return len(self.pairs)

    @property
    def examples(self) -> tuple[tuple[str, str], ...]:
        """Return the first few, each with the id that it is like."""
        return tuple((one, other) for one, other, _ in self.pairs[:_NUM_EXAMPLES])

    def warned(self, kind: str) -> list[Warned]:
        """Return all pairs for the pool's `warnings.parquet`."""
        return [
            Warned(kind, f"{bits} of 256 signs differ", image_id=one, other_id=other)
            for one, other, bits in self.pairs
        ]


def check_groups(index: pa.Table) -> None:
    """Check that no group stands on two sides; group ids may point at patients, so none is quoted.

    Args:
        index: At least `image_id`, `group_id` and `split`.

    Raises:
        SourceError: One stands on two of train (pool and labeled), val and test.
    """
    sides = _sides(index)
    table = pa.table({"group": index["group_id"], "side": sides})
    counted = table.group_by("group").aggregate([("side", "count_distinct")])
    cut = counted.filter(pc.greater(counted["side_count_distinct"], 1))["group"]
    if not len(cut):
        return
    members = index.filter(pc.equal(index["group_id"], pc.min(cut))).select(["image_id", "split"])
    first_of_side: dict[str, Any] = {}
    for row in members.sort_by("image_id").to_pylist():
        first_of_side.setdefault(side_of(row["split"]), row)
    first, second = list(first_of_side.values())[:2]
    raise SourceError(
        "a group stands on two sides: a model would be judged on patients that it was trained on",
        expected="all images of a group in pool and labeled, or all in val, or all in test",
        found=f"{len(cut)} such groups; in one, '{first['image_id']}' is in '{first['split']}' and "
        f"'{second['image_id']}' in '{second['split']}'",
        next_step="move all images of a group to one split, or leave the splits to xal-ray",
    )


def find_look_alikes(index: pa.Table, attributes: pa.Table) -> LookAlikes:
    """Search a pool for images of `val` and `test` that look like one of another side, and another group."""
    near = near_pairs(aligned(attributes, index)["likeness"], index["group_id"], index["split"])
    return _pairs_of(near, index["image_id"])


def find_two_classes(index: pa.Table, attributes: pa.Table) -> LookAlikes:
    """Search a pool for pictures that stand in it under two classes.

    Near duplicates count where their groups differ too: neighbouring slices of one patient look alike, and
    may well show different things. Equal pictures, with equal ROIs, count in one group, too.

    Args:
        index: With all labels, hidden ones included.
        attributes: What the images look like.

    Returns:
        Each pair once, by the id that comes first.
    """
    labelled = pc.indices_nonzero(pc.is_valid(index["label"]))
    rows = index.take(labelled)
    if rows.num_rows == 0:
        return LookAlikes(())
    codes = codes_of(aligned(attributes, rows)["likeness"])
    groups = np.stack([_numbers(rows["group_id"]), _numbers(rows["label"])], axis=1)
    near = _pairs_of(near_rows(codes, codes, groups, groups), rows["image_id"]).pairs
    pairs = {(min(one, other), max(one, other)): bits for one, other, bits in near}
    pairs |= dict.fromkeys(_equal_of_two_classes(rows), 0)
    return LookAlikes(tuple((*ids, bits) for ids, bits in sorted(pairs.items())))


def _equal_of_two_classes(rows: pa.Table) -> list[tuple[str, str]]:
    """Pairs with the same content and two labels: of each content the first image of each label."""
    first: dict[str, dict[str, str]] = {}
    columns = (rows[name].to_pylist() for name in ("image_id", "label", "content_sha256"))
    for image_id, label, content in zip(*columns, strict=True):
        first.setdefault(content, {}).setdefault(label, image_id)
    found = [list(by_label.values()) for by_label in first.values() if len(by_label) > 1]
    return [(min(ids[0], other), max(ids[0], other)) for ids in found for other in ids[1:]]


def two_classes_warning(num_images: int, examples: Sequence[Sequence[str]]) -> str | None:
    """Return the warning of pictures under two classes; None without any."""
    if not num_images:
        return None
    return (
        f"{_number(num_images, 'pair')} of images of different classes look{'s' if num_images == 1 else ''} "
        f"nearly alike ({_listed(examples)}): one picture under two labels?"
    )


def few_groups_warnings(counts: Mapping[str, int], num_groups: Mapping[str, int]) -> list[str]:
    """Splits to evaluate on that hold one group only: whatever is measured there holds for it alone.

    Args:
        counts: Images of each split.
        num_groups: Groups of each split.
    """
    return [
        f"the split '{split}' holds one group only ({_number(counts[split], 'image')}): what is measured on "
        "it says nothing about other patients"
        for split in ("val", "test")
        if num_groups.get(split) == 1
    ]


def describe_look_alikes(num_images: int, examples: Sequence[Sequence[str]]) -> str | None:
    """Return the warning of near duplicates across splits."""
    if not num_images:
        return None
    return (
        f"{_number(num_images, 'image')} of val or test {'looks' if num_images == 1 else 'look'} nearly like "
        f"one of another split and another group ({_listed(examples)}): copies, or one patient under two "
        "ids? Accuracy on them says little"
    )


def overlap_notes(data_set: str | None) -> list[str]:
    """Return what is known of images that a public set shares with others."""
    return [
        f"{text}: a model that was trained on the one must not be judged on the other"
        for text in _OVERLAPS.get(data_set or "", ())
    ]


def overlap_between(pools: Sequence[tuple[str, pa.Table, pa.Table]]) -> list[str]:
    """Compare packed pools, two by two.

    Args:
        pools: A name for people, the index and the attributes of each.

    Returns:
        A warning for each two that share pictures or patients.
    """
    return [
        text
        for one, other in combinations(pools, 2)
        for text in (_shared_pictures(one, other), _shared_patients(one, other))
        if text
    ]


def _shared_pictures(
    one: tuple[str, pa.Table, pa.Table], other: tuple[str, pa.Table, pa.Table]
) -> str | None:
    (name, index, attributes), (other_name, other_index, other_attributes) = one, other
    content = other_index["content_sha256"].combine_chunks()
    equal = pc.index_in(index["content_sha256"], value_set=content)
    num_equal = len(equal) - equal.null_count
    near = near_rows(
        codes_of(aligned(attributes, index)["likeness"]),
        codes_of(aligned(other_attributes, other_index)["likeness"]),
    )
    if not num_equal and not len(near):
        return None
    examples = _examples(near, index["image_id"], other_index["image_id"])
    if not examples:  # equal, but too flat to be like anything
        rows = pc.indices_nonzero(pc.is_valid(equal)).slice(0, _NUM_EXAMPLES)
        ids, other_ids = index["image_id"].take(rows), other_index["image_id"].take(equal.take(rows))
        examples = tuple(zip(ids.to_pylist(), other_ids.to_pylist(), strict=True))
    return (
        f"the pools {name} and {other_name} share pictures: {_number(num_equal, 'image')} of {name} "
        f"{'is' if num_equal == 1 else 'are'} in the other pixel for pixel, {len(near)} "
        f"{'looks' if len(near) == 1 else 'look'} nearly like one there ({_listed(examples)})"
    )


def _shared_patients(
    one: tuple[str, pa.Table, pa.Table], other: tuple[str, pa.Table, pa.Table]
) -> str | None:
    """Pseudonyms of one key are alike where the patient is; other group ids of two sources say nothing."""
    groups, other_groups = (
        pc.unique(pool[1]["group_id"]).filter(
            pc.match_substring_regex(pc.unique(pool[1]["group_id"]), _PSEUDONYM)
        )
        for pool in (one, other)
    )
    shared = pc.sum(pc.is_in(groups, value_set=other_groups)).as_py()
    if not shared:
        return None
    return (
        f"the pools {one[0]} and {other[0]} share patients: {_number(shared, 'group')}, by their pseudonyms"
    )


def _examples(near: Near, ids: pa.ChunkedArray, partner_ids: pa.ChunkedArray) -> tuple[tuple[str, str], ...]:
    first, second = near.rows[:_NUM_EXAMPLES], near.partners[:_NUM_EXAMPLES]
    return tuple(zip(ids.take(first).to_pylist(), partner_ids.take(second).to_pylist(), strict=True))


def _pairs_of(near: Near, ids: pa.ChunkedArray) -> LookAlikes:
    one, other = ids.take(near.rows).to_pylist(), ids.take(near.partners).to_pylist()
    return LookAlikes(tuple(zip(one, other, near.distances.tolist(), strict=True)))


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    encoded = column.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices, dtype=np.int64)


def _sides(index: pa.Table) -> pa.ChunkedArray:
    sides = pa.array([side_of(split) for split in SPLITS])
    return sides.take(pc.index_in(index["split"], value_set=pa.array(SPLITS)))


def _listed(examples: Sequence[Sequence[Any]]) -> str:
    return "the first: " + ", ".join(f"'{one}' and '{other}'" for one, other in examples)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
