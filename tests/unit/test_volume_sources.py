"""BraTS and Cheng's set: what is listed, and what reading a case makes of it."""

import numpy as np
import pytest
from layouts import brats, cheng

from xal_ray.config import Pool
from xal_ray.errors import SourceError
from xal_ray.images import ImageError
from xal_ray.pool.reading import read_row
from xal_ray.pool.sources import read_source
from xal_ray.pseudonyms import Pseudonyms
from xal_ray.roi import mask_to_grid

SIZE = 48  # of the slices themselves: nothing is resized
KEY = Pseudonyms(b"k" * 32)


def _pool(settings, channels=3, nifti=None, **slices):
    source = {**settings["source"], "slices": settings["source"].get("slices", {}) | slices}
    return Pool(image_size=SIZE, source=source, channels=channels, nifti=nifti or {})


def _read(pool):
    """The images of all rows, by id."""
    rows = read_source(pool).manifest.to_pylist()
    images = [(row, image) for row in rows for image in read_row(row, pool)]
    return {image.settled["image_id"]: (row, image) for row, image in images}


def _one_case(root, labels, edition="2021", **volumes):
    """A case whose mask is given; the settings that read it."""
    name = "BraTS-GLI-00007-000" if edition == "2023" else "BraTS2021_00007"
    values = brats.case(np.random.default_rng(0), 0) | volumes
    brats.write_case(root / name, values | {"seg": labels}, edition)
    return {"source": {"kind": "brats", "path": str(root), "slices": {"min_brain": 0, "min_tumor": 40}}}


def _labels(**voxels_by_slice):
    """An int16 mask: `z5={1: 60, 2: 10}` gives slice 5 so many voxels of each label."""
    labels = np.zeros(brats.SHAPE, dtype=np.int16)
    for name, counts in voxels_by_slice.items():
        values = np.repeat(list(counts), list(counts.values()))
        # Columns of 20 from x = 10 on, y = 10 on.
        x, y = np.divmod(np.arange(len(values)), 20)
        labels[10 + x, 10 + y, int(name[1:])] = values
    return labels


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory):
    root = tmp_path_factory.mktemp("brats2020")
    return brats.build(root, num_patients=6)


def test_2020_is_found_below_its_folders_with_its_oddities(kaggle):
    listing = read_source(_pool(kaggle))
    rows = {row["image_id"]: row for row in listing.manifest.to_pylist()}
    assert sorted(rows) == [f"BraTS20_Training_{n:03d}" for n in (1, 2, 3, 4, 5, 355)]
    assert listing.excluded == {"missing_file": 1}
    assert rows["BraTS20_Training_355"]["mask_uri"].endswith("_Segm.nii")
    assert any("355" in note for note in listing.notes)
    assert "1998" not in " ".join(listing.notes)
    first = rows["BraTS20_Training_001"]
    assert (first["group_id"], first["label"], first["reader"]) == ("BraTS20_Training_001", None, "brats")
    assert first["age_band"] == "60-69"
    assert [uri.rsplit("_", 1)[-1] for uri in first["channel_uris"]] == ["t1ce.nii", "flair.nii", "t2.nii"]
    assert listing.classes == ("edema", "enhancing", "necrosis")


def test_grades_label_cases_and_na_is_left_out(kaggle):
    listing = read_source(_pool(kaggle, task="grade"))
    assert listing.excluded == {"missing_file": 1, "no_grade": 1}
    assert listing.classes == ("HGG", "LGG")
    assert set(listing.manifest["label"].to_pylist()) == {"HGG", "LGG"}
    images = _read(_pool(kaggle, task="grade"))
    assert all(image.settled["label"] == row["label"] for row, image in images.values())


def test_two_unknown_volumes_are_no_mask(tmp_path):
    settings = brats.build(tmp_path, num_patients=2)
    folder = next(tmp_path.rglob("*_Segm.nii")).parent
    brats.save(folder / "another.nii", np.zeros(brats.SHAPE, dtype=np.int16))
    assert read_source(_pool(settings)).excluded == {"missing_file": 1, "no_mask": 1}


def test_2023_groups_time_points_by_patient(tmp_path):
    settings = brats.build(tmp_path, num_patients=3, edition="2023")
    rows = read_source(_pool(settings)).manifest.to_pylist()
    assert [row["image_id"] for row in rows][:2] == ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001"]
    assert [row["group_id"] for row in rows] == [f"BraTS-GLI-{n:05d}" for n in (1, 1, 2, 3)]
    images = _read(_pool(settings, stride=1))
    # The second patient's cavity is in slices 2 to 5; it is no enhancing tumour, and no other either.
    cavity = [
        image for name, (_, image) in images.items() if name[:15] == "BraTS-GLI-00002" and name[-2:] < "06"
    ]
    assert not cavity


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool": {"channels": 1}}, "--set pool.channels=3"),
        ({"slices": {"modalities": ["t1", "t2"]}}, "one or three"),
        ({"pool": {"group_by": "image"}}, "must stay together"),
        ({"slices": {"task": "grade"}}, "name_mapping.csv"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, change, message):
    settings = brats.build(tmp_path, num_patients=1, edition="2021")
    pool = _pool(settings, **change.get("slices", {}))
    with pytest.raises(SourceError, match=message):
        read_source(Pool.model_validate(pool.model_dump() | change.get("pool", {})))


