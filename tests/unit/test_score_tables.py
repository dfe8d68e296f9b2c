import numpy as np
import pyarrow as pa
import pytest

from xal_ray import storage
from xal_ray.acquire import donors, fullsize
from xal_ray.acquire.strategies import select
from xal_ray.config import Select
from xal_ray.errors import StorageError
from xal_ray.scoring.shards import groups_of, ranked_chunks, rows_of, score_chunks
from xal_ray.storage import tables

FLOATS = pa.float32()


@pytest.fixture
def folder(tmp_path):
    """Two shards in row groups of three; rows without a score in the first and in the last group."""
    entropy = [0.5, None, 0.25, 0.125, 0.75, 1.0, 0.0, None]
    misalignment = [None, None, 0.5, 0.25, None, 1.0, 0.0, None]
    table = pa.table(
        {
            "image_id": list("abcdefgh"),
            "entropy": pa.array(entropy, FLOATS),
            "misalignment": pa.array(misalignment, FLOATS),
            "bald": pa.array([None] * 8, FLOATS),
        }
    )
    storage.write_table(tmp_path / "00000.parquet", table[:6], row_group_size=3)
    storage.write_table(tmp_path / "00001.parquet", table[6:], row_group_size=3)
    return tmp_path


def test_rows_without_a_score_are_left_out_and_null_becomes_nan(folder):
    replay = score_chunks(folder, ["misalignment"])
    for _ in range(2):  # each call goes over all again
        chunks = list(replay())
        assert [list(chunk.image_ids) for chunk in chunks] == [["a", "c"], ["d", "e", "f"], ["g"]]
        columns = {
            name: np.concatenate([chunk.columns[name] for chunk in chunks])
            for name in ("entropy", "misalignment")
        }
        np.testing.assert_array_equal(columns["entropy"], [0.5, 0.25, 0.125, 0.75, 1.0, 0.0])
        np.testing.assert_array_equal(columns["misalignment"], [np.nan, 0.5, 0.25, np.nan, 1.0, 0.0])
        assert {column.dtype for column in columns.values()} == {np.dtype(np.float64)}


def test_a_column_of_nulls_is_refused_when_it_is_used(folder):
    chunk = next(score_chunks(folder, ["entropy", "bald"])())
    assert list(chunk.columns) == ["entropy", "bald"]
    with pytest.raises(ValueError, match="bald is not finite"):
        chunk.column("bald")


def test_ids_are_read_only_when_asked_for(folder, monkeypatch):
    def refuse(*_):
        raise AssertionError("ids were read")

    monkeypatch.setattr(tables, "_read_ids", refuse)
    assert sum(chunk.num_rows for chunk in score_chunks(folder, [])()) == 6


def test_a_missing_column_is_explained(folder):
    with pytest.raises(StorageError, match="margin"):
        list(score_chunks(folder, ["margin"])())


FRAME = 48
GRID = (3, 3)


