"""The pool's card: what a packed pool says of itself, and what it is bound to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray import config
from xal_ray.errors import PoolError
from xal_ray.pool.breakdown import break_down
from xal_ray.pool.card_content import BurnedIn, Excluded, MadeFrom, PoolCard, SimilarImages
from xal_ray.pool.layout import WARNINGS
from xal_ray.pool.leakage import (
    describe_look_alikes,
    few_groups_warnings,
    find_look_alikes,
    find_two_classes,
    overlap_notes,
    two_classes_warning,
)
from xal_ray.pool.remarks import count_remarks
from xal_ray.pool.schema import QUARANTINE_SCHEMA, SCHEMA_VERSION, PoolReader, open_pool
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.pool.warnings_table import count_kinds, sentences, warned_of_reading, warned_table
from xal_ray.registry.row_readers import ROW_READERS
from xal_ray.registry.sources import OPTIONS, SOURCES
from xal_ray.storage import digest, sha256_file

_NUM_EXAMPLES = 3  # of pictures that look alike

REASONS = {
    "several_findings": "show several of the findings that make the classes",
    "other_findings": "show findings, but none of those that make the classes",
    "no_finding": "show no finding, and that is no class",
    "undecided": "are ones on which the readers do not agree enough",
    "missing_file": "are named by the source, but their file is not there",
    "no_file_name": "are named by the source without an id or a file name",
    "not_in_csv": "are files of which the source's tables say nothing",
    "no_original_size": "are resized copies of an original whose size is not told",
    "no_mask": "are cases without a mask",
    "no_grade": "are cases whose grade is not told",
    "no_group": "name neither a patient nor a study",
    "file_too_large": "are larger files than the limits allow",
    "too_many_pixels": "hold more pixels than the limits allow",
    "too_many_voxels": "hold more voxels than the limits allow",
    "too_many_frames": "hold more frames than the limits allow",
    "several_frames": "hold several frames, and none was chosen",
    "no_such_frame": "do not hold the frame that was chosen",
    "no_pixels": "hold no picture",
    "unsupported_format": "are of a format that is not read",
    "unsupported_transfer_syntax": "are coded in a way that this machine does not decode",
    "header_mismatch": "say one thing in their header and hold another",
    "frame_mismatch": "have parts or regions that do not fit each other in size",
    "not_annotated": "are ones that nobody has looked at",
    "unknown_label": "have a class with a number that means nothing",
    "roi_mismatch": "have a region that does not fit them",
    "unknown_mask_label": "have a mask with numbers that mean nothing",
    "truncated": "end before their picture does",
    "unreadable": "can't be read",
    "out_of_memory": "take more memory to read than the limits allow",
    "timeout": "take longer to read than the limits allow",
    "decoder_crashed": "made their decoder crash",
    "crashed": "made the process that read them crash",
}

BURNED_IN = (
    "of the images say in their header that text is burned into the picture: a name, perhaps. xal-ray does "
    "not de-identify: it packs pictures as they are, and shows them in reports. Look at these before you "
    "share anything"
)


def open_prepared(settings: config.Pool, path: Path, *, pseudonym_key_id: str | None = None) -> PoolReader:
    """Open a pool and check that it was made with these settings, and from their manifest as it is now.

    Args:
        settings: What it should have been made with.
        path: The pool's folder.
        pseudonym_key_id: Which key its pseudonyms should be of; None: whichever it was.

    Raises:
        PoolError: It was made with others, from another manifest, or with another key.
    """
    pool = open_pool(path)
    source = settings.source
    is_gone = source.path is not None and not source.path.exists()
    if source.kind is None and (source.path is None or is_gone):
        return pool  # a packed pool stands alone
    if not is_gone and pool.card["source"]["manifest_sha256"] != _manifest_hash(source):
        raise PoolError(
            "the manifest has changed since the pool was prepared from it",
            where=f"{path}, made from {source.path}",
            next_step="give another pool.path for the new manifest, or remove the folder to prepare it again",
        )
    if pseudonym_key_id is not None:
        _check_key(pool, pseudonym_key_id)
    made = pool.card["settings"]
    wanted = plan_of(settings)
    differing = [key for key in (*wanted, "raster") if made.get(key) != wanted.get(key)]
    if differing:
        key = differing[0]
        raise PoolError(
            "the pool here was prepared with other settings",
            expected=f"pool.{key}: {wanted.get(key)}",
            found=f"pool.{key}: {made.get(key)}",
            where=str(path),
            next_step="give another pool.path, or remove the folder to prepare it again",
        )
    for name, version in pool.card["source"].get("readers", {}).items():
        if (found := ROW_READERS[name].identity) != version:
            raise PoolError(
                "the code that read the images has changed since the pool here was prepared",
                expected=f"the row reader {found}",
                found=f"the row reader {version}",
                where=str(path),
                next_step="give another pool.path, or remove the folder to prepare it again",
            )
    return pool


def plan_of(settings: config.Pool) -> dict[str, Any]:
    """Return the settings that a packed pool depends on, wherever its source lies."""
    chosen = settings.source
    kind = chosen.kind
    if kind is None and chosen.path is not None:
        kind = chosen.resolved_kind()
    plan = settings.model_dump(mode="json", exclude={"path", "limits", "source", "compare_with"})
    if settings.raster == config.Raster():
        del plan["raster"]  # where it is used only, so that pools from before are the same
    if kind is None:
        return {**plan, "source": {"kind": None}}
    spec = SOURCES[kind]
    read = chosen.model_dump(mode="json", include=set(spec.settings))
    if not chosen.options:
        read.pop(OPTIONS, None)
    return {**plan, "source": {"kind": spec.identity, **read}}


def readers_of(manifest: pa.Table) -> dict[str, str]:
    """Return which code of other packages reads a manifest's rows, by the names that it has for it."""
    specs = {name: ROW_READERS[name] for name in manifest["reader"].drop_null().unique().to_pylist()}
    return {name: spec.identity for name, spec in specs.items() if spec.origin is not None}


