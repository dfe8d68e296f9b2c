"""What the driver holds in memory for each image of a pool: the one process that more machines don't relieve.

Each step runs in a process of its own, at two sizes; what an image costs is the slope between them. Pixels
are not there: the driver never sees one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from xal_ray.config import Pool, Select, Source, Splits
from xal_ray.pool.schema import INDEX_SCHEMA, REFERENCE_COLUMNS, PoolReader, rows_of_splits
from xal_ray.storage import write_table

IMAGES_PER_GROUP = 3
ROWS_AT_ONCE = 100_000
LABELLED = 500
NOTE = f"ids of 32 characters, {IMAGES_PER_GROUP} images a group, shards of 4,096 rows"


def main() -> None:
    parser = common.arguments("driver", __doc__ or "")
    parser.add_argument("--sizes", type=int, nargs=2, default=[100_000, 1_000_000], help="images")
    parser.add_argument("--step", choices=list(STEPS), help="run one step and print what it took")
    parser.add_argument("--folder", type=Path, help="of the step's files")
    args = parser.parse_args()
    if args.smoke:
        args.sizes = [2_000, 4_000]
    if args.step:
        print(json.dumps(measure(STEPS[args.step](args.folder))))
        return
    common.publish(args, "What the driver holds for each image", table(args), [NOTE])


def table(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / str(size) for size in args.sizes]
        for folder, size in zip(folders, args.sizes, strict=True):
            folder.mkdir()
            write_manifest(folder, size)
            write_index(folder, size)
        for number, step in enumerate(STEPS):
            # At the smallest sizes one step shows that it can be apart: a process takes seconds to start.
            run = measured_here if args.smoke and number else apart
            small, large = (run(step, folder) for folder in folders)
            more = args.sizes[1] - args.sizes[0]
            rows.append(
                {
                    "step": step,
                    f"peak MB at {args.sizes[0]:,}": small["peak_mb"],
                    f"peak MB at {args.sizes[1]:,}": large["peak_mb"],
                    "bytes an image": (large["peak_mb"] - small["peak_mb"]) * 1024**2 / more,
                    "CPU us an image": 1e6 * (large["cpu_s"] - small["cpu_s"]) / more,
                }
            )
    return rows


def apart(step: str, folder: Path) -> dict[str, float]:
    """A step in a fresh process."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured_here(step: str, folder: Path) -> dict[str, float]:
    return measure(STEPS[step](folder))


def measure(function: Callable[[], Any]) -> dict[str, float]:
    begin = time.process_time()
    peak_mb = common.peak_above_now_mb(function)
    return {"peak_mb": peak_mb, "cpu_s": time.process_time() - begin}


def read_manifest(folder: Path) -> Callable[[], Any]:
    """CSV to a manifest with splits, and the plan that the growing pool is bound to."""
    from xal_ray.pool.manifest import fingerprint
    from xal_ray.pool.sources import read_source
    from xal_ray.pool.splits import assign_splits

    settings = Pool(source=Source(kind="table", path=folder / "manifest.csv"), classes=("a", "b"))
    return lambda: fingerprint(assign_splits(read_source(settings).manifest, Splits()).sort_by("image_id"))


def open_index(folder: Path) -> Callable[[], Any]:
    """What every round holds."""
    return PoolReader(folder, {}).index


def ask_for_scores(folder: Path) -> Callable[[], Any]:
    """The index, the unlabelled rows, and the references that a pass hands out."""
    from xal_ray.engine.shards import _to_block, cut

    def ask() -> Any:
        index = PoolReader(folder, {}).index()
        rows = rows_of_splits(index, "pool")
        labelled = pa.array(rows["image_id"].slice(0, LABELLED).to_pylist(), pa.string())
        rows = rows.filter(pc.invert(pc.is_in(rows["image_id"], labelled)))
        shards = cut(rows.select(REFERENCE_COLUMNS), folder / "scores", 4096)
        return index, [_to_block(shard) for shard in shards]

    return ask


def draw_first(folder: Path) -> Callable[[], Any]:
    """The random initial set."""
    from xal_ray.acquire.strategies import select
    from xal_ray.loop.selection import everyone
    from xal_ray.scoring.shards import groups_of

    def draw() -> Any:
        index = PoolReader(folder, {}).index()
        rows = rows_of_splits(index, "pool")
        request = Select(strategy="random", query_size=LABELLED)
        return select(everyone(rows), request, seed=0, groups=groups_of(index))

    return draw


STEPS: dict[str, Callable[[Path], Callable[[], Any]]] = {
    "read a manifest": read_manifest,
    "open the index": open_index,
    "hand out a pass": ask_for_scores,
    "draw the initial set": draw_first,
}


def write_manifest(folder: Path, size: int) -> None:
    (folder / "images").mkdir()
    numbers = np.arange(size)
    names = pa.array([f"images/{number:09d}.png" for number in numbers])
    groups = pa.array([f"p{number // IMAGES_PER_GROUP:09d}" for number in numbers])
    labels = pa.array(np.where(numbers % 7 == 0, "a", "b"))
    (folder / "images" / f"{0:09d}.png").touch()  # the source looks whether any image is there at all
    pacsv.write_csv(pa.table({"image": names, "group_id": groups, "label": labels}), folder / "manifest.csv")


def write_index(folder: Path, size: int) -> None:
    parts = []
    for start in range(0, size, ROWS_AT_ONCE):
        numbers = np.arange(start, min(start + ROWS_AT_ONCE, size))
        digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in numbers]
        parts.append(
            pa.table(
                {
                    "image_id": [f"i{number:031d}" for number in numbers],
                    "group_id": [f"p{number // IMAGES_PER_GROUP:09d}" for number in numbers],
                    "split": pa.array(np.where(numbers % 10 < 8, "pool", "test")),
                    "label": pa.array(np.where(numbers % 10 < 8, None, "a"), pa.string()),
                    "roi_state": ["present"] * len(numbers),
                    "width": pa.array(np.full(len(numbers), 1024), pa.int32()),
                    "height": pa.array(np.full(len(numbers), 1024), pa.int32()),
                    "content_sha256": digests,
                    "part": pa.array(numbers // 4096, pa.int32()),
                    "row": pa.array(numbers % 4096, pa.int32()),
                },
                schema=INDEX_SCHEMA,
            )
        )
    write_table(folder / "index.parquet", pa.concat_tables(parts))


if __name__ == "__main__":
    main()
