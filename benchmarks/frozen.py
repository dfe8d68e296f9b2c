"""A run with kept activations of its frozen backbone against the same run without: what a trial costs.

Both are whole runs (train, score, evaluate, select, label, commit) in this process, one thread, in turn. The
pass that makes the activations is measured apart: it is paid once for a pool, however many runs follow.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import common

from xal_ray.config import Config, build_config
from xal_ray.engine.activations import keep_activations
from xal_ray.engine.context import open_context
from xal_ray.engine.prepare import prepare
from xal_ray.engine.session import prepare_environment
from xal_ray.loop import run
from xal_ray.pool.schema import PoolReader
from xal_ray.progress import QUIET
from xal_ray.record.layout import RunLayout
from xal_ray.storage import read_table

SIDES = {"images": "false", "kept activations": "true"}


def main() -> None:
    parser = common.arguments("frozen", __doc__ or "")
    parser.add_argument("--manifest", type=Path, default=common.REAL_MANIFEST, help="of a table source")
    parser.add_argument("--phantom", action="store_true", help="generated images instead of the manifest's")
    parser.add_argument("--image-size", type=int, default=160, help="pixels (default: 160)")
    parser.add_argument("--rounds", type=int, default=2, help="queries of a run (default: 2)")
    parser.add_argument("--repeats", type=int, default=2, help="turns (default: 2)")
    args = parser.parse_args()
    if args.smoke:
        args.phantom, args.image_size, args.rounds, args.repeats = True, 64, 1, 1
    prepare_environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = configuration(args, folder)
        with open_context(base.ray, QUIET) as context:
            pool = prepare(base.pool, base.pool_path(), context)
            making_s = cpu_s(lambda: keep_activations(pool, base.model, context))
        seconds = {side: [] for side in SIDES}
        for _ in range(args.repeats):
            for side in SIDES:
                seconds[side].append(run_side(side, base, folder))
        rows = [row_of(side, seconds, args.rounds + 1, pool) for side in SIDES]
        same, total = agreement(folder, args.rounds)
    saved = (rows[0]["CPU s a round"] - rows[1]["CPU s a round"]) or float("nan")
    common.publish(
        args,
        "A run with kept activations against one without",
        rows,
        [
            f"efficientnet_lite0, {args.image_size} px, {pool.card['num_rows']} images, "
            f"{args.rounds + 1} models a run",
            f"making the activations: {making_s:.1f} CPU s, paid back after {making_s / saved:.1f} rounds",
            f"{same} of {total} picks are the same image at the same rank",
        ],
    )


def configuration(args: argparse.Namespace, folder: Path) -> Config:
    source: dict[str, Any] = {"kind": "table", "path": str(args.manifest)}
    if args.phantom:
        source = {"kind": "phantom", "phantom": {"num_patients": 40, "images_per_patient": 2}}
    return build_config(
        {
            "name": "frozen",
            "num_rounds": args.rounds,
            "pool": {"path": str(folder / "pool"), "source": source, "image_size": args.image_size},
            "model": {"backbone": "efficientnet_lite0", "weights": "imagenet", "freeze": "backbone"},
            "train": {
                "augment": "none",
                "patience": 0,
                "max_steps": 20 if args.smoke else 400,
                "num_threads": 1,
            },
            # Maps of the smoke's 2 x 2 cells are often 0 everywhere.
            "score": {"max_error_fraction": 1.0 if args.smoke else 0.01},
            "select": {"initial_labels": 12 if args.smoke else 30, "query_size": 6 if args.smoke else 30},
            "ray": {"num_actors": 0},
        }
    )


def run_side(side: str, base: Config, folder: Path) -> float:
    out = folder / side.replace(" ", "-")
    shutil.rmtree(out, ignore_errors=True)
    settings = build_config(
        base.model_dump(mode="json"), [f"model.cache_activations={SIDES[side]}", "ray.threads_per_actor=1"]
    )
    return cpu_s(lambda: run(settings, out, QUIET, with_report=False))


def cpu_s(function: Any) -> float:
    begin = time.process_time()
    function()
    return time.process_time() - begin


def row_of(side: str, seconds: dict[str, list[float]], rounds: int, pool: PoolReader) -> dict[str, Any]:
    middle = sorted(seconds[side])[len(seconds[side]) // 2]
    return {
        "reads": side,
        "CPU s a round": middle / rounds,
        "CPU ms an image and round": 1e3 * middle / rounds / pool.card["num_rows"],
        "images / this": common.median_ratio(seconds["images"], seconds[side]),
    }


def agreement(folder: Path, rounds: int) -> tuple[int, int]:
    """Picks that both runs have at the same rank, and how many there are."""
    same = total = 0
    for number in range(rounds):
        picks = [
            read_table(RunLayout(folder / side.replace(" ", "-")).round(number).selection)[
                "image_id"
            ].to_pylist()
            for side in SIDES
        ]
        same += sum(one == other for one, other in zip(*picks, strict=True))
        total += len(picks[0])
    return same, total


if __name__ == "__main__":
    main()
