"""The work of a decoding actor: manifest rows become a part of the pool."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from xal_ray import config
from xal_ray.errors import StageError, StorageError
from xal_ray.images import ImageError
from xal_ray.images.sandbox import Sandbox
from xal_ray.pool.layout import PoolLayout
from xal_ray.pool.manifest import Row
from xal_ray.pool.perceptual_hash import perceptual_hash
from xal_ray.pool.reading import READ_ROW, ReadImage, read_row
from xal_ray.pool.reading.files import KEPT
from xal_ray.pool.schema import (
    ATTRIBUTE_SCHEMA,
    INDEX_SCHEMA,
    ORIGIN_SCHEMA,
    PART_SCHEMA,
    QUARANTINE_SCHEMA,
    ROW_GROUP_SIZE,
)
from xal_ray.pseudonyms import Pseudonyms
from xal_ray.roi import pack_coverage
from xal_ray.storage import digest, read_json, sha256_bytes, write_table

# The index of a part before splits are dealt.
ROW_SCHEMA = pa.schema(
    [field.with_nullable(True) if field.name == "split" else field for field in INDEX_SCHEMA]
)


@dataclass(frozen=True)
class Binding:
    """Holds what shows an actor that the pool which grows is still the one that it works for.

    Attributes:
        path: The plan that the growing pool is bound to.
        plan: Its digest.
        call: Of which call it is: what an actor remembers of files that an earlier one read may be old.
    """

    path: Path
    plan: str
    call: str

    def check(self) -> None:
        """Look again, right before something is written.

        Raises:
            StageError: Another process makes a pool here now: the one of this actor was killed or cut off.
        """
        with suppress(StorageError):
            if digest(read_json(self.path)) == self.plan:
                return
        raise StageError(
            "the pool that grows here is another process's now",
            where=str(self.path.parent),
            next_step="let that process go on; or wait for it, and run the same command again",
        )


class PackShard:
    """Reads manifest rows and writes a part, and what the pool's tables will say of it.

    Args:
        settings: Size, channels, limits.
        folder: The growing pool.
        pseudonyms: Needed where headers tell the groups.
        binding: What is made sure of before a part is written.
    """

    def __init__(
        self,
        settings: config.Pool,
        folder: Path,
        pseudonyms: Pseudonyms | None = None,
        binding: Binding | None = None,
    ) -> None:
        self.settings = settings
        self.binding = binding
        self.layout = PoolLayout(folder)
        self.pseudonyms = pseudonyms
        KEPT.forget()  # of a pool that this process read before
        self.child = Sandbox(settings.limits) if settings.limits.strict else None

    def __call__(self, path: Path, rows: pa.Table, refused: Mapping[str, str] | None = None) -> None:
        """Read the rows of a part. The index rows are written last: they say that the part is done.

        Rows that are refused (image_id to error code) go into quarantine unseen.
        """
        part = int(path.stem)
        packed: list[dict[str, Any]] = []
        quarantine: list[dict[str, str]] = []
        for row in rows.to_pylist():
            try:
                if refused and row["image_id"] in refused:
                    raise ImageError(refused[row["image_id"]], "the process that decoded it died of it")
                packed += [_pack(row, image, self.pseudonyms) for image in self._read(row)]
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
        if self.binding is not None:
            self.binding.check()
        write_table(
            self.layout.part(part),
            _table(packed, PART_SCHEMA),
            plain=["pixels"],
            row_group_size=ROW_GROUP_SIZE,
        )
        write_table(self.layout.refused_of_parts / path.name, _table(quarantine, QUARANTINE_SCHEMA))
        write_table(self.layout.origins_of_parts / path.name, _table(packed, ORIGIN_SCHEMA))
        write_table(self.layout.attributes_of_parts / path.name, _table(packed, ATTRIBUTE_SCHEMA))
        write_table(path, _table(packed, ROW_SCHEMA))

    def probe(self, rows: pa.Table) -> None:
        """Read, and write nothing."""
        for row in rows.to_pylist():
            with suppress(ImageError):
                self._read(row)

    def _read(self, row: Row) -> list[ReadImage]:
        # The key of the pseudonyms stays here: a child may be in the hands of a file.
        if self.child is None:
            return read_row(row, self.settings)
        images: list[ReadImage] = self.child.call(READ_ROW, row, self.settings)
        return images


def _pack(row: Row, image: ReadImage, pseudonyms: Pseudonyms | None) -> dict[str, Any]:
    """Return the columns of an image in all the pool's tables."""
    pixels = image.pixels.tobytes()
    roi = None if image.roi is None else pack_coverage(image.roi)
    height, width = image.frame
    return {
        **row,
        **image.columns(pseudonyms),
        "width": width,
        "height": height,
        "pixels": pixels,
        "roi": roi,
        "content_sha256": sha256_bytes(pixels + (roi or b"")),
        "likeness": perceptual_hash(image.pixels),
        "burned_in": image.burned_in,
        "remarks": list(image.remarks),
        "is_part": bool(row["reader"] or row["channel_uris"]),
    }


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema=schema)
