"""What every strategy that chooses images together keeps to; `tests/unit` says what each one means."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest

from xal_ray.acquire.batch import NOBODY, Embeddings, Known
from xal_ray.acquire.shortlist import select_batch
from xal_ray.acquire.streaming import Candidates
from xal_ray.config import Select
from xal_ray.record.layout import SELECTION_SCHEMA, selection_table
from xal_ray.registry.strategies import ROI_COLUMNS, STRATEGIES

COUNT = 60
UNCERTAINTIES = ("entropy", "margin", "least_confidence", "bald")
COLUMNS = (*UNCERTAINTIES, *ROI_COLUMNS)
every_strategy = pytest.mark.parametrize(
    "strategy", [spec.name for spec in STRATEGIES if spec.kind == "batch"]
)


@dataclass(frozen=True)
class Table:
    """A score table with embeddings, in memory."""

    image_ids: list
    group_ids: list
    columns: dict
    embeddings: np.ndarray
    known: Known = NOBODY

    def select(self, *, seed=0, chunk_size=COUNT, num_runners_up=0, **settings):
        places = {name: place for place, name in enumerate(self.image_ids)}

        def replay():
            for start in range(0, len(self.image_ids), chunk_size):
                part = slice(start, start + chunk_size)
                columns = {name: column[part] for name, column in self.columns.items()}
                yield Candidates.of(self.image_ids[part], columns)

        return select_batch(
            replay,
            Select(**settings),
            seed=seed,
            groups=lambda names: [self.group_ids[places[name]] for name in names],
            embeddings=Embeddings(lambda names: self.embeddings[[places[n] for n in names]], self.known),
            num_runners_up=num_runners_up,
        )

    def permuted(self, order):
        return replace(
            self,
            image_ids=[self.image_ids[row] for row in order],
            group_ids=[self.group_ids[row] for row in order],
            columns={name: column[order] for name, column in self.columns.items()},
            embeddings=self.embeddings[order],
        )


def make_table(seed=0, *, num_known=9, width=6, spread=1.0):
    """Few decimals and a few clusters: ties in every column, and images that are copies of others."""
    rng = np.random.default_rng(seed)
    columns = {name: rng.random(COUNT).round(1) for name in COLUMNS}
    for name in ROI_COLUMNS:
        columns[name][rng.random(COUNT) < 0.3] = np.nan
    centres = 3.0 * rng.normal(size=(7, width))
    points = centres[rng.integers(7, size=COUNT)] + spread * rng.normal(size=(COUNT, width)).round(0)
    known = Known(
        [f"known-{number}" for number in range(num_known)],
        [f"patient-{number}" for number in range(num_known)],
        centres[rng.integers(4, size=num_known)].astype(np.float16),
        rng.random(num_known) < 0.5,
    )
    ids = [f"image-{number:03d}" for number in rng.permutation(COUNT)]
    groups = [f"patient-{number}" for number in rng.integers(12, size=COUNT)]
    return Table(ids, groups, columns, points.astype(np.float16), known)


def same(one, other):
    np.testing.assert_array_equal(one.utilities, other.utilities)
    return (one.image_ids, one.reasons, one.runners_up) == (other.image_ids, other.reasons, other.runners_up)


@every_strategy
@pytest.mark.parametrize("num_known", [0, 9])
@pytest.mark.parametrize("shortlist", ["auto", 30, "all"])
@pytest.mark.parametrize("query_size", [1, 20, COUNT])
def test_the_choice_is_a_unique_subset_of_the_asked_size_with_reasons(
    strategy, num_known, shortlist, query_size
):
    table = make_table(num_known=num_known)
    chosen = table.select(strategy=strategy, shortlist=shortlist, query_size=query_size)
    assert len(chosen.image_ids) == len(chosen.utilities) == len(chosen.reasons) == query_size
    assert len(set(chosen.image_ids)) == query_size
    assert set(chosen.image_ids) <= set(table.image_ids)
    assert np.isfinite(chosen.utilities).all()
    assert all(chosen.reasons)
    recorded = selection_table(chosen)
    assert recorded.schema.equals(SELECTION_SCHEMA)
    assert recorded["uncertainty"].null_count == 0


@every_strategy
@pytest.mark.parametrize("shortlist", ["auto", 30, "all"])
@pytest.mark.parametrize("cap", [0, 2])
def test_neither_the_order_of_rows_nor_chunks_matter(strategy, shortlist, cap):
    settings = {"strategy": strategy, "shortlist": shortlist, "max_per_group": cap, "query_size": 11}
    for number, num_known in ((0, 9), (1, 0)):
        table = make_table(number, num_known=num_known)
        expected = table.select(seed=5, num_runners_up=4, **settings)
        for seed, chunk_size in ((0, 60), (1, 7), (2, 1)):
            order = np.random.default_rng(seed).permutation(COUNT)
            found = table.permuted(order).select(seed=5, num_runners_up=4, chunk_size=chunk_size, **settings)
            assert same(found, expected)


@every_strategy
@pytest.mark.parametrize("shortlist", ["auto", 5, "all"])
@pytest.mark.parametrize("cap", [1, 2, 5])
def test_the_cap_is_kept_and_as_many_are_chosen_as_it_leaves_room_for(strategy, shortlist, cap):
    for seed in range(4):
        table = make_table(seed)
        group_of = dict(zip(table.image_ids, table.group_ids, strict=True))
        for query_size in (5, 25, COUNT):
            chosen = table.select(
                strategy=strategy, shortlist=shortlist, query_size=query_size, max_per_group=cap
            )
            taken = Counter(group_of[name] for name in chosen.image_ids)
            assert max(taken.values()) <= cap
            room = sum(min(cap, count) for count in Counter(table.group_ids).values())
            assert len(chosen.image_ids) == min(query_size, room)


@every_strategy
def test_images_that_look_all_the_same_are_chosen_from_all_the_same(strategy):
    table = make_table()
    alike = replace(table, embeddings=np.ones_like(table.embeddings))
    assert len(set(alike.select(strategy=strategy, query_size=20).image_ids)) == 20
    extreme = replace(table, embeddings=np.where(table.embeddings > 0, 65504, -65504).astype(np.float16))
    chosen = extreme.select(strategy=strategy, query_size=20)
    assert len(set(chosen.image_ids)) == 20
    assert np.isfinite(chosen.utilities).all()


@every_strategy
@pytest.mark.parametrize("uncertainty", UNCERTAINTIES)
def test_a_strategy_reads_its_columns_and_no_others(strategy, uncertainty):
    table = make_table()
    settings = Select(strategy=strategy, uncertainty=uncertainty, query_size=8)
    asked = {"strategy": strategy, "uncertainty": uncertainty, "query_size": 8}
    chosen = table.select(**asked)
    needed = settings.columns
    others = {name: np.full(COUNT, np.nan) for name in COLUMNS if name not in needed}
    assert same(replace(table, columns=table.columns | others).select(**asked), chosen)
    places = [table.image_ids.index(name) for name in chosen.image_ids]
    np.testing.assert_array_equal(chosen.measured["uncertainty"], table.columns[uncertainty][places])
    for name in needed:
        lacking = {other: column for other, column in table.columns.items() if other != name}
        with pytest.raises(ValueError, match=f"no column {name}"):
            replace(table, columns=lacking).select(**asked)


@every_strategy
def test_keys_that_its_record_does_not_have_change_nothing(strategy):
    table = make_table()
    chosen = table.select(strategy=strategy, query_size=8)
    spec = STRATEGIES[strategy]
    for key, value in (("weight", 0.1), ("normalise", "none")):
        if not spec.reads(key):
            assert same(table.select(**{"strategy": strategy, "query_size": 8, key: value}), chosen)


@every_strategy
def test_embeddings_that_are_not_finite_or_not_there_are_refused(strategy):
    table = make_table()
    spoilt = table.embeddings.copy()
    spoilt[3, 2] = np.nan
    with pytest.raises(ValueError, match="finite"):
        replace(table, embeddings=spoilt).select(strategy=strategy, query_size=8)
    with pytest.raises(ValueError, match="unique"):
        replace(table, image_ids=["a"] * COUNT).select(strategy=strategy, query_size=8)
