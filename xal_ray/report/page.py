"""Builds RUN/report.html: one file without scripts or links, the same bytes for the same run.

The page embeds images of the pool, so it may go only where those may go. Of paths it shows the last part
alone. Who is in the pool is told in cells of ten groups (patients) and more; what the model did is told of
fewer, too, with a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from xal_ray.acquire.shortlist import describe_shortlist
from xal_ray.acquire.strategies import uncertainty_column
from xal_ray.config import Config
from xal_ray.errors import RunError
from xal_ray.pool.breakdown import MIN_GROUPS
from xal_ray.pool.schema import ROI_STATES, SPLITS, PoolReader
from xal_ray.record.layout import RunLayout
from xal_ray.report import figures, overlay
from xal_ray.report.area import area, area_interval
from xal_ray.report.numbers import format_number, p_words, signed
from xal_ray.report.reader import Pick, Picks, Round, RunReading, read_run, shown_uncertainty
from xal_ray.report.sections import MEASURES, describe_alignment, describe_pool, tested_rows
from xal_ray.storage import write_bytes

MAX_SHOWN = 24  # picks of a round whose pictures are embedded
SUPPRESSED = f"<{MIN_GROUPS} groups"
ROI_TAGS = {"oracle": "oracle ROI", "none": "no ROI"}
ROI_WORDS = {
    "oracle": "The expert ROIs of unlabelled images are taken as known: the paper's retrospective setting. "
    "In use, somebody would first have to draw them.",
    "none": "No ROI was used: saliency was compared with nothing, and this page shows no alignment.",
}


@dataclass(frozen=True)
class Card:
    """A pick and its picture."""

    pick: Pick
    picture: str
    has_roi: bool


@dataclass(frozen=True)
class Gallery:
    """The picks of a round. `status` is empty for a finished one."""

    title: str
    status: str
    cards: tuple[Card, ...]
    num_picks: int
    is_open: bool
    effect: Mapping[str, Any] | None
    shortfall: Mapping[str, Any] | None


def build_report(run: Path, pool: PoolReader) -> Path:
    """Write a run's page, replacing an older one.

    Args:
        run: The run's folder.
        pool: The pool that it ran on.

    Returns:
        The page's path, `run/report.html`.

    Raises:
        RunError: There is no run here, or it does not fit the pool.
        StorageError: A file can't be read or written.
    """
    found = read_run(run, pool.classes, MAX_SHOWN)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xal_ray", "report"),
        autoescape=True,  # names of classes and images are somebody else's text
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"num": format_number, "signed": signed, "p": p_words}
    html = environment.get_template("template.html.j2").render(_context(found, pool))
    path = RunLayout(run).report
    write_bytes(path, html.encode("utf-8"))
    return path


def _context(run: RunReading, pool: PoolReader) -> dict[str, Any]:
    index = pool.index()
    split = _headline_split(run.committed)
    last = run.committed[-1] if run.committed else None
    headline = last.splits.get(split) if last else None
    test = headline.alignment.test if headline and headline.alignment else None
    return {
        "run": run,
        "config": run.config,
        "last": last,
        "split": split,
        "headline": headline,
        "min_groups": MIN_GROUPS,
        "suppressed": SUPPRESSED,
        "asked": describe_request(run.config),
        "roi_tag": ROI_TAGS[run.config.roi.source],
        "roi_words": ROI_WORDS[run.config.roi.source],
        "state_words": _state_words(run),
        "card": pool.card,
        "pool_name": pool.path.resolve().name,
        **describe_pool(pool.card),
        "splits": SPLITS,
        "roi_states": ROI_STATES,
        "chance": 1 / len(pool.classes),
        "areas": {name: area(run.committed, name) for name in ("test", "val")},
        "area_ci95": area_interval(run.committed, split, index, pool.classes),
        "learning_figure": figures.learning_curve(run.committed, len(pool.classes)),
        "alignment_figure": figures.alignment_curve(run.committed, split),
        "training_figure": figures.training_history(run.committed),
        "colour_bar": figures.colour_bar(),
        "measures": MEASURES,
        "tested": tested_rows(test),
        "verdict": describe_alignment(test),
        "few_groups": _few_groups(last),
        "galleries": _galleries(run, pool, index),
        "content_hash": pool.content_hash,
        "shown_uncertainty": shown_uncertainty(run.config),
        "config_yaml": yaml.safe_dump(public_config(run.config), sort_keys=False, allow_unicode=True),
    }


def describe_request(config: Config) -> list[tuple[str, str]]:
    """Return what the run was asked for, as (term, words)."""
    select, model = config.select, config.model
    spec = select.spec
    words = spec.words if spec.origin is None else f"{spec.name}: {spec.words}"
    if spec.is_weighted:
        weighed = f"{select.weight:g} × uncertainty + {1 - select.weight:g} × misalignment"  # noqa: RUF001
        words += f": {weighed} (normalise: {select.normalise})"
    if listed := describe_shortlist(select):
        words += f", among {listed}"
    per_group = f", at most {select.max_per_group} of a group" if select.max_per_group else ""
    return [
        ("Strategy", words),
        ("Uncertainty", (uncertainty_column(select) or "not looked at").replace("_", " ")),
        ("Query size", f"{select.query_size} labels a round{per_group}"),
        ("Budget", f"{select.initial_labels} initial labels, then {config.num_rounds} rounds of picks"),
        ("Backbone", model.backbone + (", frozen" if model.freeze == "backbone" else "")),
        ("Weights", f"{_last_part(model.weights)} (start of a round: {config.train.init})"),
        ("Saliency", config.score.saliency),
        ("Labels from", config.labels.source),
    ]


def public_config(config: Config) -> dict[str, Any]:
    """The configuration as plain values, of paths the last part alone: folders can name people and places."""
    tree = config.model_dump(mode="json", exclude={"sweep"})  # of no effect on a run; it may hold an address
    for node, key in (
        (tree["pool"], "path"),
        (tree["pool"]["source"], "path"),
        (tree["model"], "weights"),
        (tree["labels"], "from_run"),
    ):
        if node[key] is not None:
            node[key] = _last_part(node[key])
    return tree


def _last_part(path: str) -> str:
    """Return the last part of a path or URI, without a query: that can hold a signature."""
    return PurePath(path.partition("?")[0]).name


def _headline_split(committed: Sequence[Round]) -> str:
    """Test, or validation for a run without a test split."""
    return "val" if committed and "test" not in committed[-1].splits else "test"


def _few_groups(last: Round | None) -> list[tuple[str, int]]:
    """Evaluated splits with fewer than `MIN_GROUPS` groups, and how many those are."""
    found = last.splits if last else {}
    return [(name, metrics.num_groups) for name, metrics in found.items() if metrics.num_groups < MIN_GROUPS]


def _state_words(run: RunReading) -> str:
    count = len(run.committed)
    # The round after the last picks trains and evaluates too: the labels that were paid for count.
    done = f"{count} of {run.config.num_rounds + 1} models trained and evaluated"
    unfinished = [a_round for a_round in run.rounds if not a_round.committed]
    picks = unfinished[-1].picks if unfinished else run.initial if not run.rounds else None
    if run.state == "awaiting labels" and picks is not None:
        waiting = picks.num_picks - picks.num_labelled
        return f"{done}; {waiting} of {picks.num_picks} picks still need a label"
    return done


def _galleries(run: RunReading, pool: PoolReader, index: pa.Table) -> list[Gallery]:
    """Return the initial set and every round's picks; the newest stands open."""
    chosen: list[tuple[str, str, Picks]] = []
    if run.initial is not None:
        chosen.append(("Initial set", "" if run.rounds else run.state, run.initial))
    for a_round in run.rounds:
        if a_round.picks is not None:
            chosen.append((f"Round {a_round.index}", "" if a_round.committed else run.state, a_round.picks))
    return [
        Gallery(
            title,
            status,
            _cards(picks, run, pool, index),
            picks.num_picks,
            is_open=number == len(chosen),
            effect=picks.effect,
            shortfall=picks.shortfall,
        )
        for number, (title, status, picks) in enumerate(chosen, start=1)
    ]


def _cards(picks: Picks, run: RunReading, pool: PoolReader, index: pa.Table) -> tuple[Card, ...]:
    image_ids = pa.array([pick.image_id for pick in picks.shown], type=pa.string())
    positions = pc.index_in(image_ids, value_set=index["image_id"].combine_chunks())
    if positions.null_count:
        raise RunError(
            "the run and the pool do not fit: a selected image is not in the pool",
            found=str(image_ids.filter(positions.is_null())[0]),
            where=str(run.path),
            next_step="give the pool that this run was started with",
        )
    rows = pool.read_rows(index.take(positions))
    cards = []
    for position, pick in enumerate(picks.shown):
        has_roi = bool(rows.has_roi[position]) and run.config.roi.source != "none"
        roi = rows.rois[position].astype(np.float32) / np.float32(255) if has_roi else None
        drawn = overlay.picture(rows.pixels[position], roi, pick.saliency)
        cards.append(Card(pick, overlay.jpeg_data_uri(drawn), has_roi and bool(rows.rois[position].any())))
    return tuple(cards)
