"""Defines the sections of a run beside `pool`: what it trains, scores, selects, asks and uses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from xal_ray.config.names import Backbone, Metric, Normalise, Saliency, Strategy, Uncertainty
from xal_ray.config.sections import Fraction, NaturalInt, PositiveFloat, PositiveInt, Section
from xal_ray.places import Place
from xal_ray.registry.strategies import STRATEGIES, StrategySpec


class Model(Section):
    """The model is the network that is trained, and where it starts."""

    backbone: Backbone = "resnet18"
    """The network has this architecture."""
    weights: str = "none"
    """Training starts from random weights (`none`), from those of ImageNet (`imagenet`), or from the file at
    this path.
    """
    freeze: Literal["none", "backbone"] = "none"
    """The backbone is kept as it is and the last layer alone is trained (`backbone`), or all is trained
    (`none`).
    """
    cache_activations: bool = False
    """A frozen backbone runs once over the pool, and what it gives is kept there."""


class Train(Section):
    """A round's model is trained by these settings.

    The budget is in optimiser steps, so that rounds and arms stay comparable.
    """

    num_workers: NaturalInt = 0
    """This many workers of Ray Train share the training, and 0 trains in the process that runs the loop."""
    init: Literal["pretrained", "previous", "scratch"] = "pretrained"
    """A round's model starts from `model.weights` (`pretrained`), from the last round's model (`previous`),
    or from random weights (`scratch`).
    """
    max_steps: PositiveInt = 200
    """A round takes at most this many optimiser steps."""
    eval_every_steps: PositiveInt = 20
    """The validation loss is measured each time that this many steps have been taken."""
    patience: NaturalInt = 5
    """Training stops after this many measurements without progress, and 0 never stops it early."""
    minibatch_size: Annotated[int, Field(ge=2)] = 32
    """A minibatch has this many images over all workers, who share it out."""
    learning_rate: PositiveFloat = 1e-3
    """AdamW uses this learning rate at first, and a cosine schedule lowers it."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4
    """AdamW uses this weight decay."""
    class_weights: Literal["none", "balanced"] = "balanced"
    """The loss weighs all images alike (`none`), or rare classes more (`balanced`)."""
    augment: Literal["none", "flip", "flip_shift"] = "flip_shift"
    """Training images are shown as they are, flipped, or flipped and shifted, at random."""
    amp: bool = True
    """Training on a GPU uses mixed precision."""
    num_threads: PositiveInt = 2
    """Training on the processor uses this many threads of torch; sums depend on the number, so it belongs to
    the results.
    """


class Score(Section):
    """Images are scored by these settings."""

    saliency: Saliency = "gradcam"
    """Saliency maps are made by this method."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """The backbone runs in this arithmetic; `auto` takes bf16 where the hardware multiplies it and the
    backbone's ranks bear it.
    """
    tie_sigmas: Annotated[float, Field(ge=0.0)] = 3.0
    """Rows that bf16 leaves nearer to a tie than this many standard deviations are done again in fp32, and 0
    does none again.
    """
    compile: bool = False
    """The backbone goes through torch.compile, which is faster after a warm-up of up to some minutes."""
    batch_size: PositiveInt | Literal["auto"] = "auto"
    """One forward pass takes this many images; `auto` is 32 on a processor and 256 on a GPU."""
    rows_per_shard: Annotated[int, Field(ge=1, le=65536)] = 512
    """A shard, which is written and resumed at once, holds this many images."""
    mc_samples: NaturalInt = 0
    """The uncertainty `bald` takes this many dropout samples of the head, and 0 takes none."""
    mc_dropout: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """These samples, and the head's training where there are any, use this dropout probability."""
    subsample: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """This fraction of the candidates, drawn by the seed, is scored."""
    runners_up: NaturalInt = 0
    """This many runners-up of the last selection are scored again, whatever the sample."""
    max_error_fraction: Fraction = 0.01
    """A pass gives up where more than this fraction of the images has no score or, where the strategy looks
    at maps, no map.
    """

    def head_dropout(self) -> float:
        """Return the dropout of the head's training: that of its samples, or 0 where there are none."""
        return self.mc_dropout if self.mc_samples else 0.0


class Select(Section):
    """The selection says which images are labelled next, and how many."""

    strategy: Strategy = "dual"
    """Images are ranked by this strategy."""
    uncertainty: Uncertainty = "entropy"
    """Strategies that look at regions of interest measure uncertainty by this formula, and those that choose
    a batch get a shortlist by it.
    """
    weight: Fraction = 0.5
    """Uncertainty has this weight beside misalignment, which has the rest."""
    normalise: Normalise = "rank"
    """Uncertainty and misalignment are brought to one scale by this method before they are weighed."""
    query_size: PositiveInt = 20
    """Each round asks for the labels of this many images."""
    initial_labels: NaturalInt = 20
    """This many images are drawn at random and labelled before the first round."""
    max_per_group: NaturalInt = 0
    """A round picks at most this many images of a group, and 0 is no limit."""
    shortlist: PositiveInt | Literal["auto", "all"] = "auto"
    """Strategies that choose a batch see this many images, the most uncertain, and never fewer than they
    shall choose; `auto` is 10 for each of these, and `all` takes the memory for the embeddings of all.
    """

    @property
    def spec(self) -> StrategySpec:
        """Return what is known of the strategy."""
        return STRATEGIES[self.strategy]

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the score columns that the strategy reads."""
        return self.spec.columns_with(self.uncertainty)


class Labels(Section):
    """This says where labels come from."""

    source: Literal["oracle", "export"] = "oracle"
    """Labels are known and revealed when they are asked for (`oracle`), or people are asked (`export`)."""
    from_run: Place | None = None
    """This is a run with whose labels this one begins, instead of a random draw."""


class Roi(Section):
    """This says where a pool image's region of interest comes from."""

    source: Literal["oracle", "none"] = "oracle"
    """Regions of unlabelled images are known (`oracle`), or there are none (`none`)."""


