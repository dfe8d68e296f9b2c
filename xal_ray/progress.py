"""Progress for people: bars with rates and time left on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

LOG_EVERY_S = 10.0

Advance = Callable[[int], None]


class _Lines(Console):
    """A console whose reader may go: that ends the command, as it would with standard output."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Reporter:
    """Says what happens.

    Args:
        console: Where to; standard error by default, so that results on standard output stay clean.
        quiet: Say nothing.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or _Lines(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)

    def line(self, text: str) -> None:
        """Say one line."""
        self.console.print(text, markup=False)

    @contextmanager
    def bar(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        """Follow a task of `total` units: yields a function that takes how many more are done.

        Its first call says how many were done before: they are shown, and no part of the rate. There is no
        rate and no time left before something was done.
        """
        follow = self._terminal_bar if self.console.is_terminal else self._log_lines
        with follow(title, _Pace(total, unit)) as advance:
            yield advance

    @contextmanager
    def _terminal_bar(self, title: str, pace: _Pace) -> Iterator[Advance]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(title, total=pace.total, pace="")

            def advance(count: int) -> None:
                pace.advance(count)
                progress.update(task, completed=pace.done, pace=pace.words())

            yield advance

    @contextmanager
    def _log_lines(self, title: str, pace: _Pace) -> Iterator[Advance]:
        last = time.monotonic()

        def advance(count: int) -> None:
            nonlocal last
            pace.advance(count)
            now = time.monotonic()
            if now - last >= LOG_EVERY_S or pace.done >= pace.total:
                last = now
                words = pace.words()
                self.line(f"{title}: {pace.done}/{pace.total} {pace.unit}{words and ', '}{words}")

        yield advance


class _Pace:
    """Says how fast a task goes on, and how long it still takes."""

    def __init__(self, total: int, unit: str) -> None:
        self.total = total
        self.unit = unit
        self.done = 0
        self._before: int | None = None  # what was done before this call
        self._start = time.monotonic()

    def advance(self, count: int) -> None:
        self.done += count
        if self._before is None:
            self._before, self._start = count, time.monotonic()

    def words(self) -> str:
        """Return the rate and the time left; nothing before there is a rate."""
        done = self.done - (self._before or 0)
        seconds = time.monotonic() - self._start
        if done <= 0 or seconds <= 0:
            return ""
        rate = done / seconds
        words = f"{rate:.{0 if rate >= 10 else 2}f} {self.unit}/s"
        left = (self.total - self.done) / rate
        if left <= 0:
            return words
        return f"{words}, {f'{left:.0f} s' if left < 100 else timedelta(seconds=round(left))} left"


QUIET = Reporter(quiet=True)
