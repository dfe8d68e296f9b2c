"""What a stage makes of silence, and of a pipeline that Ray has lost. Nothing is started."""

import pyarrow as pa
import pytest

from xal_ray import config
from xal_ray.engine import shards, watchdog
from xal_ray.engine.actors import ActorPool, ActorShape
from xal_ray.engine.context import StageContext
from xal_ray.engine.shards import Shard
from xal_ray.engine.watchdog import Watchdog
from xal_ray.errors import PoolError, StageError
from xal_ray.progress import Reporter
from xal_ray.storage import write_table

pytestmark = [pytest.mark.slow, pytest.mark.ray]  # imports Ray for its errors

FOUR_GPUS = ActorShape(4, 0.5, 1.0, {"fast": 0.1})


class Told(Reporter):
    def __init__(self):
        super().__init__(quiet=True)
        self.said = []

    def line(self, text):
        self.said.append(text)


@pytest.fixture
def silence(monkeypatch):
    """A watchdog whose clock and dispatcher the test plays: returns (watch, at)."""
    clock = {"now": 1000.0}
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(watchdog, "declared_now", lambda shape: "1 node, 0 CPU, 0 GPU")

    def watch(address):
        told = Told()
        resources = config.Ray(address=address, stall_timeout_s=100.0)
        watched = Watchdog("scoring", ActorPool(FOUR_GPUS, None, []), StageContext(resources, told))

        def at(seconds, up=0, pulse=0, trouble=None):
            clock["now"] = 1000.0 + seconds
            watched._state = lambda: {"up": up, "pulse": pulse, "trouble": trouble}
            watched.look()

        return watched, told.said, at

    return watch


def test_a_cluster_that_grows_is_waited_for_and_the_end_names_what_was_asked(silence):
    _, said, at = silence("auto")
    for seconds in (20, 40, 60, 80, 1700):
        at(seconds)
    assert len(said) == 3
    assert said[0] == (
        "scoring: waiting for 4 actors, each with 0.5 CPU, 1 GPU, 0.1 fast: the cluster is growing, or busy; "
        "it has 1 node, 0 CPU, 0 GPU"
    )
    with pytest.raises(StageError, match="none of its actors is up") as caught:
        at(1801, trouble="ActorUnschedulableError: no such node")
    for text in ("1800 s", "1 GPU, 0.1 fast", "0 GPU", "ActorUnschedulableError", "quotas"):
        assert text in str(caught.value)


def test_a_ray_of_our_own_is_not_waited_for_any_longer_than_a_shard(silence):
    _, said, at = silence("local")
    at(99)
    with pytest.raises(StageError, match="100 s: none of its actors is up"):
        at(101)
    assert said == []


def test_once_an_actor_is_up_a_shard_must_finish_in_time(silence):
    watched, said, at = silence("auto")
    at(900)
    at(1000, up=1)
    at(1099, up=2)
    assert said[-1] == "scoring: 2 of 4 actors are up; it goes on with these"
    watched.heard()  # a receipt, at 1099
    at(1190, up=2)
    at(1195, up=2, pulse=1)  # a probe, say
    at(1290, up=2, pulse=1)
    with pytest.raises(StageError, match="stood still for 100 s") as caught:
        at(1296, up=2, pulse=1)
    assert "of which 2 are up" in str(caught.value)


def test_nodes_that_all_go_may_come_again(silence):
    _, _, at = silence("auto")
    at(10, up=4)
    at(100, up=0)
    at(1800, up=0)
    at(1850, up=1)
    with pytest.raises(StageError, match="stood still for 100 s"):
        at(1951, up=1)


def lost():
    from ray.exceptions import ActorDiedError

    return ActorDiedError()


def play(monkeypatch, folder, *pipelines):
    """Run three shards through pipelines that each finish some, tell of some, and then end as given."""
    todo = iter(pipelines)

    def receipts(stage, waiting, *_):
        finished, told, error = next(todo)
        for shard in waiting[:finished]:
            write_table(shard.path, shard.rows)
        yield from (shards._receipt(shard) for shard in waiting[:told])
        if error is not None:
            raise StageError("scoring failed inside Ray", found="lost") from error

    monkeypatch.setattr(shards, "_receipts", receipts)
    work = [Shard(folder / f"{n}.parquet", pa.table({"n": [n]})) for n in range(3)]
    told = Told()
    done = list(shards._pipelines("scoring", work, b"", ActorShape(1, 0.5), StageContext(config.Ray(), told)))
    assert next(todo, None) is None
    return sorted(receipt["shard"] for receipt in done), told.said


def test_a_lost_pipeline_is_replaced_and_every_shard_is_told_of_once(monkeypatch, tmp_path):
    done, said = play(monkeypatch, tmp_path, (2, 1, lost()), (1, 1, None))
    assert done == sorted(str(tmp_path / f"{n}.parquet") for n in range(3))
    assert said == ["scoring: Ray lost its pipeline (lost); it goes on with another"]


@pytest.mark.parametrize(
    "pipelines", [[(0, 0, "lost")], [(1, 1, "lost"), (0, 0, "lost")], [(2, 2, ValueError("a mistake"))]]
)
def test_without_progress_or_for_a_mistake_of_ours_it_is_not(monkeypatch, tmp_path, pipelines):
    ends = [(finished, told, lost() if error == "lost" else error) for finished, told, error in pipelines]
    with pytest.raises(StageError, match="failed inside Ray"):
        play(monkeypatch, tmp_path, *ends)


def test_what_ray_wraps_is_told_from_what_ray_lost():
    from ray.exceptions import RayTaskError

    assert shards._is_rays_own(RayTaskError("f", "traceback", lost()))
    assert not shards._is_rays_own(RayTaskError("f", "traceback", PoolError("no such part")))
    assert not shards._is_rays_own(None)
