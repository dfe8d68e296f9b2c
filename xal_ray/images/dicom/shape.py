"""Says what the header of a DICOM file says of its pixels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FrameShape:
    """Holds what a header says of its pixels, within limits.

    Attributes:
        frames: Of the file.
        samples: Of a pixel: 1 or 3.
        allocated: Bits that a stored sample takes.
        stored: Bits of it that count.
        signed: Whether samples may be negative.
        planar: Whether colours lie in planes.
        photometric: What samples mean, as the standard words it.
    """

    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    planar: bool
    photometric: str

    @property
    def num_samples(self) -> int:
        """Samples of a frame."""
        return self.rows * self.columns * self.samples
