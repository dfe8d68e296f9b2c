import json
import stat
import sys
from pathlib import Path

import pytest

from xal_ray.cluster.backends import jobs_api, ray_launcher
from xal_ray.cluster.backends.base import Cluster, Ending, Submitted
from xal_ray.cluster.backends.jobs_url import AddressedCluster
from xal_ray.cluster.backends.launcher import Launcher
from xal_ray.cluster.backends.ray_launcher import LaunchedCluster
from xal_ray.cluster.files.definition import Definition
from xal_ray.cluster.request import JobRequest, Target
from xal_ray.cluster.submit import attach, describe_cluster
from xal_ray.cluster.submit import submit as submit_job
from xal_ray.config import build_config
from xal_ray.errors import ConfigError, StageError
from xal_ray.places import place

TREE = {
    "cluster_name": "ours",
    "provider": {"type": "local", "head_ip": "198.51.100.7", "worker_ips": []},
    "auth": {"ssh_user": "me", "ssh_private_key": "~/.ssh/key", "ssh_proxy_command": "nc %h %p"},
}
FILE = Definition(Path("my cluster.yaml"), "launcher", "ours", TREE)
RUN = JobRequest(
    "run",
    build_config({"name": "mine", "pool": {"path": "s3://b/pool", "source": {"kind": "phantom"}}}),
    Path("/nfs/runs/mine"),
)


class FakeCluster(Cluster):
    """Notes what is asked of it; `fails` names what raises what."""

    def __init__(self, code=0, fails=None, others=(), is_new=True):
        self.title, self.definition = "the cluster ours", FILE
        self.calls, self.code, self.fails, self.others, self.is_new = [], code, fails or {}, others, is_new
        self.request = None

    def _call(self, name):
        self.calls.append(name)
        if name in self.fails:
            raise self.fails[name]

    def stand(self, say):
        self._call("stand")

    def find(self):
        self._call("find")

    def submit(self, request):
        self.request = request
        self._call("submit")
        return Submitted("xal-ray-mine-1", self.is_new, "c0de" * 16)

    def follow(self, submission_id, write, say):
        self._call("follow")
        write("a line of the job\n")
        return Ending(self.code, "FAILED: why")

    def stop(self, submission_id):
        self._call("stop")

    def at_work(self):
        self._call("at_work")
        return list(self.others)

    def copy(self, source, target):
        self._call(f"copy {source}")
        target.write_text("page")
        return True

    def take_down(self):
        self._call("take_down")

    def close(self):
        pass


class Lines:
    def __init__(self):
        self.text = ""

    def line(self, text):
        self.text += text + "\n"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "canary-4711")


def submit(cluster, **options):
    said = Lines()
    target = Target(FILE.path, **options)
    return submit_job(RUN, cluster, target, said), said.text


WHOLE = ["stand", "submit", "follow", "copy /nfs/runs/mine/report.html"]


def test_a_run_from_the_cluster_to_its_page(tmp_path, capsys):
    cluster = FakeCluster()
    code, said = submit(cluster)
    assert (code, cluster.calls) == (0, WHOLE)
    assert capsys.readouterr().out == "a line of the job\n"
    assert (tmp_path / "runs/mine/report.html").read_text() == "page"
    assert cluster.request.settings.ray.address == "auto"
    assert "xal-ray down 'my cluster.yaml'" in said  # it costs, and stands on
    text = (tmp_path / "runs/mine/job.json").read_text()
    assert json.loads(text)["cluster_file"] == str(tmp_path / "my cluster.yaml")
    assert "canary" not in text + said


def test_down_takes_the_cluster_down_after_the_page_is_here():
    cluster = FakeCluster()
    code, said = submit(cluster, down=True)
    assert (code, cluster.calls) == (0, [*WHOLE, "at_work", "take_down"])
    assert "is down" in said


def test_down_also_after_a_failed_job():
    cluster = FakeCluster(code=2)
    code, said = submit(cluster, down=True)
    assert (code, cluster.calls) == (2, ["stand", "submit", "follow", "at_work", "take_down"])
    assert "FAILED: why" in said


@pytest.mark.parametrize("stage", ["stand", "submit", "follow"])
def test_down_also_after_a_failure_before_the_end(stage):
    cluster = FakeCluster(fails={stage: StageError("it broke")})
    with pytest.raises(StageError, match="it broke"):
        submit(cluster, down=True)
    assert cluster.calls[-2:] == ["at_work", "take_down"]


@pytest.mark.parametrize("cluster", [FakeCluster(code=1), FakeCluster(fails={"submit": StageError("no")})])
def test_keep_on_failure_keeps_it_and_says_how_to_end_it(cluster, capsys):
    said = Lines()
    try:
        code = submit_job(RUN, cluster, Target(FILE.path, down=True, keep_on_failure=True), said)
    except StageError:
        code = 1
    assert code == 1
    assert "take_down" not in cluster.calls
    assert "stands on. To take it down: xal-ray down" in said.text
    finished = FakeCluster()
    assert submit(finished, down=True, keep_on_failure=True)[0] == 0
    assert finished.calls[-1] == "take_down"


