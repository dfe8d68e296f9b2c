"""Standard streams that are closed, broken or narrow; signals; a folder that is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

XAL = [sys.executable, "-m", "xal_ray.cli"]
PHANTOM = "name: c\npool: {source: {kind: phantom}}\nselect: {strategy: entropy}\n"


def shell(command, tmp_path, **environment):
    (tmp_path / "c.yaml").write_text(PHANTOM)
    text = command.replace("XAL", " ".join(XAL))
    return subprocess.run(
        ["bash", "-c", text], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("closing", ["2>&-", ">&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_change_nothing(closing, tmp_path):
    assert shell(f"XAL run none.yaml {closing}", tmp_path).returncode == 2


def test_closed_streams_make_nothing_fail(tmp_path):
    assert shell("XAL --version >&- 2>&- <&-", tmp_path).returncode == 0


def test_a_file_that_is_opened_never_becomes_standard_error(tmp_path):
    code = "from xal_ray.cli.process import open_streams as o; o(); print(open('c.yaml').fileno() > 2)"
    (tmp_path / "ask.py").write_text(code)
    assert shell(f"{sys.executable} ask.py 2>&- <&-", tmp_path).stdout == "True\n"


@pytest.mark.parametrize("command", ["XAL --version", "XAL run none.yaml 2>&1"])
def test_a_reader_who_leaves_ends_it_without_a_word(command, tmp_path):
    # The reader is gone before anything is written.
    found = shell(f"(sleep 0.1; {command}; echo $? > code) | true", tmp_path)
    assert found.stderr == ""
    assert (tmp_path / "code").read_text() == "141\n"


def test_any_text_can_be_written_in_any_encoding(tmp_path):
    name = "plan—→"
    found = shell(f"XAL run '{name}.yaml'", tmp_path, PYTHONIOENCODING="ascii", LC_ALL="C", COLUMNS="1")
    assert found.returncode == 2
    assert "error: the configuration file can't be read" in found.stderr


def test_a_folder_that_is_gone_is_said(tmp_path):
    found = shell("mkdir gone; cd gone; rmdir ../gone; XAL run c.yaml", tmp_path)
    assert found.returncode == 2
    assert found.stderr.startswith("error: the current folder is gone")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_ends_a_command_with_one_line(number, code, tmp_path):
    program = (
        "import time, xal_ray.cli.doctor as m, xal_ray.doctor as d\n"
        "def wait(folder):\n    print('up', flush=True); time.sleep(60); yield\n"
        "d.examine = wait\nfrom xal_ray.cli import main; main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "doctor"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    process.send_signal(number)  # an echo, as of a signal to the group and to each process
    _, said = process.communicate(timeout=20)
    assert said == "stopped; the same command goes on from here\n"
    assert process.returncode == code


@pytest.mark.parametrize(
    ("command", "hit", "said"),
    [
        ("doctor", "xal_ray.cli.errors._stop_ray", "stopped; the same command goes on from here\n"),
        ("--version", "xal_ray.cli.application.typer.echo", ""),
    ],
    ids=["while it ends", "before it begins"],
)
def test_a_signal_at_either_end_of_a_command_keeps_its_code(command, hit, said):
    program = (
        "import os, signal, xal_ray.cli, xal_ray.cli.errors, xal_ray.doctor\n"
        "xal_ray.doctor.examine = lambda folder: []\n"
        "signals = iter([signal.SIGTERM])\n"
        f"{hit} = lambda *_: [os.kill(os.getpid(), number) for number in signals]\n"
        "xal_ray.cli.main()\n"
    )
    found = subprocess.run([sys.executable, "-c", program, command], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (143, said)


def test_what_nohup_ignores_stays_ignored():
    program = "import signal, xal_ray.cli.process as s; s.take_signals(); print(int(signal.getsignal(1)))"
    command = f"trap '' HUP; {sys.executable} -c '{program}'"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert found.stdout == f"{int(signal.SIG_IGN)}\n"


def test_processes_that_outlive_their_driver_are_ended(tmp_path):
    """A stand-in for Ray's agents: a process in a session of its own, with a log in the private folder."""
    program = (
        "import pathlib, subprocess, sys, time\n"
        "from xal_ray.engine import orphans\n"
        "folder = pathlib.Path(sys.argv[1]); orphans.watch(folder)\n"
        "log = open(folder / 'log', 'w')\n"
        "agent = subprocess.Popen(['sleep', '60'], stdout=log, start_new_session=True)\n"
        "print(agent.pid, flush=True); time.sleep(60)\n"
    )
    folder = tmp_path / "private"
    folder.mkdir()
    driver = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    agent = int(driver.stdout.readline())
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (folder.exists() or Path(f"/proc/{agent}").exists()):
        time.sleep(0.05)
    assert not Path(f"/proc/{agent}").exists()
    assert not folder.exists()
