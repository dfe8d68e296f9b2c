import hashlib
from collections import Counter

import alignment_oracle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xal_ray.acquire import alignment, rankers, strategies, streaming, uncertainty
from xal_ray.acquire.distribution import Distribution
from xal_ray.acquire.strategies import select
from xal_ray.acquire.streaming import Candidates
from xal_ray.config import Select
from xal_ray.registry.strategies import ROI_COLUMNS, STRATEGIES

BY_ROW = [spec.name for spec in STRATEGIES if spec.kind != "batch"]
units = st.floats(0.0, 1.0, allow_subnormal=False)
UNCERTAINTIES = [uncertainty.entropy, uncertainty.margin, uncertainty.least_confidence]
UNIT_MEASURES = [
    alignment_oracle.soft_dice,
    alignment_oracle.misalignment,
    alignment_oracle.iou,
    alignment.pointing_game,
    alignment_oracle.energy_in_roi,
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
    finite = np.isfinite(alignment_oracle.lift(cam, roi))
    assert (alignment_oracle.lift(cam, roi)[finite] <= 1 + 1e-9).all()


@settings(deadline=None)
@given(hnp.arrays(np.float32, (2, 3, 3), elements=st.floats(-1e6, 1e6, width=32)))
def test_minmax_spans_the_unit_interval_or_is_undefined(cams):
    maps, defined = alignment.minmax(cams)
    assert np.isnan(maps[~defined]).all()
    assert (maps[defined].min(axis=(1, 2)) == 0).all()
    assert (maps[defined].max(axis=(1, 2)) == 1).all()
    again, _ = alignment.minmax(cams * np.float32(4))
    np.testing.assert_array_equal(again, maps)


# Of the strategies that look at ROIs: the column, its words, and what of it is the utility.
BY_ROI = {
    "dual": ("misalignment", "misalignment", lambda values: values),
    "misalignment": ("misalignment", "misalignment", lambda values: values),
    "shuffled_roi": ("shuffled_misalignment", "shuffled misalignment", lambda values: values),
    "smallest_roi": ("roi_area", "ROI area", lambda values: 1.0 - values),
}
BY_COLUMN = [spec.name for spec in STRATEGIES if spec.is_uncertainty]
COLUMNS = (*BY_COLUMN, *ROI_COLUMNS)
NORMALISATIONS = ("none", "minmax", "rank")


@st.composite
def tables(draw):
    """Ids, their groups, and columns on a coarse scale, so that ties are common."""
    count = draw(st.integers(1, 12))
    coarse = hnp.arrays(np.float64, count, elements=st.integers(0, 4).map(lambda level: level / 4))
    ids = draw(st.lists(st.text(max_size=4), min_size=count, max_size=count, unique=True))
    groups = draw(st.lists(st.sampled_from("pqr"), min_size=count, max_size=count))
    columns = {name: draw(coarse) for name in COLUMNS}
    missing = draw(hnp.arrays(bool, count))
    for name in ROI_COLUMNS:
        columns[name][missing] = np.nan
    return ids, groups, columns


@settings(deadline=None, max_examples=80)
@given(
    tables(),
    st.sampled_from(BY_ROW),
    st.sampled_from(NORMALISATIONS),
    units,
    st.integers(0, 2),
    st.data(),
)
def test_selection_in_chunks_of_any_order_is_that_of_the_whole_table(
    table, strategy, normalise, weight, cap, data
):
    ids, groups, columns = table
    asked = Select(
        strategy=strategy,
        normalise=normalise,
        weight=weight,
        uncertainty=data.draw(st.sampled_from(BY_COLUMN)),
        max_per_group=cap,
        query_size=data.draw(st.integers(1, len(ids))),
    )
    expected = selected_at_once(ids, groups, columns, asked, 9)
    order = np.array(data.draw(st.permutations(range(len(ids)))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=4)))
    num_runners_up = data.draw(st.integers(0, 4))
    chosen = selected_in_chunks(table, np.split(order, cuts), asked, 9, num_runners_up)
    assert_equal(chosen, expected, num_runners_up)
    assert ((chosen.utilities >= 0) & (chosen.utilities <= 1)).all()


