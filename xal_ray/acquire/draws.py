"""Draws that belong to an image alone: a hash of what is drawn for, a seed, and the image's id.

They do not depend on the other images, on the order of rows, or on how a table is cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

Digest = Callable[[str], bytes]


def digests(purpose: str, seed: int) -> Digest:
    """A function from an image_id to 32 bytes, uniform and independent for other purposes and seeds."""
    seeded = hashlib.sha256(f"{purpose}\x1f{seed}\x1f".encode())

    def digest(image_id: str) -> bytes:
        state = seeded.copy()
        state.update(image_id.encode())
        return state.digest()

    return digest


def uniform(digest: Digest, image_ids: Iterable[str]) -> npt.NDArray[np.float64]:
    """(n,) numbers in [0, 1), every step a float64: the leading 53 bits of the ids' digests."""
    bits = np.frombuffer(b"".join(digest(image_id)[:8] for image_id in image_ids), dtype=">u8")
    return (bits.astype(np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53
