"""The scorer: images in, a score table out. No Ray inside; engine and plain loops call the same object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from xal_ray.acquire import alignment, uncertainty
from xal_ray.config import Saliency
from xal_ray.model.network import images_to_tensor
from xal_ray.model.saliency import saliency_maps
from xal_ray.model.weights import load_model
from xal_ray.pool.schema import PixelRows
from xal_ray.roi import mask_to_grid

ALIGNMENT_COLUMNS = ("soft_dice", "misalignment", "iou", "pointing_game", "energy_in_roi", "lift")

Floats = npt.NDArray[np.float32]


def score_schema(num_classes: int) -> pa.Schema:
    """The columns of a score table.

    Every requested id has one row. A row's values are finite, or null with the reason in `error_code`:
    `non_finite_output` (no probabilities) or `undefined_map` (probabilities, but no map to align).
    Alignment columns are also null, without an error, where the image has no ROI.
    """
    value = pa.float32()
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("probs", pa.list_(value, num_classes)),
            pa.field("predicted", pa.int32()),  # index into the classes
            pa.field("entropy", value),  # H(p) / ln C, in [0, 1]
            pa.field("margin", value),  # 1 - (p1 - p2), in [0, 1]
            pa.field("least_confidence", value),  # (1 - p1) C / (C - 1), in [0, 1]
            pa.field("logit_gap", value),  # largest minus second largest logit
            *(pa.field(name, value) for name in ALIGNMENT_COLUMNS),
            pa.field("roi_area", value),  # fraction of the image
            pa.field("saliency", pa.list_(value)),  # the map's grid, row-major, min-max normalised
            pa.field("roi_grid", pa.list_(value)),  # ROI coverage on the same grid
            pa.field("model_id", pa.string(), nullable=False),
            pa.field("error_code", pa.string()),
        ]
    )


class Scorer:
    """A model, loaded once, that turns batches of images into score tables.

    Args:
        model: A model's folder, or its .safetensors file.
        saliency: The saliency method.
        use_roi: Whether alignment may be computed at all (`roi.source`).
        batch_size: Images in one forward pass.
        threads: Torch's threads; one by default, so that a result does not depend on how many there are.

    Raises:
        ModelError: The model can't be loaded.
    """

    def __init__(
        self, model: Path, *, saliency: Saliency, use_roi: bool, batch_size: int = 32, threads: int = 1
    ) -> None:
        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network, self.spec, card = load_model(model)
        self.network = network.to(self.device).eval()
        self.model_id: str = card["model_id"]
        self.saliency: Saliency = saliency
        self.use_roi = use_roi
        self.batch_size = batch_size

    def __call__(self, rows: PixelRows) -> pa.Table:
        """Score images in batches of `batch_size`, in their order."""
        tables = [
            self._score_batch(rows, slice(start, start + self.batch_size))
            for start in range(0, len(rows.image_ids), self.batch_size)
        ]
        schema = score_schema(len(self.spec.classes))
        return pa.concat_tables(tables) if tables else schema.empty_table()

    def _score_batch(self, rows: PixelRows, batch: slice) -> pa.Table:
        images = images_to_tensor(rows.pixels[batch], self.spec, self.device)
        logits_tensor, maps_tensor = saliency_maps(self.network, images, self.saliency)
        logits = logits_tensor.detach().float().cpu().numpy().astype(np.float64)
        maps = maps_tensor.detach().float().cpu().numpy()
        has_roi = rows.has_roi[batch] & self.use_roi
        return self._to_table(rows.image_ids[batch], logits, maps, rows.rois[batch], has_roi)

    def _to_table(
        self,
        image_ids: list[str],
        logits: npt.NDArray[np.float64],
        maps: Floats,
        rois: Floats,
        has_roi: npt.NDArray[np.bool_],
    ) -> pa.Table:
        finite = np.asarray(np.isfinite(logits).all(axis=1))
        logits = np.where(finite[:, None], logits, 0.0)
        probs = _softmax(logits)
        cams, defined = alignment.minmax(maps)
        has_map = finite & defined
        roi_grids = mask_to_grid(rois, (maps.shape[1], maps.shape[2]))
        aligned = has_map & has_roi
        columns: dict[str, pa.Array] = {
            "image_id": pa.array(image_ids, pa.string()),
            "probs": _lists(probs, finite, fixed=True),
            "predicted": pa.array(probs.argmax(axis=1).astype(np.int32), mask=~finite),
            "entropy": _floats(uncertainty.entropy(probs), finite),
            "margin": _floats(uncertainty.margin(probs), finite),
            "least_confidence": _floats(uncertainty.least_confidence(probs), finite),
            "logit_gap": _floats(uncertainty.logit_gap(logits), finite),
            **_alignment(cams, roi_grids, aligned),
            "roi_area": _floats(rois.mean(axis=(1, 2)), has_roi),
            "saliency": _lists(cams.reshape(len(cams), -1), has_map),
            "roi_grid": _lists(roi_grids.reshape(len(roi_grids), -1), has_roi),
            "model_id": pa.array([self.model_id] * len(image_ids), pa.string()),
            "error_code": pa.array(
                [
                    None if mapped else "undefined_map" if valid else "non_finite_output"
                    for mapped, valid in zip(has_map, finite, strict=True)
                ],
                pa.string(),
            ),
        }
        return pa.table(columns, schema=score_schema(logits.shape[1]))


def _alignment(cams: Floats, roi_grids: Floats, aligned: npt.NDArray[np.bool_]) -> dict[str, pa.Array]:
    cams = np.where(aligned[:, None, None], cams, 0.0).astype(np.float32)
    values = {
        "soft_dice": alignment.soft_dice(cams, roi_grids),
        "misalignment": alignment.misalignment(cams, roi_grids),
        "iou": alignment.iou(cams, roi_grids),
        "pointing_game": alignment.pointing_game(cams, roi_grids),
        "energy_in_roi": alignment.energy_in_roi(cams, roi_grids),
        "lift": alignment.lift(cams, roi_grids),
    }
    return {name: _floats(column, aligned) for name, column in values.items()}


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


def _floats(values: npt.NDArray[np.floating], valid: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.array(values.astype(np.float32), mask=~(valid & np.isfinite(values)))


def _lists(
    values: npt.NDArray[np.floating], valid: npt.NDArray[np.bool_], *, fixed: bool = False
) -> pa.Array:
    kind = pa.list_(pa.float32(), values.shape[1] if fixed else -1)
    rows = values.astype(np.float32)
    return pa.array([row if ok else None for row, ok in zip(rows, valid, strict=True)], type=kind)
