"""Which images are asked for next, out of more score rows than fit into memory.

Ours is `select` on the row groups of Parquet shards, as the loop runs it. Beside it: `select_k_unstable` of
pyarrow on the whole table, and NumPy on the whole table (ranks by `np.unique`, `argsort`). Each runs in a
process of its own, so that peak memory is that side's alone, and all should name the same images.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROWS_PER_SHARD = 1_000_000
ROWS_PER_GROUP = 2000  # images of one patient, for the cap
NUMPY_BYTES_PER_ROW = 110  # of memory, at the peak: what is not tried where there is less
SMOOTH, ROUNDED = "float32 entropies", "entropies rounded to .001"
DUAL = {"strategy": "dual", "normalise": "rank", "weight": 0.5, "query_size": 500}
ENTROPY = {"strategy": "entropy", "query_size": 10_000}

TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "dual, 500": (SMOOTH, DUAL),
    "entropy, 10,000": (SMOOTH, ENTROPY),
    "entropy, 10,000, 1 of a group": (SMOOTH, {**ENTROPY, "max_per_group": 1}),
    "dual, 500, ties": (ROUNDED, DUAL),
    "entropy, 10,000, ties": (ROUNDED, ENTROPY),
}


def main() -> None:
    from common import arguments, publish

    parser = arguments("topk", __doc__ or "")
    parser.add_argument("--rows", type=int, default=100_000_000, help="score rows (default: 100,000,000)")
    parser.add_argument(
        "--folder",
        type=Path,
        help="keeps the generated shards, about 15 bytes a row in each of two variants\n"
        "(default: a temporary folder, removed in the end)",
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(run_here(**json.loads(args.child))))
        if {"torch", "ray"} & set(sys.modules):
            raise AssertionError("torch or ray was imported")
        return
    num_rows = 200_000 if args.smoke else args.rows
    with place_for(args.folder) as folder:
        for variant in (SMOOTH, ROUNDED):
            generate_in = run_here if args.smoke else in_child
            generate_in(work="generate", folder=str(folder / str(num_rows) / variant), num_rows=num_rows)
        rows, notes = measure(folder / str(num_rows), num_rows, smoke=args.smoke)
    publish(args, "Selection from a score table", rows, notes)


@contextmanager
def place_for(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="topk-") as temporary:
            yield Path(temporary)


def measure(folder: Path, num_rows: int, *, smoke: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """All sides of all tasks; the first two tasks also on parts of the table."""
    rows: list[dict[str, Any]] = []
    notes = [
        "One run each, on files that were just written.",
        "Peak RSS is that of the whole process; bare is what it is after the imports.",
        "A ratio is this side over ours, for the same task and rows.",
        "Same: the part of our picks that this side names too.",
        f"Groups: {max(num_rows // ROWS_PER_GROUP, 1)} of {ROWS_PER_GROUP} images.",
        "select_k_unstable knows neither ranks nor groups, and takes others of those that are tied.",
    ]
    for number, (task, (variant, settings)) in enumerate(TASKS.items()):
        # At the smallest size one task shows that its sides can be apart: a process takes a second to start.
        run = run_here if smoke and number else in_child
        parts = (100, 10, 1) if number < 2 else (1,)
        sizes = [num_rows // part for part in parts if part == 1 or num_rows % (part * ROWS_PER_SHARD) == 0]
        for size in sizes:
            shards = first_shards(folder / variant, size)
            ours: dict[str, Any] = {}
            for side in ("ours", "pyarrow", "numpy"):
                if side == "pyarrow" and task not in ("entropy, 10,000", "entropy, 10,000, ties"):
                    continue
                if side == "numpy" and (lacking := lacking_gb(size)) > 0.0:
                    notes.append(f"numpy, {size:,} rows: not tried, {lacking:.1f} GB of memory are missing")
                    continue
                found = run(work=side, folder=str(shards), settings=settings, num_rows=num_rows)
                ours = ours or found
                rows.append(as_row(task, side, size, found, ours))
                print(rows[-1], file=sys.stderr)
    return rows, notes


def as_row(task: str, side: str, size: int, found: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": task,
        "side": side,
        "rows": size,
        "wall s": found["wall_s"],
        "CPU s": found["cpu_s"],
        "peak RSS MB": round(found["peak_mb"]),
        "above bare MB": round(found["peak_mb"] - found["bare_mb"]),
        "CPU ratio": found["cpu_s"] / ours["cpu_s"],
        "RSS ratio": found["peak_mb"] / ours["peak_mb"],
        "same": len(set(found["picks"]) & set(ours["picks"])) / len(ours["picks"]),
    }


def first_shards(folder: Path, num_rows: int) -> Path:
    """A folder with links to the shards that hold the first rows."""
    part = folder.parent / f"{folder.name}, first {num_rows}"
    part.mkdir(exist_ok=True)
    held = 0
    for path in sorted(folder.glob("*.parquet")):
        if held < num_rows and not (part / path.name).exists():
            (part / path.name).symlink_to(path.resolve())
        held += ROWS_PER_SHARD
    return part


def lacking_gb(num_rows: int) -> float:
    """Memory that is missing for the whole table in NumPy."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return (num_rows * NUMPY_BYTES_PER_ROW - 0.8 * available) / 1e9


