"""The pages of docs/reference say what the code says."""

import re
import runpy
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from pydantic import BaseModel, Field, TypeAdapter
from typer.core import TyperGroup

from xal_ray.cli import app
from xal_ray.cli.conventions import ENVIRONMENT
from xal_ray.config import Config
from xal_ray.config.sections import PositiveInt
from xal_ray.places import Place

ROOT = Path(__file__).resolve().parents[2]
GENERATE = runpy.run_path(str(ROOT / "docs" / "generate.py"))
PAGES = GENERATE["pages"]()
SENTENCE = re.compile(r"[A-Z`].*\.", re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_what_the_code_says(page):
    path = ROOT / "docs" / "reference" / page
    assert path.exists(), f"there is no docs/reference/{page}: run `make docs`"
    assert path.read_text(encoding="utf-8") == PAGES[page], f"docs/reference/{page} is stale: run `make docs`"


def test_pages_depend_on_no_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert GENERATE["pages"]() == PAGES


# ── configuration


def all_keys(section=Config, prefix=""):
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from all_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def test_every_key_has_a_row_and_is_described_in_a_sentence():
    lines = PAGES["configuration.md"].partition("## Identity")[0].splitlines()
    for key, field in all_keys():
        assert SENTENCE.fullmatch(field.description or ""), f"{key}: {field.description!r}"
        (row,) = (line for line in lines if line.startswith(f"| `{key}` |"))
        assert " ".join(field.description.split()) in row
        assert field.is_required() == ("*required*" in row), row
        assert re.search(r"\| \d+\.\d+\.\d+ \| [^|]+ \|$", row), row


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "int"),
        (PositiveInt | Literal["auto"], "int >= 1 or `auto`"),
        (Annotated[float, Field(gt=0, lt=1)], "float > 0 and < 1"),
        (Literal["a", "b"] | None, "one of `a`, `b` or null"),
        (tuple[str, ...], "list of str"),
        (tuple[float, PositiveInt], "[float, int >= 1]"),
        (dict[str, bool], "mapping of str to bool"),
        (list[int | str], "list of (int or str)"),
        (Place | None, "path or URI or null"),
    ],
)
def test_types_are_said_in_words(kind, words):
    assert GENERATE["type_in_words"](TypeAdapter(kind).json_schema()) == words


# ── command line


def all_commands(command=None, name="xal-ray"):
    command = command or typer.main.get_command(app)
    yield name, command
    if isinstance(command, TyperGroup):
        for below in command.commands.values():
            yield from all_commands(below, f"{name} {below.name}")


def test_every_command_and_option_is_explained_in_sentences():
    for name, command in all_commands():
        assert re.fullmatch(r"[A-Z].*[.?]", command.help.partition("\n\n")[0], re.DOTALL), name
        assert isinstance(command, TyperGroup) or f"### `{name}`\n" in PAGES["command-line.md"], name
        for param in command.params:
            assert SENTENCE.fullmatch(param.help or ""), f"{name} {param.name}: {param.help!r}"


# In modules that use the environment: what they set for processes of their own, and what is no variable.
NOT_READ = ("XAL_RAY_CAPPED", "OMP_*", "OPENBLAS_*", "MALLOC_*", "SC_*", "JPEG", "ERROR")


def test_every_environment_variable_that_is_read_is_explained():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "xal_ray").rglob("*.py")]
    named = {
        name
        for text in sources
        if "os.environ" in text
        for name in re.findall(r'"([A-Z][A-Z0-9_]{3,})"', text)
    }
    assert "TMPDIR" in named
    assert "XAL_RAY_PSEUDONYM_KEY_FILE" in named
    for name in named:
        known = any(fnmatchcase(name, pattern) for pattern in (*ENVIRONMENT, *NOT_READ))
        assert known, f"{name} is not explained"
    for name, meaning in ENVIRONMENT.items():
        assert SENTENCE.fullmatch(meaning), name
        assert "*" in name or any(f'"{name}"' in text for text in sources), f"{name} is read nowhere"
