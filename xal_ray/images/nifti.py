"""NIfTI volumes: opened once, turned to the body's axes, and cut into slices that are the right way up.

Only the header is nibabel's work. The voxels are read here, as many as the header promises and never more: a
compressed file of a few kilobytes may hold gigabytes.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from xal_ray.config import Limits, Nifti
from xal_ray.errors import SourceError
from xal_ray.images.decoded import Pixels
from xal_ray.images.errors import ImageError, decoding
from xal_ray.images.masks import Cut, find_cut
from xal_ray.images.open_file import open_within
from xal_ray.images.scaling import finite_range, scale_to_8_bit

_NOBODY = logging.Logger("nobody", level=logging.CRITICAL + 1)  # what is mended is not talked about
_GZIP = b"\x1f\x8b"
_HEADER_BYTES = {348: "Nifti1Header", 540: "Nifti2Header"}
_MAGIC = {348: (344, (b"n+1\0", b"ni1\0")), 540: (4, (b"n+2\0", b"ni2\0"))}
_MAX_EXTENSION_BYTES = 16 * 1024**2  # between header and voxels
_NUM_KEPT = 2  # an image's and its mask's
_MAX_KEPT_BYTES = 256 * 1024**2
_PLANE_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}  # of a volume to the right, the front, the top


@dataclass(frozen=True)
class Volume:
    """A volume in memory, its axes to the patient's right, front and top.

    Attributes:
        voxels: (right, front, top) as stored: integers or floats.
        slope: A value is slope * stored + intercept.
        intercept: The same.
        settings: The plane and the scale of slices.
    """

    voxels: npt.NDArray[np.number]
    slope: float
    intercept: float
    settings: Nifti

    @property
    def slices(self) -> int:
        """Return how many slices lie along the plane's axis: from the right, the back or the bottom on."""
        return int(self.voxels.shape[_PLANE_AXES[self.settings.plane]])

    def plane_values(self, number: int) -> npt.NDArray[np.number]:
        """Return one slice as radiologists look at it, the patient's right on the left.

        Returns:
            (h, w): axial with the front at the top; coronal and sagittal with the head at the top, a sagittal
            one looking to the left. Integers as stored where the header does not scale them, else float32.

        Raises:
            ImageError: There is no such slice.
        """
        if not 0 <= number < self.slices:
            raise ImageError("no_such_frame", "the volume has fewer slices than the source says")
        plane = self._stored(number)
        if plane.dtype.kind in "iu" and (self.slope, self.intercept) == (1.0, 0.0):
            return np.ascontiguousarray(plane)
        with np.errstate(over="ignore", invalid="ignore"):
            values = plane.astype(np.float64) * self.slope + self.intercept
            return values.astype(np.float32)

    def plane_in_8_bits(self, number: int) -> Pixels:
        """Return one slice in [0, 255]: its least value black and its largest white, or the volume's."""
        values = self.plane_values(number)
        low, high = finite_range(values) if self.settings.scale == "slice" else self.value_range
        return scale_to_8_bit(values, low, high)

    @cached_property
    def value_range(self) -> tuple[float, float]:
        """Return the least and the largest finite value of the volume."""
        ranges = [finite_range(self.plane_values(number)) for number in range(self.slices)]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    @cached_property
    def cut(self) -> Cut:
        """Return what is inside a mask, by the values of the whole volume."""
        return find_cut(lambda: (self.plane_values(number) for number in range(self.slices)))

    def _stored(self, number: int) -> npt.NDArray[np.number]:
        # The right of the patient is the left of the picture; rows run downwards.
        if self.settings.plane == "axial":
            return self.voxels[::-1, ::-1, number].T
        if self.settings.plane == "coronal":
            return self.voxels[::-1, number, ::-1].T
        return self.voxels[number, ::-1, ::-1].T


def open_volume(path: Path, limits: Limits, nifti: Nifti) -> Volume:
    """Read a NIfTI file, once, for all its slices.

    Args:
        path: A .nii or .nii.gz file, on a disk or in an object store.
        limits: The largest file, the most voxels and slices, the most pixels of a slice.
        nifti: The plane and the scale of slices.

    Raises:
        ImageError: The file is missing, too large, damaged, or of another kind.
        SourceError: nibabel is not installed.
        StorageError: The object store refused.
    """
    stream, num_bytes = open_within(path, limits)
    with decoding(), stream:
        head = stream.read(_MAGIC[348][0] + 8)
        stream.seek(0)
        if not is_nifti(head, stream):
            raise ImageError("unsupported_format", "the file is no NIfTI volume")
        return read_volume(stream, num_bytes, limits, nifti)


