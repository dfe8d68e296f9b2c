"""Pool, run, sources, exports and labels in an object store: the same as on a disk, byte for byte."""

import csv
import io

import numpy as np
import pytest
from PIL import Image
from run_outputs import KEPT, outputs

from xal_ray import config
from xal_ray.config import build_config
from xal_ray.engine.prepare import prepare
from xal_ray.errors import PoolError, RunError
from xal_ray.labels.export import export_selection
from xal_ray.labels.table import read_labels
from xal_ray.loop import rounds, run
from xal_ray.loop.score_pool import score_pool, settings_of_pass
from xal_ray.pool.schema import open_pool
from xal_ray.progress import QUIET
from xal_ray.record.layout import RunLayout
from xal_ray.record.ledger import LOCK_NAME, Ledger
from xal_ray.storage import lease, names_below, names_in, read_table, write_bytes

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]


class _Killed(BaseException):
    pass


def killed(*_, **__):
    raise _Killed


def test_a_run_in_a_store_that_was_killed_twice_equals_the_local_one(
    phantom_pool, phantom_settings, tiny_run, s3_bucket, stages, tmp_path, monkeypatch
):
    place, layout = s3_bucket / "pools" / "phantom", RunLayout(s3_bucket / "runs" / "tiny")
    local, remote = (
        build_config({**tiny_run, "num_rounds": 1, "pool": pool.model_dump(mode="json")})
        for pool in (phantom_settings.model_copy(update={"path": at}) for at in (phantom_pool.path, place))
    )
    run(local, tmp_path / "run", QUIET)
    for name in ("LEASE_S", "RENEW_S", "POLL_S"):
        monkeypatch.setattr(lease, name, getattr(lease, name) / 20)

    with monkeypatch.context() as patched:  # killed when all parts are there, but no card
        patched.setattr("xal_ray.engine.prepare._assemble", killed)
        with pytest.raises(_Killed):
            run(remote, layout.path, QUIET)
    assert names_in(place / "parts")
    with pytest.raises(PoolError, match="no packed pool"):
        open_pool(place)

    with monkeypatch.context() as patched:  # killed when all is scored, with the lease not given back
        patched.setattr(rounds, "evaluate_model", killed)
        patched.setattr(lease.Lease, "release", lambda held: held._ended.set())
        with pytest.raises(_Killed):
            run(remote, layout.path, QUIET)
    files = layout.round(0)
    assert not files.metrics.exists()
    before = {name: path.stat() for path in [files.scores] for name in names_in(path)}

    assert run(remote, layout.path, QUIET).status == "finished"
    assert run(remote, layout.path, QUIET).status == "already_finished"
    assert {name: path.stat() for path in [files.scores] for name in names_in(path)} == before
    assert contents(place) == local_contents(phantom_pool.path)
    mine = {
        name: data
        for name, data in contents(layout.path).items()
        if name.rpartition("/")[2] in KEPT or name.split("/")[-2:-1] in (["scores"], ["holdout"])
    }
    assert mine == outputs(tmp_path / "run")
    assert layout.report.read_bytes() == (tmp_path / "run" / "report.html").read_bytes()
    known = Ledger(layout.ledger).labels()
    assert known == Ledger(tmp_path / "run" / "ledger.jsonl").labels()
    assert len(known) == 18
    assert len([name for name in names_in(layout.path) if name.startswith(LOCK_NAME)]) == 1

    settings = settings_of_pass(layout.path, {}, ["ray.num_actors=0"], where="--set")
    out = s3_bucket / "scores"  # a pass with its model finds the run in the store
    score_pool(layout.round(1).folder, place, out, settings, QUIET, query_size=5)
    picks = read_table(out / "selection.parquet")["image_id"].to_pylist()
    assert len(set(picks) - set(known)) == 5
    score_pool(layout.round(1).folder, place, out, settings, QUIET, query_size=5)
    with pytest.raises(RunError, match="another choice"):
        score_pool(layout.round(1).folder, place, out, settings, QUIET, query_size=6)

    write_bytes(s3_bucket / "others" / "thesis.txt", b"dear")
    with pytest.raises(RunError, match="something else"):
        run(remote, s3_bucket / "others", QUIET)
    with pytest.raises(PoolError, match="something else"):
        prepare(phantom_settings, s3_bucket / "others", stages)


