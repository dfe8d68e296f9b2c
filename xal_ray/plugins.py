"""Serves packages that add strategies, sources or backbones: decorators say what a function is.

    from xal_ray.plugins import strategy

    @strategy(columns=["entropy", "roi_area"])
    def large_and_uncertain(columns, settings):
        '''Uncertain images with a large region of interest first.'''
        return columns["entropy"] * numpy.nan_to_num(columns["roi_area"])

A configuration names it by its path, `select.strategy: my_package.my_module:large_and_uncertain`, or by the
name that the package gives it among its entry points of the group `xal_ray.strategies`; sources and backbones
likewise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from xal_ray.registry.backbones import BackboneSpec
from xal_ray.registry.lookup import SPEC, Entry
from xal_ray.registry.row_readers import RowReaderSpec
from xal_ray.registry.sources import OPTIONS, SourceSpec
from xal_ray.registry.strategies import Kind, StrategySpec

F = TypeVar("F", bound=Callable[..., Any])


def strategy(
    *,
    columns: Sequence[str] = (),
    settings: Sequence[str] = (),
    kind: Kind = "row_wise",
    is_control: bool = False,
    words: str | None = None,
) -> Callable[[F], F]:
    """Make a function a query strategy. `xal_ray/acquire/contract.py` says what it owes.

    Args:
        columns: The score columns that it reads: `entropy`, `margin`, `least_confidence`, `bald`, of regions
            of interest `misalignment`, `shuffled_misalignment`, `roi_area`, or `uncertainty`, which stands
            for the one that `select.uncertainty` names; of the kind `batch` also `embedding`.
        settings: The keys of the section `select` that it reads: `uncertainty`, `weight`, `normalise`.
        kind: `row_wise`: the function takes (columns, settings) of some rows and gives their utilities, from
            0 to 1. `ranker`: it takes (replay, settings, seed), and gives a function that ranks a chunk.
            `batch`: it takes (batch, settings, seed), and chooses images together
            (`xal_ray/acquire/batch.py`).
        is_control: It is there to be compared with: a sweep never recommends it.
        words: What it does, in a line; by default the first line of its docstring.
    """
    return _recorded(
        StrategySpec(
            kind=kind,
            columns=tuple(columns),
            settings=tuple(settings),
            is_control=is_control,
            words=words or "",
        )
    )


def source(
    *, settings: Sequence[str] = (), needs_path: bool = True, words: str | None = None
) -> Callable[[F], F]:
    """Make a function `(pool)` a source: it yields a manifest row for each image, as a dict.

    A row has `image_id`, `uri` (a path, absolute or below `pool.source.path`) and `group_id`, and may have
    any other column of `xal_ray.pool.manifest.MANIFEST_SCHEMA`: `label`, `split`, `mask_uri`, `boxes`, ...
    The function reads no pixel. What a user sets for it stands in `pool.source.options`.

    Args:
        settings: Further keys of `pool.source` that it reads, as `findings`: its pools depend on them.
        needs_path: It reads what lies at `pool.source.path`.
        words: What it lists, in a line; by default the first line of its docstring.
    """
    return _recorded(
        SourceSpec(
            settings=(*settings, OPTIONS), needs_path=needs_path, is_told_groups=True, words=words or ""
        )
    )


def row_reader(*, makes_many: bool = False, words: str | None = None) -> Callable[[F], F]:
    """Make a function `(row, pool)` a reader of rows whose column `reader` names it.

    It gives a list of `xal_ray.pool.reading.ReadImage`: uint8 pixels of (image_size, image_size, channels),
    the ROI in [0, 1] or None, and what reading has settled, as the label. A file that can't be used is said
    by an `xal_ray.images.errors.ImageError`, which puts the row into quarantine; any other error ends the
    command.

    Args:
        makes_many: A row is a case, of which any number of images may come.
        words: What it reads, in a line; by default the first line of its docstring.
    """
    return _recorded(RowReaderSpec(makes_many=makes_many, words=words or ""))


def backbone(
    *,
    target_layer: str,
    classifier: str | None = None,
    pooled_linear: bool = False,
    pretrained: Callable[[], Any] | None = None,
    words: str | None = None,
) -> Callable[[F], F]:
    """Make a function `(num_classes, image_size)` a backbone: it gives a torch module with random weights.

    The module takes (n, 3, s, s) images, scaled as torchvision's ImageNet weights expect, and gives (n, C)
    logits, which are the outputs of its last linear layer.

    Args:
        target_layer: The layer whose output, (n, k, h, w), saliency maps are drawn from, by its name in the
            module: `layer4`, `features.8`.
        classifier: The last linear layer; by default the last one with an output for each class.
        pooled_linear: Behind the target layer stand a global average pool and that linear layer, nothing
            else. Kept activations, bf16 and compilation need it.
        pretrained: A function that gives the state dict of `model.weights=imagenet`.
        words: What it is, in a line; by default the first line of the function's docstring.
    """
    return _recorded(
        BackboneSpec(
            target_layer=target_layer,
            classifier=classifier,
            pooled_linear=pooled_linear,
            pretrained=pretrained,
            words=words or "",
        )
    )


def _recorded(spec: Entry) -> Callable[[F], F]:

    def record(code: F) -> F:
        lines = (inspect.getdoc(code) or "").splitlines()
        setattr(code, SPEC, replace(spec, words=spec.words or (lines[0] if lines else "")))
        return code

    return record
