"""The arms of a sweep's folder: added by calls, each once, however it is called."""

import numpy as np
import pyarrow as pa
import pytest

from xal_ray.acquire import uncertainty
from xal_ray.acquire.strategies import select
from xal_ray.acquire.streaming import Candidates
from xal_ray.config import Select, build_config
from xal_ray.errors import ConfigError
from xal_ray.loop.plan import lacking_classes
from xal_ray.pool.schema import INDEX_SCHEMA, SCHEMA_VERSION, open_pool
from xal_ray.storage import write_json, write_table
from xal_ray.sweep.family import gather, ranking
from xal_ray.sweep.initial_sets import about_left_out, lacking_seeds, with_recorded
from xal_ray.sweep.plan import plan_arm, plan_arms
from xal_ray.sweep.record import RecordedArm, add_to_record, bind, read_record

STRATEGY, WEIGHT = "select.strategy", "select.weight"


def base(**sections):
    return build_config({"name": "tiny", **sections})


def family(asked, recorded=(), *, settings=None, seeds=(0, 1), num_classes=3):
    settings = settings or base()
    entries = [RecordedArm(plan_arm(settings, params).name, params, earlier) for params, earlier in recorded]
    return gather(settings, plan_arms(settings, asked), seeds, entries, lambda each: num_classes)


def told(found):
    return [(member.plan.arm.label, member.plan.arm.is_baseline, member.seeds) for member in found.members]


def test_a_call_adds_to_the_arms_and_seeds_that_are_there():
    recorded = [({STRATEGY: "random"}, (0, 1)), ({WEIGHT: 0.5}, (0, 1)), ({WEIGHT: 0.1}, (0, 1))]
    found = family([{WEIGHT: 0.1}, {WEIGHT: 0.9}], recorded, seeds=(1, 2))
    assert told(found) == [
        ("select.strategy=random", True, (0, 1, 2)),
        ("select.weight=0.5", False, (0, 1)),
        ("select.weight=0.1", False, (0, 1, 2)),
        ("select.weight=0.9", False, (1, 2)),
    ]
    assert [each.arm.label for each in found.asked] == [
        "select.strategy=random", "select.weight=0.1", "select.weight=0.9",
    ]  # fmt: skip
    assert found.twins == ()


def test_another_baseline_makes_the_old_one_an_arm():
    recorded = [({STRATEGY: "random"}, (0, 1)), ({WEIGHT: 1.0}, (0, 1))]
    settings = base(sweep={"baseline": {WEIGHT: 1}})
    assert told(family([{WEIGHT: 0.5}], recorded, settings=settings)) == [
        ("select.weight=1", True, (0, 1)),
        ("select.strategy=random", False, (0, 1)),
        ("select.weight=0.5", False, (0, 1)),
    ]


def test_arms_that_rank_alike_count_once_under_the_first_name():
    asked = [{STRATEGY: name} for name in ("entropy", "margin", "least_confidence")] + [{WEIGHT: 1.0}]
    two = family(asked, num_classes=2)
    assert [label for label, *_ in told(two)] == ["select.strategy=random", "select.strategy=entropy"]
    assert two.twins == (
        "select.strategy=margin is select.strategy=entropy",
        "select.strategy=least_confidence is select.strategy=entropy",
        "select.weight=1 is select.strategy=entropy",
    )
    assert len(two.asked) == 2
    three = family(asked, num_classes=3)
    assert three.twins == ("select.weight=1 is select.strategy=entropy",)
    unknown = family(asked, num_classes=None)  # a pool that is not prepared yet
    assert len(unknown.members) == 4


def test_an_arm_of_an_earlier_call_keeps_its_name_and_its_runs():
    recorded = [({STRATEGY: "random"}, (0, 1)), ({STRATEGY: "margin"}, (0, 1))]
    found = family([{STRATEGY: "entropy"}], recorded, seeds=(0, 1, 2), num_classes=2)
    assert told(found)[1] == ("select.strategy=margin", False, (0, 1, 2))
    assert found.asked[1].name == plan_arm(base(), {STRATEGY: "margin"}).name
    assert found.twins == ("select.strategy=entropy is select.strategy=margin",)
    settings = base(sweep={"baseline": {STRATEGY: "entropy"}})
    found = family([{WEIGHT: 0.5}], recorded, settings=settings, num_classes=2)
    assert told(found)[0] == ("select.strategy=margin", True, (0, 1))


def rankings_agree(one, other, num_classes):
    settings = (base(select=one), base(select=other))
    return ranking(settings[0], num_classes) == ranking(settings[1], num_classes)


@pytest.mark.parametrize(
    ("one", "other", "num_classes"),
    [
        ({"strategy": "entropy"}, {"strategy": "margin"}, 2),
        ({"strategy": "entropy"}, {"strategy": "least_confidence"}, 2),
        ({"strategy": "dual", "weight": 1}, {"strategy": "entropy"}, 3),
        ({"strategy": "shuffled_roi", "weight": 1, "uncertainty": "margin"}, {"strategy": "margin"}, 3),
        ({"strategy": "dual", "weight": 0}, {"strategy": "misalignment"}, 3),
        (
            {"strategy": "dual", "weight": 0.4},
            {"strategy": "dual", "weight": 0.4, "uncertainty": "margin"},
            2,
        ),
        ({"strategy": "misalignment"}, {"strategy": "misalignment", "uncertainty": "margin"}, 2),
        ({"strategy": "smallest_roi"}, {"strategy": "smallest_roi", "uncertainty": "least_confidence"}, 2),
    ],
)
def test_what_counts_once_picks_the_same_images(one, other, num_classes):
    assert rankings_agree(one, other, num_classes)
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(num_classes), size=300)
    columns = {name: getattr(uncertainty, name)(probs) for name in ("entropy", "margin", "least_confidence")}
    missing = rng.random(300) < 0.3
    for name in ("misalignment", "shuffled_misalignment", "roi_area"):
        columns[name] = np.where(missing, np.nan, rng.random(300))
    chunk = Candidates.of([f"i{number:03d}" for number in range(300)], columns)
    picks = [
        select(lambda: iter([chunk]), Select(query_size=60, **settings), seed=0).image_ids
        for settings in (one, other)
    ]
    assert picks[0] == picks[1]


