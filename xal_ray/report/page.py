"""Builds RUN/report.html: one file without scripts or links, the same bytes for the same run.

The page embeds images of the pool, so it may go only where those may go. Of paths it shows the last part
alone, and of groups (patients) nothing but counts of ten and more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from xal_ray.acquire.strategies import uncertainty_column
from xal_ray.config import Config
from xal_ray.errors import RunError
from xal_ray.evaluate import area_over_rounds
from xal_ray.pool.schema import ROI_STATES, SPLITS, PoolReader
from xal_ray.report import figures, overlay
from xal_ray.report.figures import MIN_GROUPS
from xal_ray.report.pool_section import describe_pool
from xal_ray.report.reader import (
    Pick,
    Picks,
    Round,
    Run,
    SplitMetrics,
    read_alignment_rows,
    read_run,
    shown_uncertainty,
)
from xal_ray.storage import write_bytes

REPORT_NAME = "report.html"
MAX_SHOWN = 24  # picks of a round whose pictures are embedded
SUPPRESSED = f"<{MIN_GROUPS} groups"
NORMAL_95 = 1.96  # standard errors on either side of a mean

MEASURES = {
    "soft_dice": "soft Dice",
    "pointing_game": "pointing game",
    "energy_in_roi": "energy in ROI",
    "lift": "lift",
}
ROI_TAGS = {"oracle": "oracle ROI", "none": "no ROI"}
ROI_WORDS = {
    "oracle": "The expert ROIs of unlabelled images are taken as known: the paper's retrospective setting. "
    "In use, somebody would first have to draw them.",
    "none": "No ROI was used: saliency was compared with nothing, and this page shows no alignment.",
}


@dataclass(frozen=True)
class Comparison:
    """A measure of alignment against its shuffled twin.

    Attributes:
        name: The measure, as a reader knows it.
        value: Mean with the true ROIs.
        shuffled: Mean with shuffled ROIs.
        interval: 95 % interval of `value` over groups; None for fewer than two groups.
    """

    name: str
    value: float
    shuffled: float
    interval: tuple[float, float] | None

    @property
    def better(self) -> bool:
        """Whether the shuffled mean lies below the whole interval."""
        return self.interval is not None and self.shuffled < self.interval[0]


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
    environment.filters["num"] = format_number
    html = environment.get_template("template.html.j2").render(_context(found, pool))
    path = run / REPORT_NAME
    write_bytes(path, html.encode("utf-8"))
    return path


def format_number(value: float | None, digits: int = 3) -> str:
    """A number with a fixed count of decimals and a true minus sign; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")  # noqa: RUF001


def _context(run: Run, pool: PoolReader) -> dict[str, Any]:
    index = pool.index()
    split = _headline_split(run.committed)
    last = run.committed[-1] if run.committed else None
    headline = _shown_metrics(last, split) if last else None
    comparisons = compare_with_shuffled(last, split, index) if last and headline else []
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
        "areas": {name: _area(run.committed, name) for name in ("test", "val")},
        "learning_figure": figures.learning_curve(run.committed, len(pool.classes)),
        "alignment_figure": figures.alignment_curve(run.committed, split),
        "training_figure": figures.training_history(run.committed),
        "colour_bar": figures.colour_bar(),
        "measures": MEASURES,
        "comparisons": comparisons,
        "verdict": describe_alignment(comparisons),
        "galleries": _galleries(run, pool, index),
        "content_hash": pool.content_hash,
        "shown_uncertainty": shown_uncertainty(run.config),
        "config_yaml": yaml.safe_dump(public_config(run.config), sort_keys=False, allow_unicode=True),
    }


def describe_request(config: Config) -> list[tuple[str, str]]:
    """What the run was asked for, as (term, words)."""
    select, model = config.select, config.model
    weighed = f"{select.weight:g} × uncertainty + {1 - select.weight:g} × misalignment"  # noqa: RUF001
    words = {
        "random": "random picks",
        "misalignment": "misalignment of saliency and ROI alone",
        "dual": f"dual: {weighed} (normalise: {select.normalise})",
        "shuffled_roi": f"a control, dual with the ROIs of other images: {weighed} "
        f"(normalise: {select.normalise})",
        "smallest_roi": "a control: the smallest ROI first",
    }
    per_group = f", at most {select.max_per_group} of a group" if select.max_per_group else ""
    return [
        ("Strategy", words.get(select.strategy, f"{select.strategy}, largest first")),
        ("Uncertainty", (uncertainty_column(select) or "not looked at").replace("_", " ")),
        ("Query size", f"{select.query_size} labels a round{per_group}"),
        ("Budget", f"{select.initial_labels} initial labels, then {config.num_rounds} rounds of picks"),
        ("Backbone", model.backbone + (", frozen" if model.freeze == "backbone" else "")),
        ("Weights", f"{_last_part(model.weights)} (start of a round: {config.train.init})"),
        ("Saliency", config.score.saliency),
        ("Labels from", config.labels.source),
    ]


