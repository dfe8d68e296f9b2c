"""The folder source: classes, splits, masks, and what it refuses."""

import re
from pathlib import Path

import pytest

from xal_ray.config import Pool, Source
from xal_ray.errors import SourceError
from xal_ray.pool.sources import read_source


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def _read(root: Path, group_by: str = "image", classes=None) -> dict[str, dict]:
    pool = Pool(source=Source(path=root, kind="folder"), group_by=group_by, classes=classes)
    table = read_source(pool).manifest
    return {str(Path(row["uri"]).relative_to(root.resolve())): row for row in table.to_pylist()}


def test_the_class_is_the_first_folder(tmp_path):
    rows = _read(_touch(tmp_path, "cat/1.png", "cat/deep/er/2.JPG", "dog/1.tiff", "3.webp", "dog/note.txt"))
    assert {name: row["label"] for name, row in rows.items()} == {
        "cat/1.png": "cat",
        "cat/deep/er/2.JPG": "cat",
        "dog/1.tiff": "dog",
        "3.webp": None,
    }
    assert all(row["split"] is None and row["roi_state"] == "not_annotated" for row in rows.values())
    assert all(row["group_id"] == row["image_id"] for row in rows.values())


def test_a_folder_without_classes_is_unlabelled(tmp_path):
    assert {row["label"] for row in _read(_touch(tmp_path, "1.png", "2.png")).values()} == {None}


def test_hidden_files_are_skipped(tmp_path):
    rows = _read(_touch(tmp_path, "a/1.png", "a/._1.png", ".trash/2.png", "a/.hidden/3.png"))
    assert list(rows) == ["a/1.png"]


def test_ids_reveal_no_class_and_survive_a_move(tmp_path):
    here = _read(_touch(tmp_path / "here", "cat/1.png", "dog/1.png"))
    there = _read(_touch(tmp_path / "there", "cat/1.png", "dog/1.png"))
    ids = [row["image_id"] for row in here.values()]
    assert len(set(ids)) == 2
    assert all(re.fullmatch(r"img-[0-9a-f]{16}", image_id) for image_id in ids)
    assert ids == [row["image_id"] for row in there.values()]


def test_split_folders_become_splits(tmp_path):
    rows = _read(_touch(tmp_path, "train/cat/1.png", "valid/cat/1.png", "test/dog/1.png", "train/9.png"))
    assert {name: (row["split"], row["label"]) for name, row in rows.items()} == {
        "train/cat/1.png": ("pool", "cat"),
        "valid/cat/1.png": ("val", "cat"),
        "test/dog/1.png": ("test", "dog"),
        "train/9.png": ("pool", None),
    }


def test_classes_named_like_a_split_are_classes(tmp_path):
    rows = _read(_touch(tmp_path, "test/1.png", "control/1.png"))
    assert {row["label"] for row in rows.values()} == {"test", "control"}
    assert {row["split"] for row in rows.values()} == {None}


def test_a_test_image_without_a_label_is_refused(tmp_path):
    with pytest.raises(SourceError, match="without a label stands in the split 'test'"):
        _read(_touch(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/2.png"))


def test_masks_by_path_and_by_name(tmp_path):
    root = _touch(
        tmp_path, "a/1.jpg", "b/1.jpg", "b/2.jpg", "b/3.jpg", "masks/a/1.png", "masks/2.png", "masks/c/3.png"
    )
    rows = _read(root)
    masks = {
        name: row["mask_uri"] and Path(row["mask_uri"]).relative_to(root.resolve()).as_posix()
        for name, row in rows.items()
    }
    assert masks == {"a/1.jpg": "masks/a/1.png", "b/1.jpg": None, "b/2.jpg": "masks/2.png", "b/3.jpg": None}
    assert {name for name, row in rows.items() if row["roi_state"] == "present"} == {"a/1.jpg", "b/2.jpg"}


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (["masks/1.png"], "the mask masks/1.png fits a/1.jpg and b/1.jpg"),
        (["masks/a/1.png", "masks/a/1.bmp"], "two masks fit a/1.jpg"),
        (["masks/2.png", "masks/b/2.png"], "two masks fit b/2.jpg"),
        (["masks/a/1_mask.png"], "no mask fits an image"),
    ],
)
def test_masks_that_fit_no_or_two_images_are_refused(tmp_path, masks, message):
    with pytest.raises(SourceError, match=message):
        _read(_touch(tmp_path, "a/1.jpg", "b/1.jpg", "b/2.jpg", *masks))


def test_patients_are_unknown_so_group_by_image_is_demanded(tmp_path):
    with pytest.raises(SourceError, match=r"--set pool\.group_by=image"):
        _read(_touch(tmp_path, "a/1.png"), group_by="group_id")


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(SourceError, match="holds no image"):
        _read(_touch(tmp_path, "a/readme.txt"))
    with pytest.raises(SourceError, match="no such folder"):
        _read(tmp_path / "none")


def test_a_class_that_was_not_given_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"(?s)'dgo' in row 2.*did you mean 'dog'") as caught:
        _read(_touch(tmp_path, "cat/1.png", "dgo/1.png"), classes=["cat", "dog"])
    assert caught.value.exit_code == 2


def test_links_must_stay_in_the_folder(tmp_path):
    _touch(tmp_path, "secret.png", "root/a/1.png")
    (tmp_path / "root/a/2.png").symlink_to(tmp_path / "root/a/1.png")
    assert len(_read(tmp_path / "root")) == 2
    (tmp_path / "root/a/3.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(SourceError, match="leads out"):
        _read(tmp_path / "root")
    (tmp_path / "root/a/3.png").unlink()
    (tmp_path / "root/b").symlink_to(tmp_path / "root/a")
    with pytest.raises(SourceError, match="is a link"):
        _read(tmp_path / "root")


def test_the_root_itself_may_be_a_link(tmp_path):
    _touch(tmp_path, "real/a/1.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert list(_read(tmp_path / "link")) == ["a/1.png"]