@pytest.mark.parametrize(
    ("one", "other", "num_classes"),
    [
        ({"strategy": "entropy"}, {"strategy": "margin"}, 3),
        ({"strategy": "dual", "weight": 0.9}, {"strategy": "entropy"}, 3),
        ({"strategy": "shuffled_roi", "weight": 0}, {"strategy": "dual", "weight": 0}, 3),
        ({"strategy": "dual"}, {"strategy": "dual", "uncertainty": "margin"}, 3),
        (
            {"strategy": "dual", "normalise": "minmax"},
            {"strategy": "dual", "normalise": "minmax", "uncertainty": "margin"},
            2,
        ),
        ({"strategy": "entropy"}, {"strategy": "entropy", "query_size": 7}, 2),
    ],
)
def test_what_differs_counts_twice(one, other, num_classes):
    assert not rankings_agree(one, other, num_classes)


def write_pool(path, labels):
    """Images of the pool split, each its own patient, with these hidden labels; no pixels."""
    ids = [f"i{number:03d}" for number in range(len(labels))]
    columns = {
        "image_id": ids,
        "group_id": ids,
        "split": ["pool"] * len(ids),
        "roi_state": ["not_annotated"] * len(ids),
        "width": [8] * len(ids),
        "height": [8] * len(ids),
        "content_sha256": ["0" * 64] * len(ids),
        "part": [0] * len(ids),
        "row": list(range(len(ids))),
        "label": pa.nulls(len(ids), pa.string()),
    }
    index = pa.table({name: columns[name] for name in INDEX_SCHEMA.names}, schema=INDEX_SCHEMA)
    write_table(path / "index.parquet", index)
    write_table(path / "hidden_labels.parquet", pa.table({"image_id": ids, "label": labels}))
    card = {"schema_version": SCHEMA_VERSION, "classes": ["common", "rare"], "counts": {"pool": len(ids)}}
    write_json(path / "card.json", card | {"image_size": 8, "channels": 1, "content_hash": "c0ffee"})
    return open_pool(path)


@pytest.fixture
def pool(tmp_path):
    return write_pool(tmp_path / "pool", ["rare" if number % 8 == 0 else "common" for number in range(80)])


def test_seeds_whose_initial_set_lacks_a_class_are_left_out_of_all_arms(pool):
    settings = base(pool={"path": str(pool.path)}, select={"initial_labels": 12})
    arms = plan_arms(settings, [{STRATEGY: "margin"}, {"select.initial_labels": 20}]).arms
    lacking = lacking_seeds(arms, {pool.path: pool}, range(20))
    assert 0 < len(lacking) < 20
    for seed in range(20):
        found = lacking_classes(settings.model_copy(update={"seed": seed}), pool)
        assert (found == ["rare"]) == (seed in lacking)
    (sentence,) = about_left_out(lacking)
    assert f"{min(lacking)} (no 'rare')" in sentence
    assert about_left_out({}) == []


def test_where_every_seed_lacks_a_class_none_is_left_out(pool):
    settings = base(pool={"path": str(pool.path)}, select={"initial_labels": 1})
    assert lacking_seeds(plan_arms(settings, []).arms, {pool.path: pool}, range(5)) == {}


def test_the_folder_remembers_arms_searches_and_seeds(pool, tmp_path):
    settings, folder = base(pool={"path": str(pool.path)}), tmp_path / "sweep"
    folder.mkdir()
    assert read_record(folder).arms == ()
    bind(settings, pool, folder)
    first, second = RecordedArm("a-1", {WEIGHT: 0.5}, (0, 1)), RecordedArm("b-2", {WEIGHT: True}, (3,))
    add_to_record(folder, [first], settings, {7: "rare"})
    add_to_record(folder, [second, RecordedArm("a-1", {WEIGHT: 0.5}, (1, 2))], settings, {4: "rare"})
    bind(settings, pool, folder)  # a later call of the same sweep
    record = read_record(folder)
    assert record.arms == (RecordedArm("a-1", {WEIGHT: 0.5}, (0, 1, 2)), second)
    assert (record.searches, record.schedulers) == (("grid",), ("none",))
    assert record.left_out == {4: "rare", 7: "rare"}


def test_a_seed_that_is_out_of_the_folder_stays_out_and_is_not_run_for_nothing():
    assert with_recorded({4: "c"}, {1: "c", 9: "c"}, [1, 2, 4]) == {1: "c", 4: "c"}
    with pytest.raises(ConfigError, match="no seed is left") as caught:
        with_recorded({}, {1: "c"}, [1])
    assert "--seeds" in caught.value.details["next"]
