import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from xal_ray.acquire import uncertainty

MEASURES = [uncertainty.entropy, uncertainty.margin, uncertainty.least_confidence]


@pytest.fixture
def probs():
    return np.random.default_rng(0).dirichlet(np.full(4, 0.5), size=50)


def test_entropy_equals_scipy(probs):
    np.testing.assert_allclose(uncertainty.entropy(probs), scipy_entropy(probs, base=4, axis=1), rtol=1e-12)


def test_margin_and_least_confidence_equal_a_loop_over_sorted_rows(probs):
    ordered = np.array([sorted(row, reverse=True) for row in probs])
    np.testing.assert_allclose(uncertainty.margin(probs), 1 - (ordered[:, 0] - ordered[:, 1]))
    np.testing.assert_allclose(uncertainty.least_confidence(probs), (1 - ordered[:, 0]) * 4 / 3)


@pytest.mark.parametrize("measure", MEASURES)
def test_certain_is_zero_and_uniform_is_one(measure):
    for num_classes in (2, 3, 10):
        rows = np.stack([np.eye(num_classes)[0], np.full(num_classes, 1 / num_classes)])
        np.testing.assert_allclose(measure(rows), [0.0, 1.0], atol=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_rounding_beyond_the_unit_interval_is_clipped(measure):
    rows = np.array([[1.0000001, -1e-7], [0.4999999, 0.4999999]], dtype=np.float32)
    values = measure(rows)
    assert values.dtype == np.float64
    assert ((values >= 0) & (values <= 1)).all()


@pytest.mark.parametrize("measure", [*MEASURES, uncertainty.logit_gap])
def test_nan_stays_nan_in_its_row_only(measure):
    values = measure(np.array([[np.nan, 0.5], [0.5, 0.5], [1.0, np.nan]]))
    np.testing.assert_array_equal(np.isnan(values), [True, False, True])


def test_logit_gap_is_the_distance_of_the_two_largest():
    logits = np.array([[-3.0, 2.0, 1.5], [4.0, 4.0, -9.0]], dtype=np.float32)
    np.testing.assert_array_equal(uncertainty.logit_gap(logits), [0.5, 0.0])


@pytest.mark.parametrize("measure", [*MEASURES, uncertainty.logit_gap])
@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 2, 2)])
def test_fewer_than_two_classes_are_refused(measure, shape):
    with pytest.raises(ValueError, match="c >= 2"):
        measure(np.ones(shape))


@pytest.mark.parametrize("measure", [*MEASURES, uncertainty.logit_gap])
def test_no_rows_give_no_values(measure):
    assert measure(np.zeros((0, 3))).shape == (0,)
