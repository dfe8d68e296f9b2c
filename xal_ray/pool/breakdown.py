"""Breakdowns: how many images and groups of each class, site, device, sex and age a pool holds.

A cell of few groups would point at people, so it is not told; nor are cells from which, with the totals, it
could be computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.pool.card_content import BreakdownTable
from xal_ray.pool.schema import SPLITS

MIN_GROUPS = 10
FEW = f"<{MIN_GROUPS}"  # a cell of 1 to 9 groups
HIDDEN = "hidden"  # a cell that would give such a one away
KEYS = ("class", "site", "device", "sex", "age_band")

_MAX_VALUES = 20  # of an attribute; the rarer ones are one row
_OTHERS = "\0others"

Counts = npt.NDArray[np.int64]


def break_down(index: pa.Table, attributes: pa.Table) -> dict[str, Any]:
    """Count a pool's images and groups.

    Args:
        index: Its rows, all labels included (`INDEX_SCHEMA`).
        attributes: What is known of them (`ATTRIBUTE_SCHEMA`), in any order.

    Returns:
        For each of `KEYS` a table: `columns` (the splits for classes, else "all"), and `rows`. A row has its
        `value` (null = not known), `others` (0, or how many rare values it stands for), and `cells`: each
        `{"images": n, "groups": g}`, "<10" or "hidden". An attribute that is known of no image has null.
    """
    known = aligned(attributes, index)
    groups = index["group_id"].combine_chunks().dictionary_encode().indices
    tables: dict[str, Any] = {"class": _table(index["label"], index["split"], groups)}
    for name in KEYS[1:]:
        column = known[name]
        everywhere = pa.chunked_array([pa.repeat(pa.scalar("all"), len(column))])
        empty = column.null_count == len(column)
        tables[name] = None if empty else _table(column, everywhere, groups)
    return {"min_groups": MIN_GROUPS, **tables}


def aligned(attributes: pa.Table, index: pa.Table) -> pa.Table:
    """Return the attributes of the rows of an index, in its order."""
    if attributes["image_id"].equals(index["image_id"]):
        return attributes
    return attributes.take(pc.index_in(index["image_id"], value_set=attributes["image_id"].combine_chunks()))


def _table(values: pa.ChunkedArray, columns: pa.ChunkedArray, groups: pa.Array) -> BreakdownTable:
    shown, num_others = _merge_rare(values)
    counted = (
        pa.table({"value": shown, "column": columns, "group": groups})
        .group_by(["value", "column"])
        .aggregate([("group", "count"), ("group", "count_distinct")])
    )
    found = set(counted["column"].to_pylist())
    column_names = [name for name in (*SPLITS, "all") if name in found]
    names = sorted(set(counted["value"].to_pylist()), key=lambda name: (name is None, name == _OTHERS, name))
    images, num_groups = (np.zeros((len(names), len(column_names)), dtype=np.int64) for _ in range(2))
    for row in counted.to_pylist():
        place = names.index(row["value"]), column_names.index(row["column"])
        images[place], num_groups[place] = row["group_count"], row["group_count_distinct"]
    marks = suppress(num_groups)
    return {
        "columns": column_names,
        "rows": [
            {
                "value": None if name == _OTHERS else name,
                "others": num_others if name == _OTHERS else 0,
                "cells": [
                    mark or {"images": int(count), "groups": int(of_groups)}
                    for mark, count, of_groups in zip(
                        marks[number], images[number], num_groups[number], strict=True
                    )
                ],
            }
            for number, name in enumerate(names)
        ],
    }


def _merge_rare(values: pa.ChunkedArray) -> tuple[pa.ChunkedArray, int]:
    """Return the values with all but the most frequent made one, and how many these were."""
    counts = pc.value_counts(pc.drop_null(values)).to_pylist()
    if len(counts) <= _MAX_VALUES:
        return values, 0
    ordered = sorted(counts, key=lambda count: (-count["counts"], count["values"]))
    rare = pa.array([count["values"] for count in ordered[_MAX_VALUES - 1 :]], pa.string())
    is_rare = pc.is_in(values, value_set=rare)
    return pc.if_else(is_rare, pa.scalar(_OTHERS), values), len(rare)


def suppress(groups: Counts) -> list[list[str | None]]:
    """Which cells of a table are not told.

    A cell of 1 to 9 groups is marked "<10". With the total of a row or column known, a marked cell can be
    computed if it is the line's only one, or if the marked ones together have the least or the most groups
    that their marks allow. Then the smallest cell of the line that is left is marked "hidden", and so on.

    Args:
        groups: (rows, columns) groups of each cell.

    Returns:
        For each cell its mark, or None where it may be told.
    """
    marks: list[list[str | None]] = [[FEW if 0 < g < MIN_GROUPS else None for g in row] for row in groups]
    rows, columns = groups.shape
    lines = [[(row, column) for row in range(rows)] for column in range(columns)]
    if columns > 1:  # else a row is its own total
        lines += [[(row, column) for column in range(columns)] for row in range(rows)]
    changed = True
    while changed:
        changed = False
        for line in lines:
            left = [place for place in line if groups[place] and marks[place[0]][place[1]] is None]
            if left and _is_open([(int(groups[place]), marks[place[0]][place[1]]) for place in line]):
                row, column = min(left, key=lambda place: (groups[place], place))
                marks[row][column] = HIDDEN
                changed = True
    return marks


def _is_open(line: list[tuple[int, str | None]]) -> bool:
    """Return whether the marked cells of a line follow from their sum."""
    few = [count for count, mark in line if mark == FEW]
    hidden = [count for count, mark in line if mark == HIDDEN]
    if len(few) + len(hidden) <= 1:
        return bool(few or hidden)
    total = sum(few) + sum(hidden)
    least, most = len(few) + MIN_GROUPS * len(hidden), (MIN_GROUPS - 1) * len(few)
    return total == least or (not hidden and total == most)