class KeptVolumes:
    """The last volumes that were read, for the slices that are asked for next: a table names them one by one.

    A file is known by its path: what is kept must be forgotten before the files may have changed.
    """

    def __init__(self) -> None:
        self._volumes: dict[tuple[str, Nifti], Volume] = {}

    def get(self, path: Path, nifti: Nifti) -> Volume | None:
        """Return the volume of a file, if it is one of the last."""
        return self._volumes.get((str(path), nifti))

    def keep(self, path: Path, nifti: Nifti, volume: Volume) -> None:
        """Keep a volume of moderate size; the oldest goes."""
        if volume.voxels.nbytes <= _MAX_KEPT_BYTES:
            self._volumes[(str(path), nifti)] = volume
        while len(self._volumes) > _NUM_KEPT:
            del self._volumes[next(iter(self._volumes))]

    def forget(self) -> None:
        """Keep nothing."""
        self._volumes.clear()


def is_nifti(head: bytes, stream: BinaryIO) -> bool:
    """Return whether a file's first bytes, inflated where they are compressed, are a NIfTI header.

    Args:
        head: The first 352 bytes, or all.
        stream: The file, from which more is read where it is compressed; it is rewound.
    """
    if head.startswith(_GZIP):
        try:
            # Not closed: that would close the file.
            head = gzip.GzipFile(fileobj=stream).read(_MAGIC[348][0] + 8)
        except Exception:
            return False
        finally:
            stream.seek(0)
    return _header_bytes(head) is not None


def read_volume(stream: BinaryIO, num_bytes: int, limits: Limits, nifti: Nifti) -> Volume:
    """Read an open NIfTI file; see `open_volume`."""
    compressed = stream.read(2) == _GZIP
    stream.seek(0)
    content: Any = gzip.GzipFile(fileobj=stream) if compressed else stream
    header = _read_header(content)
    offset, header_size = _checked_offset(header), int(header["sizeof_hdr"])
    _mend(header)
    shape = _checked_shape(header, limits)
    directions = _directions(header)
    _check_slices(shape, directions, limits, nifti)
    dtype = _checked_dtype(header)
    promised = offset + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if not compressed and promised > num_bytes:
        raise ImageError("truncated", "the file ends before its voxels do")
    _read_exactly(content, offset - header_size)
    slope, intercept = _scaling(header)
    voxels = _read_voxels(content, shape, dtype)
    import nibabel

    return Volume(nibabel.orientations.apply_orientation(voxels, directions), slope, intercept, nifti)


def _header_bytes(head: bytes) -> int | None:
    """Return the length of the NIfTI header that these bytes begin, which is also its first number."""
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    for byteorder in orders:
        size = int.from_bytes(head[:4], byteorder)
        if size in _MAGIC:
            position, words = _MAGIC[size]
            return size if head[position : position + 4] in words else None
    return None


def _read_header(content: Any) -> Any:
    try:
        import nibabel
    except ImportError:
        raise SourceError(
            "NIfTI files need a package that is not installed",
            expected="nibabel",
            next_step="pip install 'xal-ray[nifti]'",
        ) from None
    head = _read_exactly(content, 348)
    size = _header_bytes(head)
    if size is None:
        raise ImageError("unreadable", "the header is damaged")
    if (
        head[_MAGIC[size][0] : _MAGIC[size][0] + 2] == b"ni"
        and head[_MAGIC[size][0] + 2 : _MAGIC[size][0] + 3] != b"+"
    ):
        raise ImageError("unsupported_format", "its voxels lie in a file of their own; write one .nii file")
    head += _read_exactly(content, size - 348)
    kind = getattr(nibabel.nifti1 if size == 348 else nibabel.nifti2, _HEADER_BYTES[size])
    return kind.from_fileobj(io.BytesIO(head), check=False)


def _mend(header: Any) -> None:
    """Put right what the standard, or its reference code, reads as something else.

    nibabel sets a qfac of 0 to 1, signs of voxel sizes to plus, a voxel size of 0 to 1, and codes that mean
    nothing to 0. Beside that, as `nifti1_io.c` does, a size that is no number is 1, and a quaternion that is
    longer than 1 is shortened.
    """
    sizes, quaternion = header["pixdim"], np.array([header[f"quatern_{axis}"] for axis in "bcd"], dtype=float)
    sizes[1:4][~np.isfinite(sizes[1:4])] = 1
    if (length := float(np.sqrt(quaternion @ quaternion))) > 1:  # false where it is no number
        for axis, number in zip("bcd", quaternion / length * (1 - 1e-7), strict=True):
            header[f"quatern_{axis}"] = number
    header.check_fix(_NOBODY, error_level=1000)


