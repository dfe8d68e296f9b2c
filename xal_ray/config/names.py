"""Lists the names that a configuration may hold: of what registries have, sources, backbones, measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from xal_ray.nearest_name import nearest_name
from xal_ray.registry.backbones import BACKBONES
from xal_ray.registry.lookup import Registry, UnknownNameError
from xal_ray.registry.sources import SOURCES
from xal_ray.registry.strategies import STRATEGIES

Saliency = Literal[
    "gradcam", "gradcam++", "hirescam", "xgradcam", "layercam", "eigencam", "eigengradcam", "scorecam"
]
Normalise = Literal["none", "minmax", "rank"]
Metric = Literal["balanced_accuracy", "accuracy", "macro_f1", "auroc"]

UNKNOWN_NAME = "unknown_name"  # pydantic's type of the complaint; its context has the nearest one as `near`


def _known_in(registry: Registry[Any]) -> AfterValidator:
    """Refuse a name that a registry does not have, as pydantic does a value that is none of a `Literal`."""

    def check(name: str) -> str:
        try:
            registry.read_anew(name)
        except UnknownNameError as error:
            raise _unknown(error.known, error.near) from error
        return name

    return AfterValidator(check)


def _unknown(known: Sequence[str], near: str | None) -> PydanticCustomError:
    *others, last = map(repr, known)
    return PydanticCustomError(
        UNKNOWN_NAME, "Input should be {known}", {"known": f"{', '.join(others)} or {last}", "near": near}
    )


def _is_uncertainty(name: str) -> str:
    if name not in _UNCERTAINTIES:
        raise _unknown(_UNCERTAINTIES, nearest_name(name, _UNCERTAINTIES))
    return name


def _one_of(names: Sequence[str], *others: dict[str, str]) -> WithJsonSchema:
    listed: dict[str, Any] = {"enum": list(names), "type": "string"}
    return WithJsonSchema({"anyOf": [listed, *others]} if others else listed)


_PATH = {"type": "string", "format": "MODULE:FUNCTION"}
_UNCERTAINTIES = tuple(spec.name for spec in STRATEGIES if spec.is_uncertainty)
Strategy = Annotated[str, _known_in(STRATEGIES), _one_of(STRATEGIES.names(), _PATH)]
Uncertainty = Annotated[str, AfterValidator(_is_uncertainty), _one_of(_UNCERTAINTIES)]
Backbone = Annotated[str, _known_in(BACKBONES), _one_of(BACKBONES.names(), _PATH)]
SourceKind = Annotated[str, _known_in(SOURCES), _one_of(SOURCES.names(), _PATH)]
