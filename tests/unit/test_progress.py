"""Progress: no rate and no time left before something was done, and none made of what was done before."""

import io
import re

import pytest
from rich.console import Console

from xal_ray import progress
from xal_ray.progress import Reporter


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only where the test says so."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def _follow(clock, steps, *, total=100, terminal=False) -> list[str]:
    """The lines after (seconds passed, units done) each."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, soft_wrap=True)
    with Reporter(console).bar("scoring", total, "images") as advance:
        for seconds, count in steps:
            clock[0] += seconds
            advance(count)
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).split("\n")]


def test_a_log_says_no_time_left_before_the_first_step(clock):
    lines = _follow(clock, [(20, 0), (20, 0), (20, 10), (0, 90)])
    assert lines[:2] == ["scoring: 0/100 images", "scoring: 0/100 images"]
    assert lines[2] == "scoring: 10/100 images, 0.25 images/s, 0:06:00 left"
    assert lines[3].startswith("scoring: 100/100 images")
    assert "left" not in lines[3]


def test_what_was_done_before_is_no_part_of_the_rate(clock):
    lines = _follow(clock, [(0.001, 90), (20, 0), (0, 5)])
    assert lines[0] == "scoring: 90/100 images"
    lines = _follow(clock, [(0.001, 90), (20, 5)])
    assert lines[0] == "scoring: 95/100 images, 0.25 images/s, 20 s left"


def test_a_task_that_was_done_already_has_no_rate(clock):
    assert _follow(clock, [(0.5, 100)])[0] == "scoring: 100/100 images"


def test_a_terminal_says_the_same(clock):
    text = "\n".join(_follow(clock, [(20, 0)], terminal=True))
    assert "0/100" in text
    assert "left" not in text
    assert "images/s" not in text
    assert "0.50 images/s, 0:03:00 left" in "\n".join(_follow(clock, [(0, 0), (20, 10)], terminal=True))