def in_child(**spec: Any) -> dict[str, Any]:
    """Run in a fresh process."""
    command = [sys.executable, __file__, "--child", json.dumps(spec)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run_here(work: str, folder: str, num_rows: int, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    if work == "generate":
        return generate(Path(folder), num_rows)
    # Bare memory is what all sides import; pandas too, which pyarrow loads when it first hands out an array.
    import pandas  # noqa: F401
    import pyarrow.compute  # noqa: F401
    from common import status_mb

    import xal_ray.acquire.strategies
    import xal_ray.scoring.shards  # noqa: F401

    side = {"ours": by_ours, "pyarrow": by_pyarrow, "numpy": by_numpy}[work]
    bare_mb = status_mb("VmHWM")
    begin, cpu = time.perf_counter(), time.process_time()
    picks = side(Path(folder), num_rows, settings or {})
    wall_s, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    peak_mb = status_mb("VmHWM")
    return {"wall_s": wall_s, "cpu_s": cpu_s, "peak_mb": peak_mb, "bare_mb": bare_mb, "picks": picks}


def by_ours(folder: Path, num_rows: int, settings: dict[str, Any]) -> list[str]:
    from xal_ray.acquire.strategies import select
    from xal_ray.config import Select
    from xal_ray.scoring.shards import score_chunks

    asked = Select(**settings)
    replay = score_chunks(folder, asked.columns)
    return select(replay, asked, seed=0, groups=lambda ids: groups_of(ids, num_rows)).image_ids


def by_pyarrow(folder: Path, num_rows: int, settings: dict[str, Any]) -> list[str]:
    import pyarrow.compute as pc

    table = read_all(folder, ["image_id", "entropy"])
    keys = [("entropy", "descending"), ("image_id", "ascending")]
    best = pc.select_k_unstable(table, settings["query_size"], keys)
    return table["image_id"].take(best).to_pylist()


def by_numpy(folder: Path, num_rows: int, settings: dict[str, Any]) -> list[str]:
    import numpy as np

    from xal_ray.acquire.draws import digests

    dual = settings["strategy"] == "dual"
    table = read_all(folder, ["image_id", "entropy", *(["misalignment"] if dual else [])])
    utilities = table["entropy"].to_numpy().astype(np.float64)
    second = utilities if dual else np.zeros_like(utilities)
    if dual:
        utilities = dual_utilities(
            utilities, table["misalignment"].to_numpy().astype(np.float64), settings["weight"]
        )
    order = np.argsort(-utilities)
    size, cap = settings["query_size"], settings.get("max_per_group", 0)
    # All that may be among the picks, with the ties at the cut: these alone are hashed.
    cut = utilities[order[min(4 * size if cap else size, len(order)) - 1]]
    rows = np.flatnonzero(utilities >= cut)
    digest = digests("tie", 0)
    keys = [
        (-utilities[row], -second[row], digest(image_id), image_id)
        for row, image_id in zip(rows.tolist(), table["image_id"].take(rows).to_pylist(), strict=True)
    ]
    ids = [image_id for *_, image_id in sorted(keys)]
    return capped(ids, groups_of(ids, num_rows), cap, size) if cap else ids[:size]


def dual_utilities(uncertainty: Any, misalignment: Any, weight: float) -> Any:
    """Mean ranks among the rows with an ROI; for the others, the quantile where their U stands there."""
    import numpy as np

    def ranks(values: Any, among: Any) -> Any:
        first, after = (np.searchsorted(among, values, side) for side in ("left", "right"))
        return np.clip((first + after - 1) / 2.0 / (len(among) - 1), 0.0, 1.0)

    has_roi = ~np.isnan(misalignment)
    places = ranks(uncertainty, np.sort(uncertainty[has_roi]))
    utilities = np.empty_like(places)
    known = misalignment[has_roi]
    utilities[has_roi] = weight * places[has_roi] + (1.0 - weight) * ranks(known, np.sort(known))
    levels = np.sort(utilities[has_roi])
    utilities[~has_roi] = np.interp(places[~has_roi], np.linspace(0.0, 1.0, len(levels)), levels)
    return utilities


def capped(ids: Sequence[str], groups: Sequence[str], cap: int, size: int) -> list[str]:
    taken: Counter[str] = Counter()
    picks: list[str] = []
    for image_id, group in zip(ids, groups, strict=True):
        if len(picks) < size and taken[group] < cap:
            taken[group] += 1
            picks.append(image_id)
    return picks


def groups_of(image_ids: Sequence[str], num_rows: int) -> list[str]:
    num_groups = max(num_rows // ROWS_PER_GROUP, 1)
    return [f"group-{int(image_id.removeprefix('img-')) % num_groups}" for image_id in image_ids]


def read_all(folder: Path, columns: Sequence[str]) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pa.concat_tables(
        [pq.read_table(path, columns=list(columns)) for path in sorted(folder.glob("*.parquet"))]
    )


def generate(folder: Path, num_rows: int) -> dict[str, Any]:
    """Shards as the engine writes them. Nothing is done where all are there."""
    import numpy as np

    from xal_ray.storage import write_table

    starts = range(0, num_rows, ROWS_PER_SHARD)
    if len(list(folder.glob("*.parquet"))) == len(starts):
        return {}
    numbers = np.random.default_rng(0).permutation(np.arange(num_rows, dtype=np.int32))
    for shard, start in enumerate(starts):
        table = scores(numbers[start : start + ROWS_PER_SHARD], shard, rounded=folder.name == ROUNDED)
        write_table(folder / f"{shard:05d}.parquet", table)
    return {}


def scores(numbers: Any, seed: int, *, rounded: bool) -> Any:
    """Two classes; most predictions are confident. A sixth of the maps misses the ROI, a tenth has none."""
    import numpy as np
    import pyarrow as pa

    rng = np.random.default_rng(seed)
    count = len(numbers)
    p = 1.0 / (1.0 + np.exp(-rng.gamma(1.5, 2.5, count)))
    entropy = -(p * np.log2(p) + (1.0 - p) * np.log2(1.0 - p, where=p < 1.0, out=np.zeros(count)))
    misalignment = np.where(rng.random(count) < 1 / 6, 1.0, rng.beta(6.0, 1.5, count))
    return pa.table(
        {
            "image_id": ids_of(numbers),
            "entropy": (entropy.round(3) if rounded else entropy).astype(np.float32),
            "misalignment": pa.array(misalignment.astype(np.float32), mask=rng.random(count) < 0.1),
        }
    )


def ids_of(numbers: Any) -> Any:
    """`img-000012345`, without a Python string for each."""
    import numpy as np
    import pyarrow as pa

    digits = numbers[:, None] // 10 ** np.arange(8, -1, -1) % 10
    text = np.concatenate(
        [np.tile(np.frombuffer(b"img-", np.uint8), (len(numbers), 1)), digits + ord("0")], axis=1
    )
    data = np.ascontiguousarray(text, dtype=np.uint8)
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * data.shape[1]
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(data))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
