import importlib.metadata
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import typer.main
import yaml

import xal_ray
from xal_ray.cli import app
from xal_ray.cluster.package import packed
from xal_ray.cluster.request import JobRequest, Target, check_places
from xal_ray.code_version import sha256_of_files
from xal_ray.config import Sweep, build_config
from xal_ray.errors import ConfigError
from xal_ray.labels.exclusions import labelled_or_picked, read_ids
from xal_ray.places import place
from xal_ray.record.layout import SELECTION_SCHEMA, RunLayout
from xal_ray.record.ledger import Ledger
from xal_ray.storage import write_table

PHANTOM = {"kind": "phantom"}


def request(command="run", out="s3://bucket/runs/mine", **tree):
    tree = {"name": "mine", "pool": {"path": "s3://bucket/pool", "source": PHANTOM}} | tree
    return JobRequest(command, build_config(tree), place(out))


@pytest.mark.parametrize(
    ("tree", "out", "key"),
    [
        ({}, "runs/mine", "--out"),
        ({"pool": {"source": PHANTOM}}, "s3://b/o", "pool.path"),
        ({"pool": {"path": "pools/x", "source": PHANTOM}}, "/nfs/o", "pool.path"),
        ({"pool": {"path": "/nowhere/x", "source": {"path": "images/a.csv"}}}, "/nfs/o", "pool.source.path"),
    ],
)
def test_places_that_only_this_machine_sees_are_refused_with_the_reason(tree, out, key):
    with pytest.raises(ConfigError, match="disk of its own") as caught:
        check_places(request(out=out, **tree))
    assert caught.value.details["where"] == key
    assert "s3://" in caught.value.details["next"]


def test_a_score_needs_a_pool_that_the_cluster_sees():
    asked = JobRequest("score", build_config({"name": "s"}), Path("/nfs/o"), Path("m"), Path("pools/x"))
    with pytest.raises(ConfigError, match="disk of its own"):
        check_places(asked)


def test_object_stores_and_absolute_paths_are_taken(tmp_path):
    check_places(request())
    check_places(request(out="/nfs/o", pool={"path": "/nfs/p", "source": {"path": "/nfs/a.csv"}}))
    (tmp_path / "card.json").touch()  # a pool that is packed needs its source no more
    check_places(request(pool={"path": str(tmp_path), "source": {"path": "images/a.csv"}}))


def test_exactly_this_code_and_configuration_travel():
    asked = request(select={"weight": 0.25, "query_size": 7}).with_settings(["ray.address=auto"])
    with packed(asked) as package:
        (code,) = map(Path, package.runtime_env["py_modules"])
        work = Path(package.runtime_env["working_dir"])
        home = Path(xal_ray.__file__).parent
        shipped = {path.relative_to(code) for path in code.rglob("*") if path.is_file()}
        assert Path("cluster/package.py") in shipped
        assert Path("report/template.html.j2") in shipped
        assert not [path for path in shipped if "__pycache__" in path.parts]
        assert (code / "errors.py").read_bytes() == (home / "errors.py").read_bytes()
        assert build_config(yaml.safe_load((work / "config.yaml").read_text())) == asked.settings
        found = importlib.metadata.Distribution.discover(name="xal-ray", path=[str(work)])
        assert [each.version for each in found] == [importlib.metadata.version("xal-ray")]
        folder, before = code.parent, package.code_sha256
        assert sha256_of_files(folder) == before
        (code / "errors.py").write_bytes((code / "errors.py").read_bytes() + b"#")
        assert sha256_of_files(folder) != before
    assert not work.exists()


def test_no_credential_travels(monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "canary-4711")
    with packed(request()) as package:
        assert "canary-4711" not in repr(package)
        work = Path(package.runtime_env["working_dir"])
        assert not [path for path in work.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]
        assert package.runtime_env["env_vars"]["PYTHONUNBUFFERED"] == "1"


def test_weights_of_this_machine_travel_under_a_name_that_stays(tmp_path):
    weights = tmp_path / "deep" / "start.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    with packed(request(model={"weights": str(weights)})) as package:
        work = Path(package.runtime_env["working_dir"])
        name = yaml.safe_load((work / "config.yaml").read_text())["model"]["weights"]
        assert name == "weights/start.safetensors"
        assert (work / name).read_bytes() == b"weights"


def test_weights_that_are_not_here(tmp_path):
    with packed(request(model={"weights": "/nfs/start.pth"})) as package:  # the cluster may see them
        text = (Path(package.runtime_env["working_dir"]) / "config.yaml").read_text()
        assert yaml.safe_load(text)["model"]["weights"] == "/nfs/start.pth"
    with (
        pytest.raises(ConfigError, match="weights are not there"),
        packed(request(model={"weights": "no.pth"})),
    ):
        pass