@pytest.mark.parametrize("stage", ["stand", "follow"])
def test_ctrl_c_leaves_everything_as_it_is(stage):
    cluster = FakeCluster(fails={stage: KeyboardInterrupt()})
    code, said = submit(cluster, down=True)
    assert code == 130
    assert "take_down" not in cluster.calls
    for way in ("attach", "--stop", "xal-ray down 'my cluster.yaml'"):
        assert way in said


def test_a_lost_connection_takes_nothing_down():
    cluster = FakeCluster(fails={"follow": jobs_api.LostContactError("away")})
    with pytest.raises(jobs_api.LostContactError):
        submit(cluster, down=True)
    assert "take_down" not in cluster.calls


def test_a_cluster_on_which_others_work_is_left_to_them():
    cluster = FakeCluster(others=["theirs"])
    code, said = submit(cluster, down=True)
    assert code == 1
    assert "take_down" not in cluster.calls
    assert "NOT taken down: 1 jobs work on it (theirs)" in said


@pytest.mark.parametrize("stage", ["at_work", "take_down"])
def test_a_cluster_that_could_not_be_taken_down_is_no_success(stage):
    error = ConfigError("refused") if stage == "at_work" else StageError("refused")
    code, said = submit(FakeCluster(fails={stage: error}), down=True)
    assert code != 0
    assert "NOT taken down" in said
    assert "refused" in said


def test_detached_it_returns_at_once_and_attach_goes_on(tmp_path):
    cluster = FakeCluster()
    code, said = submit(cluster, detach=True)
    assert (code, cluster.calls) == (0, ["stand", "submit"])
    assert "xal-ray attach runs/mine" in said
    assert attach("mine", Lines(), stop=False, down=True, cluster=cluster) == 0
    assert cluster.calls[2:] == ["find", *WHOLE[2:], "at_work", "take_down"]


def test_attach_ends_a_job():
    cluster = FakeCluster(code=130)
    submit(cluster, detach=True)
    assert attach("mine", Lines(), stop=True, down=False, cluster=cluster) == 130
    assert cluster.calls[2:] == ["find", "stop", "follow"]


def test_attach_says_at_once_that_a_cluster_is_gone(api):
    submit(FakeCluster(), detach=True)
    api["it"] = False
    gone = LaunchedCluster(FILE, FakeLauncher(None, "stands still"), tunnel=FakeTunnel)
    with pytest.raises(jobs_api.LostContactError, match="does not answer") as caught:
        attach("mine", Lines(), stop=False, down=False, cluster=gone)
    assert "give the command of the run again" in caught.value.details["next"]


def test_a_job_at_work_is_watched_not_submitted_again():
    code, said = submit(FakeCluster(is_new=False))
    assert code == 0
    assert "already works on /nfs/runs/mine: watching it" in said


def test_results_in_an_object_store_that_can_not_be_read_here_fail_nothing(monkeypatch):
    cluster, said = FakeCluster(), Lines()
    request = JobRequest("run", RUN.settings, place("s3://b/runs/mine"))
    monkeypatch.setattr("xal_ray.cluster.download.place", _no_credentials)
    assert submit_job(request, cluster, Target(FILE.path), said) == 0
    assert "the results lie in s3://b/runs/mine" in said.text
    assert "canary" not in said.text


def _no_credentials(text):
    raise PermissionError("signature canary-4711")


class FakeLauncher:
    """A launcher whose head is known, or not, and whose machine has a Ray, or not."""

    def __init__(self, known, state):
        self.known, self.state, self.calls, self.log = known, state, [], Path("launcher.log")

    def head(self):
        return self.known

    def named_head(self):
        return "198.51.100.7"

    def ray_state(self, head):
        return self.state

    def up(self):
        self.calls.append("up")
        self.known, self.state = "198.51.100.7", "runs"

    def ssh(self, head):
        return ["ssh", f"me@{head}"]


class FakeTunnel:
    url, is_open = "http://127.0.0.1:1", True

    def __init__(self, ssh):
        self.ssh = ssh

    def close(self):
        self.is_open = False


@pytest.fixture
def api(monkeypatch):
    """A Jobs API that answers, or not."""
    answers = {"it": True, "open": False}

    def connect(url, token):
        assert token == "the token"
        if not answers["it"]:
            raise ConnectionError("refused")
        return object()

    monkeypatch.setattr(jobs_api, "connect", connect)
    monkeypatch.setattr(jobs_api, "is_open_to_all", lambda url: answers["open"])
    monkeypatch.setattr(ray_launcher, "ensure_token", lambda: "the token")
    return answers


def stand(launcher):
    said, naps = Lines(), []
    cluster = LaunchedCluster(FILE, launcher, tunnel=FakeTunnel, sleep=naps.append)
    cluster.stand(said.line)
    return said.text, naps


