"""Splits: whole groups, by hash, near the fractions; properties under permutation and growth."""

from collections import defaultdict

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xal_ray.config import Splits
from xal_ray.pool.manifest import MANIFEST_SCHEMA, manifest_of
from xal_ray.pool.splits import assign_splits


def _manifest(rows: list[tuple[str, str | None, str | None]]) -> pa.Table:
    """A manifest of (group, label, split)."""
    return manifest_of(
        [
            {
                "image_id": f"i{number}",
                "uri": f"/data/{number}.png",
                "group_id": group,
                "label": label,
                "split": split,
                "boxes": [],
                "roi_state": "not_annotated",
            }
            for number, (group, label, split) in enumerate(rows)
        ]
    )


def _by_id(table: pa.Table) -> dict[str, str]:
    return dict(zip(table["image_id"].to_pylist(), table["split"].to_pylist(), strict=True))


def _splits_of_groups(table: pa.Table) -> dict[str, set[str]]:
    found = defaultdict(set)
    for row in table.to_pylist():
        found[row["group_id"]].add(row["split"])
    return found


GROUP_ROWS = st.lists(
    st.tuples(st.integers(0, 11).map("g{}".format), st.sampled_from(["a", "b", None])),
    min_size=1,
    max_size=60,
)
SPLITS = st.builds(
    Splits,
    val=st.sampled_from([0.0, 0.15, 0.4]),
    test=st.sampled_from([0.0, 0.2, 0.5]),
    stratify=st.booleans(),
    seed=st.integers(0, 5),
)


@given(GROUP_ROWS, SPLITS)
@settings(deadline=None)
def test_no_group_is_cut_and_every_row_has_a_split(rows, config):
    table = _manifest([(group, label, None) for group, label in rows])
    dealt = assign_splits(table, config)
    assert dealt.schema.equals(MANIFEST_SCHEMA)
    assert dealt.drop_columns("split").equals(table.drop_columns("split"))
    assert all(len(splits) == 1 for splits in _splits_of_groups(dealt).values())
    assert set(_by_id(dealt).values()) <= {"pool", "val", "test"}


@given(GROUP_ROWS, SPLITS, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_rows_changes_nothing(rows, config, random):
    table = _manifest([(group, label, None) for group, label in rows])
    order = list(range(len(rows)))
    random.shuffle(order)
    assert _by_id(assign_splits(table.take(order), config)) == _by_id(assign_splits(table, config))


@given(GROUP_ROWS, GROUP_ROWS, SPLITS)
@settings(deadline=None)
def test_without_stratify_new_groups_leave_others_where_they_were(rows, more, config):
    config = config.model_copy(update={"stratify": False})
    before = [(group, label, None) for group, label in rows]
    after = before + [(f"new-{group}", label, None) for group, label in more]
    small, large = assign_splits(_manifest(before), config), assign_splits(_manifest(after), config)
    assert _by_id(large).items() >= _by_id(small).items()


@given(GROUP_ROWS, SPLITS)
@settings(deadline=None)
def test_a_group_with_an_unlabelled_row_stays_in_the_pool(rows, config):
    table = assign_splits(_manifest([(group, label, None) for group, label in rows]), config)
    unlabelled = {group for group, label in rows if label is None}
    for group, splits in _splits_of_groups(table).items():
        if group in unlabelled:
            assert splits == {"pool"}


@given(st.lists(st.tuples(st.integers(1, 6), st.sampled_from("ab")), min_size=1, max_size=30), SPLITS)
@settings(deadline=None)
def test_stratified_quotas(groups, config):
    """Each class with three groups has one on every wanted side, and is off its quota by a group at most."""
    config = config.model_copy(update={"stratify": True})
    rows = [(f"g{number}", label, None) for number, (size, label) in enumerate(groups) for _ in range(size)]
    dealt = assign_splits(_manifest(rows), config).to_pylist()
    for label in "ab":
        sizes = [size for size, of in groups if of == label]
        of_label = [row for row in dealt if row["label"] == label]
        for split, fraction in (("val", config.val), ("test", config.test), ("pool", 1.0)):
            count = sum(row["split"] == split for row in of_label)
            if sizes and (split == "pool" or (len(sizes) >= 3 and fraction > 0)):
                assert count > 0
            if split != "pool" and len(sizes) >= 3:
                assert count <= fraction * sum(sizes) + max(sizes)
                if fraction == 0:
                    assert count == 0


def test_equal_groups_meet_the_fractions_within_each_class():
    rows = [(f"a{n}", "a", None) for n in range(100) for _ in range(3)]
    rows += [(f"b{n}", "b", None) for n in range(20) for _ in range(3)]
    dealt = assign_splits(_manifest(rows), Splits(val=0.15, test=0.2)).to_pylist()
    for label, num_groups in (("a", 100), ("b", 20)):
        counts = [
            sum(row["split"] == split and row["label"] == label for row in dealt) for split in ("val", "test")
        ]
        assert counts == [0.15 * num_groups * 3, 0.2 * num_groups * 3]


def test_a_huge_group_does_not_swallow_the_quota():
    rows = [("huge", "a", None)] * 80 + [(f"g{n}", "a", None) for n in range(20)]
    for seed in range(5):
        dealt = assign_splits(_manifest(rows), Splits(val=0.1, test=0.1, seed=seed))
        assert _splits_of_groups(dealt)["huge"] == {"pool"}
        assert list(_by_id(dealt).values()).count("test") == 10


def test_the_seed_deals_anew():
    table = _manifest([(f"g{n}", "ab"[n % 2], None) for n in range(40)])
    for stratify in (True, False):
        deals = [assign_splits(table, Splits(seed=seed, stratify=stratify)) for seed in (0, 0, 1)]
        assert deals[0].equals(deals[1])
        assert not deals[0].equals(deals[2])


def test_without_stratify_the_fractions_hold_on_average():
    table = _manifest([(f"g{n}", "a", None) for n in range(3000)])
    splits = list(_by_id(assign_splits(table, Splits(val=0.15, test=0.2, stratify=False))).values())
    assert splits.count("test") / 3000 == pytest.approx(0.2, abs=0.03)
    assert splits.count("val") / 3000 == pytest.approx(0.15, abs=0.03)


def test_given_splits_are_kept_and_followed():
    table = _manifest(
        [
            ("p", "a", "test"),
            ("p", "a", None),
            ("q", "b", "labeled"),
            ("q", "a", None),
            ("q", "a", "pool"),
            ("r", "a", "val"),
        ]
    )
    assert assign_splits(table, Splits())["split"].to_pylist() == [
        "test",
        "test",
        "labeled",
        "pool",
        "pool",
        "val",
    ]


def test_a_splits_place_is_pinned():
    """A change of the hash would move images of existing pools between splits: this must not happen."""
    table = _manifest([(f"patient-{n}", "a", None) for n in range(12)])
    splits = assign_splits(table, Splits(stratify=False))["split"].to_pylist()
    assert splits == [
        "pool",
        "pool",
        "pool",
        "pool",
        "test",
        "pool",
        "pool",
        "pool",
        "pool",
        "test",
        "pool",
        "test",
    ]