def refused_of(listing: Listing) -> pa.Table:
    """Return the images that a source refused, as rows of the quarantine."""
    rows = [{**asdict(each), "stage": "source"} for each in listing.refused]
    return pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA)


def find_warned(listing: Listing, index: pa.Table, attributes: pa.Table) -> pa.Table:
    """Return all that a pool's warnings are about: the content of its `warnings.parquet`.

    Args:
        listing: What the source knew.
        index: The pool's rows, all labels included.
        attributes: What reading noticed, and what the images look like.
    """
    return warned_table(
        [
            *listing.warned,
            *warned_of_reading(attributes),
            *find_look_alikes(index, attributes).warned("look_alike"),
            *find_two_classes(index, attributes).warned("two_classes"),
        ]
    )


def build_card(
    settings: config.Pool,
    index: pa.Table,
    quarantine: pa.Table,
    classes: tuple[str, ...],
    listing: Listing,
    attributes: pa.Table,
    pseudonym_key_id: str | None,
    warned: pa.Table,
) -> PoolCard:
    """Return what a pool says of itself.

    Args:
        settings: What it was made with.
        index: Its rows, all labels included.
        quarantine: The rows that were left out.
        classes: The class names.
        listing: What the source knew.
        attributes: What is known of the rows, and what they look like.
        pseudonym_key_id: Which key made the pseudonyms; None where no header was asked.
        warned: What warnings are about (`find_warned`).

    Returns:
        The content of `card.json`.
    """
    groups = index.group_by("split").aggregate([("group_id", "count_distinct")])
    content = index.select(
        ["image_id", "group_id", "split", "label", "roi_state", "content_sha256"]
    ).to_pylist()
    source = settings.source
    remarks = count_remarks(attributes)
    kinds = count_kinds(warned)
    return {
        "schema_version": SCHEMA_VERSION,
        "classes": list(classes),
        "image_size": settings.image_size,
        "channels": settings.channels,
        "num_rows": index.num_rows,
        "counts": count_values(index["split"]),
        "num_groups": dict(
            zip(groups["split"].to_pylist(), groups["group_id_count_distinct"].to_pylist(), strict=True)
        ),
        "class_counts": count_values(pc.drop_null(index["label"])),
        "roi": count_values(index["roi_state"]),
        "num_quarantined": quarantine.num_rows,
        "exclusions": count_values(quarantine["error_code"]),
        "excluded": _excluded(listing.excluded, count_values(quarantine["error_code"])),
        "breakdown": break_down(index, attributes),
        "group_by": settings.group_by,
        "pseudonym_key_id": pseudonym_key_id,
        "data_set": listing.data_set,
        "notes": [*listing.notes, *sentences(kinds), *(remark["warning"] for remark in remarks.values())],
        "remarks": remarks,
        "warned": {"file": WARNINGS, "counts": kinds},
        "agreement": dict(listing.agreement),
        "overlaps": overlap_notes(listing.data_set),
        "duplicates_across_splits": _equal_across_splits(index),
        "near_duplicates_across_splits": _look_alikes(warned, "look_alike"),
        "near_duplicates_of_two_classes": _look_alikes(warned, "two_classes"),
        "burned_in": _burned_in(attributes),
        "source": _made_from(source, listing),
        "settings": plan_of(settings),
        "content_hash": digest({"classes": list(classes), "rows": content}),
    }


