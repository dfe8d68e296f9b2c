"""A run on a cluster of 1, 2 and 3 hosts of this machine over one pool, with the fixed costs apart.

Hosts are isolated (network, processes, mounts), brought up over SSH by `xal-ray run --cluster` with
`cluster/onprem.yaml` filled in, and taken down by `--down`. One actor with one thread scores on each host, so
that as many hosts as there are cores could at best multiply the rate. Beyond that hosts share cores: then the
table shows what another host costs, and never what it gains. Needs root, iproute2, openssh-server, rsync.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "cluster"))

import hosts as isolated  # noqa: E402
import laptop as cluster  # noqa: E402

RESOURCE = "host"  # one on each host: places one actor there


def main() -> None:
    parser = common.arguments("nodes", __doc__ or "")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--patients", type=int, default=3000, help="of one image each (default: 3000)")
    parser.add_argument("--image-size", type=int, default=128, help="pixels (default: 128)")
    parser.add_argument("--rows-per-shard", type=int, default=32, help="images in a shard (default: 32)")
    parser.add_argument("--repeats", type=int, default=1, help="turns; medians are given (default: 1)")
    args = parser.parse_args()
    if args.smoke:
        args.nodes, args.patients, args.image_size, args.rows_per_shard = [1], 60, 64, 8
    obstacle = isolated.obstacle()
    if obstacle:
        sys.exit(obstacle)
    with tempfile.TemporaryDirectory() as name:
        shared = Path(name) / "shared"
        shared.mkdir()
        config = write_config(args, shared)
        turns = [
            (num, measure(Path(name) / f"turn-{turn}-{num}", shared, config, num))
            for turn in range(args.repeats)
            for num in args.nodes
        ]
    rows = [row_of(num, [costs for other, costs in turns if other == num]) for num in args.nodes]
    for row in rows:
        row["rate / 1 host"] = row["images/s"] / rows[0]["images/s"]
    common.publish(args, "Hosts of a cluster", rows, notes(args))


def write_config(args: argparse.Namespace, shared: Path) -> Path:
    """The configuration of a run with little training, whose pool is packed once for all."""
    tree = {
        "name": "nodes",
        "num_rounds": 1,
        "pool": {
            "path": str(shared / "pool"),
            "image_size": args.image_size,
            "source": {
                "kind": "phantom",
                "phantom": {"num_patients": args.patients, "images_per_patient": 1},
            },
            "splits": {"val": 0.05, "test": 0.05},
        },
        "train": {"max_steps": 4, "eval_every_steps": 4, "minibatch_size": 8, "num_threads": 1},
        "score": {"rows_per_shard": args.rows_per_shard},
        "select": {"initial_labels": 12, "query_size": 8},
        "ray": {"actor_resources": {RESOURCE: 1.0}, "cpus_per_actor": 0.5},
    }
    path = shared / "nodes.yaml"
    path.write_text(yaml.safe_dump(tree))
    from xal_ray.config import load_config
    from xal_ray.engine import session
    from xal_ray.engine.context import open_context
    from xal_ray.engine.prepare import prepare
    from xal_ray.progress import QUIET

    settings = load_config(path)
    with open_context(settings.ray, QUIET) as context:
        prepare(settings.pool, settings.pool_path(), context)
    session.stop()
    return path


def measure(folder: Path, shared: Path, config: Path, num: int) -> dict[str, float]:
    """Seconds of each part of a run on so many hosts, and the rate of scoring."""
    folder.mkdir()
    out = shared / folder.name
    with isolated.Hosts(folder / "hosts", num, [ROOT, shared]) as hosts:
        person = cluster.Laptop(folder / "laptop", file_for(hosts))
        begin = time.monotonic()
        words = ("run", config, "--cluster", person.cluster_file, "--out", out, "--down")
        process = person.start(*words, "--set", f"ray.num_actors={num}")
        marks = {}
        try:
            for mark, line in (("up", " is up\n"), ("job", "finished. Report"), ("fetched", "taking down")):
                cluster.wait_for(
                    line,
                    lambda line=line: process.poll() is not None or line in person.said,
                    timeout_s=1200,
                )
                marks[mark] = time.monotonic() - begin
            person.finish(process)
        finally:
            person.end(process)
        marks["all"] = time.monotonic() - begin
    stages = stages_of(out)
    return {
        "bring-up s": marks["up"],
        "job s": marks["job"] - marks["up"],
        "actors' start s": stages["score"]["startup_s"],
        "scoring s": stages["score"]["seconds"],
        "images/s": stages["score"]["images_per_s"],
        "down s": marks["all"] - marks["fetched"],
        "wall s": marks["all"],
    }


def file_for(hosts: isolated.Hosts) -> dict[str, Any]:
    """`cluster/onprem.yaml` for these hosts; each, the head too, has room for one scoring actor."""
    tree = cluster.on_premises(hosts, f"nodes-{os.getpid()}")
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        tree[key] = [command.replace("--num-cpus=0", "--num-cpus=4") for command in tree[key]]
        cluster.add_to_ray_start(tree, key, f"--resources='{{\"{RESOURCE}\": 1}}'")
    return tree


def stages_of(out: Path) -> dict[str, dict[str, float]]:
    """What the ledger says of the first round's stages."""
    events = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    return {
        event["data"]["stage"]: event["data"]
        for event in events
        if event["event"] == "stage_finished" and event["round"] == 0
    }


def row_of(num: int, turns: list[dict[str, float]]) -> dict[str, Any]:
    return {"hosts": num, **{key: statistics.median(turn[key] for turn in turns) for key in turns[0]}}


def notes(args: argparse.Namespace) -> list[str]:
    return [
        f"resnet18, {args.image_size} px, {args.patients} images of which all but a few are scored, "
        f"shards of {args.rows_per_shard}; one actor with one thread a host; medians of {args.repeats} turns",
        "images/s: of scoring once the actors have started, from the ledger; job: from the cluster's being "
        "up to the run's end, with its driver's start and two short trainings; wall: all, with `--down`",
        f"all hosts share {os.cpu_count()} cores, the disk and the memory: this shows what bring-up, actors "
        "and more hosts cost, and scaling up to the number of cores less what Ray's own processes take; it "
        "can't show that of real machines, a network's or an object store's limits",
    ]


if __name__ == "__main__":
    main()
