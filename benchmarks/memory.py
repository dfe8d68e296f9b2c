"""Memory of all processes while pools of 1x and 10x the object store are scored.

Each size is scored by a process of its own, which starts Ray with the same object store; the memory of its
whole tree (PSS: shared pages count once) is sampled every quarter of a second. Flat means that the peaks of
both differ by less than 10 %.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import threading
from pathlib import Path
from typing import Any

import common

from xal_ray import config

STORE_MB = 80  # the least that Ray allows
SAMPLE_EVERY_S = 0.25


def main() -> None:
    parser = common.arguments("memory", __doc__ or "")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=96, help="pixels, in colour (default: 96)")
    parser.add_argument(
        "--times", type=int, default=10, help="the larger pool in object stores (default: 10)"
    )
    parser.add_argument("--actors", type=int, default=2, help="that score (default: 2)")
    args = parser.parse_args()
    image_mb = args.image_size**2 * 3 / 1024**2
    counts = {f"{n}x": round(n * STORE_MB / image_mb) for n in (1, args.times)}
    if args.smoke:
        args.backbone, args.image_size, counts = "efficientnet_lite0", 32, {"1x": 16}
        args.actors = 1
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.smoke:  # without a process of its own, whose imports take longer than all else
            make(args, folder, max(counts.values()))
        else:
            with context.Pool(1) as alone:
                alone.apply(make, (args, folder, max(counts.values())))
        measured = {}
        for size, count in counts.items():
            with context.Pool(1) as alone:
                measured[size] = alone.apply(
                    score_alone, (folder, folder / f"out-{size}", count, args.actors)
                )
    base = measured["1x"]["peak"]
    rows = [
        {
            "pool / object store": size,
            "images": counts[size],
            "packed pixels MB": round(counts[size] * image_mb),
            "peak MB of all processes": round(found["peak"]),
            "median MB while scoring": round(found["median"]),
            "peak / 1x": found["peak"] / base,
            "second half of the pass / first": found["growth"],
        }
        for size, found in measured.items()
    ]
    common.publish(
        args,
        "Memory while a pool larger than the object store is scored",
        rows,
        [
            f"{args.backbone}, {args.image_size} px in colour, object store {STORE_MB} MB, "
            f"{args.actors} actors"
        ],
    )


def make(args: argparse.Namespace, folder: Path, count: int) -> None:
    """A pool of generated images, and a model. Runs in a process of its own, so that no memory is kept."""
    from xal_ray.engine import session
    from xal_ray.engine.context import open_context
    from xal_ray.engine.prepare import prepare
    from xal_ray.model.network import ModelSpec
    from xal_ray.model.weights import build_network, save_model
    from xal_ray.progress import QUIET

    phantom = config.Phantom(num_patients=count, images_per_patient=1)
    settings = config.Pool(
        source=config.Source(kind="phantom", phantom=phantom),
        image_size=args.image_size,
        channels=3,
        splits=config.Splits(val=0.0, test=0.0),
    )
    with open_context(config.Ray(), QUIET) as context:
        pool = prepare(settings, folder / "pool", context)
    spec = ModelSpec(args.backbone, pool.classes, args.image_size, 3)
    save_model(folder / "model", build_network(spec, "none", seed=0), spec, {})
    session.stop()


def score_alone(folder: Path, out: Path, count: int, num_actors: int) -> dict[str, float]:
    from xal_ray.engine import scoring, session
    from xal_ray.engine.context import open_context
    from xal_ray.pool.schema import open_pool
    from xal_ray.progress import QUIET

    resources = config.Ray(object_store_mb=STORE_MB, num_actors=num_actors)
    pool = open_pool(folder / "pool")
    session.start(resources)
    samples: list[float] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_EVERY_S):
            samples.append(common.tree_memory_mb(os.getpid()))

    sampler = threading.Thread(target=sample)
    sampler.start()
    rows: Any = pool.index().slice(0, count)
    with open_context(resources, QUIET) as context:
        scoring.score(pool, folder / "model", {out: rows}, config.Score(), config.Roi(), context)
    done.set()
    sampler.join()
    session.stop()
    middle = len(samples) // 2
    growth = statistics.median(samples[middle:]) / statistics.median(samples[: middle or 1])
    return {"peak": max(samples), "median": statistics.median(samples), "growth": growth}


if __name__ == "__main__":
    main()
