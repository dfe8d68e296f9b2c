"""The configuration of a run: a frozen pydantic tree, whose sections are those of the YAML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from xal_ray.config.names import (
    ROI_STRATEGIES,
    STRATEGIES,
    WEIGHTED_STRATEGIES,
    Backbone,
    Metric,
    Normalise,
    Saliency,
    Strategy,
    Uncertainty,
)
from xal_ray.config.pool import Pool
from xal_ray.config.sections import Fraction, NaturalInt, PositiveFloat, PositiveInt, Section
from xal_ray.places import Place


class Model(Section):
    """The network."""

    backbone: Backbone = "resnet18"
    weights: str = "none"
    freeze: Literal["none", "backbone"] = "none"
    cache_activations: bool = False  # a frozen backbone runs once over the pool; what it gives is kept there


class Train(Section):
    """How a round's model is trained. The budget is in optimiser steps: rounds and arms stay comparable."""

    num_workers: NaturalInt = 0
    init: Literal["pretrained", "previous", "scratch"] = "pretrained"
    max_steps: PositiveInt = 200
    eval_every_steps: PositiveInt = 20
    patience: NaturalInt = 5
    minibatch_size: Annotated[int, Field(ge=2)] = 32  # over all workers, who share each minibatch out
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4
    class_weights: Literal["none", "balanced"] = "balanced"
    augment: Literal["none", "flip", "flip_shift"] = "flip_shift"
    amp: bool = True
    num_threads: PositiveInt = 2  # of torch on the processor; sums depend on it, so it belongs to the results


class Score(Section):
    """How images are scored."""

    saliency: Saliency = "gradcam"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    tie_sigmas: Annotated[float, Field(ge=0.0)] = 3.0  # bf16 rows nearer to a tie are done in fp32; 0 = none
    compile: bool = False
    batch_size: PositiveInt | Literal["auto"] = "auto"
    rows_per_shard: Annotated[int, Field(ge=1, le=65536)] = 512
    mc_samples: NaturalInt = 0  # dropout samples of the head, for `bald`; 0 = none
    mc_dropout: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2  # of these samples, and of the head's training
    subsample: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    runners_up: NaturalInt = 0  # of the last selection, scored again whatever the sample
    max_error_fraction: Fraction = 0.01

    def head_dropout(self) -> float:
        """Of the last layer's input in training: that of its samples, where any are asked for."""
        return self.mc_dropout if self.mc_samples else 0.0


class Select(Section):
    """Which images are labelled next, and how many."""

    strategy: Strategy = "dual"
    uncertainty: Uncertainty = "entropy"
    weight: Fraction = 0.5
    normalise: Normalise = "rank"
    query_size: PositiveInt = 20
    initial_labels: NaturalInt = 20
    max_per_group: NaturalInt = 0


class Labels(Section):
    """Where labels come from."""

    source: Literal["oracle", "export"] = "oracle"
    from_run: Place | None = None  # a run whose labels this one begins with, instead of a random draw


class Roi(Section):
    """Where a pool image's region of interest comes from."""

    source: Literal["oracle", "none"] = "oracle"


