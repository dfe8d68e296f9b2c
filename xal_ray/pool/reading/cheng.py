"""A MATLAB file of Cheng's set: image, mask, class and patient."""

from __future__ import annotations

from xal_ray.config import Pool
from xal_ray.images import ImageError, scale_to_8_bit, to_training_size
from xal_ray.images.matlab import read_cheng
from xal_ray.images.scaling import finite_range, lost_greys
from xal_ray.places import place
from xal_ray.pool.manifest import Row
from xal_ray.pool.reading.read import ReadImage
from xal_ray.pool.reading.region import region_of_mask
from xal_ray.pool.sources.cheng import LABELS


def read(row: Row, pool: Pool) -> list[ReadImage]:
    """Read a file: its least value becomes black and its largest white; the group is the patient's pseudonym.

    Args:
        row: `uri` is the file.
        pool: Limits, size, channels.

    Returns:
        One image.

    Raises:
        ImageError: The file can't be read, `unknown_label`, `no_group` (it names no patient), or
            `frame_mismatch` (image and mask differ in size).
    """
    file = read_cheng(place(row["uri"]), pool.limits)
    if file.label not in LABELS:
        raise ImageError("unknown_label", "the file's class is none of 1, 2 and 3")
    if not file.patient.strip():
        raise ImageError("no_group", "the file names no patient")
    if file.mask.shape != file.image.shape:
        raise ImageError("frame_mismatch", "image and mask differ in size")
    size = pool.image_size
    grey = scale_to_8_bit(file.image, *finite_range(file.image))
    pixels = to_training_size(grey, size, pool.channels)
    roi = region_of_mask(file.mask, (size, size))
    settled = {"label": LABELS[file.label], "roi_state": roi.state}
    identified = {"group_id": ("patient", file.patient)}
    frame = (file.image.shape[0], file.image.shape[1])
    remarks = (*lost_greys(lambda: file.image, grey), *roi.remarks)
    return [ReadImage(pixels, frame, roi.coverage, settled, identified, remarks=remarks)]