@pytest.mark.parametrize("exact_limit", [1 << 21, 2])
@settings(deadline=None, max_examples=60)
@given(
    tables(),
    st.sampled_from([spec.name for spec in STRATEGIES if spec.is_weighted]),
    st.sampled_from(NORMALISATIONS),
    st.sampled_from(BY_COLUMN),
    st.integers(0, 2),
    st.integers(0, 2**40),
)
def test_weight_one_is_the_uncertainty_to_the_id_whatever_the_coverage(
    exact_limit, table, strategy, normalise, uncertainty, cap, seed
):
    ids = table[0]
    asked = Select(
        strategy=strategy,
        normalise=normalise,
        weight=1.0,
        uncertainty=uncertainty,
        max_per_group=cap,
        query_size=len(ids),
    )
    rows = [np.arange(len(ids))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(rankers.NORMALISATIONS, "rank", lambda: Distribution(exact_limit))
        patch.setattr(rankers, "Distribution", lambda: Distribution(exact_limit))
        found = selected_in_chunks(table, rows, asked, seed, 12)
    plain = asked.model_copy(update={"strategy": uncertainty})
    expected = selected_in_chunks(table, rows, plain, seed, 12)
    assert found.image_ids == expected.image_ids
    assert found.runners_up == expected.runners_up


# Without an ROI to weigh against nothing is normalised.
SCALED = [(name, how) for name in BY_ROW for how in (NORMALISATIONS if name in BY_ROI else ("rank",))]


@pytest.mark.parametrize(("strategy", "normalise"), SCALED)
@pytest.mark.parametrize("cap", [0, 1, 3])
@pytest.mark.parametrize("decimals", [1, 2, 17])
def test_selection_from_larger_tables_is_that_of_the_whole_table(
    strategy, normalise, cap, decimals, monkeypatch
):
    rng = np.random.default_rng(decimals)
    count = 400
    columns = {name: rng.beta(0.6, 1.4, count).round(decimals) for name in COLUMNS}
    missing = rng.random(count) < 0.2
    for name in ROI_COLUMNS:
        columns[name][missing] = np.nan
    table = [f"{number:x}" for number in rng.permutation(count)], rng.choice(list("abcdefgh"), count), columns
    asked = Select(strategy=strategy, normalise=normalise, weight=0.3, max_per_group=cap, query_size=40)
    expected = selected_at_once(*table, asked, 4)
    for num_chunks in (1, 50):
        chunks = np.array_split(rng.permutation(count), num_chunks)
        assert_equal(selected_in_chunks(table, chunks, asked, 4, 30), expected, 30)
    # So that the cap often needs a second pass, and many look-ups.
    monkeypatch.setattr(strategies, "SPARE_ROWS", 1)
    monkeypatch.setattr(strategies, "LEAST_ROWS", 1)
    monkeypatch.setattr(streaming, "GROUPED_BUFFER", 16)
    for num_chunks in (5, 40):
        chunks = np.array_split(rng.permutation(count), num_chunks)
        assert_equal(selected_in_chunks(table, chunks, asked, 4, 30), expected, 30)


def selected_in_chunks(table, chunks, asked, seed, num_runners_up):
    """`select` on a table that comes as these rows."""
    ids, groups, columns = table
    group_of = dict(zip(ids, groups, strict=True))

    def replay():
        for rows in chunks:
            parts = {name: column[rows] for name, column in columns.items()}
            yield Candidates.of([ids[row] for row in rows], parts)

    return select(
        replay,
        asked,
        seed=seed,
        groups=lambda names: [group_of[name] for name in names],
        num_runners_up=num_runners_up,
    )


def assert_equal(chosen, expected, num_runners_up):
    """Bit for bit."""
    image_ids, utilities, reasons, others = expected
    assert chosen.image_ids == image_ids
    np.testing.assert_array_equal(chosen.utilities, utilities)
    assert chosen.reasons == reasons
    assert chosen.runners_up == others[:num_runners_up]


def selected_at_once(ids, groups, columns, asked, seed):
    """Selection with the whole table in memory: ids, utilities, reasons, and the other ids in order.

    Computed anew for the strategies that are told of here; of any other, what it makes of one chunk.
    """
    if asked.strategy not in {"random", *BY_COLUMN, *BY_ROI}:
        table, rows = (ids, groups, columns), [np.arange(len(ids))]
        found = selected_in_chunks(table, rows, asked, seed, len(ids))
        return found.image_ids, found.utilities, found.reasons, found.runners_up

    def ranks(values):
        if len(values) < 2:
            return np.full(len(values), 0.5)
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts + 1) / 2.0)[inverse] / (len(values) - 1)

    def minmax(values):
        if not len(values) or values.min() == values.max():
            return np.zeros_like(values)
        return (values - values.min()) / (values.max() - values.min())

    def short(value):
        return f"{value:.2f}".removeprefix("0")

    def scaled_among(others, values, normalise):
        if normalise == "none":
            return values
        if normalise == "minmax":
            span = others.max() - others.min()
            return np.clip((values - others.min()) / span, 0.0, 1.0) if span else np.zeros_like(values)
        if len(others) < 2:
            return np.full(len(values), 0.5)
        twice = [(others < value).sum() + (others <= value).sum() - 1 for value in values]
        return np.clip(np.array(twice) / 2.0 / (len(others) - 1), 0.0, 1.0)

    second = np.zeros(len(ids))
    words = (asked.uncertainty if asked.strategy in BY_ROI else asked.strategy).replace("_", " ")
    if asked.strategy == "random":
        draws = [hashlib.sha256(f"random\x1f{seed}\x1f{image_id}".encode()).digest()[:8] for image_id in ids]
        utilities = np.array([(int.from_bytes(draw, "big") >> 11) * 2.0**-53 for draw in draws])
        reasons = [f"random draw {short(value)}" for value in utilities]
    elif asked.strategy not in BY_ROI:
        utilities = columns[asked.strategy]
        reasons = [f"{words} {short(value)}" for value in utilities]
    else:
        scale = {"none": lambda values: values, "minmax": minmax, "rank": ranks}[asked.normalise]
        dual = asked.strategy in ("dual", "shuffled_roi")
        name, roi_words, as_utility = BY_ROI[asked.strategy]
        weight = asked.weight if dual else 0.0
        raw, misalignment = columns[asked.uncertainty], as_utility(columns[name].copy())
        second = raw
        has_roi = ~np.isnan(misalignment)
        uncertainty = raw.copy()
        if dual:
            uncertainty[has_roi] = scale(raw[has_roi])
        misalignment[has_roi] = scale(misalignment[has_roi])
        utilities = raw
        if has_roi.any():
            utilities = np.empty(len(ids))
            utilities[has_roi] = weight * uncertainty[has_roi] + (1.0 - weight) * misalignment[has_roi]
            levels = np.sort(utilities[has_roi])
            if weight == 1.0:
                utilities[~has_roi] = scaled_among(raw[has_roi], raw[~has_roi], asked.normalise)
            else:
                places = scaled_among(raw[has_roi], raw[~has_roi], "rank")
                utilities[~has_roi] = np.interp(places, np.linspace(0.0, 1.0, len(levels)), levels)
        if asked.strategy == "smallest_roi":
            utilities = np.where(has_roi, utilities, 0.0)
            second = np.where(has_roi, raw, raw - 2.0)  # after all that have one
        suffix = "" if asked.normalise == "none" else f" {asked.normalise}"
        reasons = [
            f"no ROI: ranked by {words} alone ({words} {short(raw[row])})"
            if not has_roi[row]
            else f"{asked.strategy} {short(utilities[row])}"
            f" = {short(weight)} x {words}{suffix} {short(uncertainty[row])}"
            f" + {short(1.0 - weight)} x {roi_words}{suffix} {short(misalignment[row])}"
            if dual
            else f"{roi_words} {short(columns[name][row])}"
            for row in range(len(ids))
        ]
    hashes = [hashlib.sha256(f"tie\x1f{seed}\x1f{image_id}".encode()).digest() for image_id in ids]
    order = sorted(range(len(ids)), key=lambda row: (-utilities[row], -second[row], hashes[row]))
    rows, taken = [], Counter()
    for row in order:
        if len(rows) < asked.query_size and (
            not asked.max_per_group or taken[groups[row]] < asked.max_per_group
        ):
            taken[groups[row]] += 1
            rows.append(row)
    others = [ids[row] for row in order if row not in rows]
    return [ids[row] for row in rows], utilities[rows], [reasons[row] for row in rows], others
