"""The floors of the house: what docs/architecture.md draws is what the import linter holds."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def linted():
    """Return the floors of the import contract, from the lowest, numbered from 1."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    return {number: set(layer.split(" | ")) for number, layer in enumerate(reversed(layers), 1)}


def test_the_picture_shows_the_floors_that_the_import_linter_holds():
    (picture,) = re.findall(r"```text\n( +\d+  cli.*?)```", PAGE, re.DOTALL)
    found = {}
    for number, line in re.findall(r"^ *(\d+)  (.*)$", picture, re.MULTILINE):
        found[int(number)] = set(re.split(" {2,}", line)[0].split(" · "))
    assert found == linted()


def test_the_table_has_the_rooms_of_each_floor():
    section = PAGE.split("## Rooms")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d*) ?\| (`[^|]*`) \|", section, re.MULTILINE)
    found, floor = {}, 0
    for number, rooms in rows:
        floor = int(number or floor)
        found.setdefault(floor, set()).update(re.findall("`([^`]*)`", rooms))
    assert found == linted()


def written():
    """Return what names files of the house: its code, and its pages but the record of changes."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    code = (
        path
        for folder in ("xal_ray", "tests", "benchmarks", "docs")
        for path in (ROOT / folder).rglob("*.py")
    )
    return [*code, *(page for page in pages if page.name != "CHANGELOG.md")]


def test_modules_that_code_and_pages_name_are_there():
    tops = (ROOT, ROOT / "xal_ray", ROOT / "tests")
    foreign = {"torch.py"}  # a user's file, which must not be taken for torch
    lost = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in written()
        for name in re.findall(r"`([a-z0-9_/]+\.py)`", path.read_text(encoding="utf-8"))
        if name not in foreign and not any((top / name).is_file() for top in (*tops, *path.parents))
    ]
    assert lost == []


LOCAL = """
import sys
import xal_ray.cli
from xal_ray.cli.options import target_of
assert target_of(None, None, False, False, False) is None
print(*sorted(name for name in sys.modules if name.startswith(("xal_ray.cluster", "torch", "ray"))))
"""


def test_a_command_for_this_machine_imports_nothing_of_the_cluster():
    """Nor torch or Ray before it needs them; no lower floor can import the cluster, by the contract."""
    done = subprocess.run([sys.executable, "-c", LOCAL], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
