"""Measures how the code is built: sizes, imports, repeats, types, docstrings; compares two trees.

The definitions stand in `house_measures/`. A figure without a better and a worse (modules, lines) is for
reading.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from house_measures.figures import measure

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Prints a table; 1 if a comparison finds a figure that is worse."""
    options = _arguments()
    if options.compare:
        before, after = (json.loads(path.read_text()) for path in options.compare)
        rows = list(compare(before, after))
        print(table(("figure", "before", "after", ""), rows))
        return int(any(row[-1] == "worse" for row in rows))
    figures = {
        name: dataclasses.asdict(figure) for name, figure in measure(options.root, options.package).items()
    }
    if options.list:
        print("\n".join(figures[options.list]["places"]))
        return 0
    print(table(("figure", "value", "what"), ((n, f["value"], f["words"]) for n, f in figures.items())))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/house.py", description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree to measure; this one")
    parser.add_argument("--package", default="xal_ray", help="the folder in it that holds the package")
    parser.add_argument("--json", type=Path, help="where the figures go, with the places behind each")
    parser.add_argument(
        "--list", metavar="FIGURE", help="prints the places behind a figure instead of the table"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("BEFORE", "AFTER"),
        help="two such JSON files; 1 if a figure is worse",
    )
    return parser.parse_args()


def compare(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[str, Any, Any, str]]:
    """Name, value before, value after, and "better", "same" or "worse"; nothing where no way is better."""
    for name in before | after:
        figure = after.get(name) or before[name]
        old, new = (tree[name]["value"] if name in tree else None for tree in (before, after))
        if old is None or new is None:
            verdict = "worse"  # what is not measured in both trees cannot be shown
        elif not figure["better"]:
            verdict = ""
        elif old == new:
            verdict = "same"
        else:
            verdict = "better" if (new < old) == (figure["better"] == "lower") else "worse"
        yield name, old, new, verdict


def table(titles: tuple[str, ...], rows: Any) -> str:
    """As Markdown."""
    lines = [titles, tuple("---" for _ in titles), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
