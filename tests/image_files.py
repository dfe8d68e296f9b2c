"""Image files of every kind, written by code: DICOM, NIfTI, MATLAB 7.3, Pillow's formats."""

from __future__ import annotations

import gzip
import io
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
JPEG, JPEG_EXTENDED, JPEG_LOSSLESS = (f"1.2.840.10008.1.2.4.{last}" for last in (50, 51, 70))
JPEG_LS, JPEG_LS_NEAR = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"
J2K, J2K_LOSSY, HTJ2K = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.201"
RLE = "1.2.840.10008.1.2.5"

_LONG = (b"OB", b"OW", b"OF", b"OD", b"SQ", b"UN", b"OV")
_US, _CS, _DS, _IS, _LO = b"US", b"CS", b"DS", b"IS", b"LO"
VRS = {
    0x00080060: _CS,
    0x00080070: _LO,
    0x00080080: _LO,
    0x00081090: _LO,
    0x00100010: b"PN",
    0x00100020: _LO,
    0x00100040: _CS,
    0x00101010: b"AS",
    0x0020000D: b"UI",
    0x00280002: _US,
    0x00280004: _CS,
    0x00280006: _US,
    0x00280008: _IS,
    0x00280010: _US,
    0x00280011: _US,
    0x00280100: _US,
    0x00280101: _US,
    0x00280102: _US,
    0x00280103: _US,
    0x00280120: _US,
    0x00280121: _US,
    0x00280301: _CS,
    0x00281050: _DS,
    0x00281051: _DS,
    0x00281052: _DS,
    0x00281053: _DS,
    0x00281056: _CS,
    0x00283000: b"SQ",
    0x00283002: _US,
    0x00283006: b"OW",
    0x00283010: b"SQ",
    0x00289132: b"SQ",
    0x00289145: b"SQ",
    0x52009229: b"SQ",
    0x52009230: b"SQ",
    0x7FE00001: b"OV",
    0x7FE00002: b"OV",
    0x7FE00008: b"OF",
    0x7FE00009: b"OD",
    0x7FE00010: b"OW",
    0x00281101: _US,
    0x00281102: _US,
    0x00281103: _US,
    0x00281201: b"OW",
    0x00281202: b"OW",
    0x00281203: b"OW",
}
NAMES = {
    "modality": 0x00080060,
    "maker": 0x00080070,
    "institution": 0x00080080,
    "model": 0x00081090,
    "name": 0x00100010,
    "patient": 0x00100020,
    "sex": 0x00100040,
    "age": 0x00101010,
    "study": 0x0020000D,
    "samples": 0x00280002,
    "photometric": 0x00280004,
    "planar": 0x00280006,
    "frames": 0x00280008,
    "rows": 0x00280010,
    "columns": 0x00280011,
    "allocated": 0x00280100,
    "stored": 0x00280101,
    "high_bit": 0x00280102,
    "signed": 0x00280103,
    "padding": 0x00280120,
    "padding_limit": 0x00280121,
    "burned_in": 0x00280301,
    "center": 0x00281050,
    "width": 0x00281051,
    "intercept": 0x00281052,
    "slope": 0x00281053,
    "function": 0x00281056,
    "modality_lut": 0x00283000,
    "voi_lut": 0x00283010,
    "red": 0x00281101,
    "green": 0x00281102,
    "blue": 0x00281103,
    "red_data": 0x00281201,
    "green_data": 0x00281202,
    "blue_data": 0x00281203,
    "shared": 0x52009229,
    "per_frame": 0x52009230,
}


