import asyncio
import sys
from types import SimpleNamespace

import pytest

from xal_ray.cluster.backends import job_logs, jobs_api
from xal_ray.cluster.backends.tunnel import Tunnel
from xal_ray.cluster.package import JobPackage
from xal_ray.errors import RunError, StageError

LOG = "".join(f"line {number}: é\n" for number in range(30)) + "the end"
PACKAGE = JobPackage("python -m xal_ray.cli", {"working_dir": "w"}, "code", "config")


class Status(str):
    def is_terminal(self):
        return self not in ("PENDING", "RUNNING")


def job(submission_id="a", status="RUNNING", **metadata):
    return SimpleNamespace(
        submission_id=submission_id, job_id=None, status=Status(status), metadata=metadata or None
    )


class Client:
    """A Jobs API; `breaks` says after how many characters each connection breaks, None that it ends well."""

    def __init__(self, breaks=(None,), known=()):
        self.breaks = list(breaks)
        self.jobs = {each.submission_id: each for each in known}
        self.submitted = []
        self.refuses = None
        self.loses_answer = False

    def list_jobs(self):
        return list(self.jobs.values())

    def get_job_info(self, submission_id):
        if submission_id not in self.jobs:
            raise RuntimeError("Request failed with status code 404: Job does not exist.")
        return self.jobs[submission_id]

    def submit_job(self, **options):
        if self.refuses:
            raise RuntimeError(self.refuses)
        self.submitted.append(options)
        self.jobs[options["submission_id"]] = job(options["submission_id"])
        if self.loses_answer:
            raise ConnectionResetError("the answer is lost")

    async def tail_job_logs(self, submission_id):
        until = self.breaks.pop(0)
        text = LOG if until is None else LOG[:until]
        for start in range(0, len(text), 7):
            await asyncio.sleep(0)
            yield text[start : start + 7]
        if until is not None:
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
        self.jobs[submission_id].status = Status("SUCCEEDED")


class Reach:
    """Gives the client, or fails as often as it is told."""

    def __init__(self, client, failures=()):
        self._client, self._failures = client, list(failures)

    def client(self):
        if self._failures and (error := self._failures.pop(0)):
            raise error
        return self._client


class Clock:
    def __init__(self):
        self.now, self.naps = 0.0, []

    def sleep(self, seconds):
        self.naps.append(seconds)
        self.now += seconds

    def __call__(self):
        return self.now


def follow(reach, clock=None):
    clock, written, said = clock or Clock(), [], []
    info = job_logs.follow(reach, "a", written.append, said.append, sleep=clock.sleep, clock=clock)
    return info, "".join(written), said


def test_a_log_is_shown_whole_and_its_last_line_is_ended():
    info, text, said = follow(Reach(Client(known=[job()])))
    assert (info.status, text, said) == ("SUCCEEDED", LOG + "\n", [])


@pytest.mark.parametrize("breaks", [(0, None), (100, 50, 200, None), (7, 8, 9, 10, 300, None)])
def test_after_broken_connections_no_line_is_missing_or_comes_twice(breaks):
    info, text, said = follow(Reach(Client(breaks, [job()])))
    assert (info.status, text) == ("SUCCEEDED", LOG + "\n")
    assert any("broke" in line for line in said)
    assert "connected again" in said


def test_a_cluster_that_is_away_for_minutes_is_waited_for():
    away = [None, *[ConnectionError("no route")] * 20, None]
    clock = Clock()
    info, text, said = follow(Reach(Client((60, None), [job()]), away), clock)
    assert (info.status, text) == ("SUCCEEDED", LOG + "\n")
    assert 300 < clock.now < 900
    assert len(said) <= 3  # it does not chatter


def test_a_cluster_that_stays_away_is_given_up_and_the_way_back_is_named():
    with pytest.raises(jobs_api.LostContactError, match="15 minutes") as caught:
        follow(Reach(Client(), [ConnectionError("no route")] * 1000))
    assert "attach" in caught.value.details["next"]


def test_a_head_that_was_started_anew_knows_the_job_no_more():
    with pytest.raises(StageError, match="does not know the job") as caught:
        follow(Reach(Client()))
    assert "committed is kept" in caught.value.details["next"]
    assert not isinstance(caught.value, jobs_api.LostContactError)


def test_a_job_is_submitted_once_even_if_the_answer_is_lost():
    client = Client()
    client.loses_answer = True
    jobs_api.submit(Reach(client), PACKAGE, "mine", {"k": "v"})
    assert [each["submission_id"] for each in client.submitted] == ["mine"]
    assert client.submitted[0]["entrypoint_num_cpus"] == 0


def test_a_job_that_is_refused_is_an_error_that_says_why():
    client = Client()
    client.refuses = "status code 500: no runtime_env agent"
    with pytest.raises(StageError, match="no runtime_env agent"):
        jobs_api.submit(Reach(client), PACKAGE, "mine", {})


def test_a_job_at_work_on_the_same_run_is_found():
    same = {jobs_api.OUT_KEY: "s3://o", jobs_api.CONFIG_KEY: "config"}
    other = {jobs_api.OUT_KEY: "s3://other", jobs_api.CONFIG_KEY: "config"}
    known = [
        job("ended", "FAILED", **same),
        job("other", **other),
        job("none"),
        job("same", "PENDING", **same),
    ]
    assert jobs_api.running_job_of(Client(known=known), "s3://o", PACKAGE) == "same"
    assert jobs_api.running_job_of(Client(known=known[:3]), "s3://o", PACKAGE) is None
    assert jobs_api.at_work(Client(known=known)) == ["other", "none", "same"]


def test_a_job_at_work_with_another_configuration_is_not_taken_for_this_one():
    known = [job("b", **{jobs_api.OUT_KEY: "s3://o", jobs_api.CONFIG_KEY: "another"})]
    with pytest.raises(RunError, match="another configuration"):
        jobs_api.running_job_of(Client(known=known), "s3://o", PACKAGE)


# In place of ssh: opens the port that `-L` names and ends with its input, as `ssh HOST cat` does.
FORWARD = """
import socket, sys
words = sys.argv[1:]
assert words[-2:] == ["me@head", "cat"], words
host, port, target, remote = words[words.index("-L") + 1].split(":")
server = socket.create_server((host, int(port)))
sys.stdin.read()
"""
REFUSES = "import sys; sys.exit('me@head: Permission denied (publickey).')"


def test_a_tunnel_opens_a_port_of_this_machine_alone_and_ends():
    tunnel = Tunnel([sys.executable, "-c", FORWARD, "me@head"])
    try:
        assert tunnel.url.startswith("http://127.0.0.1:")
        assert tunnel.is_open
    finally:
        tunnel.close()
    assert not tunnel.is_open


def test_a_tunnel_that_does_not_open_says_what_ssh_said():
    with pytest.raises(ConnectionError, match="Permission denied"):
        Tunnel([sys.executable, "-c", REFUSES, "me@head"])