def contents(folder):
    return {name: (folder / name).read_bytes() for name in names_below(folder)}


def local_contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def images(tmp_path):
    """Eight images with masks in class folders, and a manifest that names them by relative paths."""
    chance = np.random.default_rng(0)
    folder = tmp_path / "images"
    lines = [["image", "mask", "label", "group_id"]]
    for number in range(8):
        label = ("cat", "dog")[number % 2]
        mask = np.zeros((20, 30), dtype=np.uint8)
        mask[4:10, 6:18] = 255
        for name, pixels in (("", chance.integers(0, 255, (20, 30), dtype=np.uint8)), ("masks/", mask)):
            path = folder / f"{name}{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        lines.append([f"{label}/{number}.png", f"masks/{label}/{number}.png", label, f"g{number}"])
    with (folder / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(lines)
    return folder


def settings_of(path, **changes):
    splits = config.Splits(val=0.25, test=0.25, stratify=False)
    return config.Pool(image_size=16, source=config.Source(path=path), splits=splits, **changes)


def test_sources_labels_and_exports_may_lie_in_a_store(images, s3_bucket, tmp_path, stages):
    local = prepare(settings_of(images / "manifest.csv"), tmp_path / "pool", stages)
    remote = s3_bucket / "set 1"
    for name, data in local_contents(images).items():
        write_bytes(remote / name, data)
    text = (images / "manifest.csv").read_text().replace("cat/0.png,", f"{remote}/cat/0.png,", 1)
    write_bytes(remote / "manifest.csv", text.encode())

    pool = prepare(settings_of(remote / "manifest.csv"), s3_bucket / "pool", stages)
    assert pool.content_hash == local.content_hash
    assert contents(s3_bucket / "pool")["index.parquet"] == (local.path / "index.parquet").read_bytes()
    assert prepare(settings_of(remote / "manifest.csv"), s3_bucket / "pool", stages) == pool

    selection = pool.index().select(["image_id"]).slice(0, 2).to_pylist()
    picks = [{**row, "rank": rank, "utility": 0.5, "reason": "r"} for rank, row in enumerate(selection)]
    table = export_selection(s3_bucket / "to_label", pool, pool_rows(picks))
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    origins = {row["image_id"]: row["uri"] for row in read_table(pool.path / "origins.parquet").to_pylist()}
    for row in rows:
        original = images / origins[row["image_id"]].removeprefix(f"{remote}/")
        exported = Image.open(io.BytesIO((table.parent / row["file"]).read_bytes()))
        assert np.array_equal(np.asarray(exported), np.asarray(Image.open(original)))
        row["label"] = "cat"
    write_bytes(table.parent / "mask.png", (images / "masks" / "cat" / "0.png").read_bytes())
    filled = f"image_id,label,mask\n{rows[0]['image_id']},cat,mask.png\n{rows[1]['image_id']},dog,\n"
    write_bytes(table.parent / "filled.csv", filled.encode())
    received = read_labels(table.parent / "filled.csv", pool, {row["image_id"] for row in rows})
    assert sorted(received["label"].to_pylist()) == ["cat", "dog"]
    assert received["roi"].null_count == 1


def pool_rows(picks):
    import pyarrow as pa

    return pa.Table.from_pylist(picks)


def test_a_folder_of_images_in_a_store_with_one_that_is_too_large(images, s3_bucket, tmp_path, stages):
    (images / "manifest.csv").unlink()
    (images / "dog" / "1.png").write_bytes((images / "dog" / "1.png").read_bytes() + bytes(5000))
    for name, data in local_contents(images).items():
        write_bytes(s3_bucket / "set" / name, data)
    limits = config.Limits(max_file_bytes=4000, max_error_fraction=0.5)
    changes = {"group_by": "image", "limits": limits}
    local = prepare(settings_of(images, **changes), tmp_path / "pool", stages)
    pool = prepare(settings_of(s3_bucket / "set", **changes), s3_bucket / "pool", stages)
    assert pool.content_hash == local.content_hash
    assert pool.card["exclusions"] == {"file_too_large": 1}
    (row,) = read_table(pool.path / "quarantine.parquet").to_pylist()
    assert row["uri"] == f"{s3_bucket}/set/dog/1.png"
