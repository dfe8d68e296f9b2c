"""The configuration of a pool and of a run: a frozen pydantic tree, read from YAML and `--set key=value`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from xal_ray.errors import ConfigError
from xal_ray.places import Place

Backbone = Literal[
    "resnet18",
    "resnet34",
    "resnet50",
    "densenet121",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_b_16",
    "efficientnet_lite0",
]
Saliency = Literal[
    "gradcam", "gradcam++", "hirescam", "xgradcam", "layercam", "eigencam", "eigengradcam", "scorecam"
]
Strategy = Literal[
    "random",
    "entropy",
    "margin",
    "least_confidence",
    "bald",
    "misalignment",
    "dual",
    "shuffled_roi",
    "smallest_roi",
]
SourceKind = Literal[
    "table",
    "folder",
    "phantom",
    "vindr",
    "siim_covid",
    "brats",
    "cheng",
    "rsna_pneumonia",
    "nih_cxr14",
    "chexlocalize",
    "isic2018",
    "coco",
    "yolo",
]
Uncertainty = Literal["entropy", "margin", "least_confidence", "bald"]
Normalise = Literal["none", "minmax", "rank"]
Metric = Literal["balanced_accuracy", "accuracy", "macro_f1", "auroc"]

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
ROI_STRATEGIES: frozenset[str] = frozenset({"misalignment", "dual", "shuffled_roi", "smallest_roi"})
MAP_STRATEGIES = ROI_STRATEGIES - {"smallest_roi"}  # which look at saliency maps
# What they gain comes from elsewhere than from looking right: they are compared, and never recommended.
CONTROL_STRATEGIES: frozenset[str] = frozenset({"shuffled_roi", "smallest_roi"})
WEIGHTED_STRATEGIES: frozenset[str] = frozenset({"dual", "shuffled_roi"})

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
NaturalInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    """A part of the configuration: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Columns(Section):
    """Which columns of the manifest hold what.

    A name fits however it is spelled (case, spaces, marks). Columns that it lacks are skipped unless
    required; null passes one by that is there.
    """

    image_id: str | None = "image_id"
    image: str = "image"
    label: str | None = "label"
    group_id: str | None = "group_id"
    mask: str | None = "mask"
    split: str | None = "split"
    box_x0: str | None = "box_x0"
    box_y0: str | None = "box_y0"
    box_x1: str | None = "box_x1"
    box_y1: str | None = "box_y1"
    frame: str | None = "frame"
    study_id: str | None = "study_id"
    site: str | None = "site"
    device: str | None = "device"
    sex: str | None = "sex"
    age_band: str | None = "age_band"


class Phantom(Section):
    """The generator of chest-like images (see `pool/sources/phantom.py`)."""

    num_patients: PositiveInt = 200
    images_per_patient: PositiveInt = 3
    lesion_fraction: Fraction = 0.5
    decoy_agreement: Fraction = 0.9
    contrast: PositiveFloat = 0.35
    noise: Annotated[float, Field(ge=0.0)] = 0.08
    seed: int = 0


class Annotators(Section):
    """What several readers of one image make of it together."""

    labels: Literal["any", "majority", "all"] = "majority"  # how many of them must name a finding
    boxes: Literal["union", "majority_pixel", "cluster_mean"] = "union"


class Slices(Section):
    """Which slices of a tumour's volumes become images, and what they are asked (`brats`)."""

    task: Literal["dominant", "tumor", "grade"] = "dominant"
    modalities: tuple[Literal["t1", "t1ce", "t2", "flair"], ...] = ("t1ce", "flair", "t2")  # 1 or 3: channels
    stride: PositiveInt = 1  # every so manieth slice
    min_brain: NaturalInt = 1000  # voxels of brain that a slice needs
    min_tumor: NaturalInt = 100  # voxels of tumour that make a slice one with tumour
    max_per_patient: NaturalInt = 0  # 0 = all


class Source(Section):
    """Where images come from."""

    kind: SourceKind | None = None
    path: Place | None = None
    columns: Columns = Columns()
    phantom: Phantom = Phantom()
    findings: tuple[str, ...] | None = None  # what makes a label, where images may show several; None = usual
    several: Literal["leave_out", "first"] = "leave_out"  # an image with more than one of these findings
    readers: Annotators = Annotators()
    slices: Slices = Slices()

    def resolved_kind(self) -> SourceKind:
        """The kind as written or, where it is left out, as the path tells it.

        Raises:
            ConfigError: Neither a kind nor a path is given, or a kind that needs a path has none.
        """
        kind = self.kind
        if kind is None:
            if self.path is None:
                raise ConfigError(
                    "the pool has no source",
                    where="pool.source",
                    next_step="set pool.source.path to a manifest or a folder, or pool.source.kind=phantom",
                )
            kind = "folder" if self.path.is_dir() else "table"
        if kind != "phantom" and self.path is None:
            raise ConfigError(
                f"a source of kind '{kind}' needs a path",
                where="pool.source.path",
                next_step="--set pool.source.path=PATH",
            )
        return kind


