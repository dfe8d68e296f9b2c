"""Progress for people: bars with rates and time left on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_EVERY_S = 10.0

Advance = Callable[[int], None]


class Reporter:
    """Says what happens.

    Args:
        console: Where to; standard error by default, so that results on standard output stay clean.
        quiet: Say nothing.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)

    def line(self, text: str) -> None:
        """Say one line."""
        self.console.print(text, markup=False)

    @contextmanager
    def bar(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        """Follow a task of `total` units: yields a function that takes how many more are done."""
        follow = self._terminal_bar if self.console.is_terminal else self._log_lines
        with follow(title, total, unit) as advance:
            yield advance

    @contextmanager
    def _terminal_bar(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        start = time.monotonic()
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(title, total=total, rate="")

            def advance(count: int) -> None:
                done = progress.tasks[0].completed + count
                rate = f"{done / max(time.monotonic() - start, 1e-9):.0f} {unit}/s"
                progress.update(task, advance=count, rate=rate)

            yield advance

    @contextmanager
    def _log_lines(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        start = last = time.monotonic()
        done = 0

        def advance(count: int) -> None:
            nonlocal done, last
            done += count
            now = time.monotonic()
            if now - last >= LOG_EVERY_S or done >= total:
                last = now
                rate = done / max(now - start, 1e-9)
                left = (total - done) / rate if rate else 0.0
                self.line(f"{title}: {done}/{total} {unit}, {rate:.0f} {unit}/s, {left:.0f} s left")

        yield advance


QUIET = Reporter(quiet=True)
