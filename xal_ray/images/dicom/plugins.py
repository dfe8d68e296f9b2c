"""Which of pydicom's plugins decodes which compression, always the same one; and one frame through it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from xal_ray.errors import SourceError
from xal_ray.images.dicom.elements import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from xal_ray.images.dicom.shape import FrameShape
from xal_ray.images.errors import ImageError

RLE = "1.2.840.10008.1.2.5"
JPEG_BASELINE, JPEG_EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
J2K = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
HTJ2K = tuple(f"1.2.840.10008.1.2.4.20{last}" for last in (1, 2, 3))
NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED)
NAMES = {
    IMPLICIT_LITTLE: "implicit VR little endian",
    EXPLICIT_LITTLE: "explicit VR little endian",
    EXPLICIT_BIG: "explicit VR big endian",
    DEFLATED: "deflated",
    RLE: "RLE",
    JPEG_BASELINE: "JPEG baseline",
    JPEG_EXTENDED: "JPEG extended",
    JPEG_LOSSLESS[0]: "JPEG lossless",
    JPEG_LOSSLESS[1]: "JPEG lossless, first order",
    JPEG_LS[0]: "JPEG-LS lossless",
    JPEG_LS[1]: "JPEG-LS near lossless",
    J2K[0]: "JPEG 2000 lossless",
    J2K[1]: "JPEG 2000",
    HTJ2K[0]: "HTJ2K lossless",
    HTJ2K[1]: "HTJ2K lossless, RPCL",
    HTJ2K[2]: "HTJ2K",
}

# Who decodes what, where several could: the same pixels whatever else is installed.
_DECODERS = {
    **dict.fromkeys(JPEG_LOSSLESS, ("gdcm", "pylibjpeg")),
    **dict.fromkeys(JPEG_LS, ("pyjpegls", "gdcm")),
    **dict.fromkeys((*J2K, *HTJ2K), ("pylibjpeg", "pillow")),
    JPEG_EXTENDED: ("pylibjpeg",),  # of more than 8 bits; gdcm and pillow say that they can't
}


def through_pydicom(
    syntax: str, data: bytes, shape: FrameShape, *, planar: bool | None = None
) -> tuple[npt.NDArray[np.number], str]:
    """Let pydicom, or one of its plugins, decode one frame."""
    try:
        from pydicom.encaps import encapsulate
        from pydicom.pixels import get_decoder  # type: ignore[attr-defined]  # it is documented there
        from pydicom.uid import UID
    except ImportError:
        raise missing_pydicom() from None
    decoder = get_decoder(UID(syntax))
    native = syntax in NATIVE
    plugin = "" if native else plugin_of(syntax)
    if not (native or plugin):
        raise ImageError("unsupported_transfer_syntax", how_to_decode(syntax))
    if plugin == "gdcm":
        _silence_gdcm()
    # A dictionary, since pydicom's types take each of these options for all of them.
    options: dict[str, Any] = {
        "decoding_plugin": plugin,
        "rows": shape.rows,
        "columns": shape.columns,
        "number_of_frames": 1,
        "samples_per_pixel": shape.samples,
        "photometric_interpretation": shape.photometric,
        "planar_configuration": int(shape.planar if planar is None else planar),
        "bits_allocated": shape.allocated,
        "bits_stored": shape.stored,
        "pixel_representation": int(shape.signed),
        "pixel_keyword": "PixelData",
        "pixel_vr": "OB" if shape.allocated <= 8 else "OW",
    }
    # Encapsulated anew: the decoder sees no other bytes than those that were checked.
    encoded = data if native else encapsulate([data], has_bot=False)
    values, meaning = decoder.as_array(encoded, index=0, **options)
    expected = (shape.rows, shape.columns, shape.samples)[: 2 if shape.samples == 1 else 3]
    if values.shape != expected:
        raise ImageError("header_mismatch", "the pixels have another size than the header says")
    return values, str(meaning["photometric_interpretation"])


@cache
def _silence_gdcm() -> None:
    """GDCM says on the terminal what it thinks of a file."""
    import gdcm

    for switch in (gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff, gdcm.Trace.DebugOff):
        switch()


def plugin_of(syntax: str) -> str:
    """Which of pydicom's plugins decodes a compressed transfer syntax here; empty where none does."""
    try:
        from pydicom.pixels import get_decoder  # type: ignore[attr-defined]  # it is documented there
        from pydicom.uid import UID
    except ImportError:
        raise missing_pydicom() from None
    try:
        available = get_decoder(UID(syntax)).available_plugins
    except NotImplementedError:
        return ""
    return next((name for name in _DECODERS.get(syntax, ()) if name in available), "")


def missing_pydicom() -> SourceError:
    """Return the error of a machine without pydicom."""
    return SourceError(
        "DICOM files need packages that are not installed",
        expected="pydicom and decoders of compressed pixels",
        next_step="pip install 'xal-ray[dicom]'",
    )


def how_to_decode(syntax: str) -> str:
    """Return what is missing for a transfer syntax, in one sentence."""
    if syntax == JPEG_EXTENDED:
        return (
            "JPEG of more than 8 bits needs pylibjpeg-libjpeg (GPL), which xal-ray does not bring: "
            "convert the files, or install it"
        )
    return f"{NAMES[syntax]} needs the optional extra 'dicom': pip install 'xal-ray[dicom]'"