class Scored:
    """Scores of images of some groups, all of a group with one ROI, and the maps that look at their own."""

    def __init__(self, folder, groups, *, without_roi=(), without_map=(), rows_per_shard=16, order=None):
        self.folder = folder
        self.ids = [f"{group}/{number:03d}" for number, group in enumerate(groups)]
        self.group_of = dict(zip(self.ids, groups, strict=True))
        names = sorted(set(groups))
        rng = np.random.default_rng(5)
        masks = {name: np.zeros((FRAME, FRAME), dtype=np.uint8) for name in names}
        for number, name in enumerate(names):
            row, column = divmod(number * 7, FRAME - 8)
            masks[name][row : row + 8, column : column + 8] = 255
        self.regions = fullsize.reduce_rois(np.stack([masks[group] for group in groups]), GRID)
        cams = rng.random((len(groups), *GRID))
        cams -= cams.min(axis=(1, 2), keepdims=True)
        self.cams = (cams / cams.max(axis=(1, 2), keepdims=True)).astype(np.float32)
        own = fullsize.measure(self.cams, self.regions)["misalignment"]
        entropy = rng.random(len(groups)).astype(np.float32)
        rows = [
            {
                "image_id": name,
                "entropy": entropy[row],
                "misalignment": None if {row} & {*without_roi, *without_map} else own[row],
                "roi_area": None if row in without_roi else self.regions.area[row],
                "saliency": None if row in without_map else self.cams[row].ravel(),
                "roi_adjoint": None if row in without_roi else self.regions.adjoint[row].ravel(),
                "error_code": "undefined_map" if row in without_map else None,
            }
            for row, name in enumerate(self.ids)
        ]
        types = dict.fromkeys(("entropy", "misalignment", "roi_area"), FLOATS)
        types |= dict.fromkeys(("saliency", "roi_adjoint"), pa.list_(FLOATS))
        types |= dict.fromkeys(("image_id", "error_code"), pa.string())
        schema = pa.schema(list(types.items()))
        rows = [rows[row] for row in (range(len(rows)) if order is None else order)]
        for start in range(0, len(rows), rows_per_shard):
            table = pa.Table.from_pylist(rows[start : start + rows_per_shard], schema=schema)
            storage.write_table(folder / f"{start:05d}.parquet", table, row_group_size=5)

    def groups(self, ids):
        return [self.group_of[name] for name in ids]

    def ranked(self, *, seed=1, strategy="shuffled_roi", **settings):
        asked = Select(strategy=strategy, query_size=len(self.ids), **settings)
        replay = ranked_chunks(self.folder, asked, seed=seed, groups=self.groups, image_size=FRAME)
        return replay, select(replay, asked, seed=seed, groups=self.groups)

    def shuffled(self, **settings):
        replay, _ = self.ranked(**settings)
        found = {}
        for chunk in replay():
            found |= dict(zip(chunk.image_ids, chunk.columns["shuffled_misalignment"], strict=True))
        return found

    def misses(self, row):
        """Misalignment of an image's map with the ROI of every image."""
        cams = np.repeat(self.cams[row][None], len(self.ids), axis=0)
        return fullsize.misalignment(cams, self.regions.adjoint, (FRAME, FRAME)).astype(np.float32)


def test_the_shuffled_roi_is_one_of_another_patient(tmp_path):
    """Two patients of 30 slices: with a shard's derangement, half of the ROIs were the same patient's."""
    scored = Scored(tmp_path, ["p"] * 30 + ["q"] * 30)
    found = scored.shuffled()
    for row, name in enumerate(scored.ids):
        misses = dict(zip(scored.ids, scored.misses(row), strict=True))
        expected = {misses[other] for other in scored.ids if other[0] != name[0]}
        assert found[name] in expected
        assert found[name] not in {misses[other] for other in scored.ids if other[0] == name[0]}


def test_lent_rois_come_from_the_whole_pool_by_a_seed_whatever_shards_and_order(tmp_path):
    groups = [f"p{number % 12:02d}" for number in range(60)]
    scored = Scored(tmp_path / "one", groups, rows_per_shard=5)
    found = scored.shuffled()
    order = np.random.default_rng(0).permutation(60)
    moved = Scored(tmp_path / "two", groups, rows_per_shard=37, order=order)
    assert moved.shuffled() == found
    assert moved.ranked()[1].reasons == scored.ranked()[1].reasons
    other = scored.shuffled(seed=2)
    assert sum(found[name] != other[name] for name in found) > 40
    lenders = []
    for row, name in enumerate(scored.ids):
        (places,) = np.nonzero(scored.misses(row) == np.float32(found[name]))
        lenders.append({groups[place] for place in places})
    assert len(set.union(*lenders)) == 12  # all patients lend
    in_shard = [set(groups[row - row % 5 :][:5]) & lender for row, lender in enumerate(lenders)]
    assert sum(map(bool, in_shard)) < 40


def test_images_without_an_roi_or_a_map_neither_lend_nor_borrow(tmp_path):
    groups = [f"p{number % 3}" for number in range(30)]
    without_roi, without_map = range(12), (13, 17, 22)
    scored = Scored(tmp_path, groups, without_roi=without_roi, without_map=without_map)
    found = scored.shuffled()
    missing = {scored.ids[row] for row in (*without_roi, *without_map)}
    assert {name for name, value in found.items() if np.isnan(value)} == missing


