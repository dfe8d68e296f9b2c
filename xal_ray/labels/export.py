"""Export: what a reader needs to label a round's picks, and nothing more."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from xal_ray.errors import ConfigError, StorageError
from xal_ray.places import place
from xal_ray.pool.schema import PoolReader
from xal_ray.storage import read_table, write_bytes

COLUMNS = ("rank", "image_id", "file", "utility", "reason", "label")
# A cell that begins with one of these is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export_selection(folder: Path, pool: PoolReader, selection: pa.Table) -> Path:
    """Write `selection.csv`, with an empty `label` column, and the picked images beside it.

    An image is the original file where it can still be read, else the packed pixels as PNG.

    Args:
        folder: Where to.
        pool: The pool that the picks are from.
        selection: `SELECTION_SCHEMA`.

    Returns:
        The path of `selection.csv`, which is written last.

    Raises:
        StorageError: The disk refused.
    """
    table = folder / "selection.csv"
    if table.exists():
        return table
    index = pool.index()
    index = index.filter(pc.is_in(index["image_id"], selection["image_id"].combine_chunks()))
    rows = {row["image_id"]: row for row in index.to_pylist()}
    origins = read_table(pool.path / "origins.parquet")
    uris = dict(zip(origins["image_id"].to_pylist(), origins["uri"].to_pylist(), strict=True))
    lines = []
    for pick in selection.to_pylist():
        file = _export_image(folder, pool, rows[pick["image_id"]], uris[pick["image_id"]], pick["rank"])
        lines.append({**pick, "utility": f"{pick['utility']:.6g}", "file": file, "label": ""})
    write_bytes(table, _csv(lines).encode())
    return table


def _export_image(folder: Path, pool: PoolReader, row: dict[str, object], uri: str, rank: int) -> str:
    safe_id = re.sub(r"[^A-Za-z0-9._-]", "_", str(row["image_id"]))[:80]
    original = _original(uri)
    if original is not None:
        name = f"{rank:04d}_{safe_id}{original.suffix.lower()}"
        write_bytes(folder / name, original.read_bytes())
        return name
    name = f"{rank:04d}_{safe_id}.png"
    pixels = pool.read_rows(pa.Table.from_pylist([row])).pixels[0]
    png = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pool.channels == 1 else pixels).save(png, format="PNG")
    write_bytes(folder / name, png.getvalue())
    return name


def _original(uri: str) -> Path | None:
    """The original file, where it is there and may be read."""
    try:
        path = place(uri)
        return path if path.is_file() else None
    except (ConfigError, StorageError):
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
