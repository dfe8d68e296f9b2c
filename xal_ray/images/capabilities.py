"""Finds out what this machine decodes by decoding a tiny file of each kind."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from xal_ray.config import Dicom, Limits, Nifti
from xal_ray.errors import XalRayError
from xal_ray.images import nifti
from xal_ray.images.dicom import decode
from xal_ray.images.dicom.elements import EXPLICIT_BIG, IMPLICIT_LITTLE
from xal_ray.images.dicom.plugins import (
    J2K,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LS,
    NAMES,
    NATIVE,
    RLE,
    how_to_decode,
    plugin_of,
)
from xal_ray.images.errors import ImageError, decoding

_SIDE = 64
_RAMP = (np.add.outer(np.arange(_SIDE), np.arange(_SIDE)) * 2).astype(np.uint8)
_TOLERANCE = 6  # of lossy kinds
_ENCODED_HERE = (JPEG_BASELINE, RLE, JPEG_LS[0], J2K[0], *NATIVE)


@dataclass(frozen=True)
class Capability:
    """Says whether a kind of file is decoded.

    Attributes:
        kind: "DICOM RLE", say.
        works: It is.
        text: How that was found out, or what would help.
    """

    kind: str
    works: bool
    text: str


def decoder_capabilities() -> Iterator[Capability]:
    """Try DICOM in each transfer syntax, NIfTI, and HDF5, which MATLAB 7.3 writes."""
    try:
        import pydicom  # noqa: F401
    except ImportError:
        yield Capability("DICOM", False, "not installed; the optional extra 'dicom' holds what decodes it")
    else:
        for syntax, name in NAMES.items():
            yield _syntax(syntax, f"DICOM {name}")
    yield _tried("NIfTI", "nifti", _try_nifti)
    yield _tried("MATLAB 7.3 (HDF5)", "matlab", _try_hdf5)


def _syntax(syntax: str, kind: str) -> Capability:
    if syntax in _ENCODED_HERE:
        with contextlib.suppress(Exception):
            data = _dicom_file(syntax)
            return _compared(kind, lambda: _decoded(data), how_to_decode(syntax))
    plugin = plugin_of(syntax)
    if syntax == JPEG_EXTENDED and not plugin:
        return Capability(kind, True, f"yes, of 8 bits. {how_to_decode(syntax)}")
    # Nothing here writes such files, so that the packages' word has to do.
    if plugin:
        return Capability(kind, True, f"yes, by {plugin} (not tried)")
    return Capability(kind, False, how_to_decode(syntax))


def _compared(kind: str, decode: Callable[[], Any], help_text: str) -> Capability:
    try:
        difference = np.abs(decode().astype(int) - _RAMP).max()
    except (ImageError, XalRayError):
        return Capability(kind, False, help_text)
    right = bool(difference <= _TOLERANCE)
    return Capability(
        kind, right, "yes: decoded a file" if right else "decodes wrongly: reinstall its packages"
    )


def _tried(kind: str, extra: str, attempt: Callable[[], Any]) -> Capability:
    hint = f"not installed; the optional extra '{extra}' holds it"
    try:
        return _compared(kind, attempt, hint)
    except ImportError:
        return Capability(kind, False, hint)


def _decoded(data: bytes) -> Any:
    with decoding():
        window = Dicom(window=(127.5, 255.0))
        return decode.decode(io.BytesIO(data), len(data), Limits(), frame=None, dicom=window).pixels


def _dicom_file(syntax: str) -> bytes:
    """Return a file of the ramp, written by pydicom."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, ExplicitVRLittleEndian

    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax not in NATIVE else UID(syntax)
    image.SOPClassUID, image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    image.Rows = image.Columns = _SIDE
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.PixelData = _RAMP.tobytes()
    image["PixelData"].VR = "OB"
    if syntax == JPEG_BASELINE:
        stream = io.BytesIO()
        Image.fromarray(_RAMP).save(stream, "JPEG", quality=95)
        image.PixelData = encapsulate([stream.getvalue()])
        image["PixelData"].is_undefined_length = True
        image.file_meta.TransferSyntaxUID = UID(syntax)
    elif syntax not in NATIVE:
        image.compress(UID(syntax), generate_instance_uid=False)
    stream = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        image.save_as(
            stream,
            implicit_vr=syntax == IMPLICIT_LITTLE,
            little_endian=syntax != EXPLICIT_BIG,
            enforce_file_format=True,
        )
    return stream.getvalue()


def _try_nifti() -> Any:
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((_SIDE, _SIDE, 1))
    header.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    data = header.binaryblock + bytes(4) + _RAMP.tobytes()
    with decoding():
        return nifti.read_volume(io.BytesIO(data), len(data), Limits(), Nifti()).plane_values(0)


def _try_hdf5() -> Any:
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.create_dataset("ramp", data=_RAMP, compression="gzip")
    with h5py.File(stream, "r") as file:
        return file["ramp"][()]
