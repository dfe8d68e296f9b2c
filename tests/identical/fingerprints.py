"""What a file holds as fingerprints that are the same whenever, and in whichever folder, it was written.

Every file has an entry of its bytes. What can be told apart within it has entries of its own, so that a
difference says where it is: a ledger's lines, the columns of a Parquet file, the top keys of a JSON file.

What is left out, since it differs between two runs of one commit, by rule:

- `NOT_RESULTS`: locks, and what Ray Tune keeps for itself (pickles, start times, process ids).
- `MEASURED_KEYS` of a ledger's lines and of JSON files: when a line was written, and how long a stage took;
  in a sweep's table these are `MEASURED_COLUMNS`, in its page the cells that `_TIME_CELL` matches.
- `hash` and `prev_hash` of a ledger's lines cover those. In their place stands whether the chain holds;
  and in a COMMITTED file, which holds such a hash, the number of the line that has it.
- The versions of installed packages: their names stay.
- The folder of the record itself, which resolved paths begin with: it reads `WORK`. A Parquet file that holds
  it (where the images of a pool came from), or a measured column, has no entry of its bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOT_RESULTS = (".lock", "tune/*/[!E]*", "tune/*/*/*")  # of tune/, ENDED.json is the project's own
MEASURED_KEYS = ("time_utc", "seconds", "images_per_s", "startup_s")
MEASURED_COLUMNS = ("train_s", "score_s")
_TIME_CELL = re.compile(rb"<td>[0-9.]+ (s|min)</td>")
# Keys that came later. A resolved configuration, and pages that show one, have them where nobody sets them:
# with its default a key changes no result, and the trees before it do not know it.
LATER_KEYS = (b"    options: {}\n", b"  shortlist: auto\n")
_TEXTS = (".json", ".jsonl", ".yaml", ".html", ".csv", ".txt")
_GENESIS = "0" * 64


def of_folder(folder: Path, work: Path) -> dict[str, str]:
    """The fingerprints of all files below a folder, by their paths in `work`."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(path.match(pattern) for pattern in NOT_RESULTS):
            name = path.relative_to(work).as_posix()
            found |= {f"{name}{inside}": value for inside, value in of_file(path, work)}
    return found


def of_file(path: Path, work: Path) -> Iterator[tuple[str, str]]:
    """Pairs of a place within a file ("" is all of it) and the fingerprint of what stands there."""
    content = path.read_bytes()
    if path.suffix in _TEXTS:
        content = without_folder(content, work)
    if path.name == "ledger.jsonl":
        yield from _of_ledger(content)
        return
    if path.name == "COMMITTED":
        content = f"the ledger's line {_line_with(content.decode().strip(), path.parent)}".encode()
    if path.suffix in (".yaml", ".html"):
        for line in LATER_KEYS:
            content = content.replace(line, b"")
    if path.suffix == ".html":
        content = _TIME_CELL.sub(b"<td>TIME</td>", content)
    if path.suffix == ".parquet":
        yield from _of_parquet(path, content, work)
    elif path.suffix == ".json":
        yield from _of_json(content)
    else:
        yield "", fingerprint(content)


def without_folder(content: bytes, work: Path) -> bytes:
    """A text without the folder that the record was made in, as written or resolved."""
    for folder in (work.resolve(), work):
        content = content.replace(str(folder).encode(), b"WORK")
    return content


def fingerprint(content: bytes) -> str:
    """64 bits of SHA-256, hexadecimal: enough to see that two things differ."""
    return hashlib.sha256(content).hexdigest()[:16]


def _of_json(content: bytes) -> Iterator[tuple[str, str]]:
    tree = json.loads(content)
    lasting = _lasting(tree)
    yield "", fingerprint(content if lasting == tree else _canonical(lasting))
    if isinstance(lasting, dict):
        yield from ((f" {key}", fingerprint(_canonical(value))) for key, value in lasting.items())


def _of_ledger(content: bytes) -> Iterator[tuple[str, str]]:
    chain = _GENESIS
    holds = True
    for number, line in enumerate(content.splitlines()):
        record = json.loads(line)
        holds = holds and record["prev_hash"] == chain
        chain = record["hash"]
        record = {key: value for key, value in record.items() if key not in ("hash", "prev_hash")}
        yield f" line {number:03d} {record['event']}", fingerprint(_canonical(_lasting(record)))
    yield " chain holds", str(holds)


def _lasting(value: Any) -> Any:
    """A tree less what was measured, whose keys stay, and less the versions of packages."""
    if isinstance(value, list):
        return [_lasting(below) for below in value]
    if not isinstance(value, dict):
        return value
    kept = {key: "measured" if key in MEASURED_KEYS else _lasting(below) for key, below in value.items()}
    if isinstance(kept.get("versions"), dict):
        kept["versions"] = sorted(kept["versions"])
    return kept


def _line_with(sha256: str, folder: Path) -> int | None:
    """The number of the ledger's line that has a hash, in the run that a round's folder belongs to."""
    ledger = next(
        (above / "ledger.jsonl" for above in folder.parents if (above / "ledger.jsonl").exists()), None
    )
    lines = ledger.read_text().splitlines() if ledger else []
    return next((number for number, line in enumerate(lines) if json.loads(line)["hash"] == sha256), None)


def _of_parquet(path: Path, content: bytes, work: Path) -> Iterator[tuple[str, str]]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read()  # `read_table` would take `key=value` in a path for columns
    values = {name: repr(table[name].to_pylist()).encode() for name in table.column_names}
    lasting = {
        name: without_folder(text, work) for name, text in values.items() if name not in MEASURED_COLUMNS
    }
    if lasting == values:
        yield "", fingerprint(content)
    schema = table.schema.to_string(truncate_metadata=False, show_field_metadata=True)
    yield " schema", fingerprint(schema.encode())
    yield from ((f" column {name}", fingerprint(text)) for name, text in lasting.items())


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
