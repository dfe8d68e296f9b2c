"""The one way in which a file can be unusable, and what turns a decoder's complaint into it.

Nothing that a file holds is ever quoted: headers may name a patient. So warnings and log records of the
decoders are dropped, and their exceptions are told by type only.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from PIL import Image

from xal_ray.errors import XalRayError

ErrorCode = Literal[
    "missing_file",
    "file_too_large",
    "too_many_pixels",
    "too_many_voxels",
    "too_many_frames",
    "unsupported_format",
    "unsupported_transfer_syntax",
    "several_frames",
    "no_such_frame",
    "no_pixels",
    "header_mismatch",
    "truncated",
    "unreadable",
    "out_of_memory",
    "timeout",
    "decoder_crashed",
]

_LOGGERS = ("pydicom", "pylibjpeg", "openjpeg", "jpeg_ls", "PIL", "nibabel", "h5py")


class ImageError(Exception):
    """An image or mask file that can't be used.

    Args:
        code: A stable word for tables and tests.
        detail: One sentence for people; it never holds anything that was read from the file.
    """

    def __init__(self, code: ErrorCode | str, detail: str) -> None:
        super().__init__(code, detail)  # both in `args`, so that it survives pickling
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


@contextmanager
def decoding() -> Iterator[None]:
    """Within, whatever a decoder raises becomes an `ImageError`, and nothing it says is heard.

    Raises:
        ImageError: The file is damaged, promises too much, or does not fit into memory.
    """
    try:
        with _silence():
            yield
    except (ImageError, XalRayError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError("too_many_pixels", "the header promises more pixels than Pillow allows") from None
    except Exception as error:  # damaged files make decoders raise nearly anything
        if isinstance(error, MemoryError) or "out of memory" in str(error):  # Pillow's decoders say it so
            raise ImageError("out_of_memory", "the pixels do not fit into memory") from None
        if isinstance(error, EOFError) or "truncated" in str(error):
            raise ImageError("truncated", "the file ends before its pixels do") from None
        raise ImageError("unreadable", f"the file is damaged ({type(error).__name__})") from None


@contextmanager
def _silence() -> Iterator[None]:
    """Drop what decoders warn and log; of Pillow's warnings, that of a bomb becomes an error."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    # Records of the loggers below these end here too.
    for logger in loggers:
        logger.handlers, logger.propagate = [logging.NullHandler()], False
    try:
        with warnings.catch_warnings(action="ignore"):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
