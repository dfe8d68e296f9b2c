"""What every source promises, whatever it reads: each one of the registry, by a layout of its own."""

import importlib
import re
from pathlib import Path

import pytest

from xal_ray.config import Phantom, Pool, Source, Splits
from xal_ray.errors import SourceError
from xal_ray.pool.card import plan_of
from xal_ray.pool.manifest import MANIFEST_SCHEMA, check_manifest, classes_of
from xal_ray.pool.schema import ROI_STATES
from xal_ray.pool.sources import read_source
from xal_ray.pool.splits import assign_splits
from xal_ray.registry.row_readers import ROW_READERS
from xal_ray.registry.sources import SOURCES


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


WITHOUT_LAYOUT = {"table": _table, "folder": _folder, "phantom": _phantom}


@pytest.fixture(scope="module", params=SOURCES.names())
def pool(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param in WITHOUT_LAYOUT:
        return WITHOUT_LAYOUT[request.param](folder)
    layout = importlib.import_module(f"layouts.{request.param}")
    return Pool(**layout.build(folder / "set", num_patients=12))


@pytest.fixture(scope="module")
def listing(pool):
    return read_source(pool)


@pytest.fixture(scope="module")
def rows(listing):
    return listing.manifest


@pytest.fixture(scope="module")
def tells_labels(rows):
    """Whether the rows have labels before they are read: a case tells its own."""
    return rows["reader"].null_count == rows.num_rows


def test_schema(rows):
    assert rows.schema.equals(MANIFEST_SCHEMA)


def test_ids_are_unique_and_well_formed(rows):
    ids = rows["image_id"].to_pylist()
    assert len(set(ids)) == len(ids) >= 10
    assert all(re.fullmatch(r"[A-Za-z0-9._:/-]{1,128}", image_id) for image_id in ids)


def test_required_columns_hold_no_null(rows):
    for field in MANIFEST_SCHEMA:
        if not field.nullable:
            assert rows[field.name].null_count == 0, field.name


def test_uris_are_absolute_local_paths_or_phantoms(rows):
    for uri in rows["uri"].to_pylist():
        assert Path(uri).is_absolute() or re.fullmatch(r"phantom:\d{6}", uri)


def test_readers_are_known(rows):
    for name in rows["reader"].drop_null().unique().to_pylist():
        assert ROW_READERS[name].name == name


def test_reading_twice_gives_the_same(pool, listing):
    assert read_source(pool) == listing


def test_roi_states_are_legal_and_shapes_are_present_rois(rows):
    for row in rows.to_pylist():
        assert row["roi_state"] in ROI_STATES
        if row["boxes"] or row["mask_uri"] or row["polygons"] or row["rle"]:
            assert row["roi_state"] == "present"


def test_it_passes_its_own_check_and_names_its_classes(pool, listing, rows, tells_labels):
    classes = classes_of(rows, pool.classes or listing.classes)
    assert len(classes) >= 2
    check_manifest(rows, classes)
    if tells_labels:
        with pytest.raises(SourceError, match="a label is not known"):
            read_source(pool.model_copy(update={"classes": ("none", "of these")}))


@pytest.mark.parametrize("stratify", [True, False])
def test_splits_are_legal(rows, tells_labels, stratify):
    if tells_labels and not rows["group_id"].null_count:  # else they are dealt after reading
        dealt = assign_splits(rows, Splits(stratify=stratify))
        check_manifest(dealt)
        assert dealt["split"].null_count == 0
        assert set(dealt["split"].to_pylist()) >= {"pool", "val", "test"}


def test_group_by_image_makes_every_image_a_group_or_is_refused_where_patients_are_known(pool):
    by_image = pool.model_copy(update={"group_by": "image"})
    if SOURCES[pool.source.resolved_kind()].name in ("brats", "cheng"):
        with pytest.raises(SourceError, match=r"--set pool\.group_by=group_id"):
            read_source(by_image)
    else:
        rows = read_source(by_image).manifest
        assert rows["group_id"].equals(rows["image_id"])


def test_pools_depend_on_the_settings_that_the_record_names(pool):
    read = plan_of(pool)["source"]
    spec = SOURCES[pool.source.resolved_kind()]
    assert set(read) == {"kind", *spec.settings}
