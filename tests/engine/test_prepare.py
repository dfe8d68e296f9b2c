import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from xal_ray import config
from xal_ray.engine.prepare import prepare
from xal_ray.errors import PoolError, SourceError
from xal_ray.pool.schema import (
    ATTRIBUTE_SCHEMA,
    INDEX_SCHEMA,
    LABEL_SCHEMA,
    ORIGIN_SCHEMA,
    PART_SCHEMA,
    QUARANTINE_SCHEMA,
    open_pool,
)
from xal_ray.pool.sources import phantom
from xal_ray.progress import Reporter
from xal_ray.roi import mask_to_grid
from xal_ray.storage import read_table

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture
def images(tmp_path):
    """Twelve 20 x 30 images with masks, two patients a class, in a folder with a manifest."""
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    lines = ["image_id,image,mask,label,group_id,split"]
    for number in range(12):
        Image.fromarray(generator.integers(0, 255, (20, 30), dtype=np.uint8)).save(folder / f"{number}.png")
        mask = np.zeros((20, 30), dtype=np.uint8)
        mask[4:10, 6:18] = 255
        Image.fromarray(mask).save(folder / f"{number}-mask.png")
        label, split = ("cat", "dog")[number % 2], ("pool", "pool", "val", "test")[number // 3]
        lines.append(f"i{number:02d},{number}.png,{number}-mask.png,{label},{split}-{number % 2},{split}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def settings_of(images, **changes):
    source = config.Source(path=images / "manifest.csv")
    return config.Pool(image_size=16, source=source, rows_per_part=5, **changes)


def test_the_files_of_a_pool_have_their_schemas(phantom_pool):
    path = phantom_pool.path
    names = {entry.name for entry in path.iterdir()}
    assert names == {
        "card.json",
        "index.parquet",
        "parts",
        "attributes.parquet",
        "origins.parquet",
        "hidden_labels.parquet",
        "quarantine.parquet",
        "warnings.parquet",
    }
    assert read_table(path / "index.parquet").schema.equals(INDEX_SCHEMA)
    assert read_table(path / "origins.parquet").schema.equals(ORIGIN_SCHEMA)
    assert read_table(path / "attributes.parquet").schema.equals(ATTRIBUTE_SCHEMA)
    assert read_table(path / "hidden_labels.parquet").schema.equals(LABEL_SCHEMA)
    assert read_table(path / "quarantine.parquet").schema.equals(QUARANTINE_SCHEMA)
    assert read_table(path / "parts" / "00000.parquet").schema.equals(PART_SCHEMA)


def test_pixels_and_rois_are_those_of_the_source(phantom_pool, phantom_settings):
    index = phantom_pool.index()
    shuffled = index.take(np.random.default_rng(0).permutation(index.num_rows))
    rows = phantom_pool.read_rows(shuffled)
    assert rows.image_ids == shuffled["image_id"].to_pylist()
    for position, image_id in enumerate(rows.image_ids[:20]):
        row = {"uri": f"phantom:{image_id.removeprefix('phantom-')}"}
        image, roi = phantom.draw(row, phantom_settings.source.phantom, 64)
        np.testing.assert_array_equal(rows.pixels[position, :, :, 0], image)
        assert rows.has_roi[position] == (roi is not None)
        if roi is not None:
            np.testing.assert_allclose(rows.rois[position] / 255, roi, atol=0.5 / 255 + 1e-6)


def test_labels_of_the_pool_split_are_hidden_and_the_others_are_not(phantom_pool):
    index = phantom_pool.index()
    for row in index.to_pylist():
        assert (row["label"] is None) == (row["split"] == "pool")
    hidden = read_table(phantom_pool.path / "hidden_labels.parquet")
    in_pool = [row["image_id"] for row in index.to_pylist() if row["split"] == "pool"]
    assert sorted(hidden["image_id"].to_pylist()) == sorted(in_pool)


def test_a_manifest_with_masks_is_packed(images, tmp_path, stages):
    pool = prepare(settings_of(images), tmp_path / "pool", stages)
    rows = pool.read_rows(pool.index())
    assert pool.card["counts"] == {"pool": 6, "val": 3, "test": 3}
    assert pool.card["class_counts"] == {"cat": 6, "dog": 6}
    assert rows.has_roi.all()
    mask = np.zeros((20, 30))
    mask[4:10, 6:18] = 1
    np.testing.assert_allclose(rows.rois[0] / 255, mask_to_grid(mask, (16, 16)), atol=0.5 / 255 + 1e-6)
    assert not (tmp_path / ".pool.partial").exists()


def test_the_content_hash_depends_on_content_not_on_place_or_order(images, tmp_path, stages):
    first = prepare(settings_of(images), tmp_path / "a", stages)
    moved = tmp_path / "moved"
    shutil.move(images, moved)
    header, *lines = (moved / "manifest.csv").read_text().splitlines()
    (moved / "manifest.csv").write_text("\n".join([header, *reversed(lines)]))
    same = prepare(settings_of(moved), tmp_path / "b", stages)
    assert same.content_hash == first.content_hash
    (moved / "manifest.csv").write_text(
        "\n".join([header.replace("x", "x"), *lines]).replace("i00,0", "i00,1")
    )
    other = prepare(settings_of(moved), tmp_path / "c", stages)
    assert other.content_hash != first.content_hash


def test_a_bad_image_is_quarantined_and_the_rest_goes_on(images, tmp_path, stages):
    data = (images / "3.png").read_bytes()
    (images / "3.png").write_bytes(data[: len(data) // 2])
    limits = config.Limits(max_error_fraction=0.1)
    pool = prepare(settings_of(images, limits=limits), tmp_path / "pool", stages)
    (row,) = read_table(pool.path / "quarantine.parquet").to_pylist()
    assert (row["image_id"], row["stage"], row["error_code"]) == ("i03", "decode", "truncated")
    index = pool.index()
    assert index.num_rows == 11
    assert "i03" not in index["image_id"].to_pylist()
    assert pool.read_rows(index).image_ids == index["image_id"].to_pylist()
    assert pool.card["exclusions"] == {"truncated": 1}


def test_too_many_bad_images_abort_and_leave_nothing(images, tmp_path, stages):
    (images / "3.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match="too many images") as caught:
        prepare(settings_of(images), tmp_path / "pool", stages)
    assert "3.png" in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["images"]


def test_one_bad_region_costs_one_image_at_most_and_is_listed(images, tmp_path, stages):
    Image.fromarray(np.zeros((20, 29), dtype=np.uint8)).save(images / "7-mask.png")
    header, *rows = (images / "manifest.csv").read_text().splitlines()
    boxes = {2: "25,2,36,9", 4: "9,2,2,9", 5: "40,2,50,9"}
    for number, row in enumerate(rows):
        mask = "" if number in boxes else f"{number}-mask.png"
        rows[number] = row.replace(f"{number}-mask.png", mask) + f",{boxes.get(number, ',,,')}"
    (images / "manifest.csv").write_text("\n".join([header + ",box_x0,box_y0,box_x1,box_y1", *rows]))
    with pytest.raises(SourceError, match=r"(?s)too many images.*1: .'roi_mismatch': 1.*row 6.*wrong order"):
        prepare(settings_of(images), tmp_path / "pool", stages)
    limits = config.Limits(max_error_fraction=0.3)
    pool = prepare(settings_of(images, limits=limits), tmp_path / "pool", stages)
    refused = {row["image_id"]: row for row in read_table(pool.path / "quarantine.parquet").to_pylist()}
    assert {name: row["stage"] for name, row in refused.items()} == {
        "i04": "source",
        "i05": "decode",
        "i07": "decode",
    }
    assert "29x20 pixels, not 30x20 pixels" in refused["i07"]["detail"]
    (entry,) = pool.card["excluded"]
    assert (pool.card["num_rows"], entry["reason"], entry["count"]) == (9, "roi_mismatch", 3)
    warned = read_table(pool.path / pool.card["warned"]["file"]).to_pylist()
    assert ("shape_cut", "i02") in [(row["kind"], row["image_id"]) for row in warned]
    assert pool.card["warned"]["counts"]["shape_cut"] == 1
    assert any("reach out of them" in note and "warnings.parquet" in note for note in pool.card["notes"])


def test_what_reading_notices_is_said_once_counted_and_listed(images, tmp_path, stages):
    Image.fromarray(np.zeros((20, 30), dtype=np.uint8)).save(images / "0-mask.png")
    Image.fromarray(np.full((20, 30), 3, dtype=np.uint8)).save(images / "1-mask.png")
    for number in (2, 3):  # values of 12 bits
        Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 6).save(images / f"{number}.png")
    said = []
    reporter = Reporter(quiet=True)
    reporter.line = said.append
    pool = prepare(settings_of(images), tmp_path / "pool", replace(stages, reporter=reporter))
    assert pool.card["roi"] == {"present": 11, "absent_confirmed": 1}
    assert not pool.read_rows(pool.index()).has_roi[0]
    counted = {name: (each["num_images"], each["example"]) for name, each in pool.card["remarks"].items()}
    assert counted == {"few_greys": (2, "i02"), "whole_mask": (1, "i01")}
    (warning,) = [line for line in said if "pool.raster.window" in line]
    assert warning.startswith("warning: 2 images keep fewer than 32 greys")
    assert warning.removeprefix("warning: ") in pool.card["notes"]
    listed = read_table(pool.path / "warnings.parquet").to_pylist()
    assert ("few_greys", "i03") in [(row["kind"], row["image_id"]) for row in listed]
    ranged = settings_of(images, raster=config.Raster(window="range"))
    pool = prepare(ranged, tmp_path / "ranged", stages)
    assert list(pool.card["remarks"]) == ["whole_mask"]


def test_a_pool_that_is_there_is_opened_and_other_settings_are_refused(
    phantom_pool, phantom_settings, stages
):
    stamp = (phantom_pool.path / "card.json").stat().st_mtime_ns
    again = prepare(phantom_settings, phantom_pool.path, stages)
    assert again.content_hash == phantom_pool.content_hash
    assert (phantom_pool.path / "card.json").stat().st_mtime_ns == stamp
    other = phantom_settings.model_copy(update={"image_size": 48})
    with pytest.raises(PoolError, match="other settings") as caught:
        prepare(other, phantom_pool.path, stages)
    assert "pool.image_size" in str(caught.value)


def test_a_manifest_that_has_changed_since_is_noticed(images, tmp_path, stages):
    pool = prepare(settings_of(images), tmp_path / "pool", stages)
    manifest = images / "manifest.csv"
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[:-1]))
    with pytest.raises(PoolError, match="manifest has changed"):
        prepare(settings_of(images), tmp_path / "pool", stages)
    shutil.rmtree(images)  # a packed pool stands alone
    again = prepare(settings_of(images), tmp_path / "pool", stages)
    assert again.content_hash == pool.content_hash


def test_a_folder_that_holds_something_else_is_left_alone(phantom_settings, tmp_path, stages):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "thesis.txt").write_text("dear")
    with pytest.raises(PoolError, match="something else"):
        prepare(phantom_settings, tmp_path / "pool", stages)
    assert (tmp_path / "pool" / "thesis.txt").read_text() == "dear"


def test_another_schema_version_is_refused(phantom_pool, tmp_path):
    shutil.copytree(phantom_pool.path, tmp_path / "pool")
    card = json.loads((tmp_path / "pool" / "card.json").read_text())
    (tmp_path / "pool" / "card.json").write_text(json.dumps({**card, "schema_version": 99}))
    with pytest.raises(PoolError, match="schema version") as caught:
        open_pool(tmp_path / "pool")
    assert "99" in str(caught.value)


def test_a_killed_prepare_goes_on_from_its_finished_parts(images, tmp_path, stages, monkeypatch):
    whole = prepare(settings_of(images), tmp_path / "whole", stages)

    import xal_ray.engine.prepare as engine

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "_assemble", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(settings_of(images), tmp_path / "pool", stages)
    monkeypatch.undo()
    partial = tmp_path / ".pool.partial"
    parts = {path: path.stat().st_mtime_ns for path in (partial / "parts").iterdir()}
    assert len(parts) == 3
    (partial / "rows" / "00001.parquet").unlink()
    resumed = prepare(settings_of(images), tmp_path / "pool", stages)
    assert resumed.content_hash == whole.content_hash
    kept = tmp_path / "pool" / "parts" / "00000.parquet"
    assert kept.stat().st_mtime_ns == parts[partial / "parts" / "00000.parquet"]
    for name in ("card.json", "index.parquet", "parts/00001.parquet"):
        assert (tmp_path / "pool" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_damaged_part_is_explained(phantom_pool, tmp_path):
    shutil.copytree(phantom_pool.path, tmp_path / "pool")
    part = tmp_path / "pool" / "parts" / "00001.parquet"
    part.write_bytes(part.read_bytes()[:2000])
    pool = open_pool(tmp_path / "pool")
    with pytest.raises(PoolError, match=r"00001\.parquet"):
        pool.read_rows(pool.index())


def test_an_index_of_other_parts_is_found(phantom_pool):
    index = phantom_pool.index()
    rows = index["row"].to_numpy().copy()
    rows[[0, 1]] = rows[[1, 0]]
    wrong = index.set_column(index.schema.get_field_index("row"), "row", pa.array(rows))
    with pytest.raises(PoolError, match="other images than the index says"):
        phantom_pool.read_rows(wrong)
