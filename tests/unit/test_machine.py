"""Users without a name, without a home folder, with odd temporary folders; too few processors."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from xal_ray import machine
from xal_ray.config import Ray
from xal_ray.engine.preflight import check_room, fit_to_cpus
from xal_ray.errors import ConfigError


@pytest.fixture(autouse=True)
def put_back(monkeypatch):
    for name in ("TMPDIR", "RAY_TMPDIR", "HOME", "USER", "LOGNAME", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # so that it is put back, whatever is done to it
        if not os.environ[name]:
            monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", None)
    machine.private_folder.cache_clear()
    yield
    machine.private_folder.cache_clear()


def test_a_relative_temporary_folder_is_the_same_wherever_a_child_stands(monkeypatch, tmp_path):
    (tmp_path / "rel").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", "rel")
    assert machine.settle() == []
    assert os.environ["TMPDIR"] == str(tmp_path / "rel")
    assert machine.settle() == []


@pytest.mark.parametrize("kind", ["missing", "a file", "full"])
def test_a_temporary_folder_that_is_of_no_use_is_replaced_and_named(kind, monkeypatch, tmp_path):
    folder = tmp_path / "tmp"
    words = {"missing": "does not exist", "a file": "is no folder", "full": "is full"}[kind]
    if kind == "a file":
        folder.touch()
    elif kind == "full":
        folder.mkdir()
        full = OSError(28, "No space left on device")

        def refuse(**_):
            raise full

        monkeypatch.setattr(machine.tempfile, "TemporaryFile", refuse)
        monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: "/tmp")
    monkeypatch.setenv("TMPDIR", str(folder))
    (remark,) = machine.settle()
    assert remark.startswith(f"TMPDIR={folder} {words}: temporary files go to /")
    assert "TMPDIR" not in os.environ


def test_sockets_never_get_a_path_that_is_too_long(monkeypatch, tmp_path):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    assert machine.settle() == []  # other files may go there
    folder = machine.private_folder()
    assert len(f"{folder}/r/session_2026-11-29_14-13-05_301213_4194304/sockets/plasma_store") <= 107
    assert folder.stat().st_mode & 0o777 == 0o700
    machine._remove(folder, os.getpid())
    assert not folder.exists()


def test_nowhere_to_write_is_said_with_each_place_and_its_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    monkeypatch.setattr(machine, "why_not", lambda folder: "is full")
    with pytest.raises(ConfigError, match=r"none is full; /tmp is full; /var/tmp is full") as caught:
        machine.private_folder()
    assert caught.value.exit_code == 2


def test_a_user_without_name_and_home_gets_both(monkeypatch, tmp_path):
    for name in ("HOME", "USER", "LOGNAME", "MPLCONFIGDIR"):
        monkeypatch.delenv(name, raising=False)

    def unknown():
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(machine.getpass, "getuser", unknown)
    monkeypatch.setattr(machine.os.path, "expanduser", lambda path: path)
    machine.settle()
    assert os.environ["USER"] == f"uid-{os.getuid()}"
    home = Path(os.environ["HOME"])
    assert os.access(home, os.W_OK)
    machine._remove(home, os.getpid())


def test_a_home_folder_that_is_there_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    machine.settle()
    assert os.environ["HOME"] == str(tmp_path)
    assert "MPLCONFIGDIR" not in os.environ


def test_processors_are_those_that_this_process_may_use(monkeypatch, tmp_path):
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from xal_ray import machine; "
    found = subprocess.run([sys.executable, "-c", code + "print(machine.usable_cpus())"], capture_output=True)
    assert found.stdout == b"1\n"
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(machine, "_CPU_QUOTAS", ((str(quota),),))
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 64)
    for text, expected in (("150000 100000", 2), ("max 100000", 64), ("50000 100000", 1), ("", 64)):
        quota.write_text(text)
        assert machine.usable_cpus() == expected


@pytest.mark.parametrize(
    ("given", "expected", "said"),
    [
        ({}, {}, []),
        ({"num_cpus": 4, "num_actors": 20}, {"num_actors": 6}, ["ray.num_actors=20: 6 fit"]),
        ({"num_cpus": 1}, {"num_actors": 0}, ["ray.num_actors=auto: this process scores by itself"]),
        ({"num_cpus": 2, "num_actors": 2}, {}, []),
        ({"num_cpus": 1, "num_actors": 0}, {}, []),
    ],
)
def test_no_more_actors_are_planned_than_fit(given, expected, said):
    asked = Ray(**given)
    fitted, remarks = fit_to_cpus(asked)
    assert fitted == asked.model_copy(update=expected)
    assert [remark.partition("no room for ")[2] for remark in remarks] == said


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ({"num_cpus": 1, "num_actors": 3}, {}, "set ray.num_cpus=2"),
        ({"num_cpus": 1}, {"decodes": True}, "ray.num_decoders=auto would starve"),
        ({"num_cpus": 4}, {"num_workers": 4}, "train.num_workers=4 would starve"),
    ],
)
def test_where_not_one_fits_it_is_refused_with_the_number_that_would_do(given, options, words):
    with pytest.raises(ConfigError, match=words):
        fit_to_cpus(Ray(**given), **options)


def test_an_object_store_without_room_is_refused(monkeypatch, tmp_path):
    check_room(Ray(object_store_mb=80), tmp_path)
    with pytest.raises(ConfigError, match=r"ray\.object_store_mb"):
        check_room(Ray(object_store_mb=1 << 30), tmp_path)
