"""Breakdowns: what is counted, and what is not told. And the card that they stand on."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xal_ray import config
from xal_ray.errors import PoolError
from xal_ray.pool.breakdown import FEW, HIDDEN, MIN_GROUPS, break_down, suppress
from xal_ray.pool.card import REASONS, build_card, find_warned, open_prepared, plan_of, warnings_of
from xal_ray.pool.manifest import MANIFEST_SCHEMA
from xal_ray.pool.schema import ATTRIBUTE_SCHEMA, QUARANTINE_SCHEMA
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.storage import write_json


def tables(rows):
    """An index and attributes of (group, split, label, attributes)."""
    ids = [f"i{number:04d}" for number in range(len(rows))]
    index = pa.table(
        {
            "image_id": ids,
            "group_id": [row[0] for row in rows],
            "split": [row[1] for row in rows],
            "label": pa.array([row[2] for row in rows], pa.string()),
        }
    )
    known = [
        {"image_id": image_id, "likeness": bytes(32), "burned_in": False, "remarks": [], **row[3]}
        for image_id, row in zip(ids, rows, strict=True)
    ]
    return index, pa.Table.from_pylist(known[::-1], schema=ATTRIBUTE_SCHEMA)


def patients(count, split, label, images=1, **known):
    return [
        (f"{split}-{label}-{known}-{n}", split, label, known) for n in range(count) for _ in range(images)
    ]


def cells(table):
    return {row["value"]: row["cells"] for row in table["rows"]}


def told(images, groups):
    return {"images": images, "groups": groups}


def test_classes_are_counted_by_split_in_images_and_groups():
    rows = [
        *patients(12, "pool", "lesion", images=3),
        *patients(20, "pool", "normal"),
        *patients(11, "test", "lesion"),
        *patients(15, "test", "normal"),
        *patients(10, "pool", None),
    ]
    table = break_down(*tables(rows))["class"]
    assert table["columns"] == ["pool", "test"]
    assert [row["value"] for row in table["rows"]] == ["lesion", "normal", None]
    assert cells(table) == {
        "lesion": [told(36, 12), told(11, 11)],
        "normal": [told(20, 20), told(15, 15)],
        None: [told(10, 10), told(0, 0)],
    }


def test_patients_decide_and_not_images():
    rows = [*patients(9, "pool", "a", images=50), *patients(30, "pool", "b"), *patients(25, "pool", "c")]
    assert cells(break_down(*tables(rows))["class"]) == {"a": [FEW], "b": [told(30, 30)], "c": [HIDDEN]}


def test_an_attribute_that_is_known_of_nobody_has_no_table():
    rows = [
        *patients(12, "pool", "a", sex="F"),
        *patients(14, "pool", "a", sex="M"),
        *patients(11, "pool", "a"),
    ]
    found = break_down(*tables(rows))
    assert found["site"] is found["device"] is found["age_band"] is None
    assert found["sex"]["columns"] == ["all"]
    assert cells(found["sex"]) == {"F": [told(12, 12)], "M": [told(14, 14)], None: [told(11, 11)]}
    assert found["min_groups"] == MIN_GROUPS
    assert json.loads(json.dumps(found)) == found


def test_rare_values_are_one_row():
    rows = [row for n in range(30) for row in patients(10 + (n < 5), "pool", "a", site=f"s{n:02d}")]
    table = break_down(*tables(rows))["site"]
    assert len(table["rows"]) == 20
    assert [row["value"] for row in table["rows"]][:19] == [f"s{n:02d}" for n in range(19)]
    assert table["rows"][-1] == {"value": None, "others": 11, "cells": [told(110, 110)]}


@pytest.mark.parametrize(
    ("groups", "marks"),
    [
        ([[12], [30]], [[None], [None]]),
        ([[3], [30], [20]], [[FEW], [None], [HIDDEN]]),
        ([[3], [4], [20]], [[FEW], [FEW], [None]]),
        ([[1], [1], [20]], [[FEW], [FEW], [HIDDEN]]),  # two of two: one each
        ([[9], [9], [20]], [[FEW], [FEW], [HIDDEN]]),
        ([[1], [10], [20]], [[FEW], [HIDDEN], [HIDDEN]]),  # eleven of two: one and ten
        ([[0], [3], [20]], [[None], [FEW], [HIDDEN]]),
        ([[3]], [[FEW]]),  # nothing is left to hide it behind
        # The second of the column is hidden, then one more of its row, then the corner.
        ([[3, 40], [20, 30], [50, 60]], [[FEW, HIDDEN], [HIDDEN, HIDDEN], [None, None]]),
    ],
)
def test_what_would_give_a_small_cell_away_is_hidden(groups, marks):
    assert suppress(np.array(groups)) == marks


@settings(deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(st.integers(0, 40), min_size=width, max_size=width), min_size=1, max_size=6
        )
    )
)
def test_no_small_cell_is_told_nor_follows_from_a_total(groups):
    table = np.array(groups)
    marks = np.array(suppress(table), dtype=object)
    assert ((marks == FEW) == ((table > 0) & (table < MIN_GROUPS))).all()
    lines = [(table[:, n], marks[:, n]) for n in range(table.shape[1])]
    if table.shape[1] > 1:
        lines += list(zip(table, marks, strict=True))
    for counts, of_line in lines:
        is_marked = np.array([mark is not None for mark in of_line])
        if is_marked.sum() == 1:
            assert not counts[~is_marked].any()  # the total is the cell itself: nothing can hide it


def card_of(path, key_id="abc", burned_in=0, **known):
    """The card of a pool of 24 images of a folder, two of which are alike across splits."""
    index, attributes = tables([*patients(12, "pool", "a"), *patients(12, "test", "b")])
    codes = np.random.default_rng(0).integers(1, 256, (24, 32), dtype=np.uint8)
    codes[20] = codes[3]
    attributes = attributes.sort_by("image_id")
    for name, values, kind in (
        ("likeness", [code.tobytes() for code in codes], pa.binary(32)),
        ("burned_in", [number < burned_in for number in range(24)], pa.bool_()),
    ):
        position = attributes.schema.get_field_index(name)
        attributes = attributes.set_column(position, name, pa.array(values, kind))
    for name in ("roi_state", "content_sha256"):
        index = index.append_column(name, pa.array([f"{name}{number}" for number in range(24)]))
    bad = [
        {"image_id": f"bad{n}", "uri": "bad", "stage": "decode", "error_code": code, "detail": "it is"}
        for n, code in enumerate(("truncated", "truncated", "missing_file"))
    ]
    quarantine = pa.Table.from_pylist(bad, schema=QUARANTINE_SCHEMA)
    listing = Listing(MANIFEST_SCHEMA.empty_table(), **known)
    settings = config.Pool(source=config.Source(kind="folder", path=path))
    warned = find_warned(listing, index, attributes)
    return settings, build_card(settings, index, quarantine, ("a", "b"), listing, attributes, key_id, warned)


def test_a_card_tells_what_was_left_out_and_what_to_beware_of(tmp_path):
    known = {
        "excluded": {"missing_file": 4, "odd_reason": 1},
        "notes": ("all there",),
        "data_set": "rsna_pneumonia",
    }
    _, card = card_of(tmp_path, burned_in=2, agreement={"lesion": {"kappa": 0.5}}, **known)
    assert card["excluded"] == [
        {"reason": "missing_file", "count": 5, "words": REASONS["missing_file"]},
        {"reason": "truncated", "count": 2, "words": REASONS["truncated"]},
        {"reason": "odd_reason", "count": 1, "words": "odd reason"},
    ]
    assert card["exclusions"] == {"truncated": 2, "missing_file": 1}
    assert (card["notes"], card["agreement"], card["group_by"]) == (
        ["all there"],
        {"lesion": {"kappa": 0.5}},
        "group_id",
    )
    assert card["near_duplicates_across_splits"] == {"num_images": 1, "examples": [["i0020", "i0003"]]}
    assert card["near_duplicates_of_two_classes"]["examples"] == [["i0003", "i0020"]]
    near, two_classes, burned, overlap = warnings_of(card)
    assert two_classes.startswith("1 pair of images of different classes looks nearly alike")
    assert "1 image of val or test looks nearly like" in near
    assert burned.startswith("2 of the images say in their header that text is burned into the picture")
    assert "does not de-identify" in burned
    assert "nih_cxr14" in overlap
    assert json.loads(json.dumps(card)) == card


def test_a_pool_is_bound_to_the_key_of_its_pseudonyms(tmp_path):
    settings, card = card_of(tmp_path)
    write_json(tmp_path / "pool" / "card.json", card)
    assert open_prepared(settings, tmp_path / "pool", pseudonym_key_id="abc").card == card
    assert open_prepared(settings, tmp_path / "pool").card == card  # a run needs no key
    with pytest.raises(PoolError, match="another key") as caught:
        open_prepared(settings, tmp_path / "pool", pseudonym_key_id="def")
    assert caught.value.details["next"]
    settings, without = card_of(tmp_path, key_id=None)
    write_json(tmp_path / "without" / "card.json", without)
    assert open_prepared(settings, tmp_path / "without", pseudonym_key_id="def").card == without


def test_a_pool_is_bound_to_the_settings_that_its_source_reads(tmp_path):
    def plan(kind, **changes):
        return plan_of(config.Pool(source=config.Source(kind=kind, path=tmp_path, **changes)))

    policy = config.Annotators(labels="any")
    assert plan("vindr") != plan("vindr", readers=policy)
    assert plan("nih_cxr14") == plan("nih_cxr14", readers=policy)
    assert plan("vindr") != plan("vindr", several="first") != plan("vindr", findings=("ILD",))
    assert plan("folder") == plan("folder", several="first")
    slices = config.Slices(stride=3)
    assert plan("brats") != plan("brats", slices=slices)
    assert plan("coco") == plan("coco", slices=slices)
    assert plan_of(config.Pool()) != plan_of(config.Pool(dicom=config.Dicom(window="range")))
    assert plan_of(config.Pool()) == plan_of(config.Pool(compare_with=(tmp_path,)))