class Splits(Section):
    """How groups without a split of their own are dealt out.

    The fractions are of each class's images with `stratify`, else of groups.
    """

    val: Fraction = 0.15
    test: Fraction = 0.2
    stratify: bool = True
    seed: int = 0

    @model_validator(mode="after")
    def _leave_a_pool(self) -> Splits:
        if self.val + self.test >= 1.0:
            raise ValueError(f"val + test must stay below 1, found {self.val + self.test:g}")
        return self


class Limits(Section):
    """What a single file may cost before it is refused (decompression bombs), and how many may fail."""

    max_pixels: PositiveInt = 64_000_000  # of one frame
    max_voxels: PositiveInt = 512_000_000  # of all frames of a file together
    max_frames: PositiveInt = 4096
    max_file_bytes: PositiveInt = 512 * 1024**2
    strict: bool = False  # files are read in a child process whose memory and time are capped
    max_memory_mb: Annotated[int, Field(ge=64)] = 2048  # strict: what reading one file may take
    decode_timeout_s: PositiveFloat = 60.0  # strict: and how long
    max_error_fraction: Fraction = 0.01


class Dicom(Section):
    """How stored values of a DICOM file become grey."""

    # header: its VOI LUT or window, else the range of its values. range: always the range. Or centre and
    # width, in modality units (Hounsfield, say).
    window: Literal["header", "range"] | tuple[float, PositiveFloat] = "header"


class Raster(Section):
    """How grey pixels of more than 8 bits, of a PNG or TIFF file, become 8 bits."""

    # dtype: all that its bits can hold, from black to white. range: from the least to the largest value of
    # each picture. Or centre and width, in units of the values. The last two read signed and real values too.
    window: Literal["dtype", "range"] | tuple[float, PositiveFloat] = "dtype"


class Nifti(Section):
    """How a NIfTI volume becomes images."""

    plane: Literal["axial", "coronal", "sagittal"] = "axial"
    scale: Literal["slice", "volume"] = "slice"  # where the least value becomes black, and the largest white


class Pool(Section):
    """The packed pool and what it is made from."""

    path: Place | None = None
    source: Source = Source()
    image_size: Annotated[int, Field(ge=16, le=2048)] = 224
    channels: Literal[1, 3] = 1
    classes: tuple[str, ...] | None = None
    # header: the patient of each DICOM file's header, as a pseudonym. image: each image is its own group.
    group_by: Literal["group_id", "header", "image"] = "group_id"
    splits: Splits = Splits()
    dicom: Dicom = Dicom()
    raster: Raster = Raster()
    nifti: Nifti = Nifti()
    limits: Limits = Limits()
    compare_with: tuple[Place, ...] = ()  # packed pools in which the same pictures would be a leak
    rows_per_part: Annotated[int, Field(ge=1, le=65536)] = 512


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
    actor_resources: dict[str, PositiveFloat] = {}  # custom resources that place scoring actors
    keep_actors: bool | Literal["auto"] = "auto"  # between stages; auto = not on a cluster that was joined
    shard_attempts: PositiveInt = 3  # a shard that kills so many actors is searched for the image that does
    num_decoders: PositiveInt | Literal["auto"] = "auto"
    cpus_per_decoder: PositiveFloat = 0.5
    decoder_resources: dict[str, PositiveFloat] = {}
    cpus_per_worker: PositiveFloat = 1.0
    gpus_per_worker: Annotated[float, Field(ge=0.0)] | Literal["auto"] = "auto"
    worker_resources: dict[str, PositiveFloat] = {}
    min_workers: NaturalInt = 0  # training goes on with so few where nodes are lost; 0 = train.num_workers
    checkpoint_every_steps: NaturalInt = 100  # of training on workers; 0 = none
    max_failures: NaturalInt = 3  # of training workers in a round
    cpus_per_trial: PositiveFloat = 1.0  # of a sweep's trial that trains or scores itself
    gpus_per_trial: Annotated[float, Field(ge=0.0)] | Literal["auto"] = "auto"
    stall_timeout_s: PositiveFloat = 600.0


