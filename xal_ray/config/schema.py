"""Defines the configuration of a run: a frozen pydantic tree, whose sections are those of the YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from xal_ray.config.identity import HAS_EFFECT, NO_RESULT
from xal_ray.config.pool import Pool
from xal_ray.config.run import Labels, Model, Ray, Roi, Score, Select, Sweep, Train
from xal_ray.config.sections import PositiveInt, Section
from xal_ray.config.tree import set_key
from xal_ray.registry.backbones import BACKBONES
from xal_ray.registry.strategies import STRATEGIES


class Config(Section):
    """The configuration describes a whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """The run has this name, from which the default places of its pool and its results are made."""
    seed: int = 0
    """Every random draw derives from this seed."""
    num_rounds: PositiveInt = 5
    """The run goes through this many query rounds, and then trains and evaluates once more."""
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
        if self.roi.source == "none" and self.select.spec.needs_roi:
            raise ValueError(
                f"select.strategy={self.select.strategy} needs regions of interest, but roi.source is none; "
                "set roi.source=oracle, or a strategy that needs none: "
                + ", ".join(spec.name for spec in STRATEGIES if not spec.needs_roi)
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
        if "bald" in self.select.columns and self.score.mc_samples < 2:
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
        """Say why `model.cache_activations` would change results or can't be had; None where it can."""
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
        """Return the packed pool's folder: as it is written, else `pools/<name>`."""
        return self.pool.path or Path("pools") / self.name

    def identity(self) -> dict[str, Any]:
        """Return what a run's results depend on, beside the pool's content.

        The keys of `NO_RESULT` are left out, and those that have no effect beside the others, so that a run
        that was begun may go on with others of them. `IDENTITY_RULES` says why, key by key.
        """
        tree = self.model_dump(mode="json")
        for key, version in self.plug_ins().items():
            set_key(tree, key, version)
        for key in [*NO_RESULT, *(key for key in HAS_EFFECT if not self.has_effect(key))]:
            *parents, leaf = key.split(".")
            node = tree
            for parent in parents:
                node = node[parent]
            del node[leaf]
        return tree

    def plug_ins(self) -> dict[str, str]:
        """Return which code of other packages results depend on, by the keys that name it."""
        named = {"select.strategy": self.select.spec, "model.backbone": BACKBONES[self.model.backbone]}
        return {key: spec.identity for key, spec in named.items() if spec.origin is not None}

    def has_effect(self, key: str) -> bool:
        """Tell whether a key changes results, as the others are set."""
        parts = key.split(".")
        if any(".".join(parts[:length]) in NO_RESULT for length in range(1, len(parts) + 1)):
            return False
        return key not in HAS_EFFECT or HAS_EFFECT[key](self)