def _checked_shape(header: Any, limits: Limits) -> tuple[int, int, int]:
    """Width, height and depth as stored, if they are within limits; a size of 0 beyond the second is 1."""
    dims = [int(number) for number in header["dim"]]
    dims[3:] = [1 if side == 0 else side for side in dims[3:]]
    if not 1 <= dims[0] <= 7 or any(side < 1 for side in dims[1 : dims[0] + 1]):
        raise ImageError("unreadable", "the header gives no size")
    sides = dims[1 : dims[0] + 1]
    if any(side != 1 for side in sides[3:]):
        raise ImageError(
            "unsupported_format", "the file holds several volumes; write each to a file of its own"
        )
    width, height, depth = (*sides, 1, 1)[:3]
    if width * height * depth > limits.max_voxels:
        raise ImageError(
            "too_many_voxels",
            f"{width} x {height} x {depth} voxels; pool.limits.max_voxels is {limits.max_voxels}",
        )
    return width, height, depth


def _directions(header: Any) -> npt.NDArray[np.float64]:
    """Return, of each stored axis, which of the body's axes it runs along, and 1, or -1 for against it."""
    import nibabel
    from nibabel.spatialimages import HeaderDataError

    # The matrix counts before the quaternion, and either where the other is missing or makes no sense.
    told = [("sform_code", header.get_sform), ("qform_code", header.get_qform)]
    coded = [affine_of for code, affine_of in told if header[code] != 0] or [header.get_base_affine]
    for affine_of in coded:
        with contextlib.suppress(HeaderDataError, ValueError):
            affine = np.asarray(affine_of())
            if np.isfinite(affine).all():
                directions: npt.NDArray[np.float64] = nibabel.orientations.io_orientation(affine)
                if not np.isnan(directions).any():
                    return directions
    raise ImageError("unreadable", "the header does not say how the volume lies in the body")


def _check_slices(
    shape: tuple[int, int, int], directions: npt.NDArray[np.float64], limits: Limits, nifti: Nifti
) -> None:
    stored_axis = directions[:, 0].tolist().index(_PLANE_AXES[nifti.plane])
    num_slices = shape[stored_axis]
    if num_slices > limits.max_frames:
        raise ImageError(
            "too_many_frames", f"{num_slices} slices; pool.limits.max_frames is {limits.max_frames}"
        )
    num_pixels = int(np.prod(shape, dtype=object)) // num_slices
    if num_pixels > limits.max_pixels:
        raise ImageError(
            "too_many_pixels", f"{num_pixels} pixels a slice; pool.limits.max_pixels is {limits.max_pixels}"
        )


def _checked_dtype(header: Any) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except Exception:
        raise ImageError("unsupported_format", "voxels must be integers or real numbers") from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ImageError("unsupported_format", "voxels must be integers or real numbers, no colours")
    return dtype


def _checked_offset(header: Any) -> int:
    smallest = int(header["sizeof_hdr"])
    offset = float(header["vox_offset"])
    if offset == 0 or smallest <= offset < smallest + 4:  # the four bytes of extensions come first
        return smallest + 4
    if not (smallest <= offset <= smallest + _MAX_EXTENSION_BYTES and offset == int(offset)):
        raise ImageError("unreadable", "the header says that the voxels begin where they can't")
    return int(offset)


def _scaling(header: Any) -> tuple[float, float]:
    """Slope and intercept; none where the header leaves them out, with 0 or nan."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    if not np.isfinite(intercept):
        raise ImageError("unreadable", "the header scales voxels by no number")
    return slope, intercept


def _read_voxels(content: Any, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> npt.NDArray[np.number]:
    flat = np.empty(int(np.prod(shape)), dtype=dtype)
    view, filled = memoryview(flat.view(np.uint8).data), 0
    while filled < len(view):
        count = content.readinto(view[filled:])
        if not count:
            raise ImageError("truncated", "the file ends before its voxels do")
        filled += count
    content.read(1)  # at the end of a compressed file, its checksum is compared
    return flat.reshape(shape, order="F")


def _read_exactly(content: Any, num_bytes: int) -> bytes:
    data = bytes(content.read(num_bytes))
    if len(data) < num_bytes:
        raise ImageError("truncated", "the file ends before its voxels do")
    return data
