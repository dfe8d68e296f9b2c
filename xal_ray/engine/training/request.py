"""A round's training without Ray: the same in the driver's process and in each worker's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.torch
import torch

from xal_ray import config
from xal_ray.model.network import ModelSpec, Network, freeze_backbone
from xal_ray.model.training.fit import fit
from xal_ray.model.training.minibatches import LabelledImages
from xal_ray.model.training.workers import Checkpoints, Sync
from xal_ray.model.weights import build_network, load_model, save_model
from xal_ray.pool.activations import ActivationReader
from xal_ray.pool.schema import PoolReader
from xal_ray.seeds import derive_seed


@dataclass(frozen=True)
class TrainRequest:
    """All that a training needs; it can be sent to a worker.

    Attributes:
        pool: The packed pool.
        train: Labelled rows, sorted by image_id: `image_id, part, row, label` (label: class index, int64).
        val: Validation rows, likewise.
        model: The network.
        settings: How it is trained.
        previous: The previous round's model folder, for `train.init: previous`.
        round_number: The round, from 0.
        seed: The run's seed.
        activations: What the frozen backbone made of the pool; read instead of its pixels.
        head_dropout: Of the last layer's input, where dropout samples of that layer will be asked for.
    """

    pool: PoolReader
    train: pa.Table
    val: pa.Table
    model: config.Model
    settings: config.Train
    previous: Path | None
    round_number: int
    seed: int
    activations: ActivationReader | None = None
    head_dropout: float = 0.0

    @property
    def spec(self) -> ModelSpec:
        """Return what the network is for."""
        pool = self.pool
        return ModelSpec(self.model.backbone, pool.classes, pool.image_size, pool.channels)


def fit_and_save(
    request: TrainRequest,
    network: Network,
    images: LabelledImages,
    out: Path,
    *,
    sync: Sync | None = None,
    on_progress: Callable[[int], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Train a network and save it; of several workers the first one does.

    Args:
        request: What to train on.
        network: Where the training begins.
        images: This worker's part of the labelled images.
        out: The model's folder.
        sync: The other workers.
        on_progress: Told of each step.
        checkpoints: Where an interrupted training goes on.

    Raises:
        LabelError, ModelError, StageError: As `fit`.
        StorageError: The disk refused.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    labels = request.train["label"].to_numpy()
    # A class without an example has no weight in training, and none in the loss that says when to stop.
    val = request.val.filter(pc.is_in(request.val["label"], value_set=pa.array(np.unique(labels))))
    history = fit(
        network.to(device),
        request.spec,
        images,
        load_images(request, val) if val.num_rows else None,
        request.settings,
        seed=derive_seed(request.seed, request.round_number, "train"),
        device=device,
        sync=sync,
        on_progress=on_progress,
        class_counts=np.bincount(labels, minlength=len(request.spec.classes)),
        checkpoints=checkpoints,
        head_dropout=request.head_dropout,
    )
    if sync is None or sync.rank == 0:
        extra = {"round": request.round_number, "num_labels": len(labels), "history": history}
        if request.head_dropout:
            extra["head_dropout"] = request.head_dropout
        backbone = request.activations.backbone if request.activations else None
        save_model(out, network, request.spec, extra, backbone=backbone)


def build(request: TrainRequest) -> Network:
    """Return the network that a training begins with; its weights may be a file of this machine alone.

    Raises:
        ModelError: The weights can't be had, or do not fit.
    """
    if request.settings.init == "previous" and request.previous is not None:
        network, _, _ = load_model(request.previous)
    else:
        weights = "none" if request.settings.init == "scratch" else request.model.weights
        network = build_network(request.spec, weights, _init_seed(request))
    return _frozen_as_asked(request, network)


def packed(network: Network) -> bytes:
    """Return a network's weights, to be sent to other machines."""
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    data: bytes = safetensors.torch.save(state)
    return data


def unpacked(request: TrainRequest, weights: bytes) -> Network:
    """Return the network of `build`, from its packed weights: no file is read."""
    network = build_network(request.spec, "none", _init_seed(request))
    network.load_state_dict(safetensors.torch.load(weights))
    return _frozen_as_asked(request, network)


def load_images(request: TrainRequest, rows: pa.Table) -> LabelledImages:
    """Labelled images; of a frozen backbone whose activations are kept, what its last layer sees of them."""
    labels = rows["label"].to_numpy()
    if request.activations is not None:
        return LabelledImages(request.activations.read_embeddings(rows), labels)
    return LabelledImages(request.pool.read_rows(rows).pixels, labels)


def _init_seed(request: TrainRequest) -> int:
    return derive_seed(request.seed, request.round_number, "init")


def _frozen_as_asked(request: TrainRequest, network: Network) -> Network:
    if request.model.freeze == "backbone":
        freeze_backbone(network)
    return network
