"""The README: its commands and keys exist, and its quickstart works as a user types it."""

import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import typer
import typer.main
import yaml
from pydantic import BaseModel

import xal_ray
from xal_ray.cli import app
from xal_ray.config import Config, build_config, load_config

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", *PAGES)
SECTIONS = [key for key, field in Config.model_fields.items() if hasattr(field.annotation, "model_fields")]
UsageError = typer.BadParameter.__mro__[1]  # click's; typer does not always take click from the same place

# What makes the quickstart take seconds: 120 small images, one round, few steps.
SMALL = {
    "num_rounds": 1,
    "pool.image_size": 64,
    "pool.source.phantom.num_patients": 40,
    "train.max_steps": 6,
    "train.eval_every_steps": 3,
    "select.initial_labels": 12,
    "select.query_size": 6,
    "score.max_error_fraction": 0.9,  # of maps of 2 x 2 cells many are 0 in all of them
}
LIGHT = {"ray.num_actors": 1, "ray.num_decoders": 1, "ray.object_store_mb": 200}


def blocks(language, text=README):
    """The contents of a text's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text=README):
    """The commands in a text's bash blocks, as lists of words."""
    lines = "".join(blocks("bash", text)).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    return [words for words in found if words]


def section(title):
    """A section of the README, up to the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ [A-Z])", README, re.MULTILINE | re.DOTALL)
    assert found, title
    return found.group(1)


def configs_in_readme():
    """The README's own YAML files, by the name in their first line."""
    return {block.splitlines()[0].removeprefix("# "): yaml.safe_load(block) for block in blocks("yaml")}


def parse(words):
    """Parse a command line as `xal-ray` would, without running it: its command's name, and its values."""
    command, names, rest = typer.main.get_command(app), [], words[1:]
    while hasattr(command, "commands"):
        assert rest, f"no command: {words}"
        assert rest[0] in command.commands, f"no such command: {words}"
        command = command.commands[rest[0]]
        names.append(rest[0])
        rest = rest[1:]
    return " ".join(names), command.make_context(names[-1], rest).params


