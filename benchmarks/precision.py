"""bf16 with near ties done again in fp32, against fp32: do the ranks hold?

A model is trained on real MRI slices, the rest of the pool is scored in both precisions, and the two tables
are compared: rank correlation of what selection ranks by, overlap of the top 10 %, flipped predictions. CPU
time is measured in turn, so that it can be read as a ratio. The base is plain float32 inference with
explanation as a user would write it: no folding, no channels-last layout.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from scipy.stats import rankdata, spearmanr

from xal_ray import config
from xal_ray.engine.context import StageContext
from xal_ray.engine.prepare import prepare
from xal_ray.engine.training.stage import TrainRequest, train
from xal_ray.model.backbones import cut_of
from xal_ray.model.network import images_to_tensor
from xal_ray.model.saliency import explain
from xal_ray.model.weights import load_model
from xal_ray.pool.schema import PixelRows, PoolReader, rows_of_splits
from xal_ray.progress import Reporter
from xal_ray.scoring.scorer import Scorer

TOP = 0.1
SIDES = {"bf16": 0.0, "bf16, near ties again": 3.0}  # score.tie_sigmas
MODELS = (  # backbone, weights, what is frozen, part of the steps: the larger ones take long on a processor
    ("resnet18", "none", "none", 1.0),
    ("resnet50", "none", "none", 0.5),
    ("densenet121", "none", "none", 0.5),
    ("efficientnet_lite0", "imagenet", "none", 1.0),
    ("efficientnet_lite0", "imagenet", "backbone", 1.0),
)


def main() -> None:
    parser = common.arguments("precision", __doc__ or "")
    parser.add_argument(
        "--manifest", type=Path, default=common.REAL_MANIFEST, help="the MRI slices' manifest.csv"
    )
    parser.add_argument("--image-size", type=int, default=160, help="pixels (default: 160)")
    parser.add_argument("--backbones", nargs="+", default=sorted({model[0] for model in MODELS}))
    parser.add_argument("--labels", type=int, default=400, help="labelled images (default: 400)")
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps (default: 100)")
    parser.add_argument("--images", type=int, default=1000, help="images that are compared (default: 1000)")
    parser.add_argument("--timed", type=int, default=64, help="images in a timed turn (default: 64)")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns (default: 5)")
    args = parser.parse_args()
    if args.smoke:
        args.image_size, args.labels, args.steps, args.timed, args.repeats = 64, 40, 4, 32, 1
        args.images = 64
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        pool = make_pool(args, Path(folder))
        for backbone, weights, freeze, part in [m for m in MODELS if m[0] in args.backbones]:
            model = Path(folder) / f"{backbone}-{freeze}"
            settings = config.Model(backbone=backbone, weights=weights, freeze=freeze)
            train_model(args, pool, model, settings, round(part * args.steps))
            rows += compare(
                args, pool, model, f"{backbone}, {'frozen' if freeze == 'backbone' else 'trained'}"
            )
            if args.smoke:
                break
    common.publish(
        args,
        "bf16 and near-tie rescoring against fp32",
        rows,
        [
            f"{args.labels} labels, {args.image_size} px; utility = .5 rank(entropy) + .5 rank(misalignment)",
            "CPU time / plain: against float32 without folding, one thread, median over turns",
        ],
    )


def make_pool(args: argparse.Namespace, folder: Path) -> PoolReader:
    if args.smoke or not args.manifest.is_file():
        print("generated images (no real ones are used)")
        source = config.Source(kind="phantom", phantom=config.Phantom(num_patients=60))
    else:
        source = config.Source(kind="table", path=args.manifest)
    settings = config.Pool(source=source, image_size=args.image_size)
    return prepare(settings, folder / "pool", StageContext(config.Ray(), Reporter(quiet=True)))


def train_model(
    args: argparse.Namespace, pool: PoolReader, out: Path, model: config.Model, steps: int
) -> None:
    index = pool.index()
    hidden = pa.parquet.read_table(pool.path / "hidden_labels.parquet")
    candidates = index.filter(pc.is_in(index["image_id"], hidden["image_id"].combine_chunks()))
    chosen = np.sort(np.random.default_rng(0).permutation(candidates.num_rows)[: args.labels])
    rows = candidates.take(chosen)
    labels = dict(zip(hidden["image_id"].to_pylist(), hidden["label"].to_pylist(), strict=True))
    train(
        TrainRequest(
            pool=pool,
            train=with_labels(rows, labels, pool),
            val=with_labels(index.slice(0, 0), labels, pool),
            model=model,
            settings=config.Train(max_steps=steps, eval_every_steps=steps, patience=0, learning_rate=1e-3),
            previous=None,
            round_number=0,
            seed=0,
        ),
        out,
        StageContext(config.Ray(), Reporter(quiet=True)),
    )


def with_labels(rows: pa.Table, labels: dict[str, str], pool: PoolReader) -> pa.Table:
    numbers = [pool.classes.index(labels[image_id]) for image_id in rows["image_id"].to_pylist()]
    return rows.select(["image_id", "part", "row"]).append_column("label", pa.array(numbers, pa.int64()))


def compare(args: argparse.Namespace, pool: PoolReader, model: Path, name: str) -> list[dict[str, Any]]:
    unlabelled = rows_of_splits(pool.index(), "pool")
    chosen = np.sort(np.random.default_rng(1).permutation(unlabelled.num_rows)[: args.images])
    images = pool.read_rows(unlabelled.take(chosen))
    few = next(images.cut(args.timed))
    exact = Scorer(model, config.Score(precision="fp32"), use_roi=True)
    fast = {
        title: Scorer(model, config.Score(precision="bf16", tie_sigmas=sigmas), use_roi=True)
        for title, sigmas in SIDES.items()
    }
    sides: dict[str, Any] = {"plain": plain_side(model, few, exact.batch_size), "fp32": lambda: exact(few)}
    sides |= {title: lambda scorer=scorer: scorer(few) for title, scorer in fast.items()}
    seconds = common.interleaved_cpu_s(sides, args.repeats)
    reference = exact(images)
    rows = [row_of(name, "fp32, folded", reference, reference, seconds["fp32"], seconds["plain"], 0.0)]
    for title, scorer in fast.items():
        with counted(scorer) as redone:
            found = scorer(images)
        part = sum(redone) / len(images.image_ids)
        rows.append(row_of(name, title, found, reference, seconds[title], seconds["plain"], part))
    return rows


@contextmanager
def counted(scorer: Scorer) -> Iterator[list[int]]:
    """Count the images that are explained in fp32."""
    explain_batch, counts = scorer.explainer, []

    def counting(pixels: np.ndarray, *, exact: bool) -> Any:
        if exact:
            counts.append(len(pixels))
        return explain_batch(pixels, exact=exact)

    scorer.explainer = counting  # type: ignore[assignment]
    yield counts
    scorer.explainer = explain_batch


def plain_side(model: Path, images: PixelRows, batch_size: int) -> Any:
    network, spec, _ = load_model(model)
    network.to(memory_format=torch.contiguous_format)
    cut = cut_of(network.backbone, network.classifier_name)
    assert cut is not None
    network.features = lambda batch: cut.features(network.model, batch)  # type: ignore[method-assign]

    def run() -> None:
        for piece in images.cut(batch_size):
            explain(network, images_to_tensor(piece.pixels, spec, torch.device("cpu")))

    return run


def row_of(
    model: str,
    side: str,
    found: pa.Table,
    reference: pa.Table,
    ours: list[float],
    plain: list[float],
    redone: float,
) -> dict[str, Any]:
    aligned = pc.and_(pc.is_valid(found["misalignment"]), pc.is_valid(reference["misalignment"]))
    found, reference = found.filter(aligned), reference.filter(aligned)
    utilities = [utility(table) for table in (found, reference)]
    best = [set(np.argsort(-u, kind="stable")[: max(1, round(TOP * len(u)))].tolist()) for u in utilities]
    columns = {
        column: spearmanr(found[column].to_numpy(), reference[column].to_numpy()).statistic
        for column in ("entropy", "misalignment")
    }
    flips = np.mean(found["predicted"].to_numpy() != reference["predicted"].to_numpy())
    return {
        "model": model,
        "side": side,
        "CPU time / plain": common.median_ratio(ours, plain),
        "done again": f"{redone:.1%}",
        "flips": f"{flips:.2%}",
        "rank corr. entropy": f"{columns['entropy']:.4f}",
        "misalignment": f"{columns['misalignment']:.4f}",
        "utility": f"{spearmanr(*utilities).statistic:.4f}",
        "top 10 % overlap": f"{len(best[0] & best[1]) / len(best[0]):.3f}",
        "rows": found.num_rows,
    }


def utility(table: pa.Table) -> np.ndarray:
    return sum(rankdata(table[name].to_numpy()) for name in ("entropy", "misalignment")) / (
        2 * table.num_rows
    )


if __name__ == "__main__":
    begin = time.monotonic()
    main()
    print(f"\n{time.monotonic() - begin:.0f} s")
