"""Which columns of a table of labels hold what, and where the classes stand if not where they should."""

from __future__ import annotations

from collections.abc import Mapping

from xal_ray.errors import LabelError
from xal_ray.labels.answers import Ids, as_class, chosen
from xal_ray.pool.schema import PoolReader
from xal_ray.tables import Cells, Written

BOX = ("box_x0", "box_y0", "box_x1", "box_y1")
OPTIONAL = ("mask", *BOX)
_EXPECTED = "image_id, label, and optionally mask or " + ", ".join(BOX)


def find_columns(table: Written, ids: Ids, pool: PoolReader, label_column: str) -> dict[str, int]:
    """Return where the columns are, by our names for them.

    Args:
        table: The labels.
        ids: The pool's.
        pool: The pool.
        label_column: The column with the classes.

    Raises:
        LabelError: One is missing, or nearly there.
    """
    header = table.header
    names = {"image_id": "image_id", "label": label_column, **{name: name for name in OPTIONAL}}
    positions = {name: at for name, column in names.items() if (at := header.find(column)) is not None}
    if "image_id" not in positions and header.names:
        images = table.columns_of(ids.known, set(positions.values()), ids.of)
        at = header.find(images[0]) if images else None
        positions |= {} if at is None else {"image_id": at}
    if "label" not in positions and header.names:
        near = header.nearest(label_column, set(positions.values()))
        near = next(iter(_columns_of_classes(table, positions, pool)), near)
        raise LabelError(
            f"the labels lack the column '{label_column}'",
            expected=_EXPECTED,
            found=header.shown() + (f"; '{near}' has classes of this pool" if near in header.names else ""),
            where=header.where,
            next_step=f"--label-column {_quoted(near)}"
            if near
            else "--label-column COLUMN names another one",
        )
    if "image_id" not in positions:
        raise LabelError(
            "the labels lack the column 'image_id'",
            expected=_EXPECTED,
            found=header.shown() if header.names else "an empty file",
            where=header.where,
            next_step="keep the columns image_id of to_label/selection.csv",
        )
    wrong = [
        (name, header.nearest(name, set(positions.values()))) for name in OPTIONAL if name not in positions
    ]
    for name, near in wrong:
        if near is not None or (name in BOX and set(BOX) & set(positions)):
            raise LabelError(
                f"the labels lack the column '{name}'",
                expected=_EXPECTED,
                found=header.shown(),
                where=header.where,
                next_step=f"rename '{near}' to '{name}', or, if it holds something else, to another word"
                if near
                else f"add '{name}', or remove the other columns of boxes",
            )
    if not set(BOX) & set(positions) and (corners := header.corners()):
        raise LabelError(
            "the labels may have boxes, but not in the columns of boxes",
            expected=", ".join(BOX),
            found=", ".join(corners),
            where=header.where,
            next_step="rename them so, if they are corners in pixels of the image; else to other words",
        )
    return {name: positions[name] for name in names if name in positions}


def _columns_of_classes(table: Written, positions: Mapping[str, int], pool: PoolReader) -> list[str]:
    def plain(cell: str) -> str | None:
        answers = chosen(cell)
        return as_class(answers[0], pool.classes) if len(answers) == 1 else None

    return table.columns_of(pool.classes, set(positions.values()), plain, share=0.5)


def check_filled(table: Written, cells: Cells, positions: Mapping[str, int], pool: PoolReader) -> None:
    """Refuse a file without a row, and one whose labels stand in another column.

    Raises:
        LabelError: It is one.
    """
    where = table.header.where
    if not cells.lines:
        raise LabelError(
            "the labels hold no row", where=where, next_step="give a file with a row for each labelled image"
        )
    if any(cells.columns[list(positions).index("label")]):
        return
    others = _columns_of_classes(table, positions, pool)
    if others:
        name = table.header.names[positions["label"]]
        raise LabelError(
            f"all {len(cells.lines)} rows are empty in '{name}'",
            expected="classes of this pool there: " + ", ".join(pool.classes),
            found=f"'{others[0]}' has classes of this pool",
            where=where,
            next_step=f"--label-column {_quoted(others[0])}",
        )


def respelled(table: Written, positions: Mapping[str, int]) -> list[str]:
    """Return a note on columns that are called otherwise."""
    found = [
        f"'{table.header.names[at]}' as {name}"
        for name, at in positions.items()
        if table.header.names[at] != name
    ]
    return [f"columns: read {', '.join(found)}"] if found else []


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name
