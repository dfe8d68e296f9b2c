"""Whether two commits give identical results: records fingerprints of all that some runs leave, and compares.

    git switch main && .venv/bin/python tests/identical_results.py record /tmp/before.json
    git switch work && .venv/bin/python tests/identical_results.py record /tmp/after.json
    .venv/bin/python tests/identical_results.py compare /tmp/before.json /tmp/after.json

It drives the `xal-ray` beside the Python that runs it. Records hold for one machine and one set of installed
packages, since sums of floating-point numbers depend on both: compare two of the same, and commit none.
`identical/parts.py` is what is run, `identical/fingerprints.py` what is compared and what is left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from identical.fingerprints import fingerprint
from identical.parts import PARTS, ROOT, CommandError, Workshop

_SHOWN = 20  # differences of a part, unless all are asked for


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; its exit code: 1 where something differs, or nothing could be compared."""
    options = _parser().parse_args(arguments)
    names = options.only.split(",") if options.only else list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        _parser().error(f"no part '{unknown[0]}': {', '.join(PARTS)}")
    if options.what == "record":
        return record(options.out, names, options.keep, options.jobs)
    before, after = (json.loads(path.read_text())["parts"] for path in (options.before, options.after))
    return compare(before, after, names, sys.maxsize if options.all else _SHOWN)


def record(out: Path, names: Sequence[str], keep: Path | None, num_jobs: int) -> int:
    """Do parts and write their fingerprints to a JSON file, with a line for each on the way."""
    with tempfile.TemporaryDirectory(prefix="identical-") as temporary, ThreadPoolExecutor(num_jobs) as pool:
        done = list(pool.map(lambda name: _do(name, keep or Path(temporary)), names))
    parts = {name: part for name, part in zip(names, done, strict=True) if part}
    out.write_text(json.dumps({"commit": _commit(), "parts": parts}, indent=1))
    return 0 if len(parts) == len(names) else 1


def compare(before: Mapping[str, Any], after: Mapping[str, Any], names: Sequence[str], shown: int) -> int:
    """Print what differs between two records, part by part; 0 where all was compared and nothing does."""
    is_same = True
    for name in names:
        pair = before.get(name), after.get(name)
        reasons = [part["left_out"] if part else "not recorded" for part in pair]
        if any(reasons):
            print(f"{name:12} NOT COMPARED: {next(filter(None, reasons))}")
            is_same = False
            continue
        lines = differences(pair[0]["entries"], pair[1]["entries"])
        is_same = is_same and not lines
        print(
            f"{name:12} {len(pair[0]['entries'])} entries: {f'{len(lines)} DIFFER' if lines else 'identical'}"
        )
        for line in lines[:shown]:
            print(f"    {line}")
        if len(lines) > shown:
            print(f"    ... and {len(lines) - shown} more (--all)")
    return 0 if is_same else 1


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """A line for each entry that two records do not share."""
    lines = []
    for entry in sorted({**before, **after}):
        if entry not in after:
            lines.append(f"gone     {entry}")
        elif entry not in before:
            lines.append(f"new      {entry}")
        elif before[entry] != after[entry]:
            lines.append(f"changed  {entry}")
    return lines


def _do(name: str, work: Path) -> dict[str, Any] | None:
    """What a part gave; None, with the reason said, where one of its commands failed."""
    shop = Workshop(work / name)
    shop.folder.mkdir(parents=True)
    began = time.monotonic()
    try:
        PARTS[name](shop)
    except CommandError as error:
        print(f"{name:12} FAILED: {error}", flush=True)
        return None
    seconds = round(time.monotonic() - began, 1)
    if shop.left_out:
        print(f"{name:12} LEFT OUT: {shop.left_out}", flush=True)
    else:
        whole = fingerprint(json.dumps(shop.entries, sort_keys=True).encode())
        print(f"{name:12} {whole}  {len(shop.entries)} entries, {seconds:.0f} s", flush=True)
    return {"seconds": seconds, "left_out": shop.left_out, "entries": shop.entries}


def _commit() -> str:
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stdout.strip() or "unknown"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    recording = commands.add_parser("record", help="run the parts, and write their fingerprints")
    recording.add_argument("out", type=Path, help="the JSON file that is written")
    recording.add_argument(
        "--keep", type=Path, help="keep what was run in this folder, to look at differences"
    )
    recording.add_argument("--jobs", type=int, default=2, help="parts at once (2)")
    comparing = commands.add_parser("compare", help="exit code 1, and a list, where two records differ")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--all", action="store_true", help=f"list more than {_SHOWN} differences a part")
    for command in (recording, comparing):
        command.add_argument("--only", help=f"some of the parts: {','.join(PARTS)}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
