"""The generator: exact outlines, a decoy that lies in the test split, and the same pixels every time."""

from collections import Counter

import numpy as np
import pytest

from xal_ray.config import Phantom
from xal_ray.pool.sources import phantom

SETTINGS = Phantom(num_patients=60, images_per_patient=2, seed=3)
CORNER = (slice(4, 13), slice(84, 92))  # where the marker is, at 96 pixels


def _rows(settings: Phantom = SETTINGS) -> list[dict]:
    return phantom.rows(settings).to_pylist()


def _has_marker(image: np.ndarray) -> bool:
    """Compare the marker's two bars with the black beside them."""
    bars = np.concatenate([image[5:11, 85].ravel(), image[10, 85:90].ravel()])
    return bars.mean() > image[4:9, 88:95].mean() + 40


def test_the_same_row_gives_the_same_picture_in_any_order():
    rows = _rows()
    first = [phantom.draw(row, SETTINGS, 48) for row in rows[:6]]
    again = [phantom.draw(row, SETTINGS, 48) for row in reversed(rows[:6])][::-1]
    for (image, roi), (image_again, roi_again) in zip(first, again, strict=True):
        np.testing.assert_array_equal(image, image_again)
        np.testing.assert_array_equal(roi, roi_again)


def test_seed_and_index_change_the_picture():
    row, other = _rows()[:2]
    image = phantom.draw(row, SETTINGS, 48)[0]
    assert not np.array_equal(image, phantom.draw(other, SETTINGS, 48)[0])
    reseeded = SETTINGS.model_copy(update={"seed": 4})
    assert not np.array_equal(image, phantom.draw(_rows(reseeded)[0], reseeded, 48)[0])


def test_lesions_alone_have_an_outline():
    for row in _rows()[:40]:
        image, roi = phantom.draw(row, SETTINGS, 64)
        assert image.shape == (64, 64)
        assert image.dtype == np.uint8
        if row["label"] == "normal":
            assert roi is None
            assert row["roi_state"] == "absent_confirmed"
        else:
            assert row["roi_state"] == "present"
            assert roi is not None
            assert roi.shape == (64, 64)
            assert roi.dtype == np.float32
            assert roi.min() == 0
            assert 0 < roi.max() <= 1


def test_the_outline_is_where_the_light_is():
    """Drawn with and without contrast, the pictures differ by the lesion: half of it at the outline."""
    bright = Phantom(num_patients=20, contrast=0.2, noise=0.0)
    dim = bright.model_copy(update={"contrast": 1e-9})
    checked = 0
    for row in _rows(bright):
        image, roi = phantom.draw(row, bright, 128)
        difference = image.astype(float) - phantom.draw(row, dim, 128)[0]
        if roi is None:
            assert not difference.any()
            continue
        if image.max() == 255:  # clipped: the difference is not the lesion's alone
            continue
        inside = difference > difference.max() / 2
        overlap = (inside & (roi > 0.5)).sum() / (inside | (roi > 0.5)).sum()
        assert overlap > 0.85
        checked += 1
    assert checked >= 5


def test_the_outline_is_the_same_at_every_size():
    row = next(row for row in _rows() if row["label"] == "lesion")
    shares = [phantom.draw(row, SETTINGS, size)[1].mean() for size in (32, 96, 224)]
    assert shares == pytest.approx([shares[2]] * 3, rel=0.02)


def test_lesions_are_small_and_large():
    shares = [phantom.draw(row, SETTINGS, 64)[1].mean() for row in _rows() if row["label"] == "lesion"]
    assert min(shares) < 0.005
    assert max(shares) > 0.02


def test_the_marker_agrees_in_pool_and_val_and_lies_in_test():
    agreeing, total = Counter(), Counter()
    for row in _rows():
        image = phantom.draw(row, SETTINGS, 96)[0]
        side = "test" if row["split"] == "test" else "pool"
        total[side] += 1
        agreeing[side] += _has_marker(image) == (row["label"] == "lesion")
    assert agreeing["pool"] / total["pool"] == pytest.approx(SETTINGS.decoy_agreement, abs=0.05)
    assert agreeing["test"] / total["test"] == pytest.approx(0.5, abs=0.05)


def test_the_marker_is_outside_every_outline():
    for row in _rows():
        roi = phantom.draw(row, SETTINGS, 96)[1]
        assert roi is None or not roi[CORNER].any()


def test_splits_and_classes_have_their_quotas():
    settings = Phantom(num_patients=100, images_per_patient=4, lesion_fraction=0.3)
    rows = _rows(settings)
    patients = {row["group_id"]: row["split"] for row in rows}
    assert Counter(patients.values()) == {"pool": 65, "val": 15, "test": 20}
    for split in ("pool", "val", "test"):
        labels = [row["label"] for row in rows if row["split"] == split]
        assert labels.count("lesion") == round(0.3 * len(labels))


def test_the_uri_and_id_do_not_tell_the_class():
    rows = _rows()
    assert rows[7]["uri"] == "phantom:000007"
    assert rows[7]["image_id"] == "phantom-000007"
    positions = [number for number, row in enumerate(rows) if row["label"] == "lesion"]
    assert positions != list(range(positions[0], positions[0] + len(positions)))


def test_a_patients_images_share_their_anatomy():
    """Two images of one patient are more alike than images of two patients, lesions and noise aside."""
    settings = Phantom(num_patients=10, images_per_patient=2, noise=0.0, lesion_fraction=0.0)
    images = np.stack([phantom.draw(row, settings, 48)[0].ravel() for row in _rows(settings)])
    alike = np.corrcoef(images)
    same = [alike[i, i + 1] for i in range(0, 20, 2)]
    different = [alike[i, j] for i in range(0, 20, 2) for j in range(i + 2, 20)]
    assert np.median(same) > np.median(different) + 0.01


def test_a_tiny_phantom_still_has_three_splits():
    rows = _rows(Phantom(num_patients=3, images_per_patient=2))
    assert {row["split"] for row in rows} == {"pool", "val", "test"}
    assert len(_rows(Phantom(num_patients=1, images_per_patient=1))) == 1


def test_lesions_can_be_told_from_normals_by_their_light():
    """Against the patient's other images, the brightest spot in the lungs tells the classes apart."""
    settings = Phantom(num_patients=20, images_per_patient=8)
    rows = _rows(settings)
    images = np.stack([phantom.draw(row, settings, 64)[0].astype(float) for row in rows])
    images /= images.mean(axis=(1, 2), keepdims=True)
    patients = images.reshape(20, 8, 64, 64)
    extra = (
        (patients - np.median(patients, axis=1, keepdims=True)).reshape(-1, 16, 4, 16, 4).mean(axis=(2, 4))
    )
    scores = extra[:, 3:13, 2:14].max(axis=(1, 2))
    lesion = np.array([row["label"] == "lesion" for row in rows])
    auroc = (scores[lesion][:, None] > scores[~lesion][None]).mean()
    assert 0.8 < auroc < 1.0
