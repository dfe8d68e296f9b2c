import alignment_oracle
import numpy as np
import pytest

from xal_ray.acquire import alignment

MEASURES = [
    alignment_oracle.soft_dice,
    alignment_oracle.misalignment,
    alignment_oracle.iou,
    alignment.pointing_game,
    alignment_oracle.energy_in_roi,
    alignment_oracle.lift,
]
CAM = np.array([[[1.0, 0.5], [0.25, 0.0]]])
ROI = np.array([[[0.5, 1.0], [0.0, 0.0]]])


def test_measures_worked_out_by_hand():
    assert alignment_oracle.soft_dice(CAM, ROI) == pytest.approx(2 * 1.0 / (1.75 + 1.5))
    assert alignment_oracle.misalignment(CAM, ROI) == pytest.approx(1 - 2 / 3.25)
    assert alignment_oracle.iou(CAM, ROI) == pytest.approx(1.5 / 2.0)
    assert alignment_oracle.iou(CAM, ROI, threshold=0.75) == pytest.approx(0.5 / 2.0)
    assert alignment_oracle.energy_in_roi(CAM, ROI) == pytest.approx(1.0 / 1.75)
    area = 1.5 / 4
    assert alignment_oracle.lift(CAM, ROI) == pytest.approx((1 / 1.75 - area) / (1 - area))
    assert alignment.pointing_game(CAM, ROI) == 1.0


def test_a_batch_equals_its_rows_one_by_one():
    rng = np.random.default_rng(0)
    cams, rois = rng.random((6, 7, 5)), rng.random((6, 7, 5)) * (rng.random((6, 7, 5)) < 0.3)
    for measure in MEASURES:
        alone = [measure(cams[i : i + 1], rois[i : i + 1])[0] for i in range(6)]
        np.testing.assert_array_equal(measure(cams, rois), alone)


def test_a_perfect_map_and_a_disjoint_map():
    roi = np.zeros((1, 3, 3))
    roi[0, 0, :2] = 1.0
    missed = np.zeros((1, 3, 3))
    missed[0, 2, 2] = 1.0
    for measure, perfect in [
        (alignment_oracle.soft_dice, 1),
        (alignment_oracle.misalignment, 0),
        (alignment_oracle.iou, 1),
    ]:
        assert measure(roi, roi) == perfect
        assert measure(missed, roi) == 1 - perfect
    assert alignment.pointing_game(roi, roi) == 1
    assert alignment.pointing_game(missed, roi) == 0
    assert alignment_oracle.energy_in_roi(missed, roi) == 0
    assert alignment_oracle.lift(roi, roi) == 1
    assert alignment_oracle.lift(missed, roi) == pytest.approx((0 - 2 / 9) / (7 / 9))


def test_lift_of_a_flat_map_is_zero_whatever_the_size_of_the_roi():
    rng = np.random.default_rng(1)
    rois = rng.random((8, 7, 7)) * np.linspace(0.1, 0.9, 8)[:, None, None]
    np.testing.assert_allclose(alignment_oracle.lift(np.full((8, 7, 7), 0.3), rois), 0.0, atol=1e-12)


def test_pointing_game_takes_any_coverage_and_shares_ties():
    cam = np.array([[[1.0, 0.0], [0.0, 0.9]], [[1.0, 0.0], [1.0, 1.0]]])
    roi = np.array([[[0.01, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.2, 0.0]]])
    np.testing.assert_allclose(alignment.pointing_game(cam, roi), [1.0, 1 / 3])


@pytest.mark.parametrize("measure", MEASURES)
def test_nothing_to_compare_is_nan_and_leaves_other_rows_alone(measure):
    cams = np.repeat(CAM, 6, axis=0)
    rois = np.repeat(ROI, 6, axis=0)
    cams[1] = 0.0
    cams[2, 0, 0] = np.nan
    cams[3, 1, 1] = np.inf
    rois[4] = 0.0
    rois[5, 0, 1] = np.nan
    values = measure(cams, rois)
    np.testing.assert_array_equal(np.isnan(values), [False, True, True, True, True, True])
    assert values[0] == measure(CAM, ROI)[0]


def test_lift_is_nan_where_the_roi_is_the_whole_image():
    whole = np.ones((1, 7, 7))
    assert np.isnan(alignment_oracle.lift(np.random.default_rng(2).random((1, 7, 7)), whole))
    assert alignment_oracle.energy_in_roi(whole, whole) == 1.0


@pytest.mark.parametrize("measure", MEASURES)
def test_shapes_must_agree_and_inputs_stay_as_they_are(measure):
    with pytest.raises(ValueError, match="one shape"):
        measure(CAM, np.zeros((1, 3, 3)))
    with pytest.raises(ValueError, match=r"\(n, gh, gw\)"):
        measure(CAM[0], ROI[0])
    cam, roi = np.zeros((1, 2, 2)), ROI.copy()
    measure(cam, roi)
    assert (cam == 0).all()
    np.testing.assert_array_equal(roi, ROI)


def test_minmax_normalises_each_map_on_its_own():
    cams = np.random.default_rng(3).normal(size=(5, 4, 4)) * np.array([1e-8, 1, 10, 1e4, 1])[:, None, None]
    maps, defined = alignment.minmax(cams.astype(np.float32))
    assert maps.dtype == np.float32
    assert defined.all()
    for cam, scaled in zip(cams, maps, strict=True):
        np.testing.assert_allclose(scaled, (cam - cam.min()) / (cam.max() - cam.min()), atol=1e-6)
        assert (scaled.min(), scaled.max()) == (0.0, 1.0)


def test_minmax_marks_constant_and_broken_maps():
    cams = np.random.default_rng(4).random((6, 3, 3)).astype(np.float32)
    before = cams.copy()
    cams[1] = 0.0
    cams[2] = -7.5
    cams[3, 0, 0] = np.nan
    cams[4, 0, 0] = np.inf
    cams[5] = np.float32(0.1)
    cams[5, 1, 1] = np.nextafter(np.float32(0.1), np.float32(1))  # noise, not a peak
    maps, defined = alignment.minmax(cams)
    np.testing.assert_array_equal(defined, [True, False, False, False, False, False])
    assert np.isnan(maps[1:]).all()
    np.testing.assert_array_equal(maps[0].argmax(), before[0].argmax())
    assert np.isnan(cams[3, 0, 0])
