"""What the select stage says and refuses, for a round and for a pass alike."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from xal_ray.config import Score, Select, build_config
from xal_ray.errors import ConfigError
from xal_ray.loop.query import Query, check_strategy, choose, shortfall
from xal_ray.progress import Reporter
from xal_ray.record.layout import RoundLayout
from xal_ray.storage import read_json, read_table, write_table

IDS = [f"i{number:02d}" for number in range(12)]


class Heard(Reporter):
    """Keeps what is said."""

    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def line(self, text):
        self.lines.append(text)


def asked(folder, candidates, size, cap=0, groups=None):
    """Choose by entropy, which falls with the number of the image; three shards, one row without a score."""
    files = RoundLayout(folder, 3)
    entropies = [None if number == 1 else 1.0 - number / 100 for number in range(12)]
    for number in range(3):
        part = slice(4 * number, 4 * number + 4)
        write_table(
            files.scores / f"{number}.parquet",
            pa.table({"image_id": IDS[part], "entropy": pa.array(entropies[part], pa.float32())}),
        )
    index = pa.table({"image_id": IDS, "group_id": groups or IDS})
    everyone = np.ones(12, dtype=bool)
    select = Select(strategy="entropy", query_size=size, max_per_group=cap)
    wanted = np.isin(IDS, candidates)
    heard = Heard()
    nobody = pa.array([], pa.string())
    question = Query("round 3", index, 64, wanted, everyone, nobody, select, Score(), seed=1)
    count = choose(question, files, heard)
    picks = read_table(files.selection)["image_id"].to_pylist()
    assert len(picks) == count
    return picks, heard.lines, files


def test_only_candidates_are_chosen_whatever_else_was_scored(tmp_path):
    picks, lines, files = asked(tmp_path, ["i01", "i03", "i06", "i07", "i11"], 3)
    assert picks == ["i03", "i06", "i07"]
    assert lines == []
    assert not files.shortfall.exists()


def test_the_last_query_takes_what_is_left_and_says_so(tmp_path):
    picks, lines, files = asked(tmp_path, ["i01", "i03", "i06"], 5)
    assert picks == ["i03", "i06"]
    assert lines == ["round 3: 2 of 5: no more candidates are left"]
    assert read_json(files.shortfall) == {"asked": 5, "chosen": 2, "reason": "no more candidates are left"}


def test_a_cap_that_binds_is_said(tmp_path):
    picks, lines, _ = asked(tmp_path, IDS, 7, cap=2, groups=["p", "p", "p", "q", "q", "q", *["r"] * 6])
    assert picks == ["i00", "i02", "i03", "i04", "i06", "i07"]
    assert lines == ["round 3: 6 of 7: the cap of 2 per group (select.max_per_group) binds"]


def test_nothing_to_choose_from_is_an_empty_selection(tmp_path):
    assert asked(tmp_path, ["i01"], 5)[0] == []
    assert asked(tmp_path / "none", [], 5)[0] == []


@pytest.mark.parametrize(
    ("cap", "chosen", "left", "found"),
    [(0, 5, 90, None), (2, 5, 90, None), (2, 4, 90, "cap of 2"), (0, 4, 4, "left"), (2, 4, 4, "left")],
)
def test_why_fewer_were_chosen(cap, chosen, left, found):
    told = shortfall(Select(query_size=5, max_per_group=cap), chosen, left)
    assert found is None or found in told["reason"]
    assert bool(told) == (found is not None)


def test_a_strategy_that_needs_rois_is_refused_where_there_are_none():
    without = SimpleNamespace(card={"roi": {"not_annotated": 3}}, path="pools/x")
    check_strategy(build_config({"name": "x", "select": {"strategy": "margin"}}), without)
    with pytest.raises(ConfigError, match="dual needs regions of interest"):
        check_strategy(build_config({"name": "x"}), without)


@pytest.mark.parametrize(
    ("rows", "strategy", "message"),
    [
        ([("pool", "p", "present"), ("pool", "q", "present")], "shuffled_roi", None),
        ([("pool", "p", "present")] * 2, "shuffled_roi", "all are of one"),
        ([("pool", "p", "present"), ("pool", "q", "not_annotated")], "shuffled_roi", "all are of one"),
        ([("pool", "p", "present"), ("val", "q", "present")], "shuffled_roi", "all are of one"),
        ([("pool", "p", "present")], "dual", None),
        (
            [("pool", "p", "absent_confirmed"), ("val", "q", "present")],
            "dual",
            "none of the pool's unlabelled",
        ),
        ([("pool", "p", "not_annotated"), ("test", "q", "present")], "smallest_roi", "unlabelled images"),
        ([("pool", "p", "not_annotated"), ("test", "q", "present")], "entropy", None),
    ],
)
def test_the_unlabelled_images_are_what_must_have_rois(rows, strategy, message):
    splits, groups, states = zip(*rows, strict=True)
    index = pa.table({"split": splits, "group_id": groups, "roi_state": states})
    pool = SimpleNamespace(card={"roi": {"present": 1}}, path="pools/x", index=lambda: index)
    settings = build_config({"name": "x", "select": {"strategy": strategy}})
    if message is None:
        check_strategy(settings, pool)
        return
    with pytest.raises(ConfigError, match=message):
        check_strategy(settings, pool)


def test_a_batch_is_chosen_from_the_shards_and_kept_away_from_what_is_labelled(tmp_path):
    """Images on a line, at their number; 3 and 8 are labelled, 1 has no score, and 11 is no candidate."""
    files = RoundLayout(tmp_path, 3)
    kind = pa.list_(pa.float16(), 1)

    def write(folder, numbers, name):
        columns = {
            "image_id": [IDS[number] for number in numbers],
            "entropy": pa.array([None if number == 1 else 0.5 for number in numbers], pa.float32()),
            "embedding": pa.array([None if n == 1 else [np.float16(n)] for n in numbers], kind),
        }
        write_table(folder / f"{name}.parquet", pa.table(columns))

    write(files.scores, [0, 1, 2, 4, 5], 0)
    write(files.scores, [6, 7, 9, 10, 11], 1)
    write(files.labelled, [3, 8], 0)
    split = ["labeled" if number == 3 else "pool" for number in range(12)]
    index = pa.table({"image_id": IDS, "group_id": IDS, "split": split})
    question = Query(
        title="round 3",
        index=index,
        image_size=64,
        candidates=~np.isin(np.arange(12), [3, 8, 11]),
        scored=~np.isin(np.arange(12), [3, 8]),
        runners_up=pa.array([], pa.string()),
        select=Select(strategy="kcenter", query_size=4),
        score=Score(),
        seed=1,
    )
    assert choose(question, files, Heard()) == 4
    picks = read_table(files.selection)
    names = picks["image_id"].to_pylist()
    assert names[0] == "i00"  # 3 away from the nearest label; then 2 away, and then 1
    assert set(names[1:3]) == {"i10", *({"i05", "i06"} & set(names[1:3]))}
    assert picks["utility"].to_pylist() == [3.0, 2.0, 2.0, 1.0]
    assert picks["uncertainty"].to_pylist() == [0.5] * 4