class Ray(Section):
    """Resources. Not part of a run's identity: a run may be resumed with others."""

    address: str = "local"  # a Ray of its own; "auto" joins the cluster that this machine is a node of
    num_cpus: PositiveInt = 6  # of a Ray of its own
    object_store_mb: Annotated[int, Field(ge=80)] = 400
    num_actors: NaturalInt | Literal["auto"] = "auto"  # 0 = score in the process that runs the loop
    cpus_per_actor: PositiveFloat = 0.5
    gpus_per_actor: Annotated[float, Field(ge=0.0)] | Literal["auto"] = "auto"
    threads_per_actor: PositiveInt = 1
    actor_resources: dict[str, PositiveFloat] = Field(
        default={}
    )  # custom resources that place scoring actors
    keep_actors: bool | Literal["auto"] = "auto"  # between stages; auto = not on a cluster that was joined
    shard_attempts: PositiveInt = 3  # a shard that kills so many actors is searched for the image that does
    num_decoders: PositiveInt | Literal["auto"] = "auto"
    cpus_per_decoder: PositiveFloat = 0.5
    decoder_resources: dict[str, PositiveFloat] = Field(default={})
    cpus_per_worker: PositiveFloat = 1.0
    gpus_per_worker: Annotated[float, Field(ge=0.0)] | Literal["auto"] = "auto"
    worker_resources: dict[str, PositiveFloat] = Field(default={})
    min_workers: NaturalInt = 0  # training goes on with so few where nodes are lost; 0 = train.num_workers
    checkpoint_every_steps: NaturalInt = 100  # of training on workers; 0 = none
    max_failures: NaturalInt = 3  # of training workers in a round
    cpus_per_trial: PositiveFloat = 1.0  # of a sweep's trial that trains or scores itself
    gpus_per_trial: Annotated[float, Field(ge=0.0)] | Literal["auto"] = "auto"
    stall_timeout_s: PositiveFloat = 600.0


class Sweep(Section):
    """What `xal-ray sweep` tries, and how arms are compared. Not part of a run's identity."""

    params: dict[str, str | int | float | bool | tuple[str | int | float | bool, ...]] = Field(default={})
    seeds: PositiveInt = 10  # paired: `seed`, `seed` + 1, ...
    search: Literal["grid", "random", "optuna"] = "grid"
    num_samples: PositiveInt = 20  # arms that random and optuna try
    scheduler: Literal["none", "asha"] = "none"
    metric: Metric = "balanced_accuracy"
    baseline: dict[str, str | int | float | bool] = Field(default={"select.strategy": "random"})
    trials_at_once: PositiveInt | Literal["auto"] = "auto"
    cache: Literal["auto", "never"] = "auto"  # of a frozen backbone's activations, where trials allow it
    mlflow: str | None = None  # a tracking URI