def test_a_folder_without_cases_says_which_layouts_there_are(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "scan.nii").touch()
    with pytest.raises(SourceError, match=r"BraTS20_Training_001.*BraTS-GLI"):
        read_source(_pool({"source": {"kind": "brats", "path": str(tmp_path)}}))


def test_dominant_slices_by_hand(tmp_path):
    labels = _labels(
        z3={1: 39},  # too little
        z5={1: 60, 2: 10},
        z7={1: 20, 2: 30, 4: 10},
        z9={2: 10, 4: 40},
        z11={1: 25, 2: 25},  # equal: the first of necrosis, edema, enhancing
    )
    images = _read(_pool(_one_case(tmp_path, labels)))
    found = {name[-3:]: image.settled["label"] for name, (_, image) in images.items()}
    assert found == {"005": "necrosis", "007": "edema", "009": "enhancing", "011": "necrosis"}
    _, image = images["BraTS2021_00007/z007"]
    # The mask of that label alone; the stored axes run left and back, so the picture is its transpose.
    np.testing.assert_array_equal(image.roi, (labels[:, :, 7] == 2).T)
    assert (image.frame, image.settled["roi_state"]) == ((48, 48), "present")


def test_channels_are_modalities_scaled_by_slice_or_volume(tmp_path):
    labels = _labels(z5={1: 60})
    settings = _one_case(tmp_path, labels)
    import nibabel

    folder = tmp_path / "BraTS2021_00007"
    by_slice = _read(_pool(settings))["BraTS2021_00007/z005"][1].pixels
    by_volume = _read(_pool(settings, nifti={"scale": "volume"}))["BraTS2021_00007/z005"][1].pixels
    for channel, name in enumerate(("t1ce", "flair", "t2")):
        values = np.asarray(nibabel.load(folder / f"{folder.name}_{name}.nii.gz").dataobj)
        plane = values[:, :, 5].T.astype(float)
        for pixels, whole in ((by_slice, plane), (by_volume, values)):
            expected = np.floor((plane - whole.min()) / (whole.max() - whole.min()) * 255 + 0.5)
            np.testing.assert_array_equal(pixels[:, :, channel], expected)
    grey = _read(_pool(settings, channels=1, modalities=["flair"]))["BraTS2021_00007/z005"][1].pixels
    np.testing.assert_array_equal(grey[:, :, 0], by_slice[:, :, 1])


def test_tumour_or_none_leaves_out_what_lies_between(tmp_path):
    labels = _labels(z5={1: 30, 2: 10, 4: 5}, z6={2: 39})
    images = _read(_pool(_one_case(tmp_path, labels), task="tumor"))
    states = {
        int(name[-3:]): (image.settled["label"], image.settled["roi_state"])
        for name, (_, image) in images.items()
    }
    assert states.pop(5) == ("tumor", "present")
    assert 6 not in states
    assert set(states.values()) == {("no_tumor", "absent_confirmed")}
    assert len(states) == brats.SHAPE[2] - 2
    _, image = images["BraTS2021_00007/z005"]
    np.testing.assert_array_equal(image.roi, (labels[:, :, 5] > 0).T)
    assert images["BraTS2021_00007/z000"][1].roi is None


def test_stride_brain_and_the_most_of_a_patient(tmp_path):
    labels = _labels(**{f"z{number}": {2: 50} for number in range(2, 20)})
    settings = _one_case(tmp_path, labels)

    def numbers(**slices):
        return [int(name[-3:]) for name in _read(_pool(settings, **slices))]

    assert numbers() == list(range(2, 20))
    assert numbers(stride=3) == [3, 6, 9, 12, 15, 18]
    assert numbers(max_per_patient=3) == [5, 11, 17]  # the middle of each third
    assert numbers(max_per_patient=18) == list(range(2, 20))
    # The ellipsoid of brain is narrow at its ends.
    some = numbers(min_brain=1300)
    assert some
    assert some == list(range(some[0], some[-1] + 1))
    assert 2 < some[0] < some[-1] < 19