@pytest.mark.parametrize("known", ["198.51.100.7", None])
def test_a_cluster_that_stands_is_joined_and_never_restarted(api, known):
    launcher = FakeLauncher(known, "runs")
    said, _ = stand(launcher)
    assert launcher.calls == []
    assert "joined" in said


@pytest.mark.parametrize(
    ("known", "state"), [(None, "stands still"), (None, "unreachable"), ("198.51.100.7", "stands still")]
)
def test_a_cluster_that_does_not_stand_is_brought_up(api, known, state):
    launcher = FakeLauncher(known, state)
    said, _ = stand(launcher)
    assert launcher.calls == ["up"]
    assert "is up" in said


def test_a_ray_that_does_not_answer_is_not_restarted_nor_taken_down(api):
    api["it"] = False
    launcher = FakeLauncher("198.51.100.7", "runs")
    with pytest.raises(jobs_api.LostContactError, match="nothing was restarted"):
        stand(launcher)
    assert launcher.calls == []


def test_a_known_head_that_ssh_does_not_reach_is_not_restarted(api):
    launcher = FakeLauncher("198.51.100.7", "unreachable")
    with pytest.raises(jobs_api.LostContactError, match="can't be reached"):
        stand(launcher)
    assert launcher.calls == []


def test_a_jobs_api_without_a_token_is_warned_of(api):
    api["open"] = True
    assert "CVE-2023-48022" in stand(FakeLauncher("198.51.100.7", "runs"))[0]


def test_a_tunnel_that_broke_is_opened_anew(api):
    cluster = LaunchedCluster(FILE, FakeLauncher("198.51.100.7", "runs"), tunnel=FakeTunnel)
    cluster.client()
    first = cluster._tunnel
    cluster.client()
    assert cluster._tunnel is first
    first.is_open = False
    cluster.client()
    assert cluster._tunnel is not first


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "http://me:canary@head:8265", ""])
def test_what_is_no_address_of_a_jobs_api_is_refused(address):
    with pytest.raises(ConfigError, match="not the address") as caught:
        AddressedCluster(address)
    assert "canary" not in str(caught.value)


def test_a_token_over_plain_http_to_another_machine_is_warned_of(api, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "the token")
    for address, is_warned in (
        ("http://head:8265", True),
        ("https://head", False),
        ("http://127.0.0.1:8265", False),
    ):
        said = Lines()
        AddressedCluster(address).stand(said.line)
        assert ("plain http" in said.text) is is_warned, address


def test_a_head_that_just_starts_is_waited_for_and_one_that_is_not_there_is_not(monkeypatch):
    answers = [jobs_api.BusyError("503"), jobs_api.BusyError("503"), None]

    def connect(url, token):
        if error := answers.pop(0):
            raise error

    monkeypatch.setattr(jobs_api, "connect", connect)
    monkeypatch.setattr(jobs_api, "is_open_to_all", lambda url: False)
    naps = []
    AddressedCluster("http://127.0.0.1:8265", sleep=naps.append).stand(Lines().line)
    assert (len(naps), answers) == (2, [])
    answers.append(ConnectionError("refused"))
    with pytest.raises(ConfigError, match="no cluster answers"):
        AddressedCluster("http://127.0.0.1:8265", sleep=naps.append).stand(Lines().line)
    assert len(naps) == 2


def test_a_dry_run_refuses_what_the_run_would():
    lines = describe_cluster(RUN, FakeCluster(), Target(FILE.path, down=True, keep_on_failure=True))
    assert lines[0].endswith("is taken down at the end, but not after a failure")
    assert "set        ray.address=auto" in lines
    lost = JobRequest("run", RUN.settings, Path("runs/mine"))
    with pytest.raises(ConfigError, match="disk of its own"):
        describe_cluster(lost, FakeCluster(), Target(FILE.path))


def test_the_launcher_logs_in_as_the_file_says_and_never_asks(tmp_path):
    launcher = Launcher(FILE, tmp_path)
    words = launcher.ssh("198.51.100.7")
    assert (words[0], words[-1]) == ("ssh", "me@198.51.100.7")
    assert {"BatchMode=yes", "ProxyCommand=nc %h %p", "StrictHostKeyChecking=accept-new"} <= set(words)
    assert f"IdentityFile={Path.home() / '.ssh/key'}" in words


@pytest.mark.parametrize("action", ["up", "down"])
def test_a_launcher_that_fails_says_what_it_said_and_how_to_clean_up(tmp_path, monkeypatch, action):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho earlier; echo no such instance type; exit 3\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(Launcher, "head", lambda self: "198.51.100.7")
    launcher = Launcher(FILE, tmp_path / "clusters")
    with pytest.raises(StageError, match="no such instance type") as caught:
        getattr(launcher, action)()
    assert "xal-ray down 'my cluster.yaml'" in caught.value.details["next"]
    for path in (launcher.log, launcher.folder / "cluster.yaml"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(launcher.folder.stat().st_mode) == 0o700