@pytest.mark.parametrize("strategy", ["dual", "misalignment", "shuffled_roi"])
def test_an_undefined_map_is_a_reason_of_its_own(tmp_path, strategy):
    scored = Scored(tmp_path, [f"p{row % 4}" for row in range(20)], without_roi=(2, 3), without_map=(3, 5, 6))
    _, chosen = scored.ranked(strategy=strategy)
    reasons = dict(zip(chosen.image_ids, chosen.reasons, strict=True))
    for row, name in enumerate(scored.ids):
        words = {2: "no ROI: ", 3: "no map: ", 5: "no map: ", 6: "no map: "}.get(row, strategy)
        assert reasons[name].startswith(words)
        if row in (2, 3, 5, 6):
            assert "ranked by entropy alone (entropy ." in reasons[name]


def test_the_smallest_roi_needs_no_map(tmp_path):
    scored = Scored(tmp_path, ["p", "q", "r"], without_map=(1,))
    _, chosen = scored.ranked(strategy="smallest_roi")
    assert all(reason.startswith("ROI area") for reason in chosen.reasons)


def test_one_patient_alone_has_no_roi_to_borrow_and_says_so(tmp_path):
    scored = Scored(tmp_path, ["p"] * 8, without_roi=(0,))
    assert np.isnan(list(scored.shuffled().values())).all()
    _, chosen = scored.ranked()
    by_entropy = scored.ranked(strategy="entropy")[1]
    assert chosen.image_ids == by_entropy.image_ids
    reasons = dict(zip(chosen.image_ids, chosen.reasons, strict=True))
    assert reasons["p/000"].startswith("no ROI: ranked by entropy alone")
    assert reasons["p/001"].startswith("no ROI of another group: ranked by entropy alone")


def test_a_large_group_leaves_room_for_donors_of_others(tmp_path, monkeypatch):
    """Else the images of a group that has drawn all places would find nobody to borrow from."""
    monkeypatch.setattr(donors, "MOST_DONORS", 4)
    scored = Scored(tmp_path, ["big"] * 60 + ["p", "q"])
    assert not np.isnan(list(scored.shuffled().values())).any()


def test_with_all_weight_on_uncertainty_the_control_is_entropy(tmp_path):
    scored = Scored(tmp_path, [f"p{row % 7}" for row in range(40)], without_roi=range(0, 40, 3))
    by_entropy = scored.ranked(strategy="entropy")[1]
    assert scored.ranked(weight=1.0)[1].image_ids == by_entropy.image_ids


def test_rows_that_may_not_be_chosen_are_passed_over(tmp_path):
    scored = Scored(tmp_path, [f"p{row % 5}" for row in range(23)], without_map=(4,))
    kept = np.arange(23) % 3 > 0
    for strategy in ("shuffled_roi", "dual", "entropy"):
        asked = Select(strategy=strategy)
        replay = ranked_chunks(tmp_path, asked, seed=0, groups=scored.groups, image_size=FRAME, kept=kept)
        ids = [name for chunk in replay() for name in chunk.image_ids]
        assert ids == [name for name, is_kept in zip(scored.ids, kept, strict=True) if is_kept]


def test_some_rows_by_their_ids(tmp_path):
    scored = Scored(tmp_path, [f"p{row % 5}" for row in range(23)], rows_per_shard=4)
    asked = [scored.ids[row] for row in (20, 1, 2)]
    found = rows_of(tmp_path, [*asked, "stranger"], ["roi_area"])
    assert set(found) == set(asked)
    assert found[asked[0]]["roi_area"] == pytest.approx(scored.regions.area[20])


def test_groups_are_looked_up_in_any_order():
    ids = [f"image-{number:03d}" for number in range(200)]
    index = pa.table({"image_id": ids, "group_id": [name[-1] for name in ids]})
    groups = groups_of(pa.concat_tables([index[:70], index[70:]]))
    for asked in (["image-150", "image-003", "image-151"], [], ["image-199"], ids[::-1]):
        assert groups(asked) == [name[-1] for name in asked]
