"""The record of each row reader: what makes images of a manifest row that is not one image in one file."""

from __future__ import annotations

from dataclasses import dataclass

from xal_ray.registry.lookup import Entry, Registry


@dataclass(frozen=True, kw_only=True)
class RowReaderSpec(Entry):
    """Holds what is known of a row reader without loading its code.

    The code is a function `(row, pool)`, which gives the images of a manifest row
    (`xal_ray.pool.reading.ReadImage`) in the order of their ids.

    Attributes:
        makes_many: A row is a case, of which any number of images may come; their ids are the case's with a
            slash and a name behind it. Otherwise it is one image.
    """

    makes_many: bool = False


FILES = "files"  # where a row names none
_HERE = "xal_ray.pool.reading"
ROW_READERS = Registry(
    RowReaderSpec,
    "row_reader",
    "xal_ray.row_readers",
    (
        RowReaderSpec(
            name=FILES, path=f"{_HERE}.files:read", words="an image in a file, or in a file a channel"
        ),
        RowReaderSpec(
            name="brats",
            path=f"{_HERE}.brats:read",
            words="a BraTS case: the volumes of a patient, opened once, become slices",
            makes_many=True,
        ),
        RowReaderSpec(
            name="cheng",
            path=f"{_HERE}.cheng:read",
            words="a .mat file, which tells its own label and patient",
        ),
    ),
)
