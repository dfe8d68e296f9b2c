"""`benchmarks/house.py` sees what it counts, and sees it gone: small trees with a flaw each, and without."""

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def house():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("house")


def write(root, files):
    for name, text in {"p/__init__.py": "", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def function(name, lines):
    return f"def {name}(a):\n" + "    a += 1\n" * (lines - 1)


LOGIC = (
    "def {0}({1}, rest):\n    {1} = open({1})\n    rest.add({1})\n    for x in rest:\n        x.{2}({1})\n"
)
LATE = "def f():\n    from p import a\n    return a\n"
TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import a\n"
USED = "def f():\n    '''Works.'''\n"

# Figure, a tree with so many of what it counts, the number; and one that is like it, but without.
FLAWS = [
    ("longest_file", {"p/a.py": "x = 1\n" * 9}, 9, {"p/a.py": ""}, 0),
    ("long_files", {"p/a.py": "x = 1\n" * 301}, 1, {"p/a.py": "x = 1\n" * 300}, 0),
    ("long_functions", {"p/a.py": function("f", 41)}, 1, {"p/a.py": function("f", 40)}, 0),
    ("function_median", {"p/a.py": function("f", 3) + function("g", 9)}, 6, {"p/a.py": function("f", 3)}, 3),
    (
        "function_p95",
        {"p/a.py": function("f", 3) * 99 + function("g", 9) * 9},
        9,
        {"p/a.py": function("f", 3)},
        3,
    ),
    (
        "stage_signatures",
        {"p/a.py": "def f(resources, *, verbose): ..."},
        1,
        {"p/a.py": "def f(verbose): ..."},
        0,
    ),
    (
        "circles",
        {"p/a.py": "import p.b", "p/b.py": "from . import a"},
        1,
        {"p/a.py": "import p.b", "p/b.py": LATE},
        0,
    ),
    ("late_circles", {"p/a.py": "import p.b", "p/b.py": LATE}, 1, {"p/a.py": "import p.b", "p/b.py": ""}, 0),
    ("late_circles", {"p/a.py": "import p.b", "p/b.py": TYPES}, 1, {"p/a.py": "", "p/b.py": TYPES}, 0),
    (
        "both_ways",
        {"p/a/x.py": "import p.b.y", "p/a/z.py": "", "p/b/y.py": "", "p/b/w.py": "from ..a import z"},
        1,
        {"p/a/x.py": "import p.b.y", "p/a/z.py": "", "p/b/y.py": "", "p/b/w.py": "from . import y"},
        0,
    ),
    (
        "lonely_modules",
        {"p/a.py": "import p.b", "p/b.py": ""},
        1,
        {"p/a.py": "import p.b", "p/b.py": "", "p/c.py": "import p.b"},
        0,
    ),
    (
        "duplicates",
        {"p/a.py": LOGIC.format("f", "a", "go"), "p/b.py": LOGIC.format("g", "b", "go")},
        100.0,
        {"p/a.py": LOGIC.format("f", "a", "go"), "p/b.py": LOGIC.format("g", "b", "stop")},
        0,
    ),
    (
        "same_class_names",
        {"p/a.py": "class A: ...", "p/b.py": "class A: ..."},
        1,
        {"p/a.py": "class A: ..."},
        0,
    ),
    (
        "file_names",
        {"p/a.py": "x = 'card.json'"},
        1,
        {"p/layout.py": "x = 'card.json'", "p/a.py": "x = 'a json'"},
        0,
    ),
    (
        "file_names_again",
        {"p/a.py": "x = y = ('a.csv', 'a.csv')"},
        1,
        {"p/a.py": "x = ('a.csv', 'b.csv')"},
        0,
    ),
    ("any", {"p/a.py": "x: Any\ny: dict[str, Any]\n"}, 1000.0, {"p/a.py": "x: object\n"}, 0),
    (
        "documented",
        {"p/a.py": "'''A.'''\n" + USED + "def g(): ...\n"},
        66.67,
        {"p/a.py": "'''A.'''\n" + USED},
        100.0,
    ),
    ("fragments", {"p/a.py": "def f():\n    '''What it is.'''\n"}, 1, {"p/a.py": USED}, 0),
]


@pytest.mark.parametrize(("figure", "flawed", "count", "sound", "other"), FLAWS)
def test_a_figure_sees_its_flaw_and_no_other(house, tmp_path, figure, flawed, count, sound, other):
    assert house.measure(write(tmp_path / "flawed", flawed), "p")[figure].value == count
    assert house.measure(write(tmp_path / "sound", sound), "p")[figure].value == other


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"tests/t.py": "from p.a import f\nf()"}, ["p/a.py:1 f"]),
        (
            {"p/__init__.py": "from p.a import f\n__all__ = ['f']"},
            ["p/a.py:1 f"],
        ),  # handed on, and taken by nobody
        ({"p/__init__.py": "from p.a import f", "p/b.py": "from p import f\nf()"}, []),
        ({"p/b.py": "from p import a\na.f()"}, []),
        ({"p/b.py": "other.f()"}, ["p/a.py:1 f"]),  # another's attribute of this name
        ({"p/b.py": "f = 1\nprint(f)"}, ["p/a.py:1 f"]),
        ({"p/b.py": "x = 'p.a:f'"}, []),
        ({"p/b.py": "x = import_module('p.' + y).f"}, ["p/a.py:1 f"]),
        ({"p/b.py": "x = importlib.import_module('p.' + y).f"}, []),
        ({"pyproject.toml": '[project.scripts]\nf = "p.a:f"\n'}, []),
        ({"p/a.py": "def f():\n    f()\n"}, ["p/a.py:1 f"]),  # it calls itself, and nobody else does
        ({"p/a.py": "def f(): ...\nf()\n"}, []),
        ({"p/a.py": "@app.command()\ndef f(): ...\n"}, []),
        ({"benchmarks/b.py": "from p.a import f\nf()"}, []),
        ({"p/a.py": "class A:\n    def f(self): ...\nA()\n"}, ["p/a.py:2 f"]),
        ({"p/a.py": "class A:\n    def f(self): ...\nA().f\n"}, []),
        ({"p/a.py": "class A:\n    def f(self): ...\nA()\n", "p/page.j2": "{{ a.f() }}"}, []),
        ({"p/a.py": "class A(B):\n    def f(self): ...\nA()\n"}, []),  # B may call it
        ({"p/__init__.py": "class A(Protocol):\n    def f(self): ...\nA\n", "p/b.py": "load().f()"}, []),
        (
            {"p/__init__.py": "class A(Protocol):\n    def f(self): ...\nA\n"},
            ["p/a.py:1 f"],
        ),  # promised, and not read
    ],
)
def test_what_only_tests_use(house, tmp_path, files, found):
    tree = write(tmp_path, {"p/a.py": "def f(): ...\n", **files})
    assert house.measure(tree, "p")["test_only"].places == found


