"""One version of the code, whatever lies in the working directory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import xal_ray
from xal_ray import code_version
from xal_ray.config import Limits
from xal_ray.engine import code_check
from xal_ray.errors import StageError
from xal_ray.images.sandbox import Sandbox

ROOT = Path(xal_ray.__file__).resolve().parents[1]


def package(folder, text):
    """Another package of this name."""
    (folder / "xal_ray").mkdir(parents=True)
    (folder / "xal_ray" / "__init__.py").write_text(text)


def asked(words, folder, **environment):
    """What a Python says of the way in which its children are to look for modules."""
    command = [sys.executable, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


SAY = (
    "import json; from xal_ray.code_version import import_path_before_library as found; "
    "print(json.dumps(found()))"
)


@pytest.mark.slow
def test_children_do_not_look_into_the_working_directory(tmp_path):
    """`python -c` looks there itself, under an empty name; a script that lies there, under its own."""
    (tmp_path / "ask.py").write_text(SAY)
    for words in (["-c", SAY], ["ask.py"]):
        found = asked(words, tmp_path)
        assert str(ROOT) in found
        assert str(tmp_path) not in found
        assert "" not in found
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert str(tmp_path) in asked([str(tmp_path / "ask.py")], elsewhere)  # the driver's own, ahead of all


@pytest.mark.slow
def test_what_lies_in_the_working_directory_is_used_where_it_is_this_very_package():
    assert asked(["-c", SAY], ROOT, PYTHONPATH="")[0] == str(ROOT)


def test_a_child_that_decodes_runs_this_code_whatever_lies_in_the_working_directory(tmp_path, monkeypatch):
    package(tmp_path, "raise SystemExit('another version')")
    for name in ("numpy", "json", "pydicom"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    with Sandbox(Limits(strict=True)) as child:
        assert child.call("xal_ray.code_version:code_sha256") == code_version.code_sha256()


def test_a_hash_knows_code_by_its_content_and_not_by_its_place(tmp_path):
    for name in ("here", "there"):
        package(tmp_path / name, "VERSION = 1")
    (tmp_path / "there" / "xal_ray" / "__pycache__").mkdir()
    (tmp_path / "there" / "xal_ray" / "__pycache__" / "a.pyc").write_bytes(b"1")
    before = code_version.sha256_of_files(tmp_path / "here", "*.py")
    assert code_version.sha256_of_files(tmp_path / "there", "*.py") == before
    (tmp_path / "there" / "xal_ray" / "__init__.py").write_text("VERSION = 2")
    assert code_version.sha256_of_files(tmp_path / "there", "*.py") != before


def test_a_process_with_other_code_than_its_driver_is_refused():
    code_check.SameCode().check()
    with pytest.raises(StageError, match="other code than the process that drives it") as said:
        code_check.SameCode("0123456789abcdef", "/opt/other on head").check()
    assert "/opt/other on head" in str(said.value)


@pytest.mark.slow
@pytest.mark.ray
def test_ray_adds_nothing_to_where_its_processes_look_for_modules():
    settings = code_check.job_settings()
    wanted = code_version.import_path_before_library()
    settings._py_driver_sys_path.extend(["/the/working/directory"])  # as `ray.init` does
    assert settings._py_driver_sys_path[::-1] == wanted
    assert list(settings._get_proto_job_config().py_driver_sys_path)[::-1] == wanted
