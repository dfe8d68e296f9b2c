"""Writes the pages of docs/reference from the code: `make docs`.

What an option means is its help in `xal_ray/cli`: a change belongs there. `tests/unit/test_reference.py`
compares the pages with the code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import typer
from typer.cli import get_docs_for_click
from typer.core import MARKUP_MODE_KEY, TyperGroup

from xal_ray.cli import app
from xal_ray.cli.conventions import ENVIRONMENT, EXIT_CODES

FOLDER = Path(__file__).parent / "reference"


def pages() -> dict[str, str]:
    """Make every page; returns the text by the file's name."""
    return {"command-line.md": command_line()}


def command_line() -> str:
    """Describe every command in the words of its help, and what all of them have in common."""
    groups: dict[str, list[str]] = {}
    for panel, text in _commands():
        groups.setdefault(panel, []).append(text)
    parts = [
        "# Command line",
        "*`make docs` writes this page from [`xal_ray/cli`](../../xal_ray/cli): a change belongs there.*",
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


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name)