class Sweep(Section):
    """What `xal-ray sweep` tries, and how arms are compared. Not part of a run's identity."""

    params: dict[str, str | int | float | bool | tuple[str | int | float | bool, ...]] = {}
    seeds: PositiveInt = 10  # paired: `seed`, `seed` + 1, ...
    search: Literal["grid", "random", "optuna"] = "grid"
    num_samples: PositiveInt = 20  # arms that random and optuna try
    scheduler: Literal["none", "asha"] = "none"
    metric: Metric = "balanced_accuracy"
    baseline: dict[str, str | int | float | bool] = {"select.strategy": "random"}
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


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration from YAML.

    Args:
        path: The YAML file.
        overrides: `key.subkey=value` texts; a value is read as YAML.

    Raises:
        ConfigError: The file can't be read, a key is unknown, or a value does not fit.
    """
    return build_config(read_yaml(path), overrides, where=str(path))


def build_config(tree: Mapping[str, Any], overrides: Iterable[str] = (), *, where: str = "config") -> Config:
    """Build a configuration from a tree of plain values, as `load_config` does from a file.

    Raises:
        ConfigError: As `load_config`. It stands where the mistake was made: at the `--set`s without which it
            would not be there, else at `where`.
    """
    given = list(overrides)
    try:
        merged = _merge_overrides(tree, given)
        return Config.model_validate(merged)
    except ValidationError as error:
        raise _explain(error, _blamed(tree, given, error), where) from error
    except ConfigError as error:  # of a place
        if error.details["where"]:
            raise
        # A URI may hold a password: only its key is shown.
        blamed = [f"{text.partition('=')[0]}=..." for text in _blamed(tree, given, error)]
        raise ConfigError(
            error.what,
            expected=error.details["expected"],
            found=error.details["found"],
            where=" and ".join(f"--set {text}" for text in blamed) or where,
            next_step=error.details["next"] or "correct the path or the URI",
        ) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: It is missing, not YAML, or not a mapping.
    """
    try:
        tree = _load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the configuration file can't be read",
            found=getattr(error, "strerror", None) or "text that is not UTF-8",
            where=str(path),
            next_step="give the path of a YAML file; configs/quickstart.yaml is a commented one",
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(
            "the configuration is not valid YAML",
            found=str(error),
            where=str(path),
            next_step="correct the line: indent with spaces, quote values with a colon or a sign in front",
        ) from error
    if not isinstance(tree, dict):
        raise ConfigError(
            "the configuration is not a mapping",
            expected="`key: value` lines",
            where=str(path),
            next_step="give the YAML file of a run; configs/quickstart.yaml is a commented one",
        )
    return tree


