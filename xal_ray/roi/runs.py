"""Masks as runs: COCO's run lengths, column by column, from a list or from its compressed string.

Decoded here, within limits, because pycocotools' C code believes what it reads.

Source: the format of `maskApi.c` (rleFrString, rleToString) of the COCO API.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xal_ray.errors import SourceError

MAX_PIXELS = 64_000_000

_MOST_DIGITS = 7  # of 5 bits: 35, more than any run needs
_DIGIT, _MORE, _SIGN, _FIRST_CHARACTER = 0x1F, 0x20, 0x10, 48

_Integers = npt.NDArray[np.int64]


def rle_to_mask(
    counts: str | bytes | Sequence[int],
    size: tuple[int, int],
    *,
    max_pixels: int = MAX_PIXELS,
    where: str | None = None,
) -> npt.NDArray[np.bool_]:
    """Draw a mask from its run lengths.

    Args:
        counts: The lengths of runs outside, inside, outside, ... down each column, from the left one on:
            a list, or COCO's compressed string.
        size: Height and width, pixels.
        max_pixels: The most that a mask may have.
        where: The file and row that the runs come from, for the message.

    Returns:
        (height, width), true inside.

    Raises:
        SourceError: The runs are malformed or do not fill the frame, or the frame is too large.
    """
    height, width = size
    if height < 1 or width < 1 or height * width > max_pixels:
        raise _malformed(f"a frame of 1 to {max_pixels} pixels", f"{width} x {height}", where)
    compressed = isinstance(counts, str | bytes)
    if len(counts) > 2 * (height * width + 1) * (_MOST_DIGITS if compressed else 1):
        raise _malformed("no more runs than pixels", None, where)
    runs = _decompress(counts, where) if isinstance(counts, str | bytes) else _whole(counts, where)
    if (runs < 0).any() or int(runs.sum()) != height * width or (runs > height * width).any():
        raise _malformed("run lengths from 0 that add up to width x height", None, where)
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def mask_to_counts(mask: npt.NDArray[np.number | np.bool_]) -> list[int]:
    """Return the run lengths of a mask, down each column: outside first, so that the first may be 0.

    Args:
        mask: (h, w); nonzero is inside.
    """
    pixels = (mask != 0).T.reshape(-1)
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    borders = np.concatenate([[0] if pixels[:1].any() else [], [0], changes, [pixels.size]])
    return [int(length) for length in np.diff(borders)]


def compress_counts(counts: Sequence[int]) -> str:
    """Write run lengths as COCO's compressed string.

    From the fourth on, a length is written as its difference from the one before the last. Digits have 5
    bits, the lowest first, and a sixth where more follow; the highest bit of the last is the sign.
    """
    characters = []
    for number, count in enumerate(counts):
        value = count - counts[number - 2] if number > 2 else count
        more = True
        while more:
            digit = value & _DIGIT
            value >>= 5  # of a negative number, too, the sign stays
            more = value != (-1 if digit & _SIGN else 0)
            characters.append(chr((digit | (_MORE if more else 0)) + _FIRST_CHARACTER))
    return "".join(characters)


def _decompress(text: str | bytes, where: str | None) -> _Integers:
    try:
        data = text.encode("ascii") if isinstance(text, str) else text
    except UnicodeEncodeError:
        raise _malformed("characters from '0' to 'o'", None, where) from None
    codes = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - _FIRST_CHARACTER
    if not len(codes) or (codes < 0).any() or (codes > 63).any() or codes[-1] & _MORE:
        raise _malformed("characters from '0' to 'o', the last one without a follower", None, where)
    is_last = (codes & _MORE) == 0
    starts = np.flatnonzero(np.concatenate([[True], is_last[:-1]]))
    lengths = np.diff(np.append(starts, len(codes)))
    if lengths.max() > _MOST_DIGITS:
        raise _malformed(f"runs of at most {_MOST_DIGITS} characters", None, where)
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & _DIGIT) << (5 * place), starts)
    values -= np.where(codes[is_last] & _SIGN, np.int64(1) << (5 * lengths), 0)
    # The first three stand for themselves, later ones for what changes from the one before the last.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _whole(counts: Sequence[int], where: str | None) -> _Integers:
    if not all(type(count) is int and 0 <= count < 2**35 for count in counts):
        raise _malformed("whole numbers from 0", None, where)
    return np.array(counts, dtype=np.int64)


def _malformed(expected: str, found: str | None, where: str | None) -> SourceError:
    return SourceError(
        "the runs of a mask are malformed",
        expected=expected,
        found=found,
        where=where,
        next_step="write the mask again with the tool that made it, or leave it out",
    )
