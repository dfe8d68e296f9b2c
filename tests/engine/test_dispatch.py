"""What a death is blamed on, with actors that only play dead: no cluster, and no waiting."""

import asyncio
import pickle

import pyarrow as pa
import pytest

from xal_ray.engine import dispatch
from xal_ray.engine.dispatch import Dispatcher
from xal_ray.engine.work import Actor, from_bytes, to_bytes
from xal_ray.errors import PoolError

pytestmark = [pytest.mark.slow, pytest.mark.ray]  # imports Ray for its errors

ROWS = pa.table({"image_id": [f"im{n}" for n in range(8)]})


class Call:
    def __init__(self, answer):
        self.answer = answer

    async def remote(self, *arguments):
        await asyncio.sleep(0)
        return self.answer(*arguments)


class Player:
    """An actor on a node. `plot(node, method, ids)` says what happens: a receipt's error, or a death."""

    def __init__(self, node, plot):
        self.node, self.plot, self.pid = node, plot, 1
        self.asked = []
        self.ready = Call(lambda: (self.node, self.pid))
        self.run = Call(lambda setup, path, rows, refused=None: self._do("run", rows, refused or {}))
        self.probe = Call(lambda setup, path, rows: self._do("probe", rows, {}))

    def _do(self, method, payload, refused):
        from ray.exceptions import ActorDiedError

        ids = [name for name in from_bytes(payload)["image_id"].to_pylist() if name not in refused]
        self.asked.append((method, ids))
        outcome = self.plot(self.node, method, ids)
        if outcome == "dies":
            self.pid += 1
            raise ActorDiedError
        if outcome == "is cut off":  # and answers again later: the same process
            raise ActorDiedError
        error = pickle.dumps(outcome) if outcome is not None else None
        return {"rows": len(ids), "error": error, "note": None, "refused": refused}


@pytest.fixture
def nodes(monkeypatch):
    """The nodes that live."""
    living = {"a", "b"}

    async def is_alive(node):
        return node in living

    monkeypatch.setattr(dispatch, "_is_alive", is_alive)
    monkeypatch.setattr(dispatch, "_PAUSE_S", 0.0)
    return living


def run(plot, attempts=2, on=("a", "b")):
    players = [Player(node, plot) for node in on]

    async def main():
        return await Dispatcher(players).run(b"", "scores/00000.parquet", to_bytes(ROWS), attempts)

    return asyncio.run(asyncio.wait_for(main(), 20)), players


def test_every_image_that_kills_by_itself_is_found_and_no_other(nodes):
    guilty = {"im1", "im6"}
    receipt, players = run(lambda node, method, ids: "dies" if guilty & set(ids) else None)
    assert receipt["refused"] == dict.fromkeys(guilty, "crashed")
    assert receipt["error"] is None
    assert "2 of 6 images" in receipt["note"]
    alone = [ids for player in players for method, ids in player.asked if len(ids) == 1]
    assert sorted(alone).count(["im1"]) == 2  # one death may be chance


def test_a_death_by_chance_blames_nobody(nodes):
    told = {"run": 2, 4: 1, 2: 1, 1: 1}  # deaths that are left: of the whole, and of a probe of so many

    def plot(node, method, ids):
        key = "run" if method == "run" else len(ids)
        told[key] -= 1
        return "dies" if told[key] >= 0 and "im0" in ids else None

    receipt, _ = run(plot, attempts=2)
    assert all(left < 0 for left in told.values())
    assert receipt["refused"] == {}
    assert receipt["error"] is None
    assert receipt["note"] is None


def test_a_node_that_goes_is_no_fault_of_the_shard(nodes):
    def plot(node, method, ids):
        if node == "a":
            nodes.discard("a")
            return "dies"
        return None

    receipt, (_, b) = run(plot, attempts=1)
    assert receipt["refused"] == {}
    assert b.asked == [("run", ROWS["image_id"].to_pylist())]


def test_a_process_that_was_only_out_of_reach_has_not_died(nodes):
    times = iter(range(100))
    receipt, players = run(lambda *_: "is cut off" if next(times) < 5 else None, attempts=1)
    assert receipt["error"] is None
    assert all(method == "run" for player in players for method, _ in player.asked)


def test_a_node_that_is_sick_is_left_alone_where_there_is_another(nodes):
    receipt, (a, _) = run(lambda node, method, ids: "dies" if node == "a" else None, attempts=2)
    assert receipt["error"] is None
    assert len(a.asked) == 1


def test_a_lack_of_memory_that_python_notices_counts_as_a_death(nodes):
    from ray.exceptions import RayTaskError

    def plot(node, method, ids):
        if "im3" in ids:
            raise RayTaskError("run", "traceback", MemoryError()).as_instanceof_cause()

    receipt, _ = run(plot, attempts=1)
    assert receipt["refused"] == {"im3": "crashed"}


def test_errors_in_a_search_reach_the_driver_as_they_are(nodes):
    receipt, _ = run(lambda node, method, ids: "dies" if method == "run" else PoolError("no such part"), 1)
    assert isinstance(pickle.loads(receipt["error"]), PoolError)


def test_a_search_without_end_is_given_up(nodes, monkeypatch):
    monkeypatch.setattr(dispatch, "_MOST_DEATHS", 6)
    receipt, _ = run(lambda *_: "dies", attempts=1)
    assert "kills every process" in str(pickle.loads(receipt["error"]))
    assert "in the search" in str(pickle.loads(receipt["error"]))


def test_a_shard_that_is_asked_for_twice_is_done_once(nodes):
    player = Player("a", lambda *_: None)

    async def main():
        dispatcher = Dispatcher([player])
        asked = [dispatcher.run(b"", "00000.parquet", to_bytes(ROWS), 3) for _ in range(2)]
        return await asyncio.gather(*asked)

    first, second = asyncio.run(main())
    assert first == second
    assert len(player.asked) == 1


def test_work_that_cant_do_without_an_image_is_not_searched():
    """As it is answered by a real actor: a shard of such work ends the stage."""
    setup = pickle.dumps(((), pickle.dumps((Blind, {}))))
    answer = Actor().probe(setup, "parts/00000.arrow", to_bytes(ROWS))
    assert "can't do without an image" in str(pickle.loads(answer["error"]))


class Blind:
    def __call__(self, path, rows):
        raise AssertionError
