"""Isolated hosts on this machine, for tests of what crosses a network.

A host has its own network, processes, mounts, name, home, /tmp and sshd. The rest of the disk is shared, so
that programs are where they are. Hosts see each other and this machine, and nothing else: there is no route.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

NETWORK = "10.78.0"
THIS_MACHINE = f"{NETWORK}.1"  # as the hosts see it
BRIDGE = "xaltestbr"
PROGRAMS = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "rsync": "rsync",
}
_LOCK = Path(tempfile.gettempdir()) / f"{BRIDGE}.lock"  # the network exists once on a machine
_SSH_OPTIONS = {
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": "/dev/null",
    "LogLevel": "ERROR",
    "ConnectTimeout": "2",
    "IdentitiesOnly": "yes",
}


def obstacle() -> str | None:
    """Why hosts can't be built here and what to do about it; None where they can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "isolated hosts need Linux and root"
    packages = sorted({package for name, package in PROGRAMS.items() if _program(name) is None})
    if packages:
        return f"isolated hosts need programs that are missing: apt-get install {' '.join(packages)}"
    tried = subprocess.run(["unshare", "-m", "-n", "-p", "-f", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "isolated hosts need namespaces, which are forbidden here"


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


class Hosts:
    """Hosts with the addresses 10.78.0.10, 10.78.0.11, ... while the context lasts.

    All that was started is ended on the way out, after an error too; and if this process is killed, its hosts
    die with it. Only one such network exists at a time: another process waits.

    Args:
        folder: An empty folder for keys, homes and logs.
        count: Hosts to start with.
        visible: Folders that every host sees at the same path although they lie below /root or /tmp, beside
            Python and its environment: the project, a shared folder that stands for NFS.
    """

    def __init__(self, folder: Path, count: int = 3, visible: Sequence[Path] = ()) -> None:
        self.folder = folder
        self.count = count
        self.key = folder / "id"
        python = (Path(sys.prefix), Path(sys.base_prefix))
        self._visible = [path.resolve() for path in (*visible, *python, folder / "sshd")]
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._lock: IO[str] | None = None

    def __enter__(self) -> Hosts:
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def address(self, number: int) -> str:
        return f"{NETWORK}.{10 + number}"

    def home(self, number: int) -> Path:
        """What a host sees as /root."""
        return self.folder / f"host{number}" / "root"

    def tmp(self, number: int) -> Path:
        """What a host sees as /tmp: Ray's logs lie here."""
        return self.folder / f"host{number}" / "tmp"

    def ssh_command(self, number: int, *options: str) -> list[str]:
        """The words of a command that opens a shell on a host."""
        fixed = [word for item in _SSH_OPTIONS.items() for word in ("-o", "=".join(item))]
        return ["ssh", "-i", str(self.key), *fixed, *options, f"root@{self.address(number)}"]

    def ssh(self, number: int, command: str, *, timeout_s: float = 60, check: bool = True) -> str:
        """Run a command on a host; what it printed, errors too.

        Raises:
            AssertionError: It failed.
        """
        done = subprocess.run(
            [*self.ssh_command(number), command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout[-2000:]}"
        return done.stdout

    def authorise(self, public_key: str) -> None:
        """Let the owner of a further key in, everywhere."""
        for number in range(self.count):
            with (self.home(number) / ".ssh" / "authorized_keys").open("a") as keys:
                keys.write(public_key.strip() + "\n")

    def on_network_of(self, number: int) -> list[str]:
        """The first words of a command of this machine that shall see no network but the hosts'."""
        return ["ip", "netns", "exec", _name(number)]

    def commands(self, number: int) -> list[str]:
        """The command lines of all processes of a host, seen from outside."""
        process = self._running.get(number)
        return [] if process is None else list(_commands_below(process.pid))

    def kill(self, number: int, *, silently: bool = False) -> None:
        """End a host with all that runs on it at once, as a power cut would.

        Args:
            number: Which.
            silently: Unplug its network first, so that no connection tells the others that it is gone.
        """
        if silently:
            _run("ip", "link", "set", _cable(number), "down")
        process = self._running.pop(number)
        for child in _children(process.pid):  # the first process of the host: the kernel ends the others
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def start(self, number: int) -> None:
        """Start a host, or bring one back that was killed; it has its home and /tmp from before.

        Raises:
            AssertionError: Its sshd does not answer.
        """
        assert number not in self._running
        _run("ip", "link", "set", _cable(number), "up")
        folder = self.folder / f"host{number}"
        inside = ["unshare", "-m", "-p", "-u", "-f", "--kill-child", "bash", str(folder / "init.sh")]
        with (folder / "log").open("ab") as log:
            self._running[number] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", _name(number), *inside],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        for _ in range(50):
            answer = subprocess.run(
                [*self.ssh_command(number), "true"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            if answer.returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError(f"host {number} does not answer: {(folder / 'log').read_text()[-2000:]}")

    def _build(self) -> None:
        self._lock = _LOCK.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        _remove_network()  # of a process that was killed
        (self.folder / "sshd").mkdir(parents=True)
        for key in (self.key, self.folder / "sshd" / "hostkey"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(key))
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "address", "add", f"{THIS_MACHINE}/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        for number in range(self.count):
            self._plug_in(number)
            self._furnish(number)
            self.start(number)

    def _plug_in(self, number: int) -> None:
        name = _name(number)
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", _cable(number), "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", _cable(number), "master", BRIDGE, "up")
        _run("ip", "-n", name, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _run("ip", "-n", name, "link", "set", device, "up")

    def _furnish(self, number: int) -> None:
        folder, home = self.folder / f"host{number}", self.home(number)
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        self.tmp(number).mkdir(mode=0o777)
        shutil.copyfile(f"{self.key}.pub", home / ".ssh" / "authorized_keys")
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        # OpenBLAS takes its kernel from there, and other kernels give other last digits.
        kernel = {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")}
        exported = {"PATH": programs} | kernel
        (home / ".bashrc").write_text(
            "".join(f"export {name}={shlex.quote(value)}\n" for name, value in exported.items())
        )
        (home / ".profile").write_text(". ~/.bashrc\n")
        config = self.folder / "sshd" / f"{number}.conf"
        config.write_text(_SSHD.format(address=self.address(number), key=self.folder / "sshd" / "hostkey"))
        (folder / "init.sh").write_text(self._first_process(folder, number, config))

    def _first_process(self, folder: Path, number: int, config: Path) -> str:
        """The script that turns fresh namespaces into a host."""
        quote = shlex.quote
        lines = ["set -e", "mount --make-rprivate /"]
        for path in self._visible:  # what the new /root and /tmp would hide is brought into them first
            for hidden in ("/root", "/tmp"):
                if path.is_relative_to(hidden) and path.exists():
                    inner = quote(str(folder / hidden[1:] / path.relative_to(hidden)))
                    lines += [f"mkdir -p {inner}", f"mount --rbind {quote(str(path))} {inner}"]
        lines += [
            "mount -t tmpfs -o size=1g tmpfs /dev/shm",
            "mount -t tmpfs tmpfs /run && mkdir /run/sshd",
            f"mount --rbind {quote(str(folder / 'root'))} /root",
            f"mount --rbind {quote(str(folder / 'tmp'))} /tmp",
            "mount -t proc proc /proc",
            f"hostname {_name(number)}",
            f"exec {_program('sshd')} -D -e -f {quote(str(config))}",
        ]
        return "\n".join(lines) + "\n"

    def _remove(self) -> None:
        for number in list(self._running):
            self.kill(number)
        _remove_network()
        if self._lock is not None:
            self._lock.close()


_SSHD = """\
Port 22
ListenAddress {address}
HostKey {key}
PermitRootLogin yes
PasswordAuthentication no
UsePAM no
StrictModes no
PidFile none
MaxStartups 50
MaxSessions 50
AllowTcpForwarding yes
Subsystem sftp internal-sftp
"""


def _name(number: int) -> str:
    return f"xaltest{number}"


def _cable(number: int) -> str:
    """This machine's end of the cable to a host."""
    return f"vxaltest{number}"


def _remove_network() -> None:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for name in (line.split()[0] for line in listed.splitlines() if line.startswith("xaltest")):
        _run("ip", "netns", "delete", name)
    subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True, check=False)
    for number in range(10):  # a namespace that still ends may hold its cable for a moment
        subprocess.run(["ip", "link", "delete", _cable(number)], capture_output=True, check=False)


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _commands_below(pid: int) -> Iterator[str]:
    waiting = _children(pid)
    while waiting:
        child = waiting.pop()
        waiting += _children(child)
        with contextlib.suppress(OSError):
            yield Path(f"/proc/{child}/cmdline").read_text(errors="replace").replace("\0", " ").strip()


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
