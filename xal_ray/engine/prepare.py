"""Prepare: source files, decoded once, become a packed pool.

On a disk the pool grows in a hidden folder beside its place and is renamed into it when it is whole, so that
there is never half a pool. An object store can't rename: there it grows in its place, and is a pool from the
moment its card is written, last. Either way a killed prepare goes on from its finished parts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xal_ray import config
from xal_ray.engine.session import decoding_shape, start
from xal_ray.engine.shards import cut, run_shards
from xal_ray.engine.shared import sharing
from xal_ray.errors import InputError, PoolError, SourceError, StorageError
from xal_ray.images import Decoded, ImageError, decode_image, decode_mask, to_training_size
from xal_ray.places import is_remote, place
from xal_ray.pool.card import build_card, count_values, open_prepared, plan_of
from xal_ray.pool.manifest import classes_of, fingerprint
from xal_ray.pool.schema import (
    INDEX_SCHEMA,
    LABEL_SCHEMA,
    ORIGIN_SCHEMA,
    PART_SCHEMA,
    QUARANTINE_SCHEMA,
    ROW_GROUP_SIZE,
    PoolReader,
    open_pool,
)
from xal_ray.pool.sources import phantom, read_source
from xal_ray.pool.splits import assign_splits
from xal_ray.progress import Reporter
from xal_ray.roi import boxes_to_grid, check_boxes, check_mask, mask_to_grid, pack_coverage
from xal_ray.storage import (
    disk_errors,
    is_empty,
    read_json,
    read_shards,
    remove_tree,
    sha256_bytes,
    write_json,
    write_table,
)

# What the folder of a growing pool is bound to: a part made under other settings must not be reused.
_PLAN = "plan.json"
# A part's index rows and quarantine rows wait in these folders until they are merged.
_ROWS, _ORIGINS, _REFUSED = "rows", "origins", "refused"


def prepare(
    settings: config.Pool,
    out: Path,
    resources: config.Ray,
    reporter: Reporter,
    *,
    verbose: bool = False,
) -> PoolReader:
    """Make a packed pool, or open the one that is there if it was made with the same settings.

    Args:
        settings: Source, size, splits and limits.
        out: The pool's folder.
        resources: Actors and CPUs.
        reporter: Hears about progress.
        verbose: Let Ray speak.

    Raises:
        SourceError: The manifest, its images, masks or boxes are wrong.
        PoolError: `out` holds something else.
        StorageError: The disk refused.
    """
    if (out / "card.json").exists():
        if is_remote(out) and (out / _PLAN).exists():
            _clear_away(out)  # a call was killed when all but this was done
        return open_prepared(settings, out)
    if not is_empty(out) and not (is_remote(out) and (out / _PLAN).exists()):
        raise PoolError(
            "the pool's folder holds something else",
            where=str(out),
            next_step="give another --out (or pool.path), or remove the folder",
        )
    manifest = assign_splits(read_source(settings), settings.splits).sort_by("image_id")
    classes = classes_of(manifest, settings.classes)
    partial = _open_partial(settings, manifest, out)
    try:
        start(resources, verbose=verbose)
        shards = cut(manifest, partial / _ROWS, settings.rows_per_part)
        with sharing([partial], resources):
            run_shards(
                "decoding",
                shards,
                PackShard,
                {"settings": settings, "folder": partial},
                decoding_shape(resources),
                reporter,
                resources,
            )
        _finish(settings, manifest, classes, partial, reporter)
    except StorageError:
        raise  # the finished parts are good: the same command goes on with them
    except InputError:
        _discard(partial)
        raise
    if not is_remote(out):
        with disk_errors(out):
            if out.exists():
                out.rmdir()
            partial.rename(out)
    return open_pool(out)


class PackShard:
    """The work of a decoding actor: manifest rows to a part, its index rows and its quarantine rows."""

    def __init__(self, settings: config.Pool, folder: Path) -> None:
        self.settings = settings
        self.folder = folder

    def __call__(self, path: Path, rows: pa.Table, refused: Mapping[str, str] | None = None) -> None:
        """Decode the rows of a part. The index rows are written last: they say that the part is done.

        Rows that are refused (image_id to error code) go into quarantine unseen.
        """
        part = int(path.stem)
        packed: list[dict[str, Any]] = []
        quarantine: list[dict[str, str]] = []
        for row in rows.to_pylist():
            try:
                if refused and row["image_id"] in refused:
                    raise ImageError(refused[row["image_id"]], "the process that decoded it died of it")
                packed.append(_pack(row, self.settings))
            except ImageError as error:
                quarantine.append(
                    {
                        "image_id": row["image_id"],
                        "uri": row["uri"],
                        "stage": "decode",
                        "error_code": error.code,
                        "detail": error.detail,
                    }
                )
        for number, row in enumerate(packed):
            row["part"], row["row"] = part, number
        write_table(
            self.folder / "parts" / path.name,
            _table(packed, PART_SCHEMA),
            plain=["pixels"],
            row_group_size=ROW_GROUP_SIZE,
        )
        write_table(self.folder / _REFUSED / path.name, _table(quarantine, QUARANTINE_SCHEMA))
        write_table(self.folder / _ORIGINS / path.name, _table(packed, ORIGIN_SCHEMA))
        write_table(path, _table(packed, INDEX_SCHEMA))

    def probe(self, rows: pa.Table) -> None:
        """Decode, and write nothing."""
        for row in rows.to_pylist():
            with suppress(ImageError):
                _pack(row, self.settings)


def _pack(row: dict[str, Any], settings: config.Pool) -> dict[str, Any]:
    """Decode one manifest row into the columns of the part and of the index."""
    size = settings.image_size
    decoded = _decode(row, settings)
    image = decoded.image
    pixels = to_training_size(image.pixels, size, settings.channels, image.box).tobytes()
    roi = None if decoded.roi is None else pack_coverage(decoded.roi)
    height, width = image.frame
    return {
        **row,
        "width": width,
        "height": height,
        "pixels": pixels,
        "roi": roi,
        "content_sha256": sha256_bytes(pixels + (roi or b"")),
    }


@dataclass(frozen=True)
class _ImageAndRoi:
    image: Decoded
    roi: npt.NDArray[np.float32] | None  # (size, size) coverage


def _decode(row: dict[str, Any], settings: config.Pool) -> _ImageAndRoi:
    size = settings.image_size
    if row["uri"].startswith(phantom.SCHEME):
        drawn, roi = phantom.draw(row, settings.source.phantom, size)
        return _ImageAndRoi(Decoded(drawn, (size, size)), roi)
    grey = settings.channels == 1
    image = decode_image(place(row["uri"]), settings.limits, at_least=size, grey=grey)
    frame = image.frame
    if row["mask_uri"]:
        mask = decode_mask(place(row["mask_uri"]), settings.limits)
        check_mask(mask, frame, where=f"image_id {row['image_id']}, mask {row['mask_uri']}")
        return _ImageAndRoi(image, mask_to_grid(mask.astype(np.float32), (size, size)))
    if row["boxes"]:
        boxes = np.asarray(row["boxes"], dtype=np.float64)
        check_boxes(boxes, frame, where=f"image_id {row['image_id']}")
        return _ImageAndRoi(image, boxes_to_grid(boxes, frame, (size, size)))
    return _ImageAndRoi(image, None)


def _discard(partial: Path) -> None:
    """Remove the growing pool; an actor that is being ended may still finish a file in it."""
    for _ in range(10):
        with suppress(StorageError):
            remove_tree(partial, last=_PLAN)
        time.sleep(0.1)
        if not partial.exists():
            return


def _finish(
    settings: config.Pool, manifest: pa.Table, classes: tuple[str, ...], partial: Path, reporter: Reporter
) -> None:
    """Merge what the parts left, check the whole, and write the card last."""
    index = read_shards(partial / _ROWS, INDEX_SCHEMA)
    quarantine = read_shards(partial / _REFUSED, QUARANTINE_SCHEMA)
    _check_errors(quarantine, manifest.num_rows, settings.limits)
    hidden = index.filter(pc.and_(pc.equal(index["split"], "pool"), pc.is_valid(index["label"])))
    write_table(partial / "hidden_labels.parquet", hidden.select(LABEL_SCHEMA.names).cast(LABEL_SCHEMA))
    write_table(partial / "origins.parquet", read_shards(partial / _ORIGINS, ORIGIN_SCHEMA))
    write_table(partial / "quarantine.parquet", quarantine)
    write_table(partial / "index.parquet", _without_hidden_labels(index))
    card = build_card(settings, index, quarantine, classes)
    write_json(partial / "card.json", card)
    _clear_away(partial)
    if card["duplicates_across_splits"]:
        reporter.line(
            f"warning: {card['duplicates_across_splits']} images stand in more than one split, "
            "pixel for pixel"
        )


def _clear_away(pool: Path) -> None:
    """Remove what a whole pool needs no longer; the plan goes last, as the sign that there is something."""
    for folder in (_ROWS, _ORIGINS, _REFUSED):
        remove_tree(pool / folder)
    (pool / _PLAN).unlink()


def _without_hidden_labels(index: pa.Table) -> pa.Table:
    """The index as the loop may see it: without the labels of the unlabelled rows."""
    visible = pc.if_else(pc.equal(index["split"], "pool"), pa.scalar(None, pa.string()), index["label"])
    return index.set_column(index.schema.get_field_index("label"), INDEX_SCHEMA.field("label"), visible)


def _check_errors(quarantine: pa.Table, total: int, limits: config.Limits) -> None:
    if quarantine.num_rows > limits.max_error_fraction * total:
        first = quarantine.slice(0, 3).to_pylist()
        raise SourceError(
            "too many images can't be decoded",
            expected=f"at most {limits.max_error_fraction:.1%} of {total} (pool.limits.max_error_fraction)",
            found=f"{quarantine.num_rows}: {count_values(quarantine['error_code'])}",
            where="; ".join(f"{row['uri']} ({row['error_code']}: {row['detail']})" for row in first),
            next_step="repair or remove these files, or raise pool.limits.max_error_fraction",
        )


def _open_partial(settings: config.Pool, manifest: pa.Table, out: Path) -> Path:
    """The folder in which the pool grows; what was begun under another plan is thrown away."""
    partial = out if is_remote(out) else out.parent / f".{out.name}.partial"
    rows = fingerprint(manifest)
    plan = {"settings": plan_of(settings), "manifest": rows}
    known = (partial / _PLAN).exists() and read_json(partial / _PLAN) == plan
    if not known:
        remove_tree(partial, last=_PLAN)
        write_json(partial / _PLAN, plan)
    return partial


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema=schema)
