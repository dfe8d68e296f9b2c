"""The commit of a round: one line in the ledger that says what was chosen and why, then the marker."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from xal_ray.loop.state import Run
from xal_ray.model.files import WEIGHTS_FILE
from xal_ray.record.events import Selected, SelectionRow
from xal_ray.record.layout import INITIAL, RoundLayout
from xal_ray.storage import digest, existing_files, names_in, read_json, read_table, sha256_file, write_bytes


def commit_round(run: Run, files: RoundLayout) -> None:
    """The round's line in the ledger, then its marker."""
    labels = read_table(files.labels) if files.labels.exists() else None
    known = (
        dict(zip(labels["image_id"].to_pylist(), labels["label"].to_pylist(), strict=True)) if labels else {}
    )
    record = run.ledger.append(
        "round_committed",
        round_number=files.number,
        files=_hashes(files),
        labels=known,
        selected=_audit(run, files),
    )
    write_bytes(files.committed, record.hash.encode() + b"\n")
    if files.number != INITIAL:
        run.context.reporter.line(f"{files.title}: committed, {len(known)} new labels")


def _hashes(files: RoundLayout) -> dict[str, str]:
    kept = [
        files.folder / WEIGHTS_FILE,
        files.model_card,
        files.metrics,
        files.selection,
        files.runners_up,
        files.subsample,
        files.shortfall,
        files.passed_over,
        files.labels,
    ]
    there = existing_files(kept)
    for shards in (files.scores, files.holdout, files.labelled):
        there |= {shards / name for name in names_in(shards, ".parquet")}
    return {str(path.relative_to(files.folder)): sha256_file(path) for path in sorted(there)}


def _audit(run: Run, files: RoundLayout) -> Selected:
    """Return what led to the picks, so that each can be traced."""
    if not files.selection.exists():
        return {}
    picks: list[SelectionRow] = read_table(files.selection).to_pylist()
    names = [row["image_id"] for row in picks]
    index = run.index.filter(pc.is_in(run.index["image_id"], pa.array(names, pa.string())))
    rows = {row["image_id"]: row for row in index.to_pylist()}
    card = read_json(files.model_card) if files.model_card.exists() else {}
    return {
        "strategy": run.config.select.strategy if files.number != INITIAL else "random",
        "select": run.config.select.model_dump(
            mode="json", exclude=set() if run.config.has_effect("select.shortlist") else {"shortlist"}
        ),
        "config_hash": digest(run.config.identity()),
        "seed": run.config.seed,
        "pool_size": run.unlabelled().num_rows,
        "cutoff": picks[-1]["utility"] if picks else None,
        "model_id": card.get("model_id"),
        "weights_sha256": card.get("weights_sha256"),
        "saliency": {"method": run.config.score.saliency, "layer": card.get("target_layer")},
        "label_source": run.config.labels.source,
        "images": [
            {
                **pick,
                "group_id": rows[pick["image_id"]]["group_id"],
                "content_sha256": rows[pick["image_id"]]["content_sha256"],
            }
            for pick in picks
        ],
    }
