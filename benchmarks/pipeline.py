"""Scoring through Ray against a plain loop over the same Parquet files, with the fixed cost apart.

Two sizes of a pool give two points, and two points a line: cost = fixed + marginal x images. The plain loop
is the same Scorer, reader and shard files without Ray, in one thread. Each turn runs all sides; ratios are
medians over turns. "first pass" starts the actors, later ones find them warm, as the rounds of a run do.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import pyarrow as pa

from xal_ray import config
from xal_ray.engine import scoring, session
from xal_ray.engine.context import StageContext, open_context
from xal_ray.engine.prepare import prepare
from xal_ray.engine.shards import cut
from xal_ray.model.network import ModelSpec
from xal_ray.model.weights import build_network, save_model
from xal_ray.pool.schema import REFERENCE_COLUMNS, PoolReader
from xal_ray.progress import QUIET
from xal_ray.scoring.scorer import Scorer

ROI = config.Roi()


def main() -> None:
    parser = common.arguments("pipeline", __doc__ or "")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=128, help="pixels (default: 128)")
    parser.add_argument("--small", type=int, default=256, help="images of the small pass (default: 256)")
    parser.add_argument("--large", type=int, default=1280, help="images of the large pass (default: 1280)")
    parser.add_argument("--rows-per-shard", type=int, default=128, help="images in a shard (default: 128)")
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3, help="turns (default: 3)")
    args = parser.parse_args()
    if args.smoke:
        args.backbone = "efficientnet_lite0"  # starts in half the time
        args.image_size, args.small, args.large, args.rows_per_shard = 64, 16, 48, 16
        args.actors, args.repeats = [1], 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin = time.monotonic()
        session.start(config.Ray())
        ray_start_s = time.monotonic() - begin
        pool, model = make(args, folder)
        costs = measure(args, folder, pool, model)
    session.stop()
    rows = [row_of(args, side, costs) for side in costs]
    common.publish(
        args,
        "Ray pipeline against a plain loop",
        rows,
        [
            f"{args.backbone}, {args.image_size} px, passes of {args.small} and {args.large} images, "
            f"shards of {args.rows_per_shard}; Ray itself started in {ray_start_s:.1f} s",
            "fixed: what the line through both sizes leaves at 0 images; CPU: that of all processes",
        ],
    )


def make(args: argparse.Namespace, folder: Path) -> tuple[PoolReader, Path]:
    phantom = config.Phantom(num_patients=args.large, images_per_patient=1)
    settings = config.Pool(
        source=config.Source(kind="phantom", phantom=phantom),
        image_size=args.image_size,
        splits=config.Splits(val=0.0, test=0.0),
    )
    with open_context(config.Ray(), QUIET) as context:
        pool = prepare(settings, folder / "pool", context)
    spec = ModelSpec(args.backbone, pool.classes, args.image_size, 1)
    weights = "imagenet" if args.backbone == "efficientnet_lite0" else "none"
    save_model(folder / "model", build_network(spec, weights, seed=0), spec, {})
    return pool, folder / "model"


def measure(
    args: argparse.Namespace, folder: Path, pool: PoolReader, model: Path
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """(wall s, CPU s) of each pass, by side and by pass."""
    index = pool.index()
    sizes = {"small": index.slice(0, args.small), "large": index}
    settings = config.Score(rows_per_shard=args.rows_per_shard)
    costs: dict[str, dict[str, list[tuple[float, float]]]] = {}

    def note(side: str, name: str, run: Any) -> None:
        out = folder / "out"
        costs.setdefault(side, {}).setdefault(name, []).append(timed(lambda: run(out)))
        shutil.rmtree(out)

    plain = Scorer(
        model, settings, use_roi=True
    )  # loaded before, as a warm actor has it from the round before
    for _ in range(args.repeats):
        for name, rows in sizes.items():
            note("plain loop", name, lambda out, rows=rows: run_plain(pool, plain, rows, out, settings))
        for num in args.actors:
            context = StageContext(config.Ray(num_actors=num), QUIET)

            def through_ray(out: Path, rows: pa.Table, context: StageContext = context) -> None:
                scoring.score(pool, model, {out: rows}, settings, ROI, context)

            side = f"Ray, {num} actor{'s' * (num > 1)}"
            note(side, "first", lambda out: through_ray(out, sizes["small"]))
            for name, rows in sizes.items():
                note(side, name, lambda out, rows=rows: through_ray(out, rows))
            context.actors.release()
    return costs


def run_plain(pool: PoolReader, scorer: Scorer, rows: pa.Table, out: Path, settings: config.Score) -> None:
    for shard in cut(rows.select(REFERENCE_COLUMNS), out, settings.rows_per_shard):
        scoring.write_table(shard.path, scorer(pool.stream_rows(shard.rows, scorer.rows_at_once)))


def timed(run: Any) -> tuple[float, float]:
    pid = os.getpid()
    wall, cpu = time.monotonic(), common.tree_cpu_s(pid)
    run()
    return time.monotonic() - wall, common.tree_cpu_s(pid) - cpu


def row_of(
    args: argparse.Namespace, side: str, costs: dict[str, dict[str, list[tuple[float, float]]]]
) -> dict[str, Any]:
    step = args.large - args.small
    num = int(side.split()[1]) if side.startswith("Ray") else 1

    def marginal(which: str, kind: int) -> list[float]:
        passes = zip(costs[which]["small"], costs[which]["large"], strict=True)
        # CPU time is counted in hundredths of a second: of a few small images there may be no difference.
        return [(b[kind] - a[kind]) / step or float("nan") for a, b in passes]

    def median(values: list[float]) -> float:
        return statistics.median(values)

    wall, cpu = marginal(side, 0), marginal(side, 1)
    fixed = [a[0] - m * args.small for a, m in zip(costs[side]["small"], wall, strict=True)]
    rate = [base / (own * num) for base, own in zip(marginal("plain loop", 0), wall, strict=True)]
    per_core = [base / own for base, own in zip(marginal("plain loop", 1), cpu, strict=True)]
    first = [f[0] - m * args.small for f, m in zip(costs[side].get("first", []), wall, strict=False)]
    return {
        "side": side,
        "images/s": 1 / median(wall),
        "CPU ms an image": 1e3 * median(cpu),
        "steady rate per core / plain (CPU)": median(per_core),
        "the same by the clock": median(rate),
        "fixed s, first pass": f"{median(first):.1f}" if first else "-",
        "fixed s, later passes": f"{median(fixed):.1f}",
    }


if __name__ == "__main__":
    main()
