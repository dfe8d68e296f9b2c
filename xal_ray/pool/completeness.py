"""Checks that a pool holds what its manifest names: each row read, or in quarantine with a reason."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.errors import StageError
from xal_ray.pool.reading import makes_many

_NUM_EXAMPLES = 3


def check_complete(manifest: pa.Table, rows: pa.Table, quarantine: pa.Table, *, where: str) -> None:
    """Hold a pool's rows and its quarantine against its manifest, by count and by id.

    A row that is an image stands in exactly one of the two. A case that a reader makes many images of, or
    none, stands in at most one.

    Args:
        manifest: At least `image_id` and `reader`.
        rows: The index of what was read; at least `image_id`.
        quarantine: What was left out; at least `image_id`.
        where: The growing pool, for messages.

    Raises:
        StageError: An image is missing, stands there twice, or is not of this manifest.
    """
    cases_of = [name for name in manifest["reader"].unique().to_pylist() if makes_many(name)]
    is_case = pc.is_in(manifest["reader"], value_set=pa.array(cases_of, pa.string()))
    cases = manifest.filter(is_case)["image_id"]
    images = manifest.filter(pc.invert(is_case))["image_id"]
    read, left_out = rows["image_id"], quarantine["image_id"]
    parents = pc.replace_substring_regex(read, "/[^/]*$", "")
    of_a_case = _is_in(parents, cases)
    found = _together(read.filter(pc.invert(of_a_case)), left_out)
    missing = images.filter(pc.invert(_is_in(images, found)))
    strangers = found.filter(pc.invert(_is_in(found, manifest["image_id"])))
    of_cases = read.filter(of_a_case)
    twice = len(found) + len(of_cases) - len(_together(found, of_cases).unique())
    twice += _count(_is_in(left_out, parents.filter(of_a_case)))
    if not (len(missing) or len(strangers) or twice):
        return
    examples = ", ".join((missing if len(missing) else strangers).slice(0, _NUM_EXAMPLES).to_pylist())
    raise incomplete(
        expected=f"{manifest.num_rows} rows of the manifest, each read or in quarantine, once",
        found=f"{rows.num_rows} images and {quarantine.num_rows} in quarantine: {len(missing)} are missing, "
        f"{len(strangers)} are strangers, {twice} stand there twice"
        + (f" ({examples}, ...)" * bool(examples)),
        where=where,
    )


def incomplete(*, expected: str, found: str, where: str) -> StageError:
    """Return the error of a pool that lacks something; it is not published."""
    return StageError(
        "the pool does not hold what its manifest names, so it is not made",
        expected=expected,
        found=found,
        where=where,
        next_step="let nothing else write there, and run the same command again: it begins anew",
    )


def _is_in(values: pa.ChunkedArray, known: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.is_in(values, value_set=known.combine_chunks())


def _together(first: pa.ChunkedArray, second: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([*first.chunks, *second.chunks], pa.string())


def _count(flags: pa.ChunkedArray) -> int:
    return pc.sum(flags, min_count=0).as_py() or 0