def element(tag: int, value: object, *, order: str = "<", implicit: bool = False, vr: bytes = b"") -> bytes:
    """One element. Numbers, tuples of numbers, text, bytes, or lists of items, which are mappings."""
    vr = vr or VRS[tag]
    if isinstance(value, list):
        items = [elements(item, order=order, implicit=implicit) for item in value]
        data = b"".join(struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    elif isinstance(value, bytes):
        data = value
    elif isinstance(value, str) or vr in (_DS, _IS):
        data = ("\\".join(map(str, value)) if isinstance(value, tuple) else str(value)).encode("latin-1")
        data += b" " * (len(data) % 2)
    else:
        numbers = value if isinstance(value, tuple) else (value,)
        data = b"".join(struct.pack(f"{order}H", number & 0xFFFF) for number in numbers)
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return head + struct.pack(f"{order}I", len(data)) + data
    if vr in _LONG:
        return head + vr + b"\0\0" + struct.pack(f"{order}I", len(data)) + data
    return head + vr + struct.pack(f"{order}H", len(data)) + data


def elements(values: dict, *, order: str = "<", implicit: bool = False) -> bytes:
    """Elements in the order of their tags; keys are tags or our names of them."""
    by_tag = {NAMES.get(key, key): value for key, value in values.items() if value is not None}
    return b"".join(element(tag, by_tag[tag], order=order, implicit=implicit) for tag in sorted(by_tag))


def encapsulated(frames: list[bytes], *, table: bool = False, pieces: int = 1, end: bool = True) -> bytes:
    """Frames as fragments, behind a basic offset table that is empty or filled."""
    starts, body = [], b""
    for frame in frames:
        starts.append(len(body))
        size = -(-len(frame) // pieces)
        size += size % 2
        for start in range(0, len(frame), size):
            piece = frame[start : start + size]
            piece += b"\0" * (len(piece) % 2)
            body += struct.pack("<HHI", 0xFFFE, 0xE000, len(piece)) + piece
    offsets = b"".join(struct.pack("<I", start) for start in starts) if table else b""
    head = struct.pack("<HHI", 0xFFFE, 0xE000, len(offsets)) + offsets
    return head + body + (struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) if end else b"")


def file_of(
    values: dict, pixel_element: bytes, syntax: str = EXPLICIT, *, meta: bool = True, extra: bytes = b""
) -> bytes:
    """A DICOM file out of its elements and the element of its pixels, which is given whole."""
    order, implicit = (">" if syntax == BIG else "<"), syntax == IMPLICIT
    content = elements(values, order=order, implicit=implicit) + extra + pixel_element
    if syntax == DEFLATED:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        content = packer.compress(content) + packer.flush()
    return (head_of(syntax) if meta else b"") + content


def head_of(syntax: str) -> bytes:
    """The first bytes of a DICOM file, up to its data set."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    named = element(0x00020010, uid, vr=b"UI")
    length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(named))
    return b"\0" * 128 + b"DICM" + length + named


def dicom(
    pixels: np.ndarray,
    syntax: str = EXPLICIT,
    *,
    meta: bool = True,
    encoded: list[bytes] | None = None,
    **values,
) -> bytes:
    """A DICOM file.

    Args:
        pixels: (h, w), (h, w, 3), or with `frames` one axis before: integers, or floats.
        syntax: Of the transfer.
        meta: With the first 132 bytes and the file meta information.
        encoded: The compressed frames; else they are compressed here, where it is known how.
        values: Elements by our names; None leaves one out.
    """
    frames = pixels if "frames" in values else pixels[None]
    colours = frames.ndim == 4
    bits = 8 * pixels.dtype.itemsize
    known = {
        "samples": 3 if colours else 1,
        "photometric": "RGB" if colours else "MONOCHROME2",
        "planar": 0 if colours else None,
        "rows": frames.shape[1],
        "columns": frames.shape[2],
        "allocated": bits,
        "stored": bits,
        "signed": int(pixels.dtype.kind == "i"),
    }
    known |= values
    known["high_bit"] = known.get("high_bit", known["stored"] - 1 if known["stored"] else None)
    order, implicit = (">" if syntax == BIG else "<"), syntax == IMPLICIT
    if pixels.dtype.kind == "f":
        tag = 0x7FE00008 if pixels.dtype.itemsize == 4 else 0x7FE00009
        known |= {"high_bit": None, "signed": None, "stored": None}
        data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        return file_of(known, element(tag, data, order=order, implicit=implicit), syntax, meta=meta)
    if syntax in (EXPLICIT, IMPLICIT, BIG, DEFLATED):
        data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        data += b"\0" * (len(data) % 2)
        vr = b"OB" if bits == 8 else b"OW"
        return file_of(
            known, element(0x7FE00010, data, order=order, implicit=implicit, vr=vr), syntax, meta=meta
        )
    encoded = encoded or [compress(frame, syntax, int(known["stored"])) for frame in frames]
    return file_of(known, fragments_of(encapsulated(encoded)), syntax, meta=meta)


def fragments_of(data: bytes) -> bytes:
    """The pixel element of fragments."""
    return struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + data


def compress(frame: np.ndarray, syntax: str, stored: int) -> bytes:
    """A frame as a codestream, with the encoders that the DICOM packages bring."""
    if syntax == JPEG:
        stream = io.BytesIO()
        Image.fromarray(frame).save(stream, "JPEG", quality=95)
        return stream.getvalue()
    if syntax == RLE:
        return run_lengths(frame)
    if syntax == JPEG_LOSSLESS:
        return _without_loss(frame, stored)
    from pydicom.pixels import get_encoder
    from pydicom.uid import UID

    options = (
        {"j2k_psnr": [60.0]} if syntax == J2K_LOSSY else {"jls_error": 2} if syntax == JPEG_LS_NEAR else {}
    )
    return get_encoder(UID(syntax)).encode(
        frame.tobytes(),
        index=0,
        rows=frame.shape[0],
        columns=frame.shape[1],
        number_of_frames=1,
        samples_per_pixel=3 if frame.ndim == 3 else 1,
        photometric_interpretation="RGB" if frame.ndim == 3 else "MONOCHROME2",
        planar_configuration=0,
        bits_allocated=8 * frame.dtype.itemsize,
        bits_stored=stored,
        pixel_representation=int(frame.dtype.kind == "i"),
        **options,
    )


def _without_loss(frame: np.ndarray, stored: int) -> bytes:
    """Lossless JPEG: pydicom encodes none, so that GDCM rewrites a file."""
    import gdcm
    from pydicom import dcmread
    from pydicom.encaps import generate_frames

    with tempfile.TemporaryDirectory() as name:
        plain, packed = Path(name, "plain.dcm"), Path(name, "packed.dcm")
        plain.write_bytes(dicom(frame, stored=stored))
        reader = gdcm.ImageReader()
        reader.SetFileName(str(plain))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(packed))
        assert writer.Write()
        return next(generate_frames(dcmread(packed).PixelData, number_of_frames=1))


def run_lengths(frame: np.ndarray) -> bytes:
    """DICOM's RLE: a segment for each byte of each sample, highest first; runs of 2 to 128, or literals."""
    samples = frame.reshape(*frame.shape[:2], -1)
    segments = []
    for sample in range(samples.shape[2]):
        plane = np.ascontiguousarray(samples[:, :, sample]).view(np.uint8).reshape(-1, frame.dtype.itemsize)
        segments += [_packed(plane[:, byte].tobytes()) for byte in range(frame.dtype.itemsize - 1, -1, -1)]
    starts = np.cumsum([64, *(len(segment) for segment in segments)])[:-1].tolist()
    head = struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(starts)))
    return head + b"".join(segments)


