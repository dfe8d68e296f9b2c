"""Every command does this around its work: it shows errors as messages, and lines on standard output."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import typer

from xal_ray.cli.process import BROKEN_PIPE, check_folder, nobody_reads, stop_code
from xal_ray.errors import XalRayError

_STOPPED = "stopped; the same command goes on from here"


@contextmanager
def errors_shown(debug: bool) -> Iterator[None]:
    """Show an error as its message, and leave with its exit code; show the traceback only where asked for."""
    try:
        check_folder()
        yield
        sys.stdout.flush()
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        typer.echo(_STOPPED, err=True)
        raise typer.Exit(stop_code() or 130) from None
    except Exception as error:
        if (code := stop_code()) is not None:  # what a signal broke off may fail in its own way
            typer.echo(_STOPPED, err=True)
            raise typer.Exit(code) from None
        if isinstance(error, BrokenPipeError) and nobody_reads():
            raise typer.Exit(BROKEN_PIPE) from None
        if debug:
            traceback.print_exc()
        if isinstance(error, XalRayError):
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        typer.echo(
            f"error: an unexpected {type(error).__name__}: {error}\n"
            "  next:     run it again with --debug and report what it shows",
            err=True,
        )
        raise typer.Exit(1) from error
    finally:
        _end()


def echo(lines: Iterable[str]) -> None:
    """Put lines on standard output."""
    for line in lines:
        typer.echo(line)


def _end() -> None:
    """Stop Ray, also where a signal comes in the middle of that."""
    try:
        _stop_ray()
    except KeyboardInterrupt:
        _stop_ray()  # those of the next seconds break nothing off
        typer.echo(_STOPPED, err=True)
        raise typer.Exit(stop_code() or 130) from None


def _stop_ray() -> None:
    if "ray" in sys.modules:
        try:
            from xal_ray.engine.session import stop

            stop()
        except Exception:
            if stop_code() is None:  # a signal may have come in the middle of Ray's own start
                raise
