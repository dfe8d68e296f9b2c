"""Lossless JPEG, by GDCM, in a process of its own: damaged files were seen to end GDCM, and its caller."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from xal_ray.config import Limits
from xal_ray.images.dicom.plugins import plugin_of, through_pydicom
from xal_ray.images.dicom.shape import FrameShape
from xal_ray.images.errors import ImageError
from xal_ray.images.sandbox import Sandbox, is_child


def decode(data: bytes, syntax: str, shape: FrameShape, limits: Limits) -> tuple[npt.NDArray[np.number], str]:
    """Decode a frame whose codestream was checked.

    Returns:
        Stored values and the photometric interpretation.

    Raises:
        ImageError: It is damaged, or can't be decoded here.
    """
    if is_child() or not plugin_of(syntax):  # which says so
        return through_pydicom(syntax, data, shape)
    try:
        values, meaning = _child(limits).call(
            f"{through_pydicom.__module__}:through_pydicom", syntax, data, shape
        )
    except ImageError as error:
        if error.code == "decoder_crashed":
            raise ImageError("unreadable", "the file is damaged: the process that decoded it died") from None
        raise
    return values, meaning


@cache
def _child(limits: Limits) -> Sandbox:
    """Started with the first such file, and kept; it ends with this process."""
    return Sandbox(limits)