class Ray(Section):
    """These are the resources that a run may use.

    They are no part of its identity: a run may be resumed with others.
    """

    address: str = "local"
    """A Ray of one's own is started (`local`), or the cluster that this machine is a node of is joined
    (`auto`).
    """
    num_cpus: PositiveInt = 6
    """A Ray of one's own declares this many logical CPUs."""
    object_store_mb: Annotated[int, Field(ge=80)] = 400
    """The object store of a Ray of one's own has this many megabytes."""
    num_actors: NaturalInt | Literal["auto"] = "auto"
    """This many actors score images; `auto` is one for each GPU, or else for each core, and 0 scores in the
    process that runs the loop.
    """
    cpus_per_actor: PositiveFloat = 0.5
    """A scoring actor asks for this many logical CPUs."""
    gpus_per_actor: Annotated[float, Field(ge=0.0)] | Literal["auto"] = "auto"
    """A scoring actor asks for this share of a GPU; `auto` shares the GPUs out, at most one each."""
    threads_per_actor: PositiveInt = 1
    """A scoring actor uses this many threads."""
    actor_resources: dict[str, PositiveFloat] = Field(default={})
    """A scoring actor asks for these custom resources, which place it on nodes that have them."""
    keep_actors: bool | Literal["auto"] = "auto"
    """Actors stay from stage to stage; with `auto` they do, but not on a cluster that was joined."""
    shard_attempts: PositiveInt = 3
    """A shard that has killed this many actors is searched for the image that does it."""
    num_decoders: PositiveInt | Literal["auto"] = "auto"
    """This many actors decode images at `prepare`; `auto` is one for each core."""
    cpus_per_decoder: PositiveFloat = 0.5
    """A decoding actor asks for this many logical CPUs."""
    decoder_resources: dict[str, PositiveFloat] = Field(default={})
    """A decoding actor asks for these custom resources, which place it on nodes that have them."""
    cpus_per_worker: PositiveFloat = 1.0
    """A training worker asks for this many logical CPUs."""
    gpus_per_worker: Annotated[float, Field(ge=0.0)] | Literal["auto"] = "auto"
    """A training worker asks for this many GPUs; `auto` is one, or none where there are fewer GPUs than
    workers.
    """
    worker_resources: dict[str, PositiveFloat] = Field(default={})
    """A training worker asks for these custom resources, which place it on nodes that have them."""
    min_workers: NaturalInt = 0
    """Where nodes are lost, training goes on with this many workers or more, and 0 needs all of them."""
    checkpoint_every_steps: NaturalInt = 100
    """Training on workers saves its state each time that this many steps have been taken, and 0 never
    does.
    """
    max_failures: NaturalInt = 3
    """This many training workers may be lost in a round."""
    cpus_per_trial: PositiveFloat = 1.0
    """A trial of a sweep that trains or scores by itself asks for this many logical CPUs."""
    gpus_per_trial: Annotated[float, Field(ge=0.0)] | Literal["auto"] = "auto"
    """A trial of a sweep asks for this share of a GPU; `auto` shares the GPUs out among trials."""
    stall_timeout_s: PositiveFloat = 600.0
    """A stage in which nothing moves for this many seconds is ended with an error."""


class Sweep(Section):
    """`xal-ray sweep` tries these settings, and compares arms as they say.

    They are no part of a run's identity.
    """

    params: dict[str, str | int | float | bool | tuple[str | int | float | bool, ...]] = Field(default={})
    """These keys are tried, each with a range, a list or a distribution to draw from, as `--param` takes
    them.
    """
    seeds: PositiveInt = 10
    """Each arm is run with this many seeds: `seed`, `seed` + 1, and so on, the same for all arms."""
    search: Literal["grid", "random", "optuna"] = "grid"
    """Arms are all points of the grid, drawn at random, or proposed by Optuna."""
    num_samples: PositiveInt = 20
    """`random` and `optuna` try this many arms."""
    scheduler: Literal["none", "asha"] = "none"
    """Weak trials are stopped early (`asha`), or never (`none`)."""
    metric: Metric = "balanced_accuracy"
    """The area under the validation curve of this metric decides."""
    baseline: dict[str, str | int | float | bool] = Field(default={"select.strategy": "random"})
    """Arms are compared with the run that has these settings."""
    trials_at_once: PositiveInt | Literal["auto"] = "auto"
    """This many trials run side by side; `auto` is as many as fit."""
    cache: Literal["auto", "never"] = "auto"
    """A frozen backbone's activations are kept for all trials where these allow it (`auto`), or never."""
    mlflow: str | None = None
    """Trials are logged to the MLflow at this tracking URI."""
