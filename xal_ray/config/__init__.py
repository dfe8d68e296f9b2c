"""Describes a pool and a run: as a frozen pydantic tree, which is read from YAML and `--set key=value`."""

from xal_ray.config.identity import HAS_EFFECT, IDENTITY_RULES, NO_RESULT
from xal_ray.config.load import build_config, load_config, read_yaml
from xal_ray.config.names import (
    Backbone,
    Metric,
    Normalise,
    Saliency,
    SourceKind,
    Strategy,
    Uncertainty,
)
from xal_ray.config.pool import (
    Annotators,
    Columns,
    Dicom,
    Limits,
    Nifti,
    Phantom,
    Pool,
    Raster,
    Slices,
    Source,
    Splits,
)
from xal_ray.config.run import Labels, Model, Ray, Roi, Score, Select, Sweep, Train
from xal_ray.config.schema import Config
from xal_ray.config.tree import flatten, set_key

__all__ = [
    "HAS_EFFECT",
    "IDENTITY_RULES",
    "NO_RESULT",
    "Annotators",
    "Backbone",
    "Columns",
    "Config",
    "Dicom",
    "Labels",
    "Limits",
    "Metric",
    "Model",
    "Nifti",
    "Normalise",
    "Phantom",
    "Pool",
    "Raster",
    "Ray",
    "Roi",
    "Saliency",
    "Score",
    "Select",
    "Slices",
    "Source",
    "SourceKind",
    "Splits",
    "Strategy",
    "Sweep",
    "Train",
    "Uncertainty",
    "build_config",
    "flatten",
    "load_config",
    "read_yaml",
    "set_key",
]
