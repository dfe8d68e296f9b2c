"""Export: what an annotator needs to label a round's picks, and nothing more."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from xal_ray import config
from xal_ray.errors import ConfigError, StorageError
from xal_ray.images import ImageError, Pixels, decode_image
from xal_ray.places import place
from xal_ray.pool.schema import PoolReader
from xal_ray.record.layout import TO_LABEL_TABLE
from xal_ray.storage import read_table, write_bytes

COLUMNS = ("rank", "image_id", "file", "utility", "reason", "label")
# A cell that begins with one of these is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export_selection(folder: Path, pool: PoolReader, selection: pa.Table) -> Path:
    """Write `selection.csv`, with an empty `label` column, and the picked images beside it.

    An image is a PNG of its original at full size, as the tool sees it, without what else the file says: the
    header of a DICOM file names its patient. Where the original can't be read any more, or is a slice of a
    case, the packed pixels are stretched to its size, so that a mask drawn on it fits.

    Args:
        folder: Where to.
        pool: The pool that the picks are from.
        selection: `SELECTION_SCHEMA`.

    Returns:
        The path of `selection.csv`, which is written last.

    Raises:
        StorageError: The disk refused.
    """
    table = folder / TO_LABEL_TABLE
    if table.exists():
        return table
    index = pool.index()
    index = index.filter(pc.is_in(index["image_id"], selection["image_id"].combine_chunks()))
    rows = {row["image_id"]: row for row in index.to_pylist()}
    origins = read_table(pool.layout.origins)
    origins = origins.filter(pc.is_in(origins["image_id"], selection["image_id"].combine_chunks()))
    origin_of = {row["image_id"]: row for row in origins.to_pylist()}
    lines = []
    for pick in selection.to_pylist():
        image_id = pick["image_id"]
        file = _export_image(folder, pool, rows[image_id], origin_of[image_id], pick["rank"])
        lines.append({**pick, "utility": f"{pick['utility']:.6g}", "file": file, "label": ""})
    write_bytes(table, _csv(lines).encode())
    return table


def _export_image(
    folder: Path, pool: PoolReader, row: dict[str, Any], origin: dict[str, Any], rank: int
) -> str:
    safe_id = re.sub(r"[^A-Za-z0-9._-]", "_", str(row["image_id"]))[:80]
    name = f"{rank:04d}_{safe_id}.png"
    pixels = _original(origin, pool)
    if pixels is None or pixels.shape[:2] != (row["height"], row["width"]):
        pixels = pool.read_rows(pa.Table.from_pylist([row])).pixels[0].squeeze()
    picture = Image.fromarray(pixels).resize((row["width"], row["height"]), Image.Resampling.BILINEAR)
    png = io.BytesIO()
    picture.save(png, format="PNG")
    write_bytes(folder / name, png.getvalue())
    return name


def _original(origin: dict[str, Any], pool: PoolReader) -> Pixels | None:
    """Return the original's pixels at full size, where it is one image in a file that can still be read."""
    if origin["is_part"]:
        return None
    made = pool.card["settings"]
    try:
        return decode_image(
            place(origin["uri"]),
            config.Limits(),
            frame=origin["frame"],
            dicom=config.Dicom(**made["dicom"]),
            nifti=config.Nifti(**made["nifti"]),
        ).pixels
    except (ConfigError, StorageError, ImageError):
        return None


def _csv(lines: list[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({name: _cell(value) for name, value in line.items()})
    return text.getvalue()


def _cell(value: object) -> str:
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
