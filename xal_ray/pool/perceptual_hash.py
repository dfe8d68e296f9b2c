"""The perceptual hash of a picture: 256 bits that survive re-encoding, other sizes, other contrast."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

NUM_BYTES = 32

_SAMPLES = 64  # the picture is averaged to so many cells a side
_WAVES = 24  # cosines a side, of which the 256 lowest are kept
_MIN_CONTRAST = 2.0  # grey levels: flatter pictures are like everything
_NOTHING = 1e-4  # of the largest coefficient: what is smaller is rounding
_LUMA = np.array([0.299, 0.587, 0.114])

Codes = npt.NDArray[np.uint8]  # (n, 32)


def perceptual_hash(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Hash a picture by what it looks like.

    The picture is averaged to 64 x 64 cells and written as cosines: F = C S Cᵀ. A bit is the sign of one of
    the 256 coefficients of lowest frequency, the mean left out: neither brightness nor contrast counts.

    Args:
        pixels: (h, w, c) uint8 with c of 1 or 3.

    Returns:
        32 bytes; all zero for a picture without contrast, which is like nothing.

    Source:
        Zauner, "Implementation and benchmarking of perceptual image hash functions" (2010): the hash by the
        discrete cosine transform, here with more coefficients and a threshold of zero.
    """
    grey = pixels[..., 0].astype(np.float64) if pixels.shape[2] == 1 else pixels @ _LUMA
    waves = _averaging_cosines(grey.shape[0]) @ grey @ _averaging_cosines(grey.shape[1]).T
    waves[0, 0] = 0.0
    if np.sqrt(np.square(waves).sum()) / _SAMPLES < _MIN_CONTRAST:
        return bytes(NUM_BYTES)
    rows, columns = _lowest()
    return np.packbits(waves[rows, columns] > _NOTHING * np.abs(waves).max()).tobytes()


@lru_cache(maxsize=8)
def _averaging_cosines(length: int) -> npt.NDArray[np.float64]:
    """(24, length): averages `length` pixels to 64 cells, and those to orthonormal cosines."""
    edges = np.linspace(0.0, length, _SAMPLES + 1)
    pixels = np.arange(length)
    low, high = edges[:-1, None], edges[1:, None]
    overlap = np.clip(np.minimum(pixels + 1, high) - np.maximum(pixels, low), 0.0, None)
    average = overlap / (high - low)
    angles = np.pi * np.arange(_WAVES)[:, None] * (2 * np.arange(_SAMPLES) + 1) / (2 * _SAMPLES)
    norms = np.sqrt(np.where(np.arange(_WAVES) == 0, 1, 2) / _SAMPLES)
    cosines: npt.NDArray[np.float64] = norms[:, None] * np.cos(angles) @ average
    return cosines


@lru_cache(maxsize=1)
def _lowest() -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return where the 256 lowest coefficients stand, shuffled: each byte holds low and high ones alike."""
    grid = [(row + column, row, column) for row in range(_WAVES) for column in range(_WAVES)]
    positions = np.array(sorted(grid)[1 : 8 * NUM_BYTES + 1])
    positions = positions[np.random.default_rng(0).permutation(len(positions))]
    return positions[:, 1], positions[:, 2]


def codes_of(hashes: pa.ChunkedArray) -> Codes:
    """Return a column of hashes as (n, 32) bytes."""
    if len(hashes) == 0:
        return np.zeros((0, NUM_BYTES), dtype=np.uint8)
    chunks = [np.frombuffer(chunk.buffers()[1], np.uint8) for chunk in hashes.chunks if len(chunk)]
    starts = [(chunk.offset, len(chunk)) for chunk in hashes.chunks if len(chunk)]
    return np.concatenate(
        [
            values[start * NUM_BYTES : (start + count) * NUM_BYTES].reshape(count, NUM_BYTES)
            for values, (start, count) in zip(chunks, starts, strict=True)
        ]
    )
