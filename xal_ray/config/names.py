"""Lists the names that a configuration may hold: strategies, sources, backbones, measures."""

from __future__ import annotations

from typing import Literal, get_args

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
