"""Leakage: groups on two sides, pictures that look alike, public sets that share images, two pools."""

import numpy as np
import pyarrow as pa
import pytest

from xal_ray.errors import SourceError
from xal_ray.labels.inbox import import_labels
from xal_ray.pool.leakage import (
    check_groups,
    describe_look_alikes,
    few_groups_warnings,
    find_look_alikes,
    find_two_classes,
    overlap_between,
    overlap_notes,
    two_classes_warning,
)
from xal_ray.pool.near_duplicates import NUM_BYTES
from xal_ray.pool.schema import ATTRIBUTE_SCHEMA, INDEX_SCHEMA, SCHEMA_VERSION
from xal_ray.record.layout import RunLayout
from xal_ray.record.ledger import Ledger
from xal_ray.storage import write_json, write_table

SECRET = "Doe-Jane-1957"


def index_of(rows):
    """An index of (image_id, group_id, split, content)."""
    names = ("image_id", "group_id", "split", "content_sha256")
    return pa.table(dict(zip(names, (list(column) for column in zip(*rows, strict=True)), strict=True)))


def attributes_of(ids, codes):
    rows = [
        {"image_id": image_id, "likeness": code.tobytes(), "burned_in": False, "remarks": []}
        for image_id, code in zip(ids, codes, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=ATTRIBUTE_SCHEMA)


def random_codes(count, seed=0):
    return np.random.default_rng(seed).integers(1, 256, (count, NUM_BYTES), dtype=np.uint8)


def test_groups_that_stay_on_their_side_are_fine():
    rows = [
        ("a", "g", "pool", "1"),
        ("b", "g", "labeled", "2"),
        ("c", "h", "val", "3"),
        ("d", "i", "test", "4"),
    ]
    check_groups(index_of(rows))
    check_groups(index_of(rows).slice(0, 0))


@pytest.mark.parametrize("splits", [("pool", "test"), ("labeled", "val"), ("val", "test")])
def test_a_group_on_two_sides_is_an_error_that_does_not_name_it(splits):
    rows = [
        ("a", "fine", "pool", "0"),
        ("b", SECRET, splits[0], "1"),
        ("c", SECRET, splits[0], "2"),
        ("d", SECRET, splits[1], "3"),
        ("e", "other", splits[0], "4"),
        ("f", "other", splits[1], "5"),
    ]
    with pytest.raises(SourceError, match="two sides") as caught:
        check_groups(index_of(rows))
    assert SECRET not in str(caught.value)
    assert caught.value.details["found"].startswith("2 such groups; in one, 'b' is in")
    assert "and 'd' in" in caught.value.details["found"]


def warning_of(index, attributes):
    found = find_look_alikes(index, attributes)
    return describe_look_alikes(found.num_images, found.examples)


def test_near_duplicates_across_splits_are_warned_of_with_counts_and_ids():
    codes = random_codes(6)
    codes[3] = codes[0]
    codes[4] = codes[1] ^ np.eye(1, NUM_BYTES, dtype=np.uint8)[0]
    splits = ("pool", "pool", "pool", "test", "val", "test")
    rows = [(f"i{n}", f"g{n}", split, str(n)) for n, split in enumerate(splits)]
    index = index_of(rows)
    shuffled = attributes_of([row[0] for row in rows], codes).take([5, 3, 1, 0, 2, 4])
    warning = warning_of(index, shuffled)
    assert warning.startswith("2 images of val or test look nearly like one of another split")
    assert "'i3' and 'i0', 'i4' and 'i1'" in warning
    assert warning_of(index, attributes_of([row[0] for row in rows], random_codes(6))) is None


def test_pictures_of_two_classes_are_found_once_each():
    codes = random_codes(8)
    codes[1], codes[4] = codes[0], codes[0]  # another class and group; another class and the same group
    codes[3] = codes[2] ^ np.eye(1, NUM_BYTES, dtype=np.uint8)[0]
    codes[6] = codes[5]
    classes = ("a", "b", "a", "b", "b", "a", "a", None)
    groups = ("g", "h", "i", "j", "g", "k", "l", "m")
    codes[7] = codes[2]
    rows = [(f"i{n}", group, "pool", str(n)) for n, group in enumerate(groups)]
    index = index_of(rows).append_column("label", pa.array(classes))
    found = find_two_classes(
        index, attributes_of([row[0] for row in rows], codes).take([7, 5, 3, 1, 0, 2, 4, 6])
    )
    assert [(one, other) for one, other, _ in found.pairs] == [("i0", "i1"), ("i2", "i3")]
    assert found.pairs[0][2] == 0
    assert 0 < found.pairs[1][2] <= 8
    assert [(each.image_id, each.other_id) for each in found.warned("two_classes")] == [
        ("i0", "i1"),
        ("i2", "i3"),
    ]
    assert "different classes look nearly alike" in two_classes_warning(2, found.examples)
    assert two_classes_warning(0, ()) is None
    assert find_two_classes(index.slice(7), attributes_of(["i7"], codes[7:])).pairs == ()


def test_equal_pictures_of_two_classes_count_in_one_group_too():
    rows = [(f"i{n}", "g", "pool", content) for n, content in enumerate("xxyyz")]
    index = index_of(rows).append_column("label", pa.array(["a", "b", "a", "a", "b"]))
    flat = np.zeros((5, NUM_BYTES), dtype=np.uint8)
    found = find_two_classes(index, attributes_of([row[0] for row in rows], flat))
    assert found.pairs == (("i0", "i1", 0),)


def test_all_pairs_are_listed_and_not_the_first_few():
    codes = random_codes(20)
    codes[10:] = codes[:10]
    rows = [(f"i{n:02}", f"g{n}", "pool" if n < 10 else "test", str(n)) for n in range(20)]
    found = find_look_alikes(index_of(rows), attributes_of([row[0] for row in rows], codes))
    assert (found.num_images, len(found.examples), len(found.warned("look_alike"))) == (10, 3, 10)


def test_a_split_of_one_group_is_a_warning():
    counts = {"pool": 40, "val": 12, "test": 9}
    (warning,) = few_groups_warnings(counts, {"pool": 1, "val": 1, "test": 2})
    assert warning.startswith("the split 'val' holds one group only (12 images)")
    assert few_groups_warnings(counts, {"pool": 1}) == []


def test_public_sets_that_share_images_are_named():
    assert "nih_cxr14" in overlap_notes("rsna_pneumonia")[0]
    assert "rsna_pneumonia" in overlap_notes("nih_cxr14")[0]
    for data_set in ("brats", "vindr", "isic2018", "chexlocalize"):
        assert len(overlap_notes(data_set)) == 1
    assert overlap_notes("siim_covid") == overlap_notes(None) == []


def test_two_pools_are_compared_by_content_by_looks_and_by_pseudonyms():
    codes = random_codes(9)
    patient = "p-0123456789abcdef"
    one = index_of([("a", patient, "pool", "same"), ("b", "1", "pool", "x"), ("c", "2", "pool", "y")])
    other = index_of([("k", patient, "test", "same"), ("l", "1", "test", "z"), ("m", "3", "test", "w")])
    likes = codes[[0, 4, 5]].copy()
    likes[1] = codes[1]
    likes[1, 0] ^= 7
    pools = [
        ("one", one, attributes_of("abc", codes[:3])),
        ("other", other, attributes_of("klm", likes)),
        ("third", index_of([("z", "1", "pool", "v")]), attributes_of("z", codes[8:9])),
    ]
    pictures, people = overlap_between(pools)
    assert pictures.startswith("the pools one and other share pictures: 1 image of one is in the other pixel")
    assert "2 look nearly like one there (the first: 'a' and 'k', 'b' and 'l')" in pictures
    assert people == "the pools one and other share patients: 1 group, by their pseudonyms"


def test_flat_pictures_that_are_equal_are_told_all_the_same():
    flat = np.zeros((2, NUM_BYTES), dtype=np.uint8)
    one = index_of([("a", "1", "pool", "x"), ("b", "2", "pool", "black")])
    other = index_of([("k", "3", "test", "black"), ("l", "4", "test", "y")])
    (text,) = overlap_between(
        [("one", one, attributes_of("ab", flat)), ("two", other, attributes_of("kl", flat))]
    )
    assert "'b' and 'k'" in text


def test_groups_are_checked_again_when_labels_come_in(tmp_path):
    rows = [
        {
            "image_id": name,
            "group_id": SECRET if name in "ab" else name,
            "split": split,
            "label": None if split == "pool" else "cat",
            "roi_state": "not_annotated",
            "width": 8,
            "height": 8,
            "content_sha256": name,
            "part": 0,
            "row": row,
        }
        for row, (name, split) in enumerate([("a", "pool"), ("b", "test"), ("c", "pool")])
    ]
    write_table(tmp_path / "pool" / "index.parquet", pa.Table.from_pylist(rows, schema=INDEX_SCHEMA))
    card = {"schema_version": SCHEMA_VERSION, "classes": ["cat", "dog"], "image_size": 8, "channels": 1}
    write_json(tmp_path / "pool" / "card.json", card)
    layout = RunLayout(tmp_path / "run")
    layout.path.mkdir()
    layout.config.write_text(f"name: x\npool: {{path: {tmp_path / 'pool'}}}\n")
    Ledger(layout.ledger).append("run_started", run_id="abc")
    picks = {"image_id": ["a"], "rank": [0], "utility": [1.0], "reason": [""]}
    write_table(layout.initial.selection, pa.table(picks))
    layout.initial.to_label.mkdir()
    (layout.initial.to_label / "selection.csv").touch()
    (tmp_path / "labels.csv").write_text("image_id,label\na,cat\n")
    with pytest.raises(SourceError, match="two sides") as caught:
        import_labels(layout.path, tmp_path / "labels.csv")
    assert SECRET not in str(caught.value)
