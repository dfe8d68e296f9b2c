"""Scores a pool on a Ray cluster whose nodes come late, and one of which dies with a shard half done.

The head declares no CPU, so that the stage begins without a place for any actor. What happens when is decided
by files, never by time: a shard that must not end before another node has come waits for that node's file.

Usage: python grow_and_lose_nodes.py POOL MODEL OUT   what happened is in outcome.json beside OUT
"""

import io
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from rich.console import Console

from xal_ray import config
from xal_ray.engine import session, watchdog
from xal_ray.engine.actors import ActorShape
from xal_ray.engine.context import StageContext
from xal_ray.engine.scoring import ScoreShard
from xal_ray.engine.shards import cut, run_shards
from xal_ray.pool.schema import REFERENCE_COLUMNS, open_pool
from xal_ray.progress import Reporter

SETTINGS = config.Score(batch_size=8, rows_per_shard=16, precision="fp32")
NEEDS_BOTH, DIES_IN = "00001.parquet", "00002.parquet"


class Gated(ScoreShard):
    """Scores, and says and waits for what the test is about."""

    def __init__(self, notes, **arguments):
        super().__init__(**arguments)
        self.notes = notes

    def __call__(self, path, rows):
        node = ray.get_runtime_context().get_node_id()
        (self.notes / f"node-{node}").touch()
        if path.name == NEEDS_BOTH:
            wait_until(lambda: len(list(self.notes.glob("node-*"))) == 2)
        if path.name == DIES_IN and not list(self.notes.glob("dying-*")):
            (self.notes / f"dying-{node}").touch()
            time.sleep(600)
        super().__call__(path, rows)
        (self.notes / f"done-{path.stem}-{node}").touch()


def wait_until(condition, timeout_s=100):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the moment never came"
        time.sleep(0.05)


def bring_and_take(cluster, notes, said, stage):
    """A node once somebody waits, another once that one works; then the end of one amid a shard."""

    def until(condition):
        wait_until(lambda: stage.done() or condition())
        assert not stage.done(), f"it ended too early: {stage.result()}"

    until(lambda: "waiting for 2 actors" in said.getvalue())
    nodes = [cluster.add_node(num_cpus=1)]
    until(lambda: list(notes.glob("node-*")))
    nodes.append(cluster.add_node(num_cpus=1))
    until(lambda: list(notes.glob("dying-*")))
    (dying,) = [path.name.removeprefix("dying-") for path in notes.glob("dying-*")]
    (victim,) = [node for node in nodes if node.node_id == dying]
    cluster.remove_node(victim, allow_graceful=False)
    (notes / "killed").touch()


def main():
    pool, model, out = open_pool(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
    notes = out.with_name("notes")
    notes.mkdir()
    session.prepare_environment()
    os.environ |= {"RAY_health_check_period_ms": "300"}  # Ray notices a node's end after five checks
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    resources = config.Ray(address=cluster.address, num_actors=2, cpus_per_actor=1.0)
    session.start(resources)
    watchdog.TELL_EVERY_S, watchdog._LOOK_EVERY_S = 1.0, 0.5
    said = io.StringIO()
    context = StageContext(resources, Reporter(Console(file=said, width=200)))
    shards = cut(pool.index().select(REFERENCE_COLUMNS), out, SETTINGS.rows_per_shard)
    scorer = {"model": model, "settings": SETTINGS, "use_roi": True, "threads": 1}
    arguments = {"notes": notes, "images": pool, "scorer": scorer}
    shape = session.scoring_shape(resources)
    with ThreadPoolExecutor(1) as aside:  # nodes can be added by the main thread only
        stage = aside.submit(run_shards, "scoring", shards, Gated, arguments, shape, context)
        bring_and_take(cluster, notes, said, stage)
        pace = stage.result()
    outcome = {
        "shape": [shape.num_actors, shape.cpus_per_actor, shape.gpus_per_actor],
        "rows": pace.num_rows,
        "notes": sorted(path.name for path in notes.iterdir()),
        "said": said.getvalue(),
        "nodes": [node["Alive"] for node in ray.nodes()],
        "all_released": context.actors.held == ActorShape(0, 0.0),
    }
    out.with_name("outcome.json").write_text(json.dumps(outcome))
    session.stop()
    cluster.shutdown()


if __name__ == "__main__":
    main()
