"""The folder source: classes, splits, masks, and what it refuses."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xal_ray.config import Pool, Source
from xal_ray.errors import SourceError
from xal_ray.pool.reading import read_row
from xal_ray.pool.sources import read_source
from xal_ray.pool.warnings_table import warned_table


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def _listing(root: Path):
    return read_source(Pool(source=Source(path=root, kind="folder"), group_by="image"))


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
        (["masks/a/9.png"], "no mask fits an image"),
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


# --- masks


def _masks(root: Path) -> tuple[dict[str, list[str]], dict[str, dict]]:
    """The masks of each image that has any, and all rows."""
    rows = _read(root)

    def below(uri: str) -> str:
        return Path(uri).relative_to(root.resolve()).as_posix()

    masks = {
        name: [below(uri) for uri in (row["mask_uri"], *(row["more_mask_uris"] or []))]
        for name, row in rows.items()
        if row["mask_uri"]
    }
    return masks, rows


@pytest.mark.parametrize(
    ("image", "masks"),
    [
        ("benign/x (1).png", ["benign/x (1)_mask.png"]),
        ("benign/x (1).png", ["benign/x (1)_mask.png", "benign/x (1)_mask_1.png"]),
        ("a/x.png", ["a/x_mask.tif"]),
        ("a/x.jpg", ["a/x-mask.png"]),
        ("a/x.jpg", ["a/x_seg.png"]),
        ("a/x.jpg", ["a/x_Segmentation.PNG"]),
        ("a/x.jpg", ["a/x_mask (2).png"]),
        ("a/x.dcm", ["a/x.mask.png"]),
        ("a/x.nii.gz", ["a/x_seg.nii.gz"]),
        ("a/p1/x_1.tif", ["a/p1/x_1_mask.tif"]),
        ("a/img_1.png", ["a/img_mask_1.png"]),
        ("a/image_7.png", ["a/mask_7.png"]),
        ("a/x_image.png", ["a/x_mask.png"]),
        ("a/x.png", ["a/x_lung_mask.png"]),
        ("a/images/x.png", ["a/masks/x.png"]),
        ("a/Images/x.png", ["a/Masks/x.jpg"]),
        ("a/images/x.png", ["a/mask/x_mask.png"]),
        ("a/x.png", ["a/mask/x.png"]),
        ("a/deep/er/images/x.png", ["a/deep/er/masks/x.png"]),
        ("images/a/x.png", ["masks/a/x.png"]),
        ("images/a/x.png", ["masks/x.png"]),
        ("images/a/x.png", ["labels/a/x.png"]),
        ("images/a/x.png", ["GroundTruth/a/x_segmentation.png"]),
        ("a/images/x.png", ["a/lung masks/x.png"]),
        ("a/x.png", ["ManualMask/leftMask/x.png", "ManualMask/rightMask/x.png"]),
        ("a/x.png", ["masks/a/x_1.png", "masks/a/x_2.png"]),
        ("a/x.png", ["a_masks/x.png"]),
        ("train/a/x.png", ["train_masks/a/x.png"]),
        ("train/images/a/x.png", ["train/masks/a/x.png"]),
        ("Train/a/images/x.png", ["Train/a/infection masks/x.png"]),
    ],
)
def test_masks_among_images_become_rois(tmp_path, image, masks):
    split = "train/" if image.lower().startswith("train") else ""
    found, rows = _masks(_touch(tmp_path, image, *masks, f"{split}other/y.png"))
    assert found == {image: masks}
    assert set(rows) == {image, f"{split}other/y.png"}
    assert rows[image]["label"] == ("benign" if image.startswith("benign") else "a")
    assert (rows[image]["roi_state"], rows[f"{split}other/y.png"]["roi_state"]) == (
        "present",
        "not_annotated",
    )


def test_names_that_end_like_masks_without_an_image_are_images(tmp_path):
    names = [f"{name}/{name}_{number}.jpg" for name in ("with_mask", "without_mask") for number in (1, 2)]
    found, rows = _masks(_touch(tmp_path, *names))
    assert (found, sorted(rows)) == ({}, sorted(names))
    assert {row["label"] for row in rows.values()} == {"with_mask", "without_mask"}


def test_a_mask_without_an_image_is_no_image_and_is_listed(tmp_path):
    listing = _listing(
        _touch(tmp_path, "a/1.png", "a/1_mask.png", "a/2_mask.png", "b/1.png", "masks/b/9.png")
    )
    assert listing.manifest.num_rows == 2
    alone = {each.path for each in listing.warned if each.kind == "mask_without_image"}
    assert alone == {"a/2_mask.png", "masks/b/9.png"}
    assert any("Masks without an image, which are not used: 2" in note for note in listing.notes)


def test_pictures_made_of_an_image_are_no_images(tmp_path):
    listing = _listing(_touch(tmp_path, "a/1.jpg", "a/1_superpixels.png", "b/2.jpg", "b/2_overlay.png"))
    assert [each.path for each in listing.warned] == ["a/1_superpixels.png", "b/2_overlay.png"]
    assert listing.manifest.num_rows == 2


def test_masks_of_two_kinds_are_refused(tmp_path):
    root = _touch(tmp_path, *(f"a/{kind}/1.png" for kind in ("images", "lung masks", "infection masks")))
    with pytest.raises(SourceError, match=r"two masks fit a/images/1\.png"):
        _read(root)
    with pytest.raises(SourceError, match=r"two masks fit b/1\.png"):
        _read(_touch(tmp_path / "two", "b/1.png", "b/1_lung_mask.png", "b/1_lesion_mask.png"))


def test_folders_that_are_called_classes_hold_no_masks(tmp_path):
    root = _touch(tmp_path, "mask/1.png", "bare/2.png")
    with pytest.raises(SourceError, match=r"(?s)no mask fits.*pool\.classes"):
        _read(root)
    assert {row["label"] for row in _read(root, classes=["mask", "bare"]).values()} == {"mask", "bare"}


@pytest.mark.parametrize("without", ["no_mask", "nomask", "Non Mask", "without_mask", "Unmasked"])
@pytest.mark.parametrize("above", ["", "train/", "set/test/"])
def test_a_folder_called_mask_beside_one_without_masks_is_a_class(tmp_path, without, above):
    rows = _read(_touch(tmp_path, f"{above}mask/1.png", f"{above}{without}/1.png", f"{above}{without}/2.png"))
    assert len(rows) == 3
    assert all(row["mask_uri"] is None for row in rows.values())


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("original/1.png", "GT/1.png"),
        ("images/cat_1.jpg", "annotations/trimaps/cat_1.png"),
        ("imagesTr/1_0000.png", "labelsTr/1.png"),
        ("a/1.png", "a/1_anno.png"),
        ("a/1.png", "a/1_tumor.png"),
        ("a/im1.png", "a/im1Mask.png"),
    ],
)
def test_masks_of_further_names_become_rois(tmp_path, image, mask):
    rows = _read(_touch(tmp_path, image, mask))
    assert {name: row["mask_uri"] for name, row in rows.items()} == {image: str(tmp_path.resolve() / mask)}


def test_folders_of_labelled_images_are_no_class(tmp_path):
    names = ("labeled-images/a/1.png", "labeled-images/b/2.png", "unlabeled-images/images/3.png")
    rows = _read(_touch(tmp_path, *names))
    assert {row["label"] for row in rows.values()} == {"a", "b", None}


def test_labels_beside_a_folder_of_images_are_no_images_of_a_class(tmp_path):
    with pytest.raises(SourceError, match="no mask fits an image"):
        _read(_touch(tmp_path, "images/a/1.png", "images/b/2.png", "labels/mask_of_first.png"))


def test_a_class_called_labels_without_images_of_these_names_is_a_class(tmp_path):
    rows = _read(_touch(tmp_path, "labels/1.png", "bottles/2.png"))
    assert {row["label"] for row in rows.values()} == {"labels", "bottles"}


# --- splits and classes


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "dev", "test"), {"pool", "val", "test"}),
        (("train", "eval"), {"pool", "val"}),
        (("training", "validation", "evaluation"), {"pool", "val", "test"}),
        (("train", "holdout"), {"pool", "test"}),
        (("train", "hold_out_set"), {"pool", "test"}),
    ],
)
def test_further_names_of_splits(tmp_path, names, splits):
    rows = _read(_touch(tmp_path, *(f"{name}/{label}/1.png" for name in names for label in "ab")))
    assert {row["split"] for row in rows.values()} == splits
    assert {row["label"] for row in rows.values()} == {"a", "b"}


def test_splits_below_classes_that_are_named_are_splits(tmp_path):
    root = _touch(tmp_path, *(f"{label}/{split}/1.png" for label in "ab" for split in ("train", "test")))
    assert _read(root, classes=["a", "b"]) == _read(root)
    assert {row["split"] for row in _read(root).values()} == {"pool", "test"}


@pytest.mark.parametrize("above", ["", "copy/"])
def test_sets_side_by_side_with_splits_of_their_own_are_refused(tmp_path, above):
    names = (
        f"{kind} data/{above}{split}/{label}/1.png"
        for kind in "xy"
        for split in ("train", "test")
        for label in "ab"
    )
    with pytest.raises(SourceError) as caught:
        _listing(_touch(tmp_path, *names))
    path = re.search(r"set pool.source.path to (.*?)[,;]", str(caught.value)).group(1)
    assert {row["label"] for row in _read(Path(path)).values()} == {"a", "b"}


def test_folders_below_several_classes_may_be_the_classes_and_the_advice_works(tmp_path):
    root = _touch(tmp_path, "101/0/1.png", "101/1/2.png", "102/0/1.png", "102/1/2.png", "103/0/1.png")
    (note,) = (note for note in _listing(root).notes if "below that of their class" in note)
    assert "'pool.classes=[0, 1]'" in note
    assert {row["label"] for row in _read(root, classes=["0", "1"]).values()} == {"0", "1"}


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("Training", "Testing", "test"),
        ("Train", "Test", "test"),
        ("TRAIN", "VAL", "val"),
        ("train_set", "test_set", "test"),
        ("Training Set", "Validation Set", "val"),
        ("trainset", "testset", "test"),
        ("TrainingData", "valid", "val"),
        ("seg_train/seg_train", "seg_test/seg_test", "test"),
        ("images/train", "images/test", "test"),
        ("archive/Training", "archive/Testing", "test"),
        ("train/images", "test/images", "test"),
        ("train_images", "test_images", "test"),
        ("train", "test1", "test"),
    ],
)
def test_splits_by_any_name(tmp_path, train, other, split):
    names = [f"{part}/{name}/1.png" for part in (train, other) for name in ("glioma", "no tumor")]
    rows = _read(_touch(tmp_path, *names))
    assert {row["label"] for row in rows.values()} == {"glioma", "no tumor"}
    assert [rows[name]["split"] for name in names] == ["pool", "pool", split, split]


def test_splits_below_the_classes(tmp_path):
    names = [f"{name}/{part}/1.png" for part in ("train", "test") for name in ("glioma", "healthy")]
    rows = _read(_touch(tmp_path, *names))
    assert {row["label"] for row in rows.values()} == {"glioma", "healthy"}
    assert [rows[name]["split"] for name in names] == ["pool", "pool", "test", "test"]


def test_only_training_leaves_the_splits_to_be_dealt(tmp_path):
    rows = _read(_touch(tmp_path, "Training/a/1.png", "Training/b/1.png"))
    assert {(row["label"], row["split"]) for row in rows.values()} == {("a", None), ("b", None)}


def test_two_folders_with_the_same_names_below_are_parts_of_the_set(tmp_path):
    root = _touch(tmp_path, *(f"{part}/{name}/1.png" for part in "AB" for name in ("cat", "dog")))
    assert {(row["label"], row["split"]) for row in _read(root).values()} == {("cat", None), ("dog", None)}
    (note,) = [note for note in _listing(root).notes if "parts of the set" in note]
    assert "pool.classes=[A, B]" in note
    assert {row["label"] for row in _read(root, classes=["A", "B"]).values()} == {"A", "B"}


@pytest.mark.parametrize("below", [("p01", "p02"), ("40X", "100X"), ("left", "right"), ("axial", "Coronal")])
def test_patients_sides_and_planes_below_the_classes_are_no_classes(tmp_path, below):
    root = _touch(tmp_path, *(f"{name}/{each}/1.png" for name in ("ill", "well") for each in below))
    listing = _listing(root)
    assert set(listing.manifest["label"].to_pylist()) == {"ill", "well"}
    assert any("which count for it: 4" in note for note in listing.notes)
    assert sum(each.kind == "deeper" for each in listing.warned) == 4


def test_folders_of_masks_that_are_named_after_a_class(tmp_path):
    names = [f"{name}/1.png" for name in ("a", "b")]
    found, rows = _masks(_touch(tmp_path, *names, "a_masks/1.png", "b mask/1.png"))
    assert (found, set(rows)) == ({"a/1.png": ["a_masks/1.png"], "b/1.png": ["b mask/1.png"]}, set(names))


def test_a_copy_of_the_set_in_itself_is_refused(tmp_path):
    root = _touch(tmp_path, *(f"{above}{name}/1.jpg" for above in ("", "brain/") for name in ("yes", "no")))
    with pytest.raises(SourceError, match=r"(?s)copy of the set.*brain, and in it no, yes.*path to .*/brain"):
        _read(root)


def test_a_folder_between_the_root_and_the_classes_is_refused(tmp_path):
    root = _touch(tmp_path, "archive/benign/1.png", "archive/malignant/1.png")
    with pytest.raises(
        SourceError, match=r"(?s)'archive' only, with the folders benign, malignant.*'archive'"
    ):
        _read(root)
    assert {row["label"] for row in _read(root, classes=["archive", "b"]).values()} == {"archive"}
    assert len(_read(_touch(tmp_path / "one", "a/p1/1.png"))) == 1


def test_classes_in_a_folder_beside_the_unlabelled(tmp_path):
    rows = _read(_touch(tmp_path, "labelled/a/1.png", "labelled/b/1.png", "unlabelled/1.png"))
    assert [row["label"] for _, row in sorted(rows.items())] == ["a", "b", None]


def test_splits_beside_other_folders_are_refused(tmp_path):
    root = _touch(tmp_path, *(f"{name}/a/1.png" for name in ("train", "test", "copy")))
    with pytest.raises(SourceError, match=r"(?s)test, train, and beside them copy.*pool\.classes"):
        _read(root)
    assert {row["label"] for row in _read(root, classes=["train", "test", "copy"]).values()} == {
        "train",
        "test",
        "copy",
    }


@pytest.mark.parametrize(
    "name",
    [
        "unlabelled",
        "Unlabeled",
        "unknown",
        "UNSORTED",
        "no_label",
        "un-classified",
        "seg_pred",
        "unlabeled-images",
        "unknown class",
    ],
)
def test_folders_without_a_class(tmp_path, name):
    listing = _listing(_touch(tmp_path, "a/1.png", "b/1.png", f"{name}/1.png", "train.txt"))
    assert sorted(listing.manifest["label"].to_pylist(), key=str) == [None, "a", "b"]
    assert any(name in note and "no class" in note for note in listing.notes)
    rows = _read(tmp_path, classes=["a", "b", name])
    assert {row["label"] for row in rows.values()} == {"a", "b", name}


def test_unlabelled_beside_splits(tmp_path):
    rows = _read(_touch(tmp_path, "train/a/1.png", "test/b/1.png", "unlabelled/1.png", "train/unknown/2.png"))
    assert {name: (row["split"], row["label"]) for name, row in rows.items()} == {
        "train/a/1.png": ("pool", "a"),
        "test/b/1.png": ("test", "b"),
        "unlabelled/1.png": (None, None),
        "train/unknown/2.png": ("pool", None),
    }


# --- which files


def test_files_that_are_passed_by_are_counted_and_listed(tmp_path):
    names = ["a/2.gif", "a/3.GIF", "a/Thumbs.db", "a/._1.png", "__MACOSX/a/._1.png", "b/notes", "b/x.heic"]
    listing = _listing(_touch(tmp_path, "a/1.png", "b/1.png", *names))
    assert listing.manifest.num_rows == 2
    assert (
        "Passed by, as files of a kind that is not read: 2 x .gif, 1 x no suffix, 1 x .heic." in listing.notes
    )
    assert "Passed by, as hidden or left by a system: 3." in listing.notes
    assert {each.path for each in listing.warned} == {
        "a/2.gif",
        "a/3.GIF",
        "b/notes",
        "b/x.heic",
        "a/Thumbs.db",
        "a/._1.png",
        "__MACOSX/",
    }


def test_dicom_files_are_known_by_their_mark(tmp_path):
    root = _touch(tmp_path, "a/1.jfif", "a/2.nii.gz", "b/3.jpe")
    marked = ["a/IM0001", "a/1.2.840.113619", "b/9.IMA", "b/DICOMDIR", "b/paper.pdf"]
    for name in marked:
        (root / name).write_bytes(bytes(128) + b"DICM")
    (root / "b/IM0002").write_bytes(bytes(200))
    assert sorted(_read(root)) == [
        "a/1.2.840.113619",
        "a/1.jfif",
        "a/2.nii.gz",
        "a/IM0001",
        "b/3.jpe",
        "b/9.IMA",
    ]


def test_names_that_are_no_utf_8_are_refused_by_name(tmp_path):
    _touch(tmp_path, "a/plain.jpg", os.fsdecode(b"a/bild_\xe4.jpg"))
    with pytest.raises(SourceError, match=r"(?s)not UTF-8.*a/bild_\\xe4\.jpg.*convmv") as caught:
        _read(tmp_path)
    assert caught.value.exit_code == 2
    str(caught.value).encode()
    (tmp_path / os.fsdecode(b"a/bild_\xe4.jpg")).rename(tmp_path / os.fsdecode(b"a/bild_\xe4.txt"))
    listing = _listing(tmp_path)
    assert (listing.manifest.num_rows, [each.path for each in listing.warned]) == (1, ["a/bild_\\xe4.txt"])
    assert warned_table(listing.warned)["path"].to_pylist() == ["a/bild_\\xe4.txt"]


def test_several_masks_of_an_image_are_united(tmp_path):
    inside = np.zeros((2, 16, 16), dtype=np.uint8)
    inside[0, :8, :8] = inside[1, 8:, 8:] = 255
    (tmp_path / "a").mkdir()
    for name, pixels in zip(("1", "1_mask", "1_mask_1"), (inside.sum(axis=0), *inside), strict=True):
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a" / f"{name}.png")
    pool = Pool(source=Source(path=tmp_path, kind="folder"), group_by="image", image_size=16)
    (row,) = read_source(pool).manifest.to_pylist()
    (image,) = read_row(row, pool)
    np.testing.assert_array_equal(image.roi, inside.any(axis=0))