def recipe(target):
    """The one command of the environment that a make target runs."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(rf"^{target}:.*\n\t\$\(BIN\)/(.*)$", makefile, re.MULTILINE)
    assert found, target
    return shlex.split(found.group(1))


def has_key(dotted):
    """Whether a configuration has a key."""
    node = Config
    for part in dotted.split("."):
        if not (isinstance(node, type) and issubclass(node, BaseModel) and part in node.model_fields):
            return False
        node = node.model_fields[part].annotation
    return True


OURS = [words for words in commands() if words[0] == "xal-ray"]
OTHERS = [words for words in commands() if words[0] != "xal-ray"]


def test_every_command_that_exists_is_shown():
    shown = {parse(words)[0] for words in OURS}
    assert shown == {
        "prepare",
        "run",
        "sweep",
        "score",
        "report",
        "labels import",
        "doctor",
        "attach",
        "down",
    }


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_a_command_parses_and_its_configuration_holds(words):
    _, values = parse(words)
    overrides = values.get("overrides") or []
    path = values.get("config")
    if path is None:
        build_config({"name": "any"}, overrides)
    elif str(path) in configs_in_readme():
        build_config(configs_in_readme()[str(path)], overrides)
    else:
        load_config(ROOT / path, overrides)


@pytest.mark.parametrize(
    "wrong", ["", "sorce", "labels", "run a.yaml --sett b=c", "run", "report a b", "score --model a"]
)
def test_a_wrong_command_would_be_noticed(wrong):
    with pytest.raises((AssertionError, UsageError)):
        parse(["xal-ray", *wrong.split()])


def test_the_other_commands_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for program, *rest in OTHERS:
        if program == "make":
            assert parse(recipe(*rest))
        elif program == "pip":
            assert rest[:2] == ["install", "-e"]
            assert set(re.fullmatch(r"\.\[(.+)\]", rest[2]).group(1).split(",")) <= extras.keys()
        else:
            assert [program, *rest] == ["source", ".venv/bin/activate"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_named_keys_and_files_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    named = re.findall(rf"`(?:--set )?'?((?:{'|'.join(SECTIONS)})\.[a-z0-9_.]+)(?:[=: ][^`]*)?`", text)
    keys = [key for key in named if not key.endswith((".parquet", ".json", ".html", ".safetensors", ".csv"))]
    assert [key for key in keys if not has_key(key)] == []
    modules = re.findall(r"`([a-z0-9_/]+/[a-z0-9_]+\.py)`", text)
    assert [
        path for path in modules if not any((ROOT / above / path).is_file() for above in ("", "xal_ray"))
    ] == []
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert len(keys) + len(modules) + len(links) > 1
    assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == []


def test_the_quickstarts_numbers_are_its_configurations():
    config = load_config(ROOT / "configs" / "quickstart.yaml")
    phantom = config.pool.source.phantom
    images = phantom.num_patients * phantom.images_per_patient
    text = section("Quickstart")
    assert f"draws {images} chest-like images of {phantom.num_patients} patients" in text
    assert re.findall(r"rounds/(\d+)", text) == [f"{config.num_rounds:03d}"]


def shrunk(words):
    """A command of the quickstart with smaller numbers, and its configuration found from any folder."""
    last_round = f"rounds/{SMALL['num_rounds']:03d}"
    words = [re.sub(r"^configs/", f"{ROOT}/configs/", word) for word in words[1:]]
    words = [re.sub(r"rounds/\d+", last_round, word) for word in words]
    changes = {"run": SMALL | LIGHT, "score": LIGHT}.get(words[0], {})
    return words + [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]


def call(words, folder):
    """Run the command line in a process of its own, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "xal_ray.cli", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def contents(folder):
    """All files below a folder, but the lock."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.slow
def test_the_lines_of_python_fit_what_they_call(monkeypatch, capsys):
    """Each call of the README's block is held against the signature of the function, which is not called."""
    called = {}
    for name in ("prepare", "run"):
        inspected = inspect.signature(getattr(xal_ray, name))

        def stand_in(*arguments, _name=name, _inspected=inspected, **named):
            called[_name] = _inspected.bind(*arguments, **named).arguments
            return SimpleNamespace(status="finished", report="page")

        monkeypatch.setattr(xal_ray, name, stand_in, raising=False)
    monkeypatch.chdir(ROOT)
    (code,) = blocks("python", section("From Python"))
    exec(code, {})
    assert called["run"]["config"].select.strategy == "margin"
    assert called["prepare"]["settings"] == called["run"]["config"].pool
    assert capsys.readouterr().out == "finished page\n"


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_quickstart_as_a_user_types_it(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch", reason="the quickstart's backbone needs the extra lite")
    typed = [["make", "quickstart"], *commands(section("Quickstart"))]
    typed = [recipe(*words[1:]) if words[0] == "make" else words for words in typed]
    typed = [words for words in typed if words[0] == "xal-ray"]
    assert [words[1] for words in typed] == ["run", "run", "report", "score", "doctor"]
    first, again, report, score, doctor = map(shrunk, typed)

    answer = call(first, tmp_path)
    assert (answer.returncode, answer.stdout) == (0, "finished. Report: runs/quickstart/report.html\n"), (
        answer
    )
    assert "Traceback" not in answer.stderr
    (tree,) = blocks("text", section("What a run leaves behind"))
    assert [line for line in tree.splitlines() if not (tmp_path / line.split()[0]).is_file()] == []
    ledger = (tmp_path / "runs/quickstart/ledger.jsonl").read_text()
    records = [json.loads(line) for line in ledger.splitlines()]
    assert records[-1]["event"] == "run_finished"
    bought = {r["round"]: len(r["data"]["labels"]) for r in records if r["event"] == "round_committed"}
    assert bought == {-1: 12, 0: 6, 1: 0}

    before = contents(tmp_path)
    answer = call(again, tmp_path)
    assert answer.returncode == 0, answer
    assert answer.stdout.startswith("this run is finished; nothing to do.")
    assert contents(tmp_path) == before

    answer = call(report, tmp_path)
    assert (answer.returncode, answer.stdout) == (0, "runs/quickstart/report.html\n"), answer
    assert contents(tmp_path) == before

    answer = call(score, tmp_path)
    assert answer.returncode == 0, answer
    index = pq.read_table(tmp_path / "pools/quickstart/index.parquet").to_pylist()
    unlabelled = [row["image_id"] for row in index if row["split"] == "pool"]
    shards = sorted((tmp_path / "scores/quickstart/scores").glob("*.parquet"))
    assert [name for shard in shards for name in pq.read_table(shard)["image_id"].to_pylist()] == unlabelled
    chosen = tmp_path / "scores/quickstart/selection.parquet"
    assert answer.stdout.splitlines() == [
        f"scored {len(unlabelled)} images: scores/quickstart/scores",
        "chose 20 of them: scores/quickstart/selection.parquet",
    ]
    picks = pq.read_table(chosen)
    assert picks["rank"].to_pylist() == list(range(20))
    assert set(picks["image_id"].to_pylist()) <= set(unlabelled)

    (part,) = commands(section("Large pools"))
    answer = call([*shrunk(part), "--set", "ray.num_actors=0"], tmp_path)  # without a Ray of its own
    assert answer.returncode == 0, answer
    a_quarter = -(-len(unlabelled) // 4)
    assert answer.stdout.startswith(f"scored {max(a_quarter, 20)} images: scores/part/scores\n")

    answer = call(doctor, tmp_path)
    assert answer.returncode in (0, 1), answer  # 1 where the machine is short of memory or disk
    assert re.search(r"^ok +Ray starts +yes", answer.stdout, re.MULTILINE), answer
