"""Images without a saliency map: counted, limited where maps are needed, refused where there can be none."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from xal_ray import config
from xal_ray.engine import scoring
from xal_ray.engine.context import StageContext
from xal_ray.errors import ModelError, StageError
from xal_ray.loop.plan import check_model
from xal_ray.model.network import ModelSpec
from xal_ray.model.saliency import check_maps
from xal_ray.model.weights import build_network
from xal_ray.progress import Reporter
from xal_ray.registry.strategies import STRATEGIES
from xal_ray.storage import write_table

pytestmark = pytest.mark.slow

IDS = [f"image-{number:03d}" for number in range(200)]


class Lines(Reporter):
    def __init__(self):
        self.lines = []

    def line(self, text):
        self.lines.append(text)


def check(folder, codes, *, limit=0.01, ranked=True):
    """Score where all shards are there already, so that only the check is done."""
    rows = pa.table({"image_id": IDS, "part": [0] * 200, "row": [0] * 200})
    for shard in range(2):
        part = slice(100 * shard, 100 * (shard + 1))
        table = {"image_id": IDS[part], "error_code": pa.array(codes[part], pa.string())}
        write_table(folder / f"{shard:05d}.parquet", pa.table(table))
    settings = config.Score(rows_per_shard=100, max_error_fraction=limit)
    told = Lines()
    by_maps = [folder] if ranked else []
    scoring.score(
        None,
        folder,
        {folder: rows},
        settings,
        config.Roi(),
        StageContext(config.Ray(), told),
        ranked_by_maps=by_maps,
    )
    return told.lines


def test_undefined_maps_are_limited_as_missing_probabilities_are(tmp_path):
    codes = ["undefined_map"] * 3 + [None] * 197
    with pytest.raises(StageError, match="too many images have no saliency map") as caught:
        check(tmp_path, codes)
    assert caught.value.details["found"] == "3 of 200: 3 undefined_map"
    assert "score.max_error_fraction" in caught.value.details["next"]
    assert check(tmp_path, codes, limit=0.015)[0].startswith("3 of 200 images have no saliency map")
    assert check(tmp_path, codes, ranked=False)[0].startswith("3 of 200 images have no saliency map")
    assert check(tmp_path, [None] * 200) == []


def test_each_kind_has_its_own_count(tmp_path):
    codes = ["undefined_map", "non_finite_output"] * 2 + [None] * 196
    assert len(check(tmp_path, codes)) == 1  # two of 200 of each are within the limit
    codes[4:6] = ["crashed", "out_of_memory"]
    with pytest.raises(StageError, match="no score") as caught:
        check(tmp_path, codes)
    found = "4 of 200: 1 crashed, 2 non_finite_output, 1 out_of_memory"
    assert caught.value.details["found"] == found


@pytest.fixture(scope="module")
def tiny():
    return build_network(ModelSpec("resnet18", ("a", "b"), 32, 1), "none", seed=0)


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_maps_of_one_cell_are_refused_where_a_strategy_looks_at_them(tiny, strategy):
    check_maps(tiny, 64, STRATEGIES[strategy])
    if not STRATEGIES[strategy].needs_map:
        check_maps(tiny, 32, STRATEGIES[strategy])
        return
    with pytest.raises(ModelError, match="a single cell") as caught:
        check_maps(tiny, 32, STRATEGIES[strategy])
    assert strategy in caught.value.what
    assert "pool.image_size=64" in caught.value.details["next"]


def test_a_run_is_refused_before_anything_is_trained():
    pool = SimpleNamespace(classes=("a", "b"), image_size=32, channels=1)
    overrides = ["model.backbone=resnet18", "model.weights=none", "model.freeze=none"]
    with pytest.raises(ModelError, match="a single cell"):
        check_model(config.build_config({"name": "x"}, overrides), pool)
    check_model(config.build_config({"name": "x"}, [*overrides, "select.strategy=smallest_roi"]), pool)
