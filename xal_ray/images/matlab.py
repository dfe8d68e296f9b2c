"""MATLAB 7.3 files, which are HDF5: those of Cheng's brain tumours.

HDF5 inflates a chunk as far as it goes, whatever the chunk's size is; so each is tried here first, within its
size. Links out of the group and filters from elsewhere are not followed.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xal_ray.config import Limits
from xal_ray.errors import SourceError
from xal_ray.images.errors import ImageError, decoding
from xal_ray.images.masks import cut_plane
from xal_ray.images.open_file import open_within

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DEFLATE, _SHUFFLE, _CHECKSUM = 1, 2, 3
_MAX_CHUNKS = 65_536
_MAX_PATIENT = 64
_LABELS = (1, 2, 3)


@dataclass(frozen=True)
class Cheng:
    """One slice with its tumour.

    Attributes:
        image: (h, w) integers as stored, the right way up.
        mask: (h, w) true inside the tumour.
        label: 1 meningioma, 2 glioma, 3 pituitary.
        patient: As written; for pseudonyms only.
    """

    image: npt.NDArray[np.number]
    mask: npt.NDArray[np.bool_]
    label: int
    patient: str

    def __repr__(self) -> str:
        return f"Cheng(image={self.image.shape}, label={self.label})"


def read_cheng(path: Path, limits: Limits) -> Cheng:
    """Read a .mat file of the Cheng data set.

    Args:
        path: A MATLAB 7.3 file with the group `cjdata`, on a disk or in an object store.
        limits: The largest file and the most pixels.

    Raises:
        ImageError: The file is missing, too large, damaged, or of another kind.
        SourceError: h5py is not installed.
        StorageError: The object store refused.
    """
    stream, num_bytes = open_within(path, limits)
    with decoding(), stream:
        head = stream.read(512 + len(_SIGNATURE))
        stream.seek(0)
        # MATLAB writes 512 bytes of its own before.
        if _SIGNATURE not in (head[: len(_SIGNATURE)], head[512:]):
            raise ImageError("unsupported_format", "the file is no MATLAB 7.3 file; older ones are not read")
        try:
            import h5py
        except ImportError:
            raise SourceError(
                "MATLAB 7.3 files need a package that is not installed",
                expected="h5py",
                next_step="pip install 'xal-ray[matlab]'",
            ) from None
        with h5py.File(stream, "r") as file:
            return _read_group(_linked(file, "cjdata", h5py.Group), num_bytes, limits)


def _read_group(group: Any, num_bytes: int, limits: Limits) -> Cheng:
    # MATLAB stores columns first, so that rows and columns are exchanged here.
    image = _read(group, "image", num_bytes, limits.max_pixels).T
    mask = _read(group, "tumorMask", num_bytes, limits.max_pixels).T
    label = _read(group, "label", num_bytes, 1)
    patient = _read(group, "PID", num_bytes, _MAX_PATIENT)
    if image.ndim != 2 or image.shape != mask.shape or image.dtype.kind not in "iu":
        raise ImageError("unsupported_format", "image and tumour must be of one size, and of integers")
    if label.size != 1 or float(label.flat[0]) not in _LABELS:
        raise ImageError("unreadable", "the label is none of 1, 2 and 3")
    codes = patient.ravel()
    if not codes.size or ((codes < 32) | (codes > 126)).any():
        raise ImageError("unreadable", "the patient is not written in letters and digits")
    return Cheng(
        np.ascontiguousarray(image),
        np.ascontiguousarray(cut_plane(mask).inside),
        int(label.flat[0]),
        "".join(chr(int(code)) for code in codes).strip(),
    )


def _linked(group: Any, name: str, kind: type) -> Any:
    """Return what a name stands for, where it lies in this file and at this place."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ImageError("unsupported_format", f"the file has no {name} of its own")
    found = group[name]
    if not isinstance(found, kind):
        raise ImageError("unsupported_format", f"its {name} is of another kind")
    return found


def _read(group: Any, name: str, num_bytes: int, most: int) -> npt.NDArray[np.number]:
    """Return a data set of numbers, if it is as small as it should be."""
    import h5py

    found = _linked(group, name, h5py.Dataset)
    dtype, shape = found.dtype, found.shape
    if dtype.kind not in "iufb" or dtype.itemsize > 8 or found.is_virtual or found.external:
        raise ImageError("unsupported_format", f"its {name} does not consist of numbers of its own")
    if shape is None or len(shape) != 2 or not 0 < math.prod(shape) <= most:
        raise ImageError("too_many_pixels", f"its {name} has none, or more than the limit of {most}")
    if found.chunks is not None:
        _check_chunks(found, name, num_bytes, most)
    elif found.id.get_storage_size() > num_bytes:
        raise ImageError("unreadable", f"its {name} is longer than the file")
    return np.asarray(found[()])


def _check_chunks(found: Any, name: str, num_bytes: int, most: int) -> None:
    """Inflate each chunk as far as its size, and refuse the file where more comes out."""
    properties = found.id.get_create_plist()
    filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    if any(one not in (_DEFLATE, _SHUFFLE, _CHECKSUM) for one in filters) or filters.count(_DEFLATE) > 1:
        raise ImageError("unsupported_format", f"its {name} is compressed in a way that MATLAB does not use")
    size = math.prod(found.chunks) * found.dtype.itemsize
    if math.prod(found.chunks) > most or found.id.get_num_chunks() > _MAX_CHUNKS:
        raise ImageError("too_many_pixels", f"its {name} is stored in chunks larger than the limit")
    for number in range(found.id.get_num_chunks()):
        chunk = found.id.get_chunk_info(number)
        if chunk.size > num_bytes:
            raise ImageError("unreadable", f"its {name} is longer than the file")
        if _DEFLATE not in filters or chunk.filter_mask:
            if chunk.size > size + 64:
                raise ImageError("unreadable", f"its {name} is damaged")
            continue
        _, packed = found.id.read_direct_chunk(chunk.chunk_offset)
        inflater = zlib.decompressobj()
        # A checksum of four bytes may lie within or behind.
        if len(inflater.decompress(packed, size + 5)) > size + 4:
            raise ImageError("header_mismatch", f"its {name} inflates to more than it says")
