"""Strategies that choose images together: their shortlist, and what is refused of their answer."""

from collections import Counter
from unittest.mock import patch

import numpy as np
import pytest

from xal_ray.acquire.batch import NOBODY, Choice, Embeddings, Known
from xal_ray.acquire.shortlist import describe_shortlist, select_batch, shortlist_size
from xal_ray.acquire.streaming import Candidates
from xal_ray.config import Select
from xal_ray.errors import PluginError
from xal_ray.registry.strategies import StrategySpec

IDS = [f"i{number:03d}" for number in range(60)]


def ask(
    function, *, size=4, cap=0, shortlist="auto", groups=None, chunk_size=7, num_runners_up=0, known=NOBODY
):
    """Choose by a function; entropy falls with an image's number, and its embedding is that number.

    Returns the ids whose embeddings were read, too.
    """
    group_of = dict(zip(IDS, groups or IDS, strict=True))
    asked = []

    def of(ids):
        asked.append(list(ids))
        return np.array([[int(name[1:])] for name in ids], dtype=np.float16)

    def replay():
        for start in range(0, 60, chunk_size):
            rows = np.arange(start, min(start + chunk_size, 60))
            yield Candidates.of([IDS[row] for row in rows], {"entropy": 1.0 - rows / 60})

    settings = Select(
        strategy="kcenter", query_size=size, max_per_group=cap, shortlist=shortlist, uncertainty="entropy"
    )
    with patch.object(StrategySpec, "load", return_value=function):
        picks = select_batch(
            replay,
            settings,
            seed=1,
            groups=lambda names: [group_of[name] for name in names],
            embeddings=Embeddings(of, known),
            num_runners_up=num_runners_up,
        )
    return picks, asked


def backwards(batch, settings, seed):
    return Choice(np.arange(batch.num_rows)[::-1])


@pytest.mark.parametrize(("shortlist", "seen"), [("auto", 40), (9, 9), (2, 4), (500, 60), ("all", 60)])
def test_the_shortlist_holds_the_best_rows_and_no_other_embedding_is_read(shortlist, seen):
    picks, asked = ask(backwards, shortlist=shortlist)
    assert asked == [IDS[:seen]]
    assert picks.image_ids == IDS[:seen][::-1][:4]


def test_how_many_rows_are_seen():
    assert shortlist_size(Select(query_size=7)) == 70
    assert shortlist_size(Select(query_size=7, shortlist="all")) is None
    assert shortlist_size(Select(query_size=7, shortlist=3)) == 7
    asked = {"strategy": "kcenter", "query_size": 7, "uncertainty": "least_confidence"}
    assert describe_shortlist(Select(**asked)) == "the 70 images of the largest least confidence"
    assert describe_shortlist(Select(**asked, shortlist="all")) == "all images"
    assert describe_shortlist(Select(strategy="dual")) == ""


def test_a_strategy_sees_what_it_chooses_from():
    known = Known(["a"], ["p"], np.ones((1, 1), dtype=np.float16), np.array([True]))

    def look(batch, settings, seed):
        assert batch.groups == tuple(f"g{name}" for name in batch.image_ids)
        assert (np.diff(batch.utilities) <= 0).all()
        assert batch.embeddings.tolist() == [[int(name[1:])] for name in batch.image_ids]
        assert batch.known is known
        assert (settings.query_size, seed) == (4, 1)
        assert set(batch.columns) == {"entropy"}
        for array in (batch.embeddings, batch.utilities, batch.known.embeddings):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0
        return Choice([3, 1, 0, 2])

    picks, _ = ask(look, known=known, groups=[f"g{name}" for name in IDS])
    assert picks.image_ids == ["i003", "i001", "i000", "i002"]


def test_a_strategy_that_says_no_more_than_an_order_gets_utilities_and_reasons():
    picks, _ = ask(backwards, size=2, shortlist=5, num_runners_up=2)
    assert picks.utilities.tolist() == pytest.approx([1 - 4 / 60, 1 - 3 / 60])
    assert picks.reasons[0] == "kcenter: number 5 of the shortlist by entropy"
    assert picks.runners_up == ["i000", "i001"]
    assert picks.measured["uncertainty"].tolist() == picks.utilities.tolist()


def test_utilities_and_reasons_belong_to_the_picks_where_the_cap_passes_over_some():
    def answer(batch, settings, seed):
        return Choice([0, 1, 2, 3, 4, 5], np.arange(6.0), lambda position: f"number {position}")

    picks, _ = ask(answer, size=3, cap=1, groups=[f"g{n // 2}" for n in range(60)])
    assert picks.image_ids == ["i000", "i002", "i004"]
    assert picks.utilities.tolist() == [0.0, 2.0, 4.0]
    assert picks.reasons == ["number 0", "number 2", "number 4"]


