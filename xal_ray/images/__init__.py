"""Image files to arrays, within limits: size before reading, pixels before decoding, no guesses.

    open_file ->  what kind is it?  ->  raster   PNG, JPEG, BMP, TIFF, WebP
                                   ->  dicom/   (elements, frames, codestream, grey)
                                   ->  nifti    slices of a volume
    masks    which values of a mask are inside, whatever its kind
    matlab   is asked for by name: its files hold more than an image
    sandbox  does any of this in a child process whose memory and time are limited

A file that can't be read raises `ImageError`, whose code goes into the quarantine. Nothing that the file
holds is ever quoted: headers may name a patient.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from xal_ray.config import Dicom, Limits, Nifti, Raster
from xal_ray.images import nifti as nifti_files
from xal_ray.images import raster
from xal_ray.images.decoded import Box, Decoded, Header, Pixels
from xal_ray.images.dicom import decode as dicom_files
from xal_ray.images.errors import ErrorCode, ImageError, decoding
from xal_ray.images.masks import Mask
from xal_ray.images.nifti import KeptVolumes
from xal_ray.images.open_file import open_within
from xal_ray.images.raster import FORMATS
from xal_ray.images.scaling import lost_greys, scale_to_8_bit, to_training_size

__all__ = [
    "FORMATS",
    "Box",
    "Decoded",
    "ErrorCode",
    "Header",
    "ImageError",
    "KeptVolumes",
    "Mask",
    "Pixels",
    "decode_image",
    "decode_mask",
    "read_mask",
    "scale_to_8_bit",
    "to_training_size",
]

_DICOM_NAMES = (".dcm", ".dicom")  # of files that may lack DICOM's first 132 bytes
_HEAD_BYTES = 352


def decode_image(
    path: Path,
    limits: Limits,
    *,
    at_least: int | None = None,
    grey: bool = False,
    frame: int | None = None,
    dicom: Dicom | None = None,
    deep: Raster | None = None,
    nifti: Nifti | None = None,
    kept: KeptVolumes | None = None,
) -> Decoded:
    """Read an image file as it is meant to be seen. Its content tells the kind, not its name.

    Args:
        path: A PNG, JPEG, BMP, TIFF, WebP, DICOM or NIfTI file, on a disk or in an object store.
        limits: The largest file and the most pixels (of the original).
        at_least: The training size, pixels; None decodes every pixel. JPEG files heed it (see
            `raster.decode`), and grey JPEG 2000 in DICOM (see `dicom.decode`).
        grey: Colours are not needed: of a colour JPEG only the brightness is decoded. Files of other formats
            keep their colours.
        frame: Which frame of a DICOM file, or slice of a NIfTI volume, from 0; None where it has one only.
        dicom: How values of a DICOM file become grey.
        deep: How those of a PNG or TIFF file of more than 8 bits do.
        nifti: How a NIfTI volume becomes images.
        kept: The last volumes: a volume that is among them is not read again.

    Returns:
        The pixels, the original's frame and, of a DICOM file, its header.

    Raises:
        ImageError: The file is missing, too large, damaged, or of another kind.
        SourceError: A package that reads its kind is not installed.
        StorageError: The object store refused.
    """
    nifti = nifti or Nifti()
    if volume := kept and kept.get(path, nifti):
        return _slice(volume, frame)
    stream, num_bytes = open_within(path, limits)
    with decoding(), stream:
        kind = _kind(stream, path)
        if kind == "dicom":
            settings = dicom or Dicom()
            return dicom_files.decode(
                stream, num_bytes, limits, frame=frame, dicom=settings, at_least=at_least
            )
        if kind == "nifti":
            volume = nifti_files.read_volume(stream, num_bytes, limits, nifti)
            if kept is not None:
                kept.keep(path, nifti, volume)
            return _slice(volume, frame)
        decoded = raster.decode(stream, limits, at_least=at_least, grey=grey, deep=deep)
        _only(frame, 1)
        return decoded


def decode_mask(
    path: Path,
    limits: Limits,
    *,
    frame: int | None = None,
    nifti: Nifti | None = None,
    kept: KeptVolumes | None = None,
) -> npt.NDArray[np.bool_]:
    """Return where a mask file is inside, (height, width); see `read_mask`."""
    return read_mask(path, limits, frame=frame, nifti=nifti, kept=kept).inside


def read_mask(
    path: Path,
    limits: Limits,
    *,
    frame: int | None = None,
    nifti: Nifti | None = None,
    kept: KeptVolumes | None = None,
) -> Mask:
    """Read a mask file: where it is inside, (height, width), and how that was told.

    Args:
        path: An image file. What is inside is told by `images.masks`: labels other than zero; what is black
            and white from half of the maximum on where compression or resampling has blurred it. Of several
            channels the brightest counts; of a palette the colour where it is grey or there is black, else
            the index. Of a DICOM file the stored values count, of a NIfTI volume those of one slice.
        limits: The largest file and the most pixels.
        frame: As for `decode_image`.
        nifti: The plane of the slices.
        kept: As for `decode_image`.

    Raises:
        ImageError: As for `decode_image`.
    """
    nifti = nifti or Nifti()
    if volume := kept and kept.get(path, nifti):
        return _inside(volume, frame)
    stream, num_bytes = open_within(path, limits)
    with decoding(), stream:
        kind = _kind(stream, path)
        if kind == "dicom":
            return dicom_files.decode_inside(stream, num_bytes, limits, frame=frame)
        if kind == "nifti":
            volume = nifti_files.read_volume(stream, num_bytes, limits, nifti)
            if kept is not None:
                kept.keep(path, nifti, volume)
            return _inside(volume, frame)
        # A mask is a picture of its own, whichever frame of a volume it belongs to.
        return raster.decode_inside(stream, limits)


def _slice(volume: nifti_files.Volume, frame: int | None) -> Decoded:
    number = _only(frame, volume.slices)
    pixels = volume.plane_in_8_bits(number)
    remarks = lost_greys(lambda: volume.plane_values(number), pixels)
    return Decoded(pixels, (pixels.shape[0], pixels.shape[1]), remarks=remarks)


def _inside(volume: nifti_files.Volume, frame: int | None) -> Mask:
    values = volume.plane_values(_only(frame, volume.slices))
    return Mask(volume.cut.inside(values), volume.cut.is_soft)


def _kind(stream: BinaryIO, path: Path) -> Literal["raster", "dicom", "nifti"]:
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    if head[128:132] == b"DICM":
        return "dicom"
    if nifti_files.is_nifti(head, stream):
        return "nifti"
    if not head.startswith(raster.SIGNATURES) and path.name.lower().endswith(_DICOM_NAMES):
        return "dicom"
    return "raster"


def _only(frame: int | None, num_frames: int) -> int:
    """Return the frame that is meant, where a file holds so many."""
    if frame is None and num_frames > 1:
        raise ImageError("several_frames", "the file holds several pictures; the source must say which")
    if not 0 <= (frame or 0) < num_frames:
        raise ImageError("no_such_frame", "the file holds fewer pictures than the source says")
    return frame or 0
