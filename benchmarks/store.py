"""How many requests a run sends to its object store, by stage: the slope over shards, and what is fixed.

Pool and run lie in a bucket of moto's S3 on this machine; its server counts. Requests do not depend on the
speed of anything, so that these counts hold for the real store too.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import common
import pyarrow.compute as pc

from xal_ray.config import Config, build_config

SIZES = (4, 12)  # shards of the pool's unlabelled images, about
ROWS = 32


def main() -> None:
    args = common.arguments("store", __doc__ or "").parse_args()
    sizes = (2, 4) if args.smoke else SIZES
    with counting_server() as seen:
        small, large = count_runs(seen, sizes)
    more = large["shards"] - small["shards"]
    rows = []
    for stage in ("prepare", "a round"):
        for method in ("GET", "HEAD", "LIST", "PUT", "DELETE"):
            slope = (large[stage][method] - small[stage][method]) / more
            rows.append(
                {
                    "stage": stage,
                    "method": method,
                    "a part or shard": round(slope, 2),
                    "fixed": round(small[stage][method] - slope * small["shards"], 1),
                }
            )
    common.publish(
        args,
        "Requests to the object store",
        rows,
        [
            f"{small['shards']} and {large['shards']} parts of {ROWS} images, and as many score shards; "
            "a round of training, scoring, evaluating, selecting, labelling and committing, in one process",
        ],
    )


@contextlib.contextmanager
def counting_server() -> Iterator[Counter[str]]:
    """An S3 of moto's on this machine, found through the environment; yields its count by method."""
    import boto3
    from moto import server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)

    seen: Counter[str] = Counter()
    answer = server.DomainDispatcherApplication.__call__

    def counted(self: Any, environ: dict[str, Any], start_response: Any) -> Any:
        listing = environ["REQUEST_METHOD"] == "GET" and "list-type" in environ.get("QUERY_STRING", "")
        seen["LIST" if listing else environ["REQUEST_METHOD"]] += 1
        return answer(self, environ, start_response)

    server.DomainDispatcherApplication.__call__ = counted
    instance = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    instance.start()
    host, port = instance.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        boto3.client("s3").create_bucket(Bucket="bench")
        yield seen
    finally:
        instance.stop()
        server.DomainDispatcherApplication.__call__ = answer


def count_runs(seen: Counter[str], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Prepare a pool of each size and run one query round in it; the requests of each."""
    from xal_ray.engine.context import open_context
    from xal_ray.engine.prepare import prepare
    from xal_ray.engine.session import start, stop
    from xal_ray.loop import run
    from xal_ray.places import place
    from xal_ray.progress import QUIET

    made = []
    stop()  # a Ray that ran before, and all its processes, would look for another store
    start(configuration(sizes[0]).ray)
    try:
        for size in sizes:
            settings, before = configuration(size), Counter(seen)
            with open_context(settings.ray, QUIET) as context:
                made.append((prepare(settings.pool, settings.pool_path(), context), seen - before))
    finally:
        stop()
    found = []
    for size, (pool, prepared) in zip(sizes, made, strict=True):
        counts: list[Counter[str]] = []
        out = place(f"{root(size)}/run")

        def note(_: Any, counts: list[Counter[str]] = counts) -> None:
            counts.append(Counter(seen))

        run(configuration(size), out, QUIET, on_round=note, with_report=False)
        num_parts = pc.max(pool.index()["part"]).as_py() + 1
        found.append({"shards": num_parts, "prepare": prepared, "a round": counts[1] - counts[0]})
    return found


def root(num_shards: int) -> str:
    return f"s3://bench/{num_shards}"


def configuration(num_shards: int) -> Config:
    """Of a pool of so many shards, and of a run in it, in one process."""
    return build_config(
        {
            "name": "requests",
            "num_rounds": 2,
            "pool": {
                "path": f"{root(num_shards)}/pool",
                "image_size": 32,
                "rows_per_part": ROWS,
                "source": {
                    "kind": "phantom",
                    "phantom": {"num_patients": num_shards * ROWS, "images_per_patient": 1},
                },
                "splits": {"val": 0.05, "test": 0.05},
            },
            "model": {"backbone": "resnet18"},
            "train": {"max_steps": 2, "eval_every_steps": 2, "minibatch_size": 8, "num_threads": 1},
            "score": {"rows_per_shard": ROWS, "batch_size": ROWS},
            "select": {"strategy": "entropy", "initial_labels": 8, "query_size": 4},  # 32 px give one cell
            "ray": {"num_actors": 0, "num_decoders": 1},
        }
    )


if __name__ == "__main__":
    main()