@pytest.mark.parametrize("command", ["run", "sweep", "score"])
def test_the_job_is_a_command_line_of_ours(command, tmp_path):
    for name in ("model.safetensors", "model.json"):
        (tmp_path / name).write_text("{}")
    settings = build_config({"name": "mine"})
    options = ("--split", "pool", "--query-size", "3") if command == "score" else ("--verbose",)
    asked = JobRequest(command, settings, place("s3://b/a folder"), tmp_path, place("s3://b/pool"), options)
    with packed(asked) as package:
        work = Path(package.runtime_env["working_dir"])
        program, *words = shlex.split(package.entrypoint)
        assert [program, *words[:3]] == ["python", "-m", "xal_ray.cli", command]
        values = typer.main.get_command(app).commands[command].make_context(command, words[3:]).params
        assert (work / str(values["config"])).is_file()
        if command == "score":
            assert str(values["model"]) == "model"
            assert sorted(path.name for path in (work / "model").iterdir()) == [
                "model.json",
                "model.safetensors",
            ]
    assert "'s3://b/a folder'" in package.entrypoint


def test_what_a_pass_leaves_out_travels_with_it(tmp_path):
    """The run of this machine that its model is of, and lists of images; what lies in a store is named."""
    layout = RunLayout(tmp_path / "run")
    layout.path.mkdir()
    ledger = Ledger(layout.ledger, lambda: None)
    ledger.append("run_started", pool_hash="c0ffee")
    ledger.append("round_committed", round_number=-1, labels={"b": "cat"}, files={}, selected={})
    write_table(layout.round(2).selection, SELECTION_SCHEMA.empty_table())
    (layout.round(2).folder / "model.safetensors").write_bytes(b"large")
    (tmp_path / "list.csv").write_text("image_id\nc\n")
    lists = (tmp_path / "list.csv", place("s3://b/list.txt"))
    asked = JobRequest(
        "score", build_config({"name": "s"}), place("s3://b/o"), place("s3://b/m"), place("s3://b/p"), (),
        layout.path, lists,
    )  # fmt: skip
    with packed(asked) as package:
        work = Path(package.runtime_env["working_dir"])
        words = shlex.split(package.entrypoint)
        named = [after for word, after in pairwise(words) if word in ("--run", "--exclude")]
        assert named == ["run", "exclude/0-list.csv", "s3://b/list.txt"]
        assert labelled_or_picked(work / "run").to_pylist() == ["b"]
        assert read_ids(work / named[1]).to_pylist() == ["c"]
        assert not list(work.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target(Path("a"), "http://b"), "two clusters"),
        (Target(down=True), "need a cluster"),
        (Target(detach=True), "need a cluster"),
        (Target(address="http://b", down=True), "can't take down"),
        (Target(Path("a"), down=True, detach=True), "nobody here"),
        (Target(Path("a"), keep_on_failure=True), "goes with --down"),
    ],
)
def test_options_that_contradict_each_other_are_refused(target, message):
    with pytest.raises(ConfigError, match=message):
        target.check()


def test_plug_ins_that_no_distribution_has_travel(tmp_path, monkeypatch):
    """Those that the configuration names, modules and packages, and nothing that lies beside them."""
    text = "from xal_ray.plugins import strategy\n\n@strategy()\ndef mine(columns, settings):\n    ...\n"
    files = [
        "travels_alone.py",
        "travels/deep/mine.py",
        "travels/__init__.py",
        "travels/weights.npz",
        "stays.py",
    ]
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    build_config({"name": "a", "select": {"strategy": "stays:mine"}})
    asked = request("sweep", select={"strategy": "travels.deep.mine:mine"})
    swept = {"params": {"select.strategy": "random, travels_alone:mine"}}
    asked = JobRequest("sweep", asked.settings.model_copy(update={"sweep": Sweep(**swept)}), asked.out)
    with packed(asked) as package:
        code, *plug_ins = map(Path, package.runtime_env["py_modules"])
        assert code.name == "xal_ray"
        assert [path.name for path in plug_ins] == ["travels"]  # Ray takes folders alone
        found = {str(path.relative_to(code.parent)) for path in plug_ins[0].rglob("*")}
        found |= {path.name for path in Path(package.runtime_env["working_dir"]).iterdir()}
        assert set(files) - {"stays.py"} <= found
        assert not {name for name in found if "stays" in name or "__pycache__" in name}
        assert (code.parent / "travels_alone.py").is_file()  # counted into the code's hash
        assert package.code_sha256 == sha256_of_files(code.parent)