@pytest.mark.parametrize("shortlist", [5, 12, "auto", "all"])
@pytest.mark.parametrize(("size", "cap"), [(4, 1), (9, 2), (40, 3), (60, 7)])
@pytest.mark.parametrize("seed", range(3))
def test_a_shortlist_never_costs_a_pick_that_the_cap_leaves_room_for(shortlist, size, cap, seed):
    """The best rows are of few groups: a plain list of the best would run out."""
    rng = np.random.default_rng(seed)
    groups = [f"g{n}" for n in np.minimum(rng.geometric(0.4, 60), 9) + np.arange(60) // 30 * 10]
    possible = min(size, sum(min(cap, count) for count in Counter(groups).values()))
    picks, asked = ask(backwards, size=size, cap=cap, shortlist=shortlist, groups=groups)
    assert len(picks.image_ids) == possible
    taken = Counter(groups[int(name[1:])] for name in picks.image_ids)
    assert max(taken.values()) <= cap
    assert shortlist == "all" or len(asked[0]) <= max(size, 10 * size if shortlist == "auto" else shortlist)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ([0, 1, 2], "3"),
        ([0, 1, 2, 2], "1 repeated"),
        ([0, 1, 2, 40], "0 to 40"),
        ([-1, 0, 1, 2], "-1 to 2"),
        ([0.5, 1.0, 2.0, 3.0], "float64"),
        ([[0, 1, 2, 3]], "shape"),
        ([], "0"),
    ],
)
def test_an_answer_that_breaks_the_contract_is_refused_by_name(answer, found):
    with pytest.raises(PluginError, match="the strategy kcenter breaks its contract") as caught:
        ask(lambda *_: Choice(answer))
    assert found in caught.value.details["found"]


@pytest.mark.parametrize("utilities", [[0.0, np.nan, 0.0, 0.0], [0.0] * 3, [0.0, 0.0, 0.0, np.inf]])
def test_utilities_that_do_not_fit_are_refused(utilities):
    with pytest.raises(PluginError, match="breaks its contract"):
        ask(lambda *_: Choice([0, 1, 2, 3], np.array(utilities)))


def test_what_a_strategy_raises_is_said_with_its_name():
    def fail(batch, settings, seed):
        raise ZeroDivisionError("oh")

    with pytest.raises(PluginError, match="the strategy kcenter") as caught:
        ask(fail)
    assert caught.value.details["found"].startswith("ZeroDivisionError: oh (test_batch.py, line ")


@pytest.mark.parametrize("reason", ["", None, 3])
def test_a_reason_that_is_no_sentence_is_refused(reason):
    with pytest.raises(PluginError, match="breaks its contract"):
        ask(lambda *_: Choice([0, 1, 2, 3], reason=lambda _: reason))


def test_bare_rows_are_a_choice_and_nothing_else_is():
    assert ask(lambda *_: [3, 1, 0, 2])[0].image_ids == ["i003", "i001", "i000", "i002"]
    for answer in (None, "abcd", {0: 1}, ["i000"] * 4):
        with pytest.raises(PluginError, match="breaks its contract"):
            ask(lambda *_, answer=answer: answer)


PLUG_IN = """
from xal_ray.plugins import strategy

@strategy(kind="batch", columns=["embedding", "roi_area"])
def largest(batch, settings, seed):
    '''Those with the largest embedding.'''
    assert set(batch.columns) == {settings.uncertainty, "roi_area"}
    return (-batch.embeddings[:, 0]).argsort()

@strategy(columns=["embedding"])
def by_row(columns, settings):
    '''No row has a number for it.'''
"""


def test_a_strategy_of_another_package_chooses_a_batch(tmp_path, monkeypatch):
    name = f"outside_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(PLUG_IN)
    monkeypatch.syspath_prepend(tmp_path)
    settings = Select(strategy=f"{name}:largest", query_size=2, uncertainty="margin", shortlist=4)
    assert settings.spec.needs_embeddings
    assert settings.spec.reads("shortlist")
    assert settings.columns == ("margin", "roi_area")
    columns = {"margin": np.arange(9) / 9, "roi_area": np.full(9, np.nan)}
    chunk = Candidates.of(IDS[:9], columns)
    picks = select_batch(
        lambda: iter([chunk]),
        settings,
        seed=0,
        groups=list,
        embeddings=Embeddings(lambda ids: np.array([[-int(i[1:])] for i in ids], dtype=np.float16), NOBODY),
    )
    assert picks.image_ids == ["i005", "i006"]  # of the four of the largest margin
    assert np.isnan(picks.measured["roi_area"]).all()
    with pytest.raises(PluginError) as caught:
        Select(strategy=f"{name}:by_row")
    assert "kind='batch'" in str(caught.value.details)


def test_picks_that_the_cap_takes_away_must_be_made_up_for():
    with pytest.raises(PluginError) as caught:
        ask(lambda *_: Choice([0, 1, 2, 3]), cap=1, groups=["p"] * 4 + IDS[4:])
    assert caught.value.details["expected"].startswith("4 images")
