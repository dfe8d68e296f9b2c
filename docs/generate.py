"""Writes the pages of docs/reference from the code: `make docs`.

What a key means is the docstring below it in `xal_ray/config`, and what an option means is its help: a change
belongs there. `tests/unit/test_reference.py` compares the pages with the code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
import yaml
from typer.cli import get_docs_for_click
from typer.core import MARKUP_MODE_KEY, TyperGroup

from xal_ray.cli import app
from xal_ray.cli.conventions import ENVIRONMENT, EXIT_CODES
from xal_ray.config import Config
from xal_ray.config.identity import IDENTITY_RULES, IdentityRule

FOLDER = Path(__file__).parent / "reference"
FIRST_VERSION = "0.1.0"  # of keys that do not say `since` in their `json_schema_extra`
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
TYPES = {"integer": "int", "number": "float", "boolean": "bool", "string": "str", "null": "null"}


def pages() -> dict[str, str]:
    """Make every page; returns the text by the file's name."""
    return {"configuration.md": configuration(), "command-line.md": command_line()}


def configuration() -> str:
    """Describe every key of the configuration, section by section, and what a run is bound to."""
    parts = [
        "# Configuration",
        "*`make docs` writes this page from [xal_ray/config](../../xal_ray/config): a change belongs there.*",
        "A YAML file describes a run, as [quickstart.yaml](../../configs/quickstart.yaml) does. A key that "
        "it leaves out has its default, `--set KEY=VALUE` overrides it, and an unknown key is an error. The "
        "column *identity* says whether a run is bound to the key, and [the last table](#identity) why.",
    ]
    for name, section in _sections(Config.model_json_schema()):
        parts += [f"## `{name}`" if name else "## Top level", section["description"]]
        if rows := list(_keys(name, section)):
            parts.append(_table(("key", "type", "default", "meaning", "since", "identity"), rows))
    rules = [(", ".join(f"`{key}`" for key in rule.keys), rule.when, rule.why) for rule in IDENTITY_RULES]
    parts += [
        "## Identity",
        "`run_id` hashes the keys that belong to the identity, the weights file and the pool's content. A "
        "folder is bound to its `run_id`: a command refuses it with another value of such a key, and goes on "
        "there with other values of the rest.",
        _table(("keys", "in the identity", "why"), rules),
    ]
    return "\n\n".join(parts) + "\n"


def _sections(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Go over all sections with their dotted names, each before those that it holds."""
    waiting = [("", schema)]
    while waiting:
        name, section = waiting.pop(0)
        yield name, section
        waiting[:0] = [
            (_dotted(name, key), schema["$defs"][field["$ref"].rpartition("/")[2]])
            for key, field in section["properties"].items()
            if "$ref" in field
        ]


def _keys(name: str, section: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for leaf, field in section["properties"].items():
        if "$ref" in field:
            continue
        key = _dotted(name, leaf)
        if "description" not in field:
            raise LookupError(f"{key}: a docstring below the field has to say in a sentence what it means")
        default = f"`{_yaml(field['default'])}`" if "default" in field else "*required*"
        since = field.get("since", FIRST_VERSION)
        yield f"`{key}`", type_in_words(field), default, field["description"], since, rule_of(key).when


def type_in_words(field: Mapping[str, Any]) -> str:
    """Say in a few words what a JSON schema allows: `int >= 1`, `one of a, b`, `list of str`."""
    if "anyOf" in field:
        return " or ".join(type_in_words(choice) for choice in field["anyOf"])
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return "one of " + ", ".join(f"`{value}`" for value in field["enum"])
    if "prefixItems" in field:
        return f"[{', '.join(map(type_in_words, field['prefixItems']))}]"
    if field["type"] == "array":
        return f"list of {_one(field['items'])}"
    if field["type"] == "object":
        return f"mapping of str to {_one(field['additionalProperties'])}"
    bounds = " and ".join(f"{sign} {field[bound]:g}" for bound, sign in BOUNDS.items() if bound in field)
    like = f"like `{field['pattern']}`" if "pattern" in field else ""
    return " ".join(filter(None, (field.get("format", TYPES[field["type"]]), bounds, like)))


def _one(field: Mapping[str, Any]) -> str:
    words = type_in_words(field)
    return f"({words})" if "anyOf" in field or "enum" in field else words


def command_line() -> str:
    """Describe every command in the words of its help, and what all of them have in common."""
    groups: dict[str, list[str]] = {}
    for panel, text in _commands():
        groups.setdefault(panel, []).append(text)
    parts = [
        "# Command line",
        "*`make docs` writes this page from [xal_ray/cli](../../xal_ray/cli): a change belongs there.*",
        "`xal-ray COMMAND --help` shows the same in a terminal, and `xal-ray --version` the version.",
    ]
    for panel, texts in groups.items():
        parts += [f"## {panel}", *texts]
    parts += [
        "## Exit codes",
        "With `--cluster` and `--address` it is the job's, or 130 after Ctrl-C, which leaves the job alone.",
        _table(("code", "meaning"), ((str(code), text) for code, text in EXIT_CODES.items())),
        "## Environment variables",
        _table(("variable", "meaning"), ((f"`{name}`", text) for name, text in ENVIRONMENT.items())),
    ]
    return "\n\n".join(parts) + "\n"


def _commands() -> Iterator[tuple[str, str]]:
    """Go over all commands: the panel of the help that each stands in, and its description by Typer."""
    root = typer.main.get_command(app)
    context = typer.Context(root, info_name="xal-ray", obj={MARKUP_MODE_KEY: app.rich_markup_mode})
    waiting = [("xal-ray", "", root)]
    while waiting:
        prefix, panel, command = waiting.pop(0)
        if isinstance(command, TyperGroup):
            name = f"{prefix} {command.name}" if panel else prefix
            waiting[:0] = [
                (name, panel or below.rich_help_panel or "Other commands", below)
                for below in command.commands.values()
            ]
        else:
            text = get_docs_for_click(obj=command, ctx=context, indent=2, call_prefix=prefix)
            yield panel, text.replace("&#x27;", "'").strip()


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(' '.join(cell.split()) for cell in line)} |" for line in lines)


def _dotted(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()


def rule_of(key: str) -> IdentityRule:
    """Find the one rule about a key.

    Raises:
        LookupError: There is none, or there are several.
    """
    (rule,) = (rule for rule in IDENTITY_RULES if rule.covers(key))
    return rule


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name)
