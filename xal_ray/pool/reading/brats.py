"""A case of BraTS: each volume is opened once, and the slices that the policy chooses become images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt

from xal_ray.config import Pool, Slices
from xal_ray.images import ImageError, scale_to_8_bit, to_training_size
from xal_ray.images.nifti import Volume, open_volume
from xal_ray.images.scaling import finite_range, lost_greys
from xal_ray.places import place
from xal_ray.pool.manifest import Row
from xal_ray.pool.reading.read import ReadImage
from xal_ray.pool.sources.brats import CLASSES, is_hyphened
from xal_ray.roi import mask_to_grid

_AXES = {"axial": "z", "coronal": "y", "sagittal": "x"}
_MOST_LABELS = 5
_CRUMB = 1e-3

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Chosen:
    """A slice that becomes an image.

    Attributes:
        number: Of the slice in the volume.
        label: The class.
        inside: The values of the mask that are the ROI; none: there is confirmed to be no tumour.
    """

    number: int
    label: str
    inside: tuple[int, ...]


@dataclass(frozen=True)
class _Values:
    """Holds what the numbers of a mask mean. A resection cavity (4 from 2024 on) is no tumour."""

    classes: dict[str, int]  # in the order that settles ties
    known: frozenset[int]

    @property
    def tumor(self) -> tuple[int, ...]:
        return tuple(self.classes.values())


_UNTIL_2021 = _Values({"necrosis": 1, "edema": 2, "enhancing": 4}, frozenset({0, 1, 2, 4}))
_FROM_2023 = _Values({"necrosis": 1, "edema": 2, "enhancing": 3}, frozenset({0, 1, 2, 3, 4}))


def read(row: Row, pool: Pool) -> list[ReadImage]:
    """Read the slices of a case.

    A slice is looked at if it is one of every `stride`. It needs `min_brain` voxels that are not zero in at
    least one of the modalities that are read. By `pool.source.slices.task`:

        dominant  at least `min_tumor` voxels of tumour; the class is the most frequent of necrosis, edema and
                  enhancing (of equals the first in this order), the ROI is that part
        tumor     `tumor` with at least `min_tumor` voxels, the ROI is all of it; `no_tumor` with none; what
                  lies between is left out
        grade     at least `min_tumor` voxels; the class is the case's, the ROI is all of the tumour

    Of more than `max_per_patient` such slices of a case so many are taken, spread evenly by rank: of the i-th
    of m parts of n slices the middle one, floor((2 i + 1) n / (2 m)).

    Args:
        row: `channel_uris` are the volumes of the modalities, `mask_uri` is the mask; `label` is the grade.
        pool: The policy, the plane and the scale, the limits, the size.

    Returns:
        Images with ids like `<case>/z077`, from the bottom up. None if no slice is fit.

    Raises:
        ImageError: A volume can't be read, `frame_mismatch` (they differ in shape), `unknown_mask_label`.
    """
    uris, mask_uri = row["channel_uris"], row["mask_uri"]
    if not uris or mask_uri is None:
        raise ValueError("not a row of a case: it has no volumes, or no mask")
    volumes = [_open(uri, pool) for uri in uris]
    mask = _open(mask_uri, pool)
    if any(volume.voxels.shape != mask.voxels.shape for volume in volumes):
        raise ImageError("frame_mismatch", "the volumes of the case differ in shape")
    values = _FROM_2023 if is_hyphened(uris[0]) else _UNTIL_2021
    chosen = _choose(volumes, mask, values, pool.source.slices, row["label"])
    scales = [_scale(volume) for volume in volumes]
    axis = _AXES[pool.nifti.plane]
    images = []
    for each in chosen:
        planes = [
            scale(volume.plane_values(each.number)) for scale, volume in zip(scales, volumes, strict=True)
        ]
        picture = planes[0] if len(planes) == 1 else np.stack(planes, axis=2)
        settled = {
            "image_id": f"{row['image_id']}/{axis}{each.number:03d}",
            "label": each.label,
            "roi_state": "present" if each.inside else "absent_confirmed",
        }
        pixels = to_training_size(picture, pool.image_size, pool.channels)
        frame = (picture.shape[0], picture.shape[1])
        remarks = [
            lost_greys(partial(volume.plane_values, each.number), plane)
            for volume, plane in zip(volumes, planes, strict=True)
        ]
        roi = _roi(each, mask, values, pool.image_size)
        noticed = tuple(dict.fromkeys(chain(*remarks)))
        images.append(ReadImage(pixels, frame, roi, settled, remarks=noticed))
    return images


def _open(uri: str, pool: Pool) -> Volume:
    return open_volume(place(uri), pool.limits, pool.nifti)


def _scale(volume: Volume) -> Callable[[npt.NDArray[np.number]], npt.NDArray[np.uint8]]:
    """Return how a slice becomes grey: its least value black and its largest white, or the volume's."""
    of_all = volume.value_range if volume.settings.scale == "volume" else None
    return lambda plane: scale_to_8_bit(plane, *(of_all or finite_range(plane)))