def test_a_circle_of_three_is_one_and_its_neighbours_are_not_in_it(house, tmp_path):
    files = {"a": "import p.b", "b": "import p.c", "c": "import p.a\nimport p.d", "d": "", "e": "import p.a"}
    tree = write(tmp_path, {f"p/{name}.py": text for name, text in files.items()})
    assert house.measure(tree, "p")["circles"].places == ["p.a, p.b, p.c"]


def test_two_trees_are_compared_and_a_worse_figure_is_an_exit_code(house, tmp_path, monkeypatch, capsys):
    files = {name: tmp_path / f"{name}.json" for name in ("flawed", "sound")}
    for name, text in (("flawed", "x: Any\n"), ("sound", "'A.'; x: int\n")):
        tree = write(tmp_path / name, {"p/a.py": text})
        monkeypatch.setattr(sys, "argv", [*f"house --package p --root {tree} --json {files[name]}".split()])
        assert house.main() == 0
    flawed, sound = (json.loads(path.read_text()) for path in files.values())
    verdicts = {name: verdict for name, *_, verdict in house.compare(flawed, sound)}
    assert [verdicts[name] for name in ("any", "documented", "circles", "lines")] == [
        "better",
        "better",
        "same",
        "",
    ]
    assert {verdict for *_, verdict in house.compare(flawed, {})} == {
        "worse"
    }  # what is not measured is not shown

    for before, after, code in (("flawed", "sound", 0), ("sound", "sound", 0), ("sound", "flawed", 1)):
        monkeypatch.setattr(sys, "argv", ["house", "--compare", str(files[before]), str(files[after])])
        capsys.readouterr()
        assert house.main() == code, capsys.readouterr().out