def compare_with_shuffled(a_round: Round, split: str, index: pa.Table) -> list[Comparison]:
    """Hold a round's alignment against its shuffled twin, with intervals from the rows that it saved."""
    alignment = a_round.splits[split].alignment
    if alignment is None:
        return []
    rows = read_alignment_rows(a_round)
    members = index.filter(pc.equal(index["split"], split)).select(["image_id", "group_id"])
    rows = rows.join(members, "image_id", join_type="inner").sort_by("image_id")
    groups = rows["group_id"].to_numpy(zero_copy_only=False)
    comparisons = []
    for key, name in MEASURES.items():
        value, shuffled = alignment.values[key], alignment.shuffled[key]
        if value is not None and shuffled is not None:
            column = rows[key].to_numpy(zero_copy_only=False).astype(np.float64)
            comparisons.append(Comparison(name, value, shuffled, mean_interval(column, groups)))
    return comparisons


def mean_interval(values: npt.NDArray[np.float64], groups: npt.NDArray[Any]) -> tuple[float, float] | None:
    """A 95 % interval of a mean over images whose groups, not the images, are independent.

    `mean ± 1.96 s`, `s² = G / (G - 1) · Σ_g (Σ_{i in g} (x_i - mean))² / n²`.

    Args:
        values: (n,); NaN where undefined, and left out.
        groups: (n,) group ids.

    Returns:
        (low, high); None for fewer than two groups.

    Source:
        Liang and Zeger, "Longitudinal data analysis using generalized linear models" (1986): the sandwich
        variance of a mean, with the usual small-sample factor.
    """
    defined = np.isfinite(values)
    names, members = np.unique(groups[defined], return_inverse=True)
    num_groups = len(names)
    if num_groups < 2:
        return None
    mean = float(values[defined].mean())
    sums = np.bincount(members, weights=values[defined] - mean, minlength=num_groups)
    variance = num_groups / (num_groups - 1) * float(np.square(sums).sum()) / float(defined.sum()) ** 2
    half_width = NORMAL_95 * float(np.sqrt(variance))
    return mean - half_width, mean + half_width


def describe_alignment(comparisons: Sequence[Comparison]) -> str:
    """The reading of the comparisons in one or two sentences; empty without any."""
    if not comparisons:
        return ""
    better = [comparison.name for comparison in comparisons if comparison.better]
    worse = [comparison.name for comparison in comparisons if not comparison.better]
    if not better:
        return (
            "In the last round the alignment is no better than shuffled on any measure: what agreement there "
            "is comes from where ROIs usually lie, not from looking at this image's."
        )
    text = f"In the last round the alignment is better than shuffled on {_listed(better)}"
    return f"{text}, but no better than shuffled on {_listed(worse)}." if worse else f"{text}."


def public_config(config: Config) -> dict[str, Any]:
    """The configuration as plain values, of paths the last part alone: folders can name people and places."""
    tree = config.model_dump(mode="json", exclude={"sweep"})  # of no effect on a run; it may hold an address
    for node, key in ((tree["pool"], "path"), (tree["pool"]["source"], "path"), (tree["model"], "weights")):
        if node[key] is not None:
            node[key] = _last_part(node[key])
    return tree


def _last_part(path: str) -> str:
    """The last part of a path or URI, without a query: that can hold a signature."""
    return PurePath(path.partition("?")[0]).name


def _headline_split(committed: Sequence[Round]) -> str:
    """Test, or validation for a run without a test split."""
    return "val" if committed and "test" not in committed[-1].splits else "test"


def _shown_metrics(a_round: Round, split: str) -> SplitMetrics | None:
    metrics = a_round.splits.get(split)
    return metrics if metrics is not None and metrics.num_groups >= MIN_GROUPS else None


def _area(committed: Sequence[Round], split: str) -> float | None:
    """Area under balanced accuracy; None where a round lacks it, or two rounds have equally many labels."""
    metrics = [_shown_metrics(a_round, split) for a_round in committed]
    num_labels = [a_round.num_labels or 0 for a_round in committed]
    return area_over_rounds(num_labels, [found.balanced_accuracy if found else None for found in metrics])


def _state_words(run: Run) -> str:
    count = len(run.committed)
    # The round after the last picks trains and evaluates too: the labels that were paid for count.
    done = f"{count} of {run.config.num_rounds + 1} models trained and evaluated"
    unfinished = [a_round for a_round in run.rounds if not a_round.committed]
    picks = unfinished[-1].picks if unfinished else run.initial if not run.rounds else None
    if run.state == "awaiting labels" and picks is not None:
        waiting = picks.num_picks - picks.num_labelled
        return f"{done}; {waiting} of {picks.num_picks} picks still need a label"
    return done


def _galleries(run: Run, pool: PoolReader, index: pa.Table) -> list[Gallery]:
    """The initial set and every round's picks; the newest stands open."""
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
        )
        for number, (title, status, picks) in enumerate(chosen, start=1)
    ]


def _cards(picks: Picks, run: Run, pool: PoolReader, index: pa.Table) -> tuple[Card, ...]:
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


def _listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