def _merge_overrides(tree: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    merged = _deep_copy(tree)
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(
                "a --set is not of the form key=value",
                found=text,
                where=f"--set {text}",
                next_step="--set select.query_size=50",
            )
        try:
            set_key(merged, key, _load_yaml(value, key))
        except yaml.YAMLError as error:
            raise ConfigError(
                "the value of a --set is not valid YAML",
                found=text,
                where=f"--set {text}",
                next_step="close all brackets and quotes, and quote the whole for the shell: "
                "--set 'pool.classes=[normal, lesion]'",
            ) from error
    return merged


# Names, which YAML would take for something else: `no` for False, `007` for 7, `1.0` for a number.
_TEXT_KEYS = ("name", "pool.classes", "pool.source.findings", "pool.source.columns")


def _load_yaml(text: str, key: str = "") -> Any:
    """The value of a YAML text; what stands at a key of `_TEXT_KEYS` stays as it is written.

    Args:
        text: YAML.
        key: Where the value shall stand.
    """
    return _as_written(yaml.safe_load(text), yaml.load(text, yaml.BaseLoader), key)  # noqa: S506  texts only


def _as_written(value: Any, words: Any, key: str) -> Any:
    if isinstance(value, dict) and isinstance(words, dict):
        return {
            name: _as_written(below, words.get(str(name)), f"{key}.{name}".lstrip("."))
            for name, below in value.items()
        }
    if words is None or not any(key == name or key.startswith(f"{name}.") for name in _TEXT_KEYS):
        return value
    if isinstance(value, list):
        pairs = zip(value, words, strict=True)
        return [word if entry is None and word else _as_written(entry, word, key) for entry, word in pairs]
    return words if isinstance(value, bool | int | float | date) else value


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in a tree of plain values, in place; what stands in its way is replaced."""
    node = tree
    *parents, leaf = key.split(".")
    for parent in parents:
        if not isinstance(node.get(parent), dict):
            node[parent] = {}
        node = node[parent]
    node[leaf] = value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys, dotted: `{"a": {"b": 1}}` to `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _deep_copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, dict) else value for key, value in tree.items()}


def _blamed(
    tree: Mapping[str, Any], overrides: Sequence[str], error: ValidationError | ConfigError
) -> list[str]:
    """The overrides without which the first complaint would not be there; none: the tree itself has it."""
    first = _first_complaint(error)
    blamed = [
        text
        for number, text in enumerate(overrides)
        if _complaint_about(tree, [*overrides[:number], *overrides[number + 1 :]]) != first
    ]
    if not blamed and overrides and _complaint_about(tree, []) != first:
        return list(overrides)  # each of several would do
    return blamed


def _complaint_about(tree: Mapping[str, Any], overrides: Sequence[str]) -> tuple[Any, ...] | None:
    try:
        Config.model_validate(_merge_overrides(tree, overrides))
    except (ValidationError, ConfigError) as error:
        return _first_complaint(error)
    return None


def _first_complaint(error: ValidationError | ConfigError) -> tuple[Any, ...]:
    if isinstance(error, ConfigError):
        return (str(error),)
    first = error.errors(include_url=False, include_context=False)[0]
    return first["type"], first["loc"], first["msg"], repr(first["input"]) if first["loc"] else None


def _explain(error: ValidationError, blamed: Sequence[str], where: str) -> ConfigError:
    """Turn pydantic's first complaint into ours; an unknown key is answered with its nearest match."""
    complaints = error.errors(include_url=False)
    first = complaints[0]
    key = _key_of(first["loc"])
    where = " and ".join(f"--set {text}" for text in blamed) or where
    if first["type"] == "extra_forbidden":
        asked = [text.partition("=")[0].strip() for text in blamed]
        known = _fields_at(first["loc"][:-1])
        return ConfigError(
            f"unknown key '{key}'",
            expected="one of " + ", ".join(known) if known else None,
            where=where,
            next_step=_nearest_key(next((name for name in asked if name.startswith(f"{key}.")), key), key),
        )
    if first["type"] == "missing":
        return ConfigError(
            f"the key '{key}' is missing", where=where, next_step=f"add it, or --set {key}=VALUE"
        )
    if not key:
        return ConfigError(first["msg"].removeprefix("Value error, "), where=where)
    # A value that may be of several kinds has a complaint from each.
    same = [entry["msg"] for entry in complaints if _key_of(entry["loc"]) == key]
    reasons = dict.fromkeys(text.removeprefix("Value error, ") for text in same)
    found: Any = first["input"]
    default = flatten(_defaults()).get(key)
    next_step = None if default is None else f"correct it; the default is {key}={default}"
    if first["type"] in ("model_type", "model_attributes_type"):
        reasons = dict.fromkeys([f"it is a section, of {', '.join(_fields_at(first['loc']))}"])
        next_step = f"set a key of it: --set {key}.{_fields_at(first['loc'])[0]}=VALUE"
    elif first["type"] == "tuple_type" and isinstance(found, str | int | float):
        next_step = f"a list stands in brackets: --set '{key}=[{found}]'"
    return ConfigError(
        f"'{key}' does not fit: {'; or: '.join(reasons)}", found=repr(found), where=where, next_step=next_step
    )


def _nearest_key(asked: str, unknown: str) -> str | None:
    """The key that was meant, in words.

    Args:
        asked: The whole key, which may go on below the unknown one: `selct.weight`.
        unknown: The key that there is not: `selct`.
    """
    parent, _, name = unknown.rpartition(".")
    prefix = f"{parent}." if parent else ""
    near = difflib.get_close_matches(name, _fields_at(tuple(parent.split(".")) if parent else ()), 1, 0.5)
    keys = _all_keys(Config)
    if near:
        meant = f"{prefix}{near[0]}"
        whole = difflib.get_close_matches(f"{meant}{asked.removeprefix(unknown)}", keys, 1, 0.8)
        return f"did you mean '{whole[0] if whole and asked != unknown else meant}'?"
    leaf = asked.rpartition(".")[2]
    elsewhere = [key for key in keys if key.rpartition(".")[2] == leaf]
    return f"did you mean {' or '.join(map(repr, elsewhere[:3]))}?" if elsewhere else None


def _defaults() -> dict[str, Any]:
    return Config(name="x").model_dump(mode="json", exclude={"name"})


def _all_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        below = field.annotation
        keys.append(f"{prefix}{name}")
        if isinstance(below, type) and issubclass(below, BaseModel):
            keys += _all_keys(below, f"{prefix}{name}.")
    return keys


def _key_of(location: tuple[int | str, ...]) -> str:
    """A dotted key, less the names that pydantic gives to the kinds that a value may have."""
    key: list[str] = []
    node: Any = Config
    for part in location:
        if isinstance(node, type) and issubclass(node, BaseModel):
            field = node.model_fields.get(str(part))
            node = field.annotation if field else None
        elif get_origin(node) is dict:
            node = None
        elif not isinstance(part, int):
            break
        key.append(str(part))
    return ".".join(key)


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    node: type[BaseModel] = Config
    for part in location:
        field = node.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        node = annotation
    return list(node.model_fields)
