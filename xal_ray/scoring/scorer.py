"""The scorer: images in, a score table out. No Ray inside; engine and plain loops call the same object."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from xal_ray import config
from xal_ray.acquire import alignment, fullsize, uncertainty
from xal_ray.model.inference import Explainer, Outputs
from xal_ray.model.saliency import Kept
from xal_ray.model.weights import load_model
from xal_ray.pool.activations import ActivationRows
from xal_ray.pool.schema import PixelRows
from xal_ray.seeds import derive_seed

BATCHES_AT_ONCE = 8
ROWS_PER_PROBE = 32  # one in so many is done in both precisions
ALIGNMENT_COLUMNS = fullsize.MEASURES

Floats = npt.NDArray[np.float32]
Rows = PixelRows | ActivationRows
Inputs = npt.NDArray[np.uint8] | Kept


def score_schema(num_classes: int, embedding_width: int = 0) -> pa.Schema:
    """Return the columns of a score table.

    Every requested id has one row. A row's values are finite, or null with the reason in `error_code`:
    `non_finite_output` (no probabilities), `undefined_map` (probabilities, but no map to align),
    `out_of_memory` (nothing: not even alone did the image fit), or what `Scorer.without_scores` was given.
    `embedding` is there where `probs` is. Alignment columns are also null, without an error, where the image
    has no ROI; `bald` where no dropout samples were asked for.

    Args:
        num_classes: C.
        embedding_width: d of the last linear layer's input; 0: the table has no column `embedding`.
    """
    value = pa.float32()
    embedding = pa.field("embedding", pa.list_(pa.float16(), embedding_width))  # the last layer's input
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("probs", pa.list_(value, num_classes)),
            pa.field("predicted", pa.int32()),  # index into the classes
            pa.field("entropy", value),  # H(p) / ln C, in [0, 1]
            pa.field("margin", value),  # 1 - (p1 - p2), in [0, 1]
            pa.field("least_confidence", value),  # (1 - p1) C / (C - 1), in [0, 1]
            pa.field("bald", value),  # (H(mean p) - mean H(p)) / ln C over dropout samples, in [0, 1]
            pa.field("logit_gap", value),  # largest minus second largest logit
            *(pa.field(name, value) for name in ALIGNMENT_COLUMNS),
            pa.field("roi_area", value),  # fraction of the image
            pa.field("saliency", pa.list_(value)),  # the map's grid, row-major, min-max normalised
            pa.field("roi_adjoint", pa.list_(value)),  # the ROI as `fullsize.Regions` has it, on that grid
            pa.field("roi_fine", pa.binary()),  # coverage 0..255 on a finer grid, likewise
            *([embedding] if embedding_width else []),
            pa.field("model_id", pa.string(), nullable=False),
            pa.field("error_code", pa.string()),
        ]
    )


@dataclass(frozen=True)
class _Raw:
    """Holds what the network said of some images, in memory."""

    logits: npt.NDArray[np.float64]  # (n, C)
    maps: Floats  # (n, gh, gw)
    bald: npt.NDArray[np.float64]  # (n,); NaN without samples
    tie_ratio: npt.NDArray[np.float64]  # (n,) the logit gap in units of the terms that it is a sum of
    lost: npt.NDArray[np.bool_]  # (n,) no memory for it: the other numbers are NaN
    embeddings: Floats  # (n, d); (n, 0) where nobody asked for them


class Scorer:
    """A model, loaded once, that turns images into score tables.

    Where a batch does not fit into memory, it is tried again at half the size, down to one image, and smaller
    batches are kept for the rest of the call (a shard, in the engine). Sums over other batches differ in
    their last digits, so the bytes of such a shard depend on the memory that was there; a shard that fits is
    the same everywhere. An image that does not fit alone gets no scores.

    Args:
        model: A model's folder, or its .safetensors file.
        settings: Saliency method, precision, batch size, dropout samples.
        use_roi: Whether alignment may be computed at all (`roi.source`).
        threads: Torch's threads; one by default, so that a result does not depend on how many there are.

    Attributes:
        batch_size: Images in one forward pass.
        rows_at_once: Images that are held in memory together.
        precision: `fp32` or `bf16`: what the backbone runs in.

    Raises:
        ModelError: The model can't be loaded.
    """

    def __init__(self, model: Path, settings: config.Score, *, use_roi: bool, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network, self.spec, card = load_model(model)
        self.model_id: str = card["model_id"]
        self.settings = settings
        self.use_roi = use_roi
        self.batch_size = _batch_size(settings.batch_size, self.device)
        self.rows_at_once = BATCHES_AT_ONCE * self.batch_size
        self.explainer = Explainer(
            self.network,
            self.spec,
            self.device,
            saliency=settings.saliency,
            precision=settings.precision,
            compile_for=self.batch_size if settings.compile else 0,
            dropout_masks=self._dropout_masks(),
        )
        self.precision = self.explainer.precision
        self._width = 0  # of the embeddings that are asked for now

    def __call__(self, pieces: PixelRows | Iterable[Rows], *, with_embeddings: bool = False) -> pa.Table:
        """Score images in batches of `batch_size`, in their order.

        Args:
            pieces: Images, whole or in pieces of `rows_at_once`, which give the same; or pieces of their
                activations.
            with_embeddings: Add the column `embedding`.
        """
        if isinstance(pieces, PixelRows):
            pieces = pieces.cut(self.rows_at_once)
        self._resize(self.batch_size)
        self._width = self.network.classifier.in_features if with_embeddings else 0
        scored = [self._score_piece(piece) for piece in pieces]
        return pa.concat_tables([self.schema(with_embeddings).empty_table(), *scored]).combine_chunks()

    def schema(self, with_embeddings: bool = False) -> pa.Schema:
        """Return the columns of this model's score tables."""
        width = self.network.classifier.in_features if with_embeddings else 0
        return score_schema(len(self.spec.classes), width)

    def without_scores(
        self, image_ids: list[str], error_code: str, *, with_embeddings: bool = False
    ) -> pa.Table:
        """Return rows for images that are not to be touched: all null, with the reason."""
        schema = self.schema(with_embeddings)
        given = {"image_id": image_ids, "model_id": self.model_id, "error_code": error_code}
        rows = [{**dict.fromkeys(schema.names), **given, "image_id": image_id} for image_id in image_ids]
        return pa.Table.from_pylist(rows, schema=schema)

    def _score_piece(self, rows: Rows) -> pa.Table:
        raw = _joined(list(self._explain(rows.inputs, exact=False)))
        if self.precision == "bf16" and isinstance(rows, PixelRows):
            self._redo_near_ties(rows, raw)
        return self._to_table(rows, raw)

    def _redo_near_ties(self, rows: PixelRows, raw: _Raw) -> None:
        """Rows whose prediction bf16 may have flipped, once more in fp32.

        How far bf16 moves a gap differs from model to model, so it is measured: on the rows nearest to a tie,
        which are done again in any case. Then those within `tie_sigmas` of that distance are.
        """
        self._redo(rows, raw, np.flatnonzero(~np.isfinite(raw.logits).all(axis=1) & ~raw.lost))
        if not self.settings.tie_sigmas or raw.lost.all():
            return
        by_ratio = np.argsort(raw.tie_ratio, kind="stable")
        by_ratio = by_ratio[~raw.lost[by_ratio]]
        num_probes = math.ceil(len(by_ratio) / ROWS_PER_PROBE)
        moved = self._redo(rows, raw, by_ratio[:num_probes])
        limit = self.settings.tie_sigmas * np.sqrt(np.mean(moved**2))
        rest = by_ratio[num_probes:]
        self._redo(rows, raw, rest[raw.tie_ratio[rest] < limit])

    def _redo(self, rows: PixelRows, raw: _Raw, positions: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """Put fp32 results in place; returns how far each gap has moved, in the unit of `tie_ratio`."""
        if not len(positions):
            return np.zeros(0)
        exact = _joined(list(self._explain(rows.pixels[positions], exact=True)))
        first, second = np.argsort(-raw.logits[positions], axis=1, kind="stable")[:, :2].T
        each = np.arange(len(positions))
        gaps = [
            logits[each, first] - logits[each, second] for logits in (raw.logits[positions], exact.logits)
        ]
        with np.errstate(invalid="ignore", divide="ignore"):
            unit = gaps[0] / raw.tie_ratio[positions]
            moved = (gaps[1] - gaps[0]) / unit
        raw.logits[positions] = exact.logits
        raw.maps[positions] = exact.maps
        raw.bald[positions] = exact.bald
        raw.lost[positions] = exact.lost
        raw.embeddings[positions] = exact.embeddings
        return np.where(np.isfinite(moved), moved, 0.0)

    def _explain(self, inputs: Inputs, *, exact: bool) -> Iterator[_Raw]:
        """Batch by batch. A GPU works on the next batch while this one's results are looked at."""
        running: Outputs | None = None
        start = 0
        while start < len(inputs):
            batch = inputs[start : start + self._size]
            started = self._try_batch(batch, exact)
            if running is not None:
                yield self._to_raw(running)
            running = started
            if started is not None:
                start += len(batch)
            elif len(batch) > 1:
                self._resize(len(batch) // 2)
            else:
                yield self._lost()
                start += 1
        if running is not None:
            yield self._to_raw(running)

    def _try_batch(self, batch: Inputs, exact: bool) -> Outputs | None:
        """Return a batch's outputs, or None where memory does not suffice."""
        try:
            return self.explainer(batch, exact=exact)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        # Outside the handler, whose traceback holds what the batch had taken.
        torch.cuda.empty_cache()
        return None

    def _resize(self, size: int) -> None:
        """Make batches of this size from now on; compiled code is made for one size alone."""
        self._size = size
        if self.settings.compile:
            self.explainer.compile_for = size

    def _lost(self) -> _Raw:
        """Return what there is to say of an image for which there was no memory."""
        none = np.full(1, np.nan)
        logits = np.full((1, len(self.spec.classes)), np.nan)
        embeddings = np.full((1, self._width), np.nan, np.float32)
        return _Raw(logits, np.full((1, 1, 1), np.nan, np.float32), none, none, np.ones(1, bool), embeddings)

    def _to_raw(self, outputs: Outputs) -> _Raw:
        logits = outputs.logits.cpu().numpy().astype(np.float64)
        gaps = uncertainty.logit_gap(logits)
        if outputs.samples is None:
            bald = np.full(len(logits), np.nan)
        else:
            bald = uncertainty.bald(outputs.samples.cpu().numpy())
        tie_ratio = gaps / np.maximum(outputs.tie_scale.cpu().numpy(), np.finfo(np.float32).tiny)
        # A network in bf16 gives its head float32, so that nothing is rounded here.
        embeddings = outputs.embeddings[:, : self._width].cpu().numpy()
        lost = np.zeros(len(logits), bool)
        return _Raw(logits, outputs.maps.cpu().numpy(), bald, tie_ratio, lost, embeddings)

    def _dropout_masks(self) -> torch.Tensor | None:
        """Masks that depend on the model alone: all images see the same sample of models."""
        if not self.settings.mc_samples:
            return None
        kept = 1.0 - self.settings.mc_dropout
        generator = torch.Generator().manual_seed(derive_seed(self.model_id, "mc_dropout"))
        shape = (self.settings.mc_samples, self.network.classifier.in_features)
        return (torch.rand(shape, generator=generator) < kept).float() / kept

    def _to_table(self, rows: Rows, raw: _Raw) -> pa.Table:
        finite = np.asarray(np.isfinite(raw.logits).all(axis=1))
        logits = np.where(finite[:, None], raw.logits, 0.0)
        probs = _softmax(logits)
        cams, defined = alignment.minmax(raw.maps)
        has_map = finite & defined
        has_roi = rows.has_roi & self.use_roi & ~raw.lost
        reasons = np.where(finite, "undefined_map", np.where(raw.lost, "out_of_memory", "non_finite_output"))
        columns: dict[str, pa.Array] = {
            "image_id": pa.array(rows.image_ids, pa.string()),
            "probs": _lists(probs, finite, fixed=True),
            "predicted": pa.array(probs.argmax(axis=1).astype(np.int32), mask=~finite),
            "entropy": _floats(uncertainty.entropy(probs), finite),
            "margin": _floats(uncertainty.margin(probs), finite),
            "least_confidence": _floats(uncertainty.least_confidence(probs), finite),
            "bald": _floats(raw.bald, finite),
            "logit_gap": _floats(uncertainty.logit_gap(logits), finite),
            **_alignment(cams, rows, has_map, has_roi),
            "saliency": _lists(cams.reshape(len(cams), -1), has_map),
            "model_id": pa.array([self.model_id] * len(cams), pa.string()),
            "error_code": pa.array(reasons, mask=has_map),
        }
        if self._width:
            columns["embedding"] = _halves(raw.embeddings, finite)
        schema = self.schema(with_embeddings=bool(self._width))
        return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _batch_size(request: int | str, device: torch.device) -> int:
    """Resolve `auto`: what a processor's cache likes, or what fills a GPU."""
    if request != "auto":
        return int(request)
    return 256 if device.type == "cuda" else 32


def _joined(batches: list[_Raw]) -> _Raw:
    grid = max(batch.maps.shape[1:] for batch in batches)  # a lost image's is a cell
    return _Raw(
        np.concatenate([batch.logits for batch in batches]),
        np.concatenate([np.broadcast_to(batch.maps, (len(batch.maps), *grid)) for batch in batches]),
        np.concatenate([batch.bald for batch in batches]),
        np.concatenate([batch.tie_ratio for batch in batches]),
        np.concatenate([batch.lost for batch in batches]),
        np.concatenate([batch.embeddings for batch in batches]),
    )


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether memory did not suffice; torch has a class for a GPU's, and a text for the rest."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        text in str(error) for text in ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )


def _alignment(
    cams: Floats, rows: Rows, has_map: npt.NDArray[np.bool_], has_roi: npt.NDArray[np.bool_]
) -> dict[str, pa.Array]:
    """Alignment columns; only rows with an ROI cost anything."""
    count, grid = len(cams), (cams.shape[1], cams.shape[2])
    with_roi = np.flatnonzero(has_roi)
    regions = rows.regions(with_roi, grid)
    aligned = has_map & has_roi
    measured = fullsize.measure(np.where(has_map[with_roi, None, None], cams[with_roi], np.nan), regions)

    def spread(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        column = np.full((count, *values.shape[1:]), np.nan)
        column[with_roi] = values
        return column

    fine: list[bytes | None] = [None] * count
    for row, cells in zip(with_roi.tolist(), regions.fine, strict=True):
        fine[row] = cells.tobytes()
    return {
        **{name: _floats(spread(values), aligned) for name, values in measured.items()},
        # An ROI that covers nothing at this size is none: it would be the smallest of all.
        "roi_area": _floats(spread(np.where(regions.area > 0.0, regions.area, np.nan)), has_roi),
        "roi_adjoint": _lists(spread(regions.adjoint.reshape(len(with_roi), grid[0] * grid[1])), has_roi),
        "roi_fine": pa.array(fine, pa.binary()),
    }


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


def _floats(values: npt.NDArray[np.floating], valid: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.array(values.astype(np.float32), mask=~(valid & np.isfinite(values)))


def _halves(values: Floats, valid: npt.NDArray[np.bool_]) -> pa.Array:
    """Make n lists of float16 of (n, d) numbers, null where not valid, clipped to what float16 can hold."""
    limit = np.finfo(np.float16).max
    halves = np.clip(np.where(valid[:, None], values, 0.0), -limit, limit).astype(np.float16)
    return pa.FixedSizeListArray.from_arrays(pa.array(halves.ravel()), values.shape[1], mask=pa.array(~valid))


def _lists(
    values: npt.NDArray[np.floating], valid: npt.NDArray[np.bool_], *, fixed: bool = False
) -> pa.Array:
    """(n, k) numbers as n lists, null where not valid."""
    width = values.shape[1]
    null = pa.array(~valid)
    if fixed:
        flat = pa.array(np.where(valid[:, None], values, 0.0).astype(np.float32).ravel())
        return pa.FixedSizeListArray.from_arrays(flat, width, mask=null)
    flat = pa.array(values[valid].astype(np.float32).ravel())
    offsets = np.concatenate([[0], np.cumsum(valid * width)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, mask=null)
