"""The data of the ledger's records, key by key; an event has those that `ledger` names for it."""

from __future__ import annotations

from typing import Any, TypedDict


class StageFigures(TypedDict, total=False):
    """Holds what a stage says of itself beside its seconds.

    Attributes:
        startup_s: Seconds until the first shard was scored.
        images_per_s: From then on.
    """

    startup_s: float
    images_per_s: float


class SelectionRow(TypedDict):
    """A row of a selection (`layout.SELECTION_SCHEMA`).

    Attributes:
        image_id: Of the pick.
        rank: From 0, the best first.
        utility: What the strategy ranks by.
        reason: In words.
        uncertainty: What the utility was made of, as are those that follow; None where it was not looked at.
        misalignment: In [0, 1].
        shuffled_misalignment: The same with the ROI of another image.
        roi_area: The share of the image that the ROI covers.
    """

    image_id: str
    rank: int
    utility: float
    reason: str
    uncertainty: float | None
    misalignment: float | None
    shuffled_misalignment: float | None
    roi_area: float | None


class SelectedImage(SelectionRow):
    """A pick with what it was picked of: its group, and the hash of its pixels and ROI."""

    group_id: str
    content_sha256: str


class SaliencyUsed(TypedDict):
    """Which method explained which layer; a round without a model has no layer."""

    method: str
    layer: str | None


class Selected(TypedDict, total=False):
    """Holds what led to a round's picks, so that each can be traced; empty where nothing was picked.

    Attributes:
        strategy: Of a run's `select.strategy`; random for the initial set.
        select: The section of the configuration.
        config_hash: Of the whole of it.
        seed: The run's.
        pool_size: Images that had no label yet.
        cutoff: The utility of the last pick.
        model_id: Of the model that scored.
        weights_sha256: Of its weights.
        saliency: How it was explained.
        label_source: Who answers.
        images: The picks, by rank.
    """

    strategy: str
    select: dict[str, Any]
    config_hash: str
    seed: int
    pool_size: int
    cutoff: float | None
    model_id: str | None
    weights_sha256: str | None
    saliency: SaliencyUsed
    label_source: str
    images: list[SelectedImage]


class RecordData(StageFigures, total=False):
    """The data of a record.

    Attributes:
        run_id: Of `run_started`, as are the four that follow.
        config_hash: Of what is part of the run's identity.
        pool_hash: The pool's `content_hash`.
        versions: By package.
        plug_ins: Path and version of other packages' code by the keys that name it; where there is any. These
            and the first two are of `plug_in_changed` too.
        stage: Of `stage_finished`: its name.
        seconds: How long it took.
        file_sha256: Of `labels_imported`: the file's.
        num_new: How many labels came in with it.
        num_passed_over: Of `labels_closed`.
        files: Of `round_committed`: the SHA-256 by path below the round's folder.
        labels: The label by image_id.
        selected: What led to them.
    """

    run_id: str
    config_hash: str
    pool_hash: str
    versions: dict[str, str]
    plug_ins: dict[str, str]
    stage: str
    seconds: float
    file_sha256: str
    num_new: int
    num_passed_over: int
    files: dict[str, str]
    labels: dict[str, str]
    selected: Selected