def warnings_of(card: PoolCard) -> list[str]:
    """Return what the user of a pool should hear when it is made."""
    found = []
    if card["duplicates_across_splits"]:
        found.append(
            f"{card['duplicates_across_splits']} images stand in more than one split, pixel for pixel"
        )
    near, two = card["near_duplicates_across_splits"], card["near_duplicates_of_two_classes"]
    found += few_groups_warnings(card["counts"], card["num_groups"])
    found += sentences(card["warned"]["counts"])
    of_pictures = (
        describe_look_alikes(near["num_images"], near["examples"]),
        two_classes_warning(two["num_images"], two["examples"]),
        card["burned_in"]["warning"],
    )
    of_reading = [remark["warning"] for remark in card["remarks"].values()]
    return [*found, *(text for text in of_pictures if text), *of_reading, *card["overlaps"]]


def _check_key(pool: PoolReader, wanted: str) -> None:
    made = pool.card.get("pseudonym_key_id")
    if made is not None and made != wanted:
        raise PoolError(
            "the pool's pseudonyms were made with another key: the same patient has another one now",
            expected=f"the key {made}",
            found=f"the key {wanted}",
            where=str(pool.path),
            next_step="give the key back (XAL_RAY_PSEUDONYM_KEY_FILE), or prepare into another folder",
        )


def _excluded(listed: Mapping[str, int], quarantined: Mapping[str, int]) -> list[Excluded]:
    """Return what was left out, by the source and in reading, the most frequent reason first."""
    counts = Counter(listed) + Counter(quarantined)
    return [
        {"reason": reason, "count": count, "words": REASONS.get(reason, reason.replace("_", " "))}
        for reason, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    ]


def _equal_across_splits(index: pa.Table) -> int:
    """Return how many pictures, with their ROIs, stand in more than one split."""
    splits = index.group_by("content_sha256").aggregate([("split", "count_distinct")])
    return pc.sum(pc.greater(splits["split_count_distinct"], 1)).as_py() or 0


def _look_alikes(warned: pa.Table, kind: str) -> SimilarImages:
    pairs = warned.filter(pc.equal(warned["kind"], kind)).select(["image_id", "other_id"])
    return {
        "num_images": pairs.num_rows,
        "examples": [list(pair.values()) for pair in pairs.slice(0, _NUM_EXAMPLES).to_pylist()],
    }


def _made_from(source: config.Source, listing: Listing) -> MadeFrom:
    found: MadeFrom = {
        "kind": source.resolved_kind(),
        "path": source.path.name if source.path is not None else None,
        "manifest_sha256": _manifest_hash(source),
    }
    if readers := readers_of(listing.manifest):
        found["readers"] = readers
    return found


def _burned_in(attributes: pa.Table) -> BurnedIn:
    count = pc.sum(attributes["burned_in"]).as_py() or 0
    return {"num_images": count, "warning": f"{count} {BURNED_IN}" if count else None}


def _manifest_hash(source: config.Source) -> str | None:
    """Hash a table's file; a folder or a generator has none."""
    return sha256_file(source.path) if source.path is not None and source.path.is_file() else None


def count_values(column: pa.ChunkedArray) -> dict[str, int]:
    """Return how often each value stands in a column."""
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}
