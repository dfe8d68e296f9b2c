import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xal_ray.acquire import alignment, uncertainty
from xal_ray.acquire.strategies import Candidates, select
from xal_ray.config import STRATEGIES, Select

units = st.floats(0.0, 1.0, allow_subnormal=False)
UNCERTAINTIES = [uncertainty.entropy, uncertainty.margin, uncertainty.least_confidence]
UNIT_MEASURES = [
    alignment.soft_dice,
    alignment.misalignment,
    alignment.iou,
    alignment.pointing_game,
    alignment.energy_in_roi,
]


@st.composite
def probabilities(draw):
    shape = draw(st.tuples(st.integers(1, 6), st.integers(2, 6)))
    weights = draw(hnp.arrays(np.float64, shape, elements=st.floats(0.0, 1.0))) + 1e-300
    return weights / weights.sum(axis=1, keepdims=True)


@settings(deadline=None)
@given(probabilities(), st.randoms(use_true_random=False))
def test_uncertainty_is_bounded_and_ignores_the_order_of_classes(probs, random):
    classes = list(range(probs.shape[1]))
    random.shuffle(classes)
    for measure in UNCERTAINTIES:
        values = measure(probs)
        assert ((values >= 0) & (values <= 1)).all()
        np.testing.assert_allclose(measure(probs[:, classes]), values, atol=1e-12)


@st.composite
def pairs(draw):
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)))
    return tuple(draw(hnp.arrays(np.float64, shape, elements=units)) for _ in range(2))


@settings(deadline=None)
@given(pairs())
def test_alignment_is_bounded_or_undefined_and_turns_with_the_image(pair):
    cam, roi = pair
    defined = (cam > 0).any(axis=(1, 2)) & (roi > 0).any(axis=(1, 2))
    for measure in UNIT_MEASURES:
        values = measure(cam, roi)
        np.testing.assert_array_equal(np.isfinite(values), defined)
        assert ((values[defined] >= 0) & (values[defined] <= 1 + 1e-12)).all()
        np.testing.assert_allclose(measure(cam[:, ::-1, ::-1], roi[:, ::-1, ::-1]), values, atol=1e-12)
    finite = np.isfinite(alignment.lift(cam, roi))
    assert (alignment.lift(cam, roi)[finite] <= 1 + 1e-9).all()


@settings(deadline=None)
@given(hnp.arrays(np.float32, (2, 3, 3), elements=st.floats(-1e6, 1e6, width=32)))
def test_minmax_spans_the_unit_interval_or_is_undefined(cams):
    maps, defined = alignment.minmax(cams)
    assert np.isnan(maps[~defined]).all()
    assert (maps[defined].min(axis=(1, 2)) == 0).all()
    assert (maps[defined].max(axis=(1, 2)) == 1).all()
    again, _ = alignment.minmax(cams * np.float32(4))
    np.testing.assert_array_equal(again, maps)


@st.composite
def candidates_and_order(draw):
    """Values on a coarse scale, so that ties are common."""
    count = draw(st.integers(1, 12))
    coarse = hnp.arrays(np.float64, count, elements=st.integers(0, 4).map(lambda level: level / 4))
    names = draw(st.lists(st.text(max_size=4), min_size=count, max_size=count, unique=True))
    groups = draw(st.lists(st.sampled_from("pqr"), min_size=count, max_size=count))
    misalignment = draw(coarse)
    misalignment[draw(hnp.arrays(bool, count))] = np.nan
    columns = [draw(coarse), draw(coarse), draw(coarse), misalignment]
    return Candidates(names, groups, *columns), draw(st.permutations(range(count)))


@settings(deadline=None)
@given(
    candidates_and_order(),
    st.sampled_from(STRATEGIES),
    st.sampled_from(["none", "minmax", "rank"]),
    units,
    st.integers(0, 2),
    st.data(),
)
def test_selection_is_bounded_unique_and_independent_of_row_order(
    case, strategy, normalise, weight, cap, data
):
    candidates, order = case
    count = len(candidates.image_ids)
    chosen_settings = Select(
        strategy=strategy,
        normalise=normalise,
        weight=weight,
        max_per_group=cap,
        query_size=data.draw(st.integers(1, count)),
    )
    chosen = select(candidates, chosen_settings, seed=9)
    assert set(chosen.image_ids) <= set(candidates.image_ids)
    assert len(set(chosen.image_ids)) == len(chosen.image_ids) <= chosen_settings.query_size
    assert ((chosen.utilities >= 0) & (chosen.utilities <= 1)).all()
    assert all(chosen.reasons)

    rows = list(order)
    moved = Candidates(
        [candidates.image_ids[row] for row in rows],
        [candidates.group_ids[row] for row in rows],
        candidates.entropy[rows],
        candidates.margin[rows],
        candidates.least_confidence[rows],
        candidates.misalignment[rows],
    )
    again = select(moved, chosen_settings, seed=9)
    assert again.image_ids == chosen.image_ids
    np.testing.assert_array_equal(again.utilities, chosen.utilities)
