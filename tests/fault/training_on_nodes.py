"""Trains with two workers on two nodes of a cluster, one of which is taken away after the first checkpoint.

Usage: python training_on_nodes.py POOL OUT
"""

import json
import os
import sys
from pathlib import Path

from training_request import EVERY_STEPS, AtCheckpoint, Lines, small_request

from xal_ray import config
from xal_ray.engine import session
from xal_ray.engine.context import StageContext
from xal_ray.engine.training.stage import train
from xal_ray.pool.schema import open_pool


def main() -> None:
    pool, out = open_pool(Path(sys.argv[1])), Path(sys.argv[2])
    session.prepare_environment()
    # Until Ray Train has noticed that a node is gone, it asks for the two in vain.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "4"
    os.environ |= {"RAY_health_check_period_ms": "300"}  # Ray notices a node's end after five checks
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1, resources={"trainer": 1}) for _ in range(2)]
    resources = config.Ray(
        address=cluster.address,
        worker_resources={"trainer": 1.0},
        min_workers=1,
        checkpoint_every_steps=EVERY_STEPS,
    )
    session.start(resources)
    taken = AtCheckpoint(out / "training", 0, lambda: cluster.remove_node(nodes[1], allow_graceful=False))
    taken.start()
    lines = Lines()
    train(small_request(pool, num_workers=2), out, StageContext(resources, lines))
    taken.join()
    (out / "found.json").write_text(json.dumps({"removed_at": taken.step, "lines": lines.said}))
    session.stop()
    cluster.shutdown()


if __name__ == "__main__":
    main()