def _roi(each: _Chosen, mask: Volume, values: _Values, size: int) -> npt.NDArray[np.float32] | None:
    if not each.inside:
        return None
    inside = np.isin(_labels(mask, each.number, values), each.inside)
    return mask_to_grid(inside.astype(np.float32), (size, size))


def _choose(
    volumes: Sequence[Volume], mask: Volume, values: _Values, slices: Slices, grade: str | None
) -> list[_Chosen]:
    fit = []
    for number in range(mask.slices):
        # Every slice's labels are looked at, so that a mask is known or not whatever the policy.
        counts = np.bincount(_labels(mask, number, values).reshape(-1), minlength=_MOST_LABELS)
        asked = _ask(counts, values, slices, grade) if number % slices.stride == 0 else None
        if asked is not None and _brain(volumes, number) >= slices.min_brain:
            fit.append(_Chosen(number, *asked))
    most = slices.max_per_patient
    if not most or len(fit) <= most:
        return fit
    return [fit[(2 * part + 1) * len(fit) // (2 * most)] for part in range(most)]


def _ask(
    counts: npt.NDArray[np.int64], values: _Values, slices: Slices, grade: str | None
) -> tuple[str, tuple[int, ...]] | None:
    """Class and ROI of a slice with so many voxels of each label; None: it does not fit the task."""
    num_tumor = int(counts[list(values.tumor)].sum())
    without, with_tumor = CLASSES["tumor"]
    if num_tumor == 0:
        return (without, ()) if slices.task == "tumor" else None
    if num_tumor < slices.min_tumor:
        return None
    if slices.task == "tumor":
        return with_tumor, values.tumor
    if slices.task == "grade":
        return str(grade), values.tumor
    name = max(values.classes, key=lambda each: int(counts[values.classes[each]]))
    return name, (values.classes[name],)


def _labels(mask: Volume, number: int, values: _Values) -> Labels:
    """Return the labels of a slice, checked."""
    plane = mask.plane_values(number)
    if plane.dtype.kind == "f":  # some tools write labels so, and resampling leaves crumbs
        near = np.rint(plane)
        plane = np.where(np.abs(plane - near) <= _CRUMB, near, plane)
    labels: Labels = np.clip(np.nan_to_num(plane, nan=-1.0), 0, _MOST_LABELS - 1).astype(np.uint8)
    if not np.array_equal(labels, plane) or not values.known.issuperset(np.unique(labels).tolist()):
        expected = ", ".join(str(value) for value in sorted(values.known))
        raise ImageError("unknown_mask_label", f"the mask holds other labels than {expected}")
    return labels


def _brain(volumes: Sequence[Volume], number: int) -> int:
    """Voxels of a slice that are not zero in at least one modality: what is no brain was cut away."""
    inside = [np.abs(volume.plane_values(number)) > 0 for volume in volumes]  # nan is outside
    return int(np.count_nonzero(np.logical_or.reduce(inside)))
