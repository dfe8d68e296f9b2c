"""A run as a RayJob, with a `kubectl` that only writes down what it is asked."""

import base64
import json
import sys
from pathlib import Path

import pytest

from xal_ray.cluster.backends import rayjob
from xal_ray.cluster.files.definition import read_definition
from xal_ray.errors import ConfigError, StageError

ROOT = Path(__file__).resolve().parents[2]
# Answers come from a file of [exit code, stdout, stderr] by verb, in turn; the last one stays.
KUBECTL = """#!{python} -IS
import json, pathlib, sys
here = pathlib.Path(__file__).parent
words = [word for word in sys.argv[1:]]
said = words[2:] if words[0] == "--namespace" else words
verb = said[0]
text = sys.stdin.read() if "-f" in words else ""
with (here / "calls.jsonl").open("a") as file:
    file.write(json.dumps([words, text]) + "\\n")
answers = json.loads((here / "answers.json").read_text())
turns = answers.get(verb, [[0, "", ""]])
code, out, err = turns[0]
if len(turns) > 1:
    answers[verb] = turns[1:]
    (here / "answers.json").write_text(json.dumps(answers))
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


class Kubectl:
    def __init__(self, folder):
        self.folder = folder
        program = folder / "kubectl"
        program.write_text(KUBECTL.format(python=sys.executable))
        program.chmod(0o755)
        self.answer()

    def answer(self, **turns):
        (self.folder / "answers.json").write_text(json.dumps(turns))

    def calls(self):
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(rayjob, "_POLL_S", 0.0)
    monkeypatch.setattr(rayjob, "_MOST_FAILED_POLLS", 3)
    return Kubectl(tmp_path)


@pytest.fixture
def definition():
    return read_definition(ROOT / "cluster" / "kuberay.yaml")


def status(deployment, job="", **more):
    return [0, json.dumps({"status": {"jobDeploymentStatus": deployment, "jobStatus": job, **more}}), ""]


def test_a_run_is_put_in_with_its_files_and_its_entrypoint(kubectl, definition):
    target = rayjob.submit(
        definition, {"config.yaml": b"name: x\n"}, "xal-ray run C --out s3://b/r", "My run_1"
    )
    assert target == "my-run-1"
    (first, config_map), (second, job) = ((words, json.loads(text)) for words, text in kubectl.calls())
    assert first == second == ["create", "--validate=strict", "-f", "-"]
    assert config_map["kind"] == "ConfigMap"
    assert config_map["metadata"]["name"] == "my-run-1-files"
    assert base64.b64decode(config_map["binaryData"]["config.yaml"]) == b"name: x\n"
    assert job["metadata"]["name"] == "my-run-1"
    assert job["spec"]["entrypoint"] == "xal-ray run C --out s3://b/r"
    pod = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert pod["volumes"] == [{"name": "xal-ray-files", "configMap": {"name": "my-run-1-files"}}]
    mount = {"name": "xal-ray-files", "mountPath": rayjob.FILES, "readOnly": True}
    assert pod["containers"][0]["volumeMounts"] == [mount]
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert "volumes" not in definition.tree["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]


def test_the_files_namespace_is_used_throughout(kubectl, definition):
    definition.tree["metadata"]["namespace"] = "lab"
    kubectl.answer(get=[status("Complete", "SUCCEEDED")])
    target = rayjob.submit(definition, {}, "x", "r")
    rayjob.watch(target, print)
    rayjob.delete(target)
    assert target == "lab/r"
    assert all(words[:2] == ["--namespace", "lab"] for words, _ in kubectl.calls())


def test_a_name_that_is_taken_is_told_and_nothing_is_touched(kubectl, definition):
    kubectl.answer(create=[[1, "", 'Error: configmaps "r-files" already exists (AlreadyExists)']])
    with pytest.raises(ConfigError, match="of this name already"):
        rayjob.submit(definition, {}, "x", "r")
    assert len(kubectl.calls()) == 1


def test_a_refused_rayjob_leaves_no_files_behind(kubectl, definition):
    refusal = 'strict decoding error: unknown field "spec.rayClusterSpec.authOptions"'
    kubectl.answer(create=[[0, "", ""], [1, "", refusal]])
    with pytest.raises(ConfigError, match="refuses the RayJob") as caught:
        rayjob.submit(definition, {}, "x", "r")
    assert refusal in str(caught.value)
    assert "KubeRay 1.5.1" in str(caught.value)
    assert kubectl.calls()[-1][0][:3] == ["delete", "configmap", "r-files"]


def test_files_that_are_too_large_are_refused(kubectl, definition):
    with pytest.raises(ConfigError, match="do not fit"):
        rayjob.submit(definition, {"weights": bytes(1_000_000)}, "x", "r")
    assert kubectl.calls() == []


def test_without_kubectl_the_error_says_so(tmp_path, monkeypatch, definition):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs kubectl"):
        rayjob.submit(definition, {}, "x", "r")


def test_a_run_is_watched_to_its_end_and_no_line_comes_twice(kubectl):
    kubectl.answer(
        get=[status("Initializing"), status("Running"), status("Running"), status("Complete", "SUCCEEDED")],
        # the connection breaks after the first line; then the log starts within the same second
        logs=[
            [1, "2026-01-01T00:00:01.100000000Z round 0\n", "broken"],
            [0, "2026-01-01T00:00:01.100000000Z round 0\n2026-01-01T00:00:02.500000000Z round 1\n", ""],
            [0, "2026-01-01T00:00:02.500000000Z round 1\n", ""],
        ],
    )
    lines = []
    assert rayjob.watch("r", lines.append) is True
    assert lines == [
        "RayJob r: Initializing",
        "RayJob r: Running",
        "round 0",
        "round 1",
        "RayJob r: Complete",
    ]
    logs = [words for words, _ in kubectl.calls() if words[0] == "logs"]
    assert logs[0] == ["logs", "--follow", "--timestamps", "job/r"]
    assert logs[1][-1] == "--since-time=2026-01-01T00:00:01.100000000Z"


@pytest.mark.parametrize(
    "end",
    [
        status("Failed", "FAILED", reason="AppFailed", message="exit 1"),
        status("ValidationFailed", message="no rayVersion"),
        status("Complete", "STOPPED"),
    ],
)
def test_a_run_that_failed_is_told(kubectl, end):
    kubectl.answer(get=[end])
    lines = []
    assert rayjob.watch("r", lines.append) is False
    told = json.loads(end[1])["status"].get("message", "")
    assert any(told in line for line in lines)


def test_a_rayjob_that_is_gone_ends_the_watch(kubectl):
    kubectl.answer(get=[[1, "", "Error from server (NotFound): rayjobs.ray.io"]])
    with pytest.raises(StageError, match="is gone"):
        rayjob.watch("r", print)


def test_kubernetes_may_fail_for_a_while_but_not_for_ever(kubectl):
    kubectl.answer(get=[[1, "", "Unable to connect"], status("Complete", "SUCCEEDED")])
    assert rayjob.watch("r", lambda _: None) is True
    kubectl.answer(get=[[1, "", "x\nUnable to connect"]])
    with pytest.raises(StageError, match="Unable to connect"):
        rayjob.watch("r", print)


def test_deleting_takes_job_and_files_and_is_told_where_it_fails(kubectl):
    rayjob.delete("r")
    assert [words[:3] for words, _ in kubectl.calls()] == [
        ["delete", "rayjobs.ray.io", "r"],
        ["delete", "configmap", "r-files"],
    ]
    kubectl.answer(delete=[[1, "", "forbidden"]])
    with pytest.raises(StageError, match="cost money"):
        rayjob.delete("r")