def test_three_is_enhancing_in_2023_and_unknown_before(tmp_path):
    labels = _labels(z5={3: 50})
    images = _read(_pool(_one_case(tmp_path / "new", labels, "2023")))
    assert [image.settled["label"] for _, image in images.values()] == ["enhancing"]
    with pytest.raises(ImageError) as error:
        _read(_pool(_one_case(tmp_path / "old", labels)))
    assert error.value.code == "unknown_mask_label"


def test_four_in_2024_is_a_cavity(tmp_path):
    labels = _labels(z5={4: 100, 3: 45}, z8={4: 100})
    images = _read(_pool(_one_case(tmp_path, labels, "2023")))
    assert list(images) == ["BraTS-GLI-00007-000/z005"]
    np.testing.assert_array_equal(next(iter(images.values()))[1].roi, (labels[:, :, 5] == 3).T)


@pytest.mark.parametrize("bad", [5, -1, 0.5, np.nan])
def test_other_labels_are_refused_wherever_they_stand(tmp_path, bad):
    labels = _labels(z5={1: 50}).astype(np.float32)
    labels[0, 0, 23] = bad
    with pytest.raises(ImageError) as error:
        _read(_pool(_one_case(tmp_path, labels), stride=5))
    assert error.value.code == "unknown_mask_label"


def test_volumes_of_another_shape_are_refused(tmp_path):
    flair = np.ones((48, 48, 23), dtype=np.int16)
    with pytest.raises(ImageError) as error:
        _read(_pool(_one_case(tmp_path, _labels(z5={1: 50}), flair=flair)))
    assert error.value.code == "frame_mismatch"


def test_the_look_of_a_class_is_where_its_roi_is(kaggle):
    """Enhancing tumour is bright in T1ce, edema in FLAIR: the pictures and masks lie in one frame."""
    brighter = {"enhancing": 0, "edema": 1}
    seen = set()
    for _, image in _read(_pool(kaggle)).values():
        channel = brighter.get(image.settled["label"])
        if channel is not None:
            values = image.pixels[:, :, channel].astype(float)
            inside = image.roi == 1
            brain = (values > 20) & ~inside
            assert values[inside].mean() > values[brain].mean() + 30
            seen.add(channel)
    assert seen == {0, 1}


def test_cheng_files_tell_class_patient_and_mask(tmp_path):
    settings = cheng.build(tmp_path, num_patients=3)
    listing = read_source(_pool(settings, channels=1))
    rows = listing.manifest.to_pylist()
    assert [row["image_id"] for row in rows] == [f"cheng-{number:04d}" for number in range(1, 7)]
    assert all(row["group_id"] is None and row["reader"] == "cheng" for row in rows)
    assert any("1 other" in note for note in listing.notes)
    pool = Pool(image_size=64, source=settings["source"])
    read = [read_row(row, pool)[0] for row in rows]
    assert [image.settled["label"] for image in read] == ["meningioma"] * 2 + ["glioma"] * 2 + [
        "pituitary"
    ] * 2
    groups = [image.columns(KEY)["group_id"] for image in read]
    assert groups[0] == groups[1] != groups[2]
    assert all(group.startswith("p-") and "MR0" not in group for group in groups)
    bright, roi = read[0].pixels[:, :, 0].astype(float), read[0].roi
    assert bright[roi == 1].mean() > bright[roi == 0].mean() + 60
    assert (bright.min(), bright.max()) == (0, 255)


def test_cheng_pictures_are_not_turned_over(tmp_path):
    image = np.zeros((64, 64), dtype=np.int16)
    image[5:15, 30:60] = 4000
    cheng.write_case(tmp_path / "1.mat", image, image > 0, 2, "MR1")
    pool = Pool(image_size=64, source={"kind": "cheng", "path": str(tmp_path)})
    (read,) = read_row(read_source(pool).manifest.to_pylist()[0], pool)
    np.testing.assert_array_equal(read.pixels[:, :, 0], (image > 0) * 255)
    np.testing.assert_array_equal(read.roi, mask_to_grid(image > 0, (64, 64)))


def test_cheng_needs_its_files_and_patients(tmp_path):
    (tmp_path / "cvind.mat").touch()
    source = {"kind": "cheng", "path": str(tmp_path)}
    with pytest.raises(SourceError, match=r"1\.mat"):
        read_source(Pool(source=source))
    with pytest.raises(SourceError, match="names its patient"):
        read_source(Pool(source=source, group_by="image"))
    picture = np.ones((8, 8), dtype=np.int16)
    cheng.write_case(tmp_path / "1.mat", picture, picture > 0, 1, " ")
    pool = Pool(source=source)
    with pytest.raises(ImageError) as error:
        read_row(read_source(pool).manifest.to_pylist()[0], pool)
    assert error.value.code == "no_group"
