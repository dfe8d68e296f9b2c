"""A row that is one image: in a file, a frame of one, several grey files that are its channels, or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xal_ray.config import Pool
from xal_ray.errors import SourceError
from xal_ray.images import (
    Decoded,
    Header,
    ImageError,
    KeptVolumes,
    Mask,
    decode_image,
    read_mask,
    to_training_size,
)
from xal_ray.places import place
from xal_ray.pool.manifest import Row
from xal_ray.pool.reading.read import ReadImage
from xal_ray.pool.reading.region import Region, region_of_mask, region_of_shapes
from xal_ray.pool.sources import phantom
from xal_ray.roi import check_mask

# The volumes that the last rows were slices of; `PackShard` forgets them where it begins.
KEPT = KeptVolumes()
_ASPECT_TOLERANCE = 0.02  # a resized copy is rounded to whole pixels


def read(row: Row, pool: Pool) -> list[ReadImage]:
    """Read the image of a row."""
    size = pool.image_size
    if row["uri"].startswith(phantom.SCHEME):
        drawn, roi = phantom.draw(row, pool.source.phantom, size)
        return [ReadImage(to_training_size(drawn, size, pool.channels), (size, size), roi)]
    uris = row["channel_uris"]
    image = _channels(row, uris, pool) if uris else _decode(row, place(row["uri"]), pool)
    region = _checked_roi(row, image.frame, pool)
    return [
        ReadImage(
            to_training_size(image.pixels, size, pool.channels, image.box),
            image.frame,
            region.coverage,
            {**_told(row, image.header), **({"roi_state": region.state} if region.state else {})},
            _identified(row, image.header),
            image.header is not None and image.header.burned_in,
            (*image.remarks, *region.remarks),
        )
    ]


def _decode(row: Row, path: Path, pool: Pool) -> Decoded:
    return decode_image(
        path,
        pool.limits,
        at_least=pool.image_size,
        grey=pool.channels == 1,
        frame=row["frame"],
        dicom=pool.dicom,
        deep=pool.raster,
        nifti=pool.nifti,
        kept=KEPT,
    )


def _channels(row: Row, uris: Sequence[str], pool: Pool) -> Decoded:
    """Grey files of one frame, one a channel."""
    planes = [_decode(row, place(uri), pool) for uri in uris]
    if any(plane.pixels.shape != planes[0].pixels.shape or plane.pixels.ndim != 2 for plane in planes):
        raise ImageError("frame_mismatch", "the files of its channels are not grey images of one size")
    remarks = tuple(dict.fromkeys(remark for plane in planes for remark in plane.remarks))
    return Decoded(np.stack([plane.pixels for plane in planes], axis=2), planes[0].frame, remarks=remarks)


def _told(row: Row, header: Header | None) -> dict[str, str]:
    """Return what the header of a DICOM file tells openly; a row that says it already is not overruled."""
    told = {} if header is None else {"sex": header.sex, "age_band": header.age_band, "device": header.device}
    if row["group_id"] is None and not (header and header.patient_id) and row["study_id"]:
        told["group_id"] = row["study_id"]
    return {name: value for name, value in told.items() if value and row.get(name) is None}


def _identified(row: Row, header: Header | None) -> dict[str, tuple[str, str]]:
    """Return what it tells under a pseudonym; the group is the coarsest id known: patient, else study."""
    patient, study, site = (
        (header.patient_id, header.study_uid, header.institution) if header else (None, None, None)
    )
    if row["group_id"] is None and not (patient or row["study_id"] or study):
        raise ImageError("no_group", "neither the header nor the source names a patient or a study")
    found = {}
    if study and row["study_id"] is None:
        found["study_id"] = ("study", study)
    if site and row["site"] is None:
        found["site"] = ("site", site)
    if row["group_id"] is None and patient:
        found["group_id"] = ("patient", patient)
    elif row["group_id"] is None and study and row["study_id"] is None:
        found["group_id"] = ("study", study)
    return found


def _checked_roi(row: Row, frame: tuple[int, int], pool: Pool) -> Region:
    """Return the ROI. One that does not fit its image costs that image, and not the set."""
    try:
        return _roi(row, frame, pool)
    except SourceError as error:
        expected, found = error.details["expected"], error.details["found"]
        sizes = f": {found}, not {expected}" if expected and found else ""
        raise ImageError("roi_mismatch", error.what + sizes) from None


def _roi(row: Row, frame: tuple[int, int], pool: Pool) -> Region:
    """The coverage of the ROI at training size: of the mask, else of boxes, polygons and runs together."""
    grid = (pool.image_size, pool.image_size)
    if row["mask_uri"]:
        uris = (row["mask_uri"], *(row.get("more_mask_uris") or ()))
        masks = [_mask(row, uri, frame, pool) for uri in uris]
        inside = np.logical_or.reduce([mask.inside for mask in masks])
        return region_of_mask(inside, grid, is_soft=any(mask.is_soft for mask in masks))
    return region_of_shapes(row, _frame_of_roi(row, frame), grid, pool.limits.max_pixels)


def _mask(row: Row, uri: str, frame: tuple[int, int], pool: Pool) -> Mask:
    mask = read_mask(place(uri), pool.limits, frame=row["frame"], nifti=pool.nifti, kept=KEPT)
    check_mask(mask.inside, frame)
    return mask


def _frame_of_roi(row: Row, frame: tuple[int, int]) -> tuple[int, int]:
    """Return where the ROI was drawn: on the image, or on the original that it is a resized copy of."""
    height, width = row["roi_height"], row["roi_width"]
    if height is None or width is None:
        return frame
    # Squared copies are common, and stretch the picture and its ROI alike; coordinates that are fractions of
    # the image's sides are given in a square, too.
    is_square = frame[0] == frame[1] or height == width
    if not is_square and abs(frame[1] / frame[0] / (width / height) - 1) > _ASPECT_TOLERANCE:
        raise ImageError("frame_mismatch", "the image is no resized copy of the original of its ROI")
    return height, width
