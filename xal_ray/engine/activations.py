"""Activations of a frozen backbone, made once for all rows of a pool, spread over warm actors."""

from __future__ import annotations

import math
import shutil
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from xal_ray import config
from xal_ray.engine.context import StageContext
from xal_ray.engine.session import ready_to_score
from xal_ray.engine.shards import Shard, run_shards
from xal_ray.errors import StorageError
from xal_ray.model.network import ModelSpec, Network, images_to_tensor
from xal_ray.model.weights import backbone_sha256, build_network, load_backbone, save_backbone
from xal_ray.pool.activations import ActivationReader, Shapes, part_path, refuse_remote, write_part
from xal_ray.pool.schema import REFERENCE_COLUMNS, PoolReader
from xal_ray.storage import digest, write_json
from xal_ray.storage.lock import locked

SCHEMA_VERSION = 1
BATCH_SIZE = 32


def keep_activations(
    pool: PoolReader,
    model: config.Model,
    context: StageContext,
) -> ActivationReader:
    """Run a frozen backbone over a pool, or open what an earlier run has made of it.

    In float32, whatever scoring may use: what is kept serves training too.

    Args:
        pool: The packed pool.
        model: The network; its weights are not `none`.
        context: Actors, CPUs and GPUs, and who hears about progress.

    Raises:
        ModelError: The weights can't be had, or do not fit.
        StorageError: The disk has no room for the activations.
        StageError: The stage failed; the same call goes on from its finished parts.
    """
    refuse_remote(pool.path)
    spec = ModelSpec(model.backbone, pool.classes, pool.image_size, pool.channels)
    network = build_network(spec, model.weights, 0)
    made_of = {
        "schema_version": SCHEMA_VERSION,
        "pool": pool.identity,
        "backbone_sha256": backbone_sha256(network),
        "image_size": spec.image_size,
        "channels": spec.channels,
    }
    reader = ActivationReader(
        pool.layout.activations / f"{model.backbone}-{digest(made_of)[:12]}", _shapes(network, spec)
    )
    card = reader.path / "card.json"
    if card.exists():
        return reader
    say = partial(
        context.reporter.line, "another process runs this frozen backbone over the pool: waiting for it"
    )
    with locked(reader.path, what="kept activations", wait_s=math.inf, on_wait=cache(say)):  # said once
        if not card.exists():
            save_backbone(reader.backbone, network, spec)
            _make(pool, spec, reader, context)
            write_json(card, {**made_of, "backbone": model.backbone, "num_images": pool.card["num_rows"]})
    return reader


class ActivationShard:
    """The work of an actor: a part of the pool to a part of the activations."""

    def __init__(self, pool: PoolReader, spec: ModelSpec, reader: ActivationReader, threads: int) -> None:
        torch.set_num_threads(threads)
        self.pool, self.spec, self.shapes = pool, spec, reader.shapes
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = load_backbone(reader.backbone).to(self.device)

    @torch.no_grad()
    def __call__(self, path: Path, rows: pa.Table) -> None:
        """Run the backbone over the referenced rows and write their part."""
        images = self.pool.read_rows(rows)
        activations, embeddings = [], []
        for start_row in range(0, len(images.image_ids), BATCH_SIZE):
            batch = images.pixels[start_row : start_row + BATCH_SIZE]
            activation, embedding = self.network.embed(images_to_tensor(batch, self.spec, self.device))
            activations.append(activation.float().cpu().contiguous().numpy())
            embeddings.append(embedding.float().cpu().numpy())
        everyone = np.arange(len(images.image_ids))
        write_part(
            path,
            self.shapes,
            images.image_ids,
            np.concatenate(activations),
            np.concatenate(embeddings),
            images.has_roi,
            images.regions(everyone, self.shapes.grid),
        )


def _make(
    pool: PoolReader,
    spec: ModelSpec,
    reader: ActivationReader,
    context: StageContext,
) -> None:
    index = pool.index().select(REFERENCE_COLUMNS)
    _check_room(reader, index.num_rows)
    shards = [
        Shard(part_path(reader.path, number), index.filter(pc.equal(index["part"], number)).sort_by("row"))
        for number in pc.unique(index["part"]).sort().to_pylist()
    ]
    arguments = {"pool": pool, "spec": spec, "reader": reader, "threads": context.resources.threads_per_actor}
    run_shards(
        "frozen backbone",
        shards,
        ActivationShard,
        arguments,
        ready_to_score(context.resources, verbose=context.verbose),
        context,
    )


def _check_room(reader: ActivationReader, num_images: int) -> None:
    needed = num_images * reader.shapes.bytes_per_image
    free = shutil.disk_usage(reader.path).free
    if needed > free:
        raise StorageError(
            "the disk has no room for the backbone's activations",
            expected=f"{needed / 1e9:.1f} GB for {num_images} images",
            found=f"{free / 1e9:.1f} GB free",
            where=str(reader.path),
            next_step="free some space, or set model.cache_activations=false",
        )


@torch.no_grad()
def _shapes(network: Network, spec: ModelSpec) -> Shapes:
    size = spec.image_size
    activation, embedding = network.embed(torch.zeros(1, 3, size, size))
    height, width = network.spatial(activation).shape[2:]
    return Shapes(tuple(activation.shape[1:]), embedding.shape[1], (height, width), (size, size))
