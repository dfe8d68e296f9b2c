"""The bytes of a table as text: encodings, delimiters, and what stands above a header."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from xal_ray.tables.header import key_of

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DELIMITERS = (",", ";", "\t", "|")
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SEP = re.compile(r'"?sep=(.)"?(?:\r\n|\r|\n)', re.IGNORECASE)  # Excel's, above the header
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0e-\x1f]")
_HEAD = 1 << 16
_LARGEST_CELL = 1 << 24


class NotTextError(ValueError):
    """The bytes are no text."""


@dataclass(frozen=True)
class TextLayout:
    """Says how a text is laid out.

    Attributes:
        delimiter: Between cells.
        header: The names of the columns, as they are written.
        begin: Where the first line that counts begins, in characters: behind Excel's `sep=`.
        above: Records from there to the header, that included.
        notes: What was found, for people.
    """

    delimiter: str
    header: tuple[str, ...]
    begin: int
    above: int
    notes: tuple[str, ...]


def decoded(data: bytes) -> tuple[str, str | None]:
    """Return the text, and a note where its encoding was guessed.

    Raises:
        NotTextError: There are characters that no table holds.
    """
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), None) or _utf16_without_mark(
        data
    )
    note = None
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        if encoding is not None:
            raise NotTextError(f"{encoding} that breaks off or is damaged") from None
        text, note = _of_one_byte(data), "not UTF-8: read as Windows-1252; look at names with accents"
    if _NO_TEXT.search(text, 0, _HEAD):
        raise NotTextError("bytes that are no text")
    return text, note


def _utf16_without_mark(data: bytes) -> str | None:
    """Find UTF-16 without a mark: in Latin letters, every other byte is zero."""
    head = data[: 256 - len(data[:256]) % 2]
    if len(head) < 4:
        return None
    low, high = head[0::2], head[1::2]
    for name, zeros, others in (("utf-16-le", high, low), ("utf-16-be", low, high)):
        if zeros.count(0) > 0.8 * len(zeros) and 0 not in others:
            return name
    return None


def _of_one_byte(data: bytes) -> str:
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def laid_out(text: str, known: Collection[str], usual: str = ",") -> TextLayout:
    """Find the header and the delimiter: that under which most of the known columns are there.

    Args:
        text: The whole.
        known: Names of columns.
        usual: The delimiter that files of this kind have, where the header does not tell.
    """
    said = _SEP.match(text)
    begin = said.end() if said else 0
    head = text[begin : begin + _HEAD]
    keys = {key_of(name) for name in known}
    candidates = [said.group(1)] if said else [usual, *(mark for mark in _DELIMITERS if mark != usual)]
    best: tuple[tuple[int, int], str, tuple[str, ...], int] | None = None
    for delimiter in candidates:
        header, above = _header(head, delimiter, keys)
        score = (len(keys & {key_of(name) for name in header}), len(header))
        if best is None or score > best[0]:
            best = (score, delimiter, header, above)
    assert best is not None  # noqa: S101  there is always a candidate
    _, delimiter, header, above = best
    notes = [] if delimiter == usual else [f"cells are parted by {_NAMES.get(delimiter, repr(delimiter))}"]
    return TextLayout(delimiter, header, begin, above, tuple(notes))


def _header(head: str, delimiter: str, keys: Collection[str]) -> tuple[tuple[str, ...], int]:
    """Return the first record that is neither blank nor a comment, and its number, from 1; none: ((), 0)."""
    try:
        for number, cells in enumerate(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter), 1):
            names = [cell.strip().strip("\ufeff\u200b").strip() for cell in cells]
            if not any(names):
                continue
            if names[0].startswith("#"):
                bare = [names[0].lstrip("# "), *names[1:]]
                if not {key_of(name) for name in bare} & set(keys):
                    continue  # a comment; else `#image,label`, as some programs write
                names = bare
            while not names[-1]:  # a spreadsheet's: what stands below would be a cell too many
                names.pop()
            return tuple(names), number
    except csv.Error:
        pass
    return (), 0


def records(text: str, layout: TextLayout) -> Iterator[tuple[int, int, list[str]]]:
    """Yield each record below the header: its number, the line that it begins on, and its cells.

    Both count as a spreadsheet and an editor count them, from 1.

    Raises:
        csv.Error: A quote is not closed, or stands where none may.
    """
    stream = io.StringIO(text, newline="")
    stream.seek(layout.begin)
    lines_before = records_before = int(layout.begin > 0)
    limit = csv.field_size_limit(_LARGEST_CELL)
    try:
        reader = csv.reader(stream, delimiter=layout.delimiter, strict=True)
        line = 1
        for number, cells in enumerate(reader, 1):
            if number > layout.above:
                yield number + records_before, line + lines_before, cells
            line = reader.line_num + 1
    finally:
        csv.field_size_limit(limit)
