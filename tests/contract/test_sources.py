"""What every source promises, whatever it reads."""

import re
from pathlib import Path

import pytest

from xal_ray.config import Phantom, Pool, Source, Splits
from xal_ray.errors import SourceError
from xal_ray.pool.manifest import MANIFEST_SCHEMA, check_manifest, classes_of
from xal_ray.pool.schema import ROI_STATES
from xal_ray.pool.sources import read_source
from xal_ray.pool.splits import assign_splits


def _table(folder: Path) -> Pool:
    lines = ["image,label,group_id,mask,box_x0,box_y0,box_x1,box_y1"]
    for number in range(40):
        (folder / f"{number}.png").touch()
        box = "1,1,5,5" if number % 4 == 0 else ",,,"
        lines.append(f"{number}.png,{'ab'[number % 2]},g{number // 2 * 2 + number % 2},,{box}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return Pool(source=Source(path=folder / "manifest.csv"))


def _folder(folder: Path) -> Pool:
    for number in range(40):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return Pool(source=Source(path=folder), group_by="image")


def _phantom(folder: Path) -> Pool:
    return Pool(source=Source(kind="phantom", phantom=Phantom(num_patients=30)))


@pytest.fixture(params=[_table, _folder, _phantom], ids=["table", "folder", "phantom"])
def pool(request, tmp_path):
    return request.param(tmp_path)


def test_schema(pool):
    assert read_source(pool).manifest.schema.equals(MANIFEST_SCHEMA)


def test_ids_are_unique_and_well_formed(pool):
    ids = read_source(pool).manifest["image_id"].to_pylist()
    assert len(set(ids)) == len(ids) >= 40
    assert all(re.fullmatch(r"[A-Za-z0-9._:/-]{1,128}", image_id) for image_id in ids)


def test_required_columns_hold_no_null(pool):
    rows = read_source(pool).manifest
    for field in MANIFEST_SCHEMA:
        if not field.nullable:
            assert rows[field.name].null_count == 0, field.name


def test_uris_are_absolute_local_paths_or_phantoms(pool):
    for uri in read_source(pool).manifest["uri"].to_pylist():
        assert Path(uri).is_absolute() or re.fullmatch(r"phantom:\d{6}", uri)


def test_reading_twice_gives_the_same(pool):
    assert read_source(pool).manifest.equals(read_source(pool).manifest)


def test_roi_states_are_legal_and_boxes_are_present_rois(pool):
    for row in read_source(pool).manifest.to_pylist():
        assert row["roi_state"] in ROI_STATES
        if row["boxes"] or row["mask_uri"]:
            assert row["roi_state"] == "present"


def test_it_passes_its_own_check_and_names_two_classes(pool):
    rows = read_source(pool).manifest
    classes = classes_of(rows, None)
    assert len(classes) == 2
    check_manifest(rows, classes)
    with pytest.raises(SourceError, match="a label is not known"):
        read_source(pool.model_copy(update={"classes": ("none", "of these")}))


@pytest.mark.parametrize("stratify", [True, False])
def test_splits_are_legal(pool, stratify):
    dealt = assign_splits(read_source(pool).manifest, Splits(stratify=stratify))
    check_manifest(dealt)
    assert dealt["split"].null_count == 0
    assert set(dealt["split"].to_pylist()) == {"pool", "val", "test"}


def test_group_by_image_makes_every_image_a_group(pool):
    rows = read_source(pool.model_copy(update={"group_by": "image"})).manifest
    assert rows["group_id"].equals(rows["image_id"])
