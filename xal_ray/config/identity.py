"""Says which keys results depend on, when and why: for `run_id`, and for the reference page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from xal_ray.config.run import Model, Score, Select, Train


class Settings(Protocol):
    """Names the sections of a configuration that rules look at."""

    @property
    def model(self) -> Model:
        """Return the section `model`."""

    @property
    def train(self) -> Train:
        """Return the section `train`."""

    @property
    def score(self) -> Score:
        """Return the section `score`."""

    @property
    def select(self) -> Select:
        """Return the section `select`."""


@dataclass(frozen=True)
class IdentityRule:
    """A rule says why keys are in a run's identity, or are not.

    Attributes:
        keys: The keys; a section stands for all that it holds.
        when: `yes`, `no`, or in which case they are, in words.
        why: The reason, as a sentence.
        has_effect: Whether the keys change results as the others are set; None where that is always the same.
    """

    keys: tuple[str, ...]
    when: str
    why: str
    has_effect: Callable[[Settings], bool] | None = None

    def covers(self, key: str) -> bool:
        """Tell whether the rule is about a key."""
        return any(key == name or key.startswith(f"{name}.") for name in self.keys)


# A new key needs its rule: `tests/unit/test_identity.py` fails without.
IDENTITY_RULES = (
    IdentityRule(("name",), "no", "It is a name."),
    IdentityRule(
        ("pool",), "no", "The pool is bound by its content, and its card has the settings it was made with."
    ),
    IdentityRule(("ray",), "no", "These are resources, and no number of actors moves a bit."),
    IdentityRule(("sweep",), "no", "It says how arms are compared, and no run reads it."),
    IdentityRule(
        ("num_rounds",),
        "no",
        "It is how long a run goes on. Where it is raised, a finished run goes on, and its last round, which "
        "only trained, chooses. Where it is lowered, what was asked for is still trained on.",
    ),
    IdentityRule(
        ("score.max_error_fraction",),
        "no",
        "It is a limit that stops a run; past it, the scores are the same.",
    ),
    IdentityRule(
        ("labels.from_run",),
        "no",
        "It is read once, when the run begins, and what came of it stands in the ledger.",
    ),
    IdentityRule(("seed",), "yes", "Every draw derives from it."),
    IdentityRule(("roi.source",), "yes", "Alignment is measured with it."),
    IdentityRule(("model.backbone", "model.freeze"), "yes", "They make the network."),
    IdentityRule(("model.cache_activations",), "yes", "The results are the same up to rounding only."),
    IdentityRule(
        ("model.weights",),
        "where `train.init` is not `scratch`",
        "Training starts from them; else nobody reads them.",
        lambda settings: settings.train.init != "scratch",
    ),
    IdentityRule(
        (
            "train.num_workers",
            "train.init",
            "train.max_steps",
            "train.eval_every_steps",
            "train.patience",
            "train.minibatch_size",
            "train.learning_rate",
            "train.weight_decay",
            "train.class_weights",
            "train.augment",
            "train.amp",
            "train.num_threads",
        ),
        "yes",
        "They make the training, and sums depend on the number of workers and threads.",
    ),
    IdentityRule(
        ("score.saliency", "score.precision", "score.compile", "score.batch_size", "score.rows_per_shard"),
        "yes",
        "They make the arithmetic, and batches are cut inside a shard.",
    ),
    IdentityRule(
        ("score.mc_samples", "score.subsample"),
        "yes",
        "They say what is scored, and how the head is trained.",
    ),
    IdentityRule(
        ("score.tie_sigmas",),
        "where bf16 may run",
        "It says which rows are done again in float32. None are with `score.precision: fp32`, another "
        "`score.saliency` than `gradcam`, or `model.cache_activations`.",
        lambda settings: (
            settings.score.precision != "fp32"
            and settings.score.saliency == "gradcam"
            and not settings.model.cache_activations
        ),
    ),
    IdentityRule(
        ("score.mc_dropout",),
        "with `score.mc_samples`",
        "It is the dropout of these samples.",
        lambda settings: settings.score.mc_samples > 0,
    ),
    IdentityRule(
        ("score.runners_up",),
        "with `score.subsample` below 1",
        "All images are scored otherwise.",
        lambda settings: settings.score.subsample < 1.0,
    ),
    IdentityRule(
        ("select.strategy", "select.query_size", "select.initial_labels", "select.max_per_group"),
        "yes",
        "They make the picks.",
    ),
    IdentityRule(
        ("select.weight",),
        "with strategies that weigh",
        "The others weigh nothing.",
        lambda settings: settings.select.spec.reads("weight"),
    ),
    IdentityRule(
        ("select.normalise",),
        "with strategies that look at ROIs",
        "The others read one column, as it is.",
        lambda settings: settings.select.spec.reads("normalise"),
    ),
    IdentityRule(
        ("select.uncertainty",),
        "with strategies that look at ROIs or choose a batch",
        "The others read one column, as it is.",
        lambda settings: settings.select.spec.reads("uncertainty"),
    ),
    IdentityRule(
        ("select.shortlist",),
        "with strategies that choose a batch",
        "The others see every image.",
        lambda settings: settings.select.spec.reads("shortlist"),
    ),
    IdentityRule(
        ("labels.source",), "yes", "It says whose labels they are, and which images can be labelled at all."
    ),
)

# What changes no result: names, places and resources; a limit that stops a run; how long a run goes on.
NO_RESULT = tuple(key for rule in IDENTITY_RULES if rule.when == "no" for key in rule.keys)
# What changes results only beside some values of other keys.
HAS_EFFECT = {
    key: rule.has_effect for rule in IDENTITY_RULES if rule.has_effect is not None for key in rule.keys
}
