"""Images that kill whatever process works on them: they are found and left out, and nobody else is blamed."""

import os
import signal

import pyarrow as pa
import pytest

from xal_ray import config
from xal_ray.engine.actors import ActorShape
from xal_ray.engine.context import open_context
from xal_ray.engine.scoring import ScoreShard
from xal_ray.engine.shards import cut, run_shards
from xal_ray.errors import StageError
from xal_ray.model.network import ModelSpec
from xal_ray.model.weights import build_network, save_model
from xal_ray.pool.packing import PackShard
from xal_ray.pool.schema import REFERENCE_COLUMNS
from xal_ray.pool.sources import read_source
from xal_ray.progress import QUIET, Reporter
from xal_ray.storage import read_table

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.fault]

ONCE = config.Ray(shard_attempts=1)
HURRIED = ActorShape(2, 0.5)


class Told(Reporter):
    """Keeps what is said."""

    def __init__(self):
        super().__init__(quiet=True)
        self.said = []

    def line(self, text):
        self.said.append(text)


def poisoned():
    """Work that dies of some images, and of a file's lock. Local, so that it travels by value."""

    class Poisoned:
        def __init__(self, poison=(), together=0):
            self.poison, self.together = poison, together

        def __call__(self, path, rows, refused=None):
            refused = refused or {}
            left = [name for name in rows["image_id"].to_pylist() if name not in refused]
            self.probe(pa.table({"image_id": left}))
            codes = pa.array([refused.get(name) for name in rows["image_id"].to_pylist()], pa.string())
            path.parent.mkdir(exist_ok=True)
            pa.parquet.write_table(rows.append_column("error_code", codes), path)

        def probe(self, rows):
            import pyarrow.parquet  # noqa: F401 - the actor has not imported this test

            crowded = self.together and rows.num_rows >= self.together
            if crowded or set(self.poison) & set(rows["image_id"].to_pylist()):
                os.kill(os.getpid(), signal.SIGKILL)

    return Poisoned


def shards_in(folder, count=10, rows_per_shard=5):
    return cut(pa.table({"image_id": [f"im{n}" for n in range(count)]}), folder, rows_per_shard)


def test_an_image_that_kills_its_process_is_left_out_and_the_others_are_done(tmp_path, ray_session):
    told = Told()
    with open_context(ONCE, told) as context:
        run_shards("noting", shards_in(tmp_path), poisoned(), {"poison": ["im7"]}, HURRIED, context)
    rows = [row for path in sorted(tmp_path.glob("*.parquet")) for row in read_table(path).to_pylist()]
    assert [row["image_id"] for row in rows] == [f"im{n}" for n in range(10)]
    assert {row["image_id"]: row["error_code"] for row in rows if row["error_code"]} == {"im7": "crashed"}
    (text,) = [text for text in told.said if "crashed" in text]
    assert "00001.parquet: 1 of 5 images" in text


def test_a_shard_that_dies_without_a_guilty_image_ends_the_stage_with_the_reason(tmp_path, ray_session):
    shards = shards_in(tmp_path, 2, 2)
    with (
        open_context(ONCE, QUIET) as context,
        pytest.raises(StageError, match="kills every process") as caught,
    ):
        run_shards("noting", shards, poisoned(), {"together": 2}, HURRIED, context)
    assert "00000.parquet" in str(caught.value)
    assert "lack of memory" in str(caught.value)
    assert not list(tmp_path.glob("*.parquet"))


@pytest.fixture(scope="module")
def scorer(tmp_path_factory, phantom_pool):
    folder = tmp_path_factory.mktemp("model")
    spec = ModelSpec(
        "efficientnet_lite0", phantom_pool.classes, phantom_pool.image_size, phantom_pool.channels
    )
    save_model(folder, build_network(spec, "imagenet", seed=3), spec, {})
    settings = config.Score(batch_size=8, rows_per_shard=16, precision="fp32")
    return {"model": folder, "settings": settings, "use_roi": True, "threads": 1}


@pytest.mark.parametrize("places", [[3], [0, 15], list(range(16))])
def test_a_refused_image_has_a_row_without_scores_and_the_others_keep_theirs(
    phantom_pool, scorer, tmp_path, places
):
    work = ScoreShard(phantom_pool, scorer)
    rows = phantom_pool.index().select(REFERENCE_COLUMNS).slice(0, 16)
    ids = rows["image_id"].to_pylist()
    work(tmp_path / "whole.parquet", rows)
    work(tmp_path / "without.parquet", rows, refused={ids[place]: "crashed" for place in places})
    whole, without = (read_table(tmp_path / f"{name}.parquet") for name in ("whole", "without"))
    assert without.schema == whole.schema
    assert without["image_id"].to_pylist() == ids
    for place, (row, expected) in enumerate(zip(without.to_pylist(), whole.to_pylist(), strict=True)):
        if place in places:
            assert row.pop("error_code") == "crashed"
            filled = {name for name, value in row.items() if value is not None}
            assert filled == {"image_id", "model_id"}
        else:
            assert row["error_code"] == expected["error_code"]
            assert row["entropy"] == pytest.approx(expected["entropy"], rel=1e-4)
    work.probe(rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.parquet", "without.parquet"]


def test_a_refused_image_is_quarantined_when_it_is_decoded(phantom_settings, tmp_path):
    work = PackShard(phantom_settings, tmp_path)
    rows = read_source(phantom_settings).manifest.sort_by("image_id").slice(0, 6)
    rows = rows if "split" in rows.column_names else rows.append_column("split", pa.array(["pool"] * 6))
    victim = rows["image_id"][2].as_py()
    work.probe(rows)
    assert not list(tmp_path.iterdir())
    work(tmp_path / "rows" / "00000.parquet", rows, refused={victim: "crashed"})
    left = read_table(tmp_path / "rows" / "00000.parquet")["image_id"].to_pylist()
    assert left == [name for name in rows["image_id"].to_pylist() if name != victim]
    (refused,) = read_table(tmp_path / "refused" / "00000.parquet").to_pylist()
    assert (refused["image_id"], refused["stage"], refused["error_code"]) == (victim, "decode", "crashed")