def _packed(data: bytes) -> bytes:
    out, position = bytearray(), 0
    while position < len(data):
        run = 1
        while run < 128 and data[position + run : position + run + 1] == data[position : position + 1]:
            run += 1
        if run > 1:
            out += bytes([257 - run, data[position]])
        else:
            out += bytes([0, data[position]])
        position += run
    return bytes(out + b"\0" * (len(out) % 2))


def nifti(
    voxels: np.ndarray,
    affine: np.ndarray | None = None,
    *,
    slope: float = 0.0,
    intercept: float = 0.0,
    packed: bool = False,
    **fields: object,
) -> bytes:
    """A NIfTI-1 file, with an affine of (right, front, top); `fields` overwrite the header's."""
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header.set_sform(np.eye(4) if affine is None else affine, code=1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    header["scl_slope"], header["scl_inter"] = slope, intercept
    for name, value in fields.items():
        header[name] = value
    data = header.binaryblock + b"\0" * 4 + voxels.tobytes(order="F")
    return gzip.compress(data, 6, mtime=0) if packed else data


def cheng(path: Path, image: np.ndarray, mask: np.ndarray, label: int = 2, patient: str = "100360") -> None:
    """A .mat file as MATLAB 7.3 writes it: 512 bytes of its own, columns before rows, numbers as matrices."""
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        group = file.create_group("cjdata")
        group.attrs["MATLAB_class"] = np.bytes_("struct")
        codes = np.array([[ord(letter)] for letter in patient], dtype=np.uint16)
        group.create_dataset("PID", data=codes)
        group.create_dataset("image", data=image.T, compression="gzip", chunks=True)
        group.create_dataset("label", data=np.array([[float(label)]]))
        group.create_dataset("tumorBorder", data=np.zeros((1, 8)))
        group.create_dataset("tumorMask", data=mask.T.astype(np.uint8), compression="gzip", chunks=True)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: MACI64".ljust(124) + b"\x00\x02IM")


def raster(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    """One of Pillow's formats."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()
