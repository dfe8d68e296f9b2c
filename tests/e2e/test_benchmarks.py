"""The benchmarks still run: at their smallest sizes, without a look at what they measure."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(600)]

# `nodes` builds hosts: tests/cluster/test_three_hosts.py runs it, where it is asked to. `house` reads code.
LEFT_OUT = ("common", "house", "nodes")
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem not in LEFT_OUT)

# One process for all of them: most of a small benchmark is imports. What one sets in the environment is not
# for the next; a Ray that it leaves running is, and has the environment of the one that started it.
ALL = """
import contextlib, os, runpy, sys, time, traceback
folder, *names = sys.argv[1:]
sys.path.insert(0, folder)
for name in names:
    sys.argv = [f"{folder}/{name}.py", "--smoke", "--json", f"{name}.json"]
    before, begin = dict(os.environ), time.monotonic()
    with open(f"{name}.txt", "w") as said, contextlib.redirect_stdout(said):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except (Exception, SystemExit):
            said.write(traceback.format_exc())
    os.environ.clear()
    os.environ.update(before)
    print(f"{name}: {time.monotonic() - begin:.1f} s", flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all of them left what they said and their JSON."""
    path = tmp_path_factory.mktemp("benchmarks")
    command = [sys.executable, "-c", ALL, str(ROOT / "benchmarks"), *BENCHMARKS]
    with (path / "said.txt").open("w+") as said:
        done = subprocess.run(command, stdout=said, stderr=said, timeout=580, check=False, cwd=path)
        said.seek(0)
        text = said.read()
    print(text)  # shown where one fails: which took how long
    assert done.returncode == 0, text[-2000:]
    return path


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_prints_a_table_and_leaves_json(name, folder):
    said = (folder / f"{name}.txt").read_text()
    assert (folder / f"{name}.json").is_file(), said[-2000:]
    result = json.loads((folder / f"{name}.json").read_text())
    assert result["rows"]
    assert f"| {next(iter(result['rows'][0]))}" in said
    assert result["machine"] in said


def test_none_is_missing():
    assert set(BENCHMARKS) >= {
        "bombs",
        "decode",
        "driver",
        "frozen",
        "memory",
        "pipeline",
        "precision",
        "prepare",
        "scoring",
        "store",
        "topk",
    }