class Config(Section):
    """A whole run.

    `identity()` is what its results depend on beside the pool's content.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    seed: int = 0
    num_rounds: PositiveInt = 5
    pool: Pool = Pool()
    roi: Roi = Roi()
    model: Model = Model()
    train: Train = Train()
    score: Score = Score()
    select: Select = Select()
    labels: Labels = Labels()
    ray: Ray = Ray()
    sweep: Sweep = Sweep()

    @model_validator(mode="after")
    def _strategy_has_its_roi(self) -> Config:
        if self.roi.source == "none" and self.select.strategy in ROI_STRATEGIES:
            raise ValueError(
                f"select.strategy={self.select.strategy} needs regions of interest, but roi.source is none; "
                "set roi.source=oracle, or a strategy that needs none: "
                + ", ".join(name for name in STRATEGIES if name not in ROI_STRATEGIES)
            )
        return self

    @model_validator(mode="after")
    def _bf16_is_for_gradcam(self) -> Config:
        if self.score.precision == "bf16" and self.score.saliency != "gradcam":
            raise ValueError(
                f"score.saliency={self.score.saliency} runs in fp32; set score.precision=auto or fp32, "
                "or score.saliency=gradcam"
            )
        return self

    @model_validator(mode="after")
    def _bald_needs_samples(self) -> Config:
        asks = self.select.strategy == "bald" or (
            self.select.uncertainty == "bald" and self.select.strategy in ROI_STRATEGIES
        )
        if asks and self.score.mc_samples < 2:
            raise ValueError(
                "bald needs dropout samples of the head, but score.mc_samples is "
                f"{self.score.mc_samples}; set score.mc_samples=50"
            )
        return self

    @model_validator(mode="after")
    def _each_worker_has_a_part_of_a_minibatch(self) -> Config:
        if self.train.minibatch_size < 2 * self.train.num_workers:
            raise ValueError(
                f"train.minibatch_size={self.train.minibatch_size} is shared out among "
                f"train.num_workers={self.train.num_workers}, and each needs at least 2 images; "
                f"set train.minibatch_size={2 * self.train.num_workers} or more, or use fewer workers"
            )
        return self

    @model_validator(mode="after")
    def _frozen_features_are_learned_ones(self) -> Config:
        for is_random, key, cure in (
            (self.train.init == "scratch", "train.init=scratch", "train.init=pretrained and model.weights"),
            (self.model.weights == "none", "model.weights=none", "model.weights=imagenet, or a file's path"),
        ):
            if self.model.freeze == "backbone" and is_random:
                raise ValueError(
                    f"model.freeze=backbone with {key} would keep random features for ever; set {cure}, or "
                    "model.freeze=none"
                )
        return self

    @model_validator(mode="after")
    def _only_what_never_changes_is_cached(self) -> Config:
        obstacle = self.obstacle_to_caching()
        if self.model.cache_activations and obstacle is not None:
            raise ValueError(obstacle)
        return self

    def obstacle_to_caching(self) -> str | None:
        """Why `model.cache_activations` would change results or can't be had here; None where it can."""
        needed = {
            "model.freeze": (self.model.freeze, "backbone"),
            "train.augment": (self.train.augment, "none"),
            "train.num_workers": (self.train.num_workers, 0),
            "score.saliency": (self.score.saliency, "gradcam"),
        }
        for key, (found, expected) in needed.items():
            if found != expected:
                return (
                    f"model.cache_activations needs {key}={expected}, found {found}; set it, or "
                    "model.cache_activations=false"
                )
        if self.score.precision == "bf16":
            return "kept activations are fp32; set score.precision=auto or fp32"
        return None

    def pool_path(self) -> Path:
        """The packed pool's folder: as written, else `pools/<name>`."""
        return self.pool.path or Path("pools") / self.name

    def identity(self) -> dict[str, Any]:
        """What a run's results depend on, beside the pool's content.

        Without the keys of `NO_RESULT`, and without those that have no effect beside the others, so that a
        run that was begun may go on with others of them. docs/architecture.md says why, key by key.
        """
        tree = self.model_dump(mode="json")
        for key in [*NO_RESULT, *(key for key in HAS_EFFECT if not self.has_effect(key))]:
            *parents, leaf = key.split(".")
            node = tree
            for parent in parents:
                node = node[parent]
            del node[leaf]
        return tree

    def has_effect(self, key: str) -> bool:
        """Whether a key changes results, as the others are set."""
        parts = key.split(".")
        if any(".".join(parts[:length]) in NO_RESULT for length in range(1, len(parts) + 1)):
            return False
        return key not in HAS_EFFECT or HAS_EFFECT[key](self)


# What changes no result: names, places and resources; a limit that stops a run; how long a run goes on.
NO_RESULT = (
    "name",
    "num_rounds",
    "pool",
    "ray",
    "sweep",
    "score.max_error_fraction",
    "labels.from_run",  # it is read once: what came of it stands in the ledger
)
# What changes results only beside some values of other keys.
HAS_EFFECT: Mapping[str, Callable[[Config], bool]] = {
    "model.weights": lambda settings: settings.train.init != "scratch",
    "score.tie_sigmas": lambda settings: (
        settings.score.precision != "fp32"
        and settings.score.saliency == "gradcam"
        and not settings.model.cache_activations
    ),
    "score.mc_dropout": lambda settings: settings.score.mc_samples > 0,
    "score.runners_up": lambda settings: settings.score.subsample < 1.0,
    "select.weight": lambda settings: settings.select.strategy in WEIGHTED_STRATEGIES,
    "select.normalise": lambda settings: settings.select.strategy in ROI_STRATEGIES,
    "select.uncertainty": lambda settings: settings.select.strategy in ROI_STRATEGIES,
}
