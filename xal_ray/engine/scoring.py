"""Scoring: row references spread over a pool of actors, each with the model loaded once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray import config
from xal_ray.engine.context import StageContext
from xal_ray.engine.session import ready_to_score
from xal_ray.engine.shards import Pace, Shard, cut, run_shards
from xal_ray.errors import StageError
from xal_ray.model.files import CARD_FILE
from xal_ray.pool.activations import ActivationReader
from xal_ray.pool.schema import REFERENCE_COLUMNS, PoolReader
from xal_ray.scoring.scorer import Scorer
from xal_ray.storage import existing_files, names_in, read_table, sha256_file, write_table

_UNDEFINED_MAP = "undefined_map"
# What to do about most images without a score or a map, by their reason.
_CURES = {
    "non_finite_output": "a diverged model gives no finite output: lower train.learning_rate",
    "out_of_memory": "remove the folder, then lower score.batch_size, or use fewer actors on a node or a GPU",
    "crashed": "look at the nodes for a broken device or a lack of memory, remove the folder, and go on",
    _UNDEFINED_MAP: "raise score.max_error_fraction: such images are then ranked by their uncertainty alone",
}


class ScoreShard:
    """The work of a scoring actor.

    Args:
        images: What it reads.
        scorer: What its `Scorer` is made with.
        model_card: A hash of what the model's card says: an actor that has a model by its path takes it up
            anew where another one lies there now.
        with_embeddings: The folders whose shards have the column `embedding`.
    """

    def __init__(
        self,
        images: PoolReader | ActivationReader,
        scorer: Mapping[str, Any],
        model_card: str = "",
        with_embeddings: Collection[Path] = (),
    ) -> None:
        self.images = images
        self.scorer = Scorer(**scorer)
        self.with_embeddings = with_embeddings

    def __call__(self, path: Path, rows: pa.Table, refused: Mapping[str, str] | None = None) -> None:
        """Score the referenced rows and write their shard; refused ones get their error code, no scores."""
        embeds = path.parent in self.with_embeddings
        if not refused:
            write_table(path, self._scored(rows, embeds))
            return
        codes = pa.array([refused.get(image_id) for image_id in rows["image_id"].to_pylist()], pa.string())
        tables = [self._scored(rows.filter(pc.is_null(codes)), embeds)]
        for code in sorted(set(refused.values())):
            ids = rows.filter(pc.equal(codes, code))["image_id"].to_pylist()
            tables.append(self.scorer.without_scores(ids, code, with_embeddings=embeds))
        scores = pa.concat_tables(tables)
        write_table(path, scores.take(pc.index_in(rows["image_id"], scores["image_id"])).combine_chunks())

    def probe(self, rows: pa.Table) -> None:
        """Score, and write nothing."""
        self._scored(rows)

    def _scored(self, rows: pa.Table, with_embeddings: bool = False) -> pa.Table:
        if not rows.num_rows:
            return self.scorer([], with_embeddings=with_embeddings)
        pieces = self.images.stream_rows(rows, self.scorer.rows_at_once)
        return self.scorer(pieces, with_embeddings=with_embeddings)


def score(
    pool: PoolReader,
    model: Path,
    requests: Mapping[Path, pa.Table],
    settings: config.Score,
    roi: config.Roi,
    context: StageContext,
    *,
    activations: ActivationReader | None = None,
    ranked_by_maps: Collection[Path] = (),
    with_embeddings: Collection[Path] = (),
) -> Pace:
    """Score rows of a pool into folders of shards; shards that are already there are not scored again.

    Args:
        pool: The packed pool.
        model: The model's folder.
        requests: For each output folder, the index rows to score.
        settings: Saliency method, batch and shard sizes.
        roi: Whether ROIs may be used.
        context: Actors, CPUs and GPUs, and who hears about progress.
        activations: What the model's frozen backbone made of the pool; read instead of its pixels.
        ranked_by_maps: Those of the output folders whose images are to be ranked by their maps, so that few
            may be without one.
        with_embeddings: Those of the output folders whose shards have the column `embedding`.

    Returns:
        How long it took; all zero where every shard was there.

    Each folder's shards, in the order of their names, then hold exactly the requested rows, in their order.

    Raises:
        StageError: More than `max_error_fraction` of the rows have no score, or no map where they are to be
            ranked by these, or the stage failed.
    """
    shards = [
        shard
        for folder, rows in requests.items()
        for shard in cut(rows.select(REFERENCE_COLUMNS), folder, settings.rows_per_shard)
    ]
    pace = Pace(0, 0.0, 0.0)
    if len(existing_files(shard.path for shard in shards)) < len(shards):
        shape = ready_to_score(context.resources, verbose=context.verbose)
        scorer = {
            "model": model,
            "settings": settings,
            "use_roi": roi.source == "oracle",
            "threads": context.resources.threads_per_actor,
        }
        pace = run_shards(
            "scoring",
            shards,
            ScoreShard,
            {
                "images": activations or pool,
                "scorer": scorer,
                "model_card": _card_of(model),
                "with_embeddings": tuple(with_embeddings),
            },
            shape,
            context,
        )
    for folder in requests:
        found = _check(folder, [shard for shard in shards if shard.path.parent == folder])
        _refuse_too_many("score", found.failed, found, settings.max_error_fraction)
        if found.undefined:
            count = found.undefined.total()
            context.reporter.line(
                f"{count} of {found.num_rows} images have no saliency map: it is the same everywhere"
            )
        if folder in ranked_by_maps:
            _refuse_too_many("saliency map", found.undefined, found, settings.max_error_fraction)
    return pace


def _card_of(model: Path) -> str:
    card = (model if model.is_dir() else model.parent) / CARD_FILE
    return sha256_file(card) if card.is_file() else ""  # without one the scorer says what is missing


@dataclass(frozen=True)
class _Found:
    """Holds what a folder of shards holds: rows, and those of them that lack something, by `error_code`.

    Attributes:
        failed: Rows without probabilities.
        undefined: Rows with probabilities, but without a map.
    """

    folder: Path
    num_rows: int
    failed: Counter[str]
    undefined: Counter[str]


def _check(folder: Path, shards: Sequence[Shard]) -> _Found:
    """Compare scores with the request, a shard at a time."""
    num_rows = 0
    codes: Counter[str] = Counter()
    for shard in shards:
        scores = read_table(shard.path, ["image_id", "error_code"])
        if not scores["image_id"].equals(shard.rows["image_id"]):
            raise StageError(
                "the scores do not cover exactly the requested images",
                expected=f"{shard.rows.num_rows} rows, as requested",
                found=f"{scores.num_rows} rows",
                where=str(shard.path),
                next_step="remove the file and run the same command again",
            )
        num_rows += scores.num_rows
        codes.update(scores["error_code"].drop_null().to_pylist())
    strangers = set(names_in(folder, ".parquet")) - {shard.path.name for shard in shards}
    if strangers:
        raise StageError(
            "the scores do not cover exactly the requested images",
            expected=f"{len(shards)} shards",
            found=f"also {min(strangers)}",
            where=str(folder),
            next_step="remove the folder and run the same command again",
        )
    undefined = Counter({_UNDEFINED_MAP: codes.pop(_UNDEFINED_MAP)}) if _UNDEFINED_MAP in codes else Counter()
    return _Found(folder, num_rows, codes, undefined)


def _refuse_too_many(what: str, lacking: Counter[str], found: _Found, max_error_fraction: float) -> None:
    if lacking.total() <= max_error_fraction * max(found.num_rows, 1):
        return
    raise StageError(
        f"too many images have no {what}",
        expected=f"at most {max_error_fraction:.1%} (score.max_error_fraction)",
        found=f"{lacking.total()} of {found.num_rows}: "
        + ", ".join(f"{number} {code}" for code, number in sorted(lacking.items())),
        where=f"{found.folder}, column error_code",
        next_step=_CURES[max(lacking, key=lambda code: (lacking[code], code))],
    )
