"""Which bits of a stored sample count, and whether the highest of them is a sign."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xal_ray.images.errors import ImageError

_CLEARLY = 2  # as many leaps of one reading as of the other


def counted_bits(
    values: npt.NDArray[np.number],
    bits: int,
    *,
    signed: bool,
    exact: bool,
    padding: tuple[int, int] | None = None,
) -> tuple[npt.NDArray[np.number], bool]:
    """Return values of so many bits: those above are cleared, or of a negative number set.

    Overlays were kept there (as `PS3.5, 8.1.1` allowed), and some writers leave what was in memory.

    Args:
        values: As decoded: integers; real numbers are left alone.
        bits: How many count.
        signed: The highest of them is a sign.
        exact: They were coded without loss. Else what is too large was made so by the loss, and is cut off.
        padding: The least and the largest value that is no part of the image; it may need all bits.

    Returns:
        The values, and whether there was anything in the bits above.
    """
    width = 8 * values.dtype.itemsize
    if values.dtype.kind not in "iu" or not values.size:
        return values, False
    least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if least <= int(values.min()) and int(values.max()) <= most:
        return values, False
    if not exact:
        return np.clip(values.astype(np.int64), least, most), False
    native = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    raw = native.view(f"u{values.dtype.itemsize}")
    words = raw.view(f"i{values.dtype.itemsize}") if signed else raw
    counted = (raw & ((1 << bits) - 1)).astype(np.int64)
    above = raw >> min(bits, width - 1) if bits < width else np.zeros_like(raw)
    full = (1 << width - bits) - 1
    is_foreign = above != 0
    if signed:
        sign = 1 << bits - 1
        counted = (counted ^ sign) - sign
        is_foreign &= (above != full) | (counted >= 0)  # neither cleared nor the sign's
    if padding is not None:
        is_padding = (words >= padding[0]) & (words <= padding[1])
        counted = np.where(is_padding, words, counted)
        is_foreign &= ~is_padding
    return counted.astype(np.int32 if width < 32 else np.int64), bool(is_foreign.any())


def is_twos_complement(values: npt.NDArray[np.number], bits: int) -> bool:
    """Tell whether values without a sign are negative ones in the guise of large ones, as their header says.

    Read wrongly, a picture leaps by half of the range and more wherever it crosses zero, or its middle. So
    the reading with far fewer leaps between neighbours is the right one.

    Args:
        values: (h, w) or (h, w, n) as decoded, without a sign.
        bits: Of a value.

    Raises:
        ImageError: `header_mismatch`: the picture does not tell.
    """
    half = 1 << bits - 1
    if int(values.max()) < half:
        return True  # both readings are the same
    plain = values.astype(np.int64)
    as_signed, as_unsigned = _leaps((plain ^ half) - half, half), _leaps(plain, half)
    if _CLEARLY * as_signed < as_unsigned:
        return True
    if _CLEARLY * as_unsigned < as_signed:
        return False
    raise ImageError(
        "header_mismatch",
        "the header says that values may be negative, the codestream that they are not",
    )


def _leaps(values: npt.NDArray[np.int64], half: int) -> int:
    """Return how often neighbours differ by half of the range and more."""
    return sum(int(np.count_nonzero(np.abs(np.diff(values, axis=axis)) >= half)) for axis in (0, 1))
