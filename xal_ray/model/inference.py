"""Inference with its explanation, as fast as the device can: folded, channels last, bf16 where that pays.

Only the backbone runs in bf16. The head, the pooling and the map are float32, and rows whose two largest
logits lie closer than what bf16 may have moved them are named, so that the caller can do them again exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xal_ray.config import Saliency
from xal_ray.model.folding import fold_batch_norms
from xal_ray.model.network import ModelSpec, Network, images_to_tensor
from xal_ray.model.saliency import Kept, explain, explain_activation, explain_kept, explain_with_library

Precision = Literal["auto", "fp32", "bf16"]

# What the kernel says of a processor that multiplies bf16 in hardware; elsewhere it is emulated, and slower.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_MASKED_WEIGHTS = 1 << 24  # floats of the last layer under several dropout masks at once


@dataclass(frozen=True)
class Outputs:
    """Holds what a batch of n images gives; tensors are on the device.

    Attributes:
        logits: (n, C) float32.
        maps: (n, gh, gw) float32, >= 0, not normalised.
        tie_scale: (n,) float32, the size of the terms whose sum is the gap of the two largest logits.
        embeddings: (n, d) float32, the last linear layer's input.
        samples: (n, t, C) float32 probabilities of t dropout samples of the head, or None.
    """

    logits: Tensor
    maps: Tensor
    tie_scale: Tensor
    embeddings: Tensor
    samples: Tensor | None

    @classmethod
    def joined(cls, first: Outputs, second: Outputs) -> Outputs:
        """Return the outputs of two batches as those of one."""
        samples = None
        if first.samples is not None and second.samples is not None:
            samples = torch.cat([first.samples, second.samples])
        return cls(
            torch.cat([first.logits, second.logits]),
            torch.cat([first.maps, second.maps]),
            torch.cat([first.tie_scale, second.tie_scale]),
            torch.cat([first.embeddings, second.embeddings]),
            samples,
        )


class Explainer:
    """A network that answers with logits and saliency maps of its predicted classes.

    Args:
        network: The network; images fold it in place, and it is no good for training afterwards.
        spec: Its specification.
        device: Where to run.
        saliency: The method. All but `gradcam` go through pytorch-grad-cam, in float32.
        precision: `auto` takes bf16 where the backbone's ranks bear it and the device multiplies it in
            hardware.
        compile_for: Compile the backbone with torch.compile for batches of this many images; 0 = do not.
        dropout_masks: (t, k) float32 masks of the last layer's input, for `Outputs.samples`, or None.

    Attributes:
        precision: `fp32` or `bf16`: what is used.
    """

    def __init__(
        self,
        network: Network,
        spec: ModelSpec,
        device: torch.device,
        *,
        saliency: Saliency = "gradcam",
        precision: Precision = "auto",
        compile_for: int = 0,
        dropout_masks: Tensor | None = None,
    ) -> None:
        self.spec = spec
        self.device = device
        self.saliency = saliency
        keeps_ranks = network.backbone.bf16_keeps_ranks and saliency == "gradcam"
        self.precision = resolve_precision(precision, device, keeps_ranks)
        self.network = network.to(device).eval()
        self.masks = None if dropout_masks is None else dropout_masks.to(device)
        self.compile_for = compile_for
        self._last_input = torch.empty(0)
        self.network.classifier.register_forward_pre_hook(self._keep_input)

    def __call__(self, inputs: npt.NDArray[np.uint8] | Kept, *, exact: bool = False) -> Outputs:
        """Explain a batch.

        Args:
            inputs: (n, image_size, image_size, channels) images; or what their frozen backbone gave, for
                `gradcam`.
            exact: In float32, whatever the precision.

        Raises:
            ModelError: The images do not fit the network.
        """
        if isinstance(inputs, Kept):
            logits, maps = explain_kept(self.network, inputs, self.device)
        elif self.saliency == "gradcam" and not self.network.is_cut:
            logits, maps = explain(self.network, images_to_tensor(inputs, self.spec, self.device))
        elif self.saliency == "gradcam":
            images = images_to_tensor(inputs, self.spec, self.device)
            logits, maps = explain_activation(self.network, self._features(images, exact))
        else:
            images = images_to_tensor(inputs, self.spec, self.device)
            logits, maps = explain_with_library(self._folded, images, self.saliency)
            with torch.no_grad():
                self._folded(images)  # the library may have seen masked images last
        with torch.no_grad():
            scale, samples = self._tie_scale(logits), self._dropout_samples()
        return Outputs(logits, maps, scale, self._last_input, samples)

    @cached_property
    def _folded(self) -> Network:
        """Return the network made fast, on first use: activations do without it."""
        if not self.network.is_ours:
            return self.network
        size = self.spec.image_size
        fold_batch_norms(self.network, torch.zeros(1, 3, size, size, device=self.device))
        return self.network.to(memory_format=torch.channels_last)

    @cached_property
    def _backbone(self) -> Callable[[Tensor], Tensor]:
        if not self.compile_for:
            return self._folded.features
        compiled: Callable[[Tensor], Tensor] = torch.compile(self._folded.features, dynamic=False)
        return compiled

    def _features(self, images: Tensor, exact: bool) -> Tensor:
        with torch.no_grad():
            if exact:
                return self._folded.features(images)  # never compiled: these are few, of any number
            if self.precision == "fp32":
                return self._run(images)
            with torch.autocast(self.device.type, torch.bfloat16):
                return self._run(images).float()

    def _run(self, images: Tensor) -> Tensor:
        missing = self.compile_for - len(images)
        if missing <= 0:
            return self._backbone(images)
        # Another size of the batch would be compiled again.
        padding = images[-1:].expand(missing, -1, -1, -1)
        return self._backbone(torch.cat([images, padding]))[: len(images)]

    def _tie_scale(self, logits: Tensor) -> Tensor:
        """`|(w_1 - w_2) * x|_2`, w_1 and w_2 the weights of the two largest logits, x the layer's input."""
        weight = self.network.classifier.weight
        best = logits.topk(2, dim=1).indices
        terms: Tensor = (weight[best[:, 0]] - weight[best[:, 1]]) * self._last_input
        scale: Tensor = terms.norm(dim=1)
        return scale

    def _keep_input(self, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._last_input = arguments[0].detach()

    def _dropout_samples(self) -> Tensor | None:
        """(n, t, C) probabilities: the last layer with its input masked, all images under the same masks."""
        if self.masks is None:
            return None
        layer, values = self.network.classifier, self._last_input
        parts = []
        for some in torch.split(self.masks, max(1, _MASKED_WEIGHTS // layer.weight.numel())):
            weights = (some[:, None, :] * layer.weight).reshape(-1, layer.in_features)
            parts.append((values @ weights.T).reshape(len(values), len(some), -1) + layer.bias)
        return F.softmax(torch.cat(parts, dim=1), dim=2)


def resolve_precision(request: Precision, device: torch.device, keeps_ranks: bool) -> Literal["fp32", "bf16"]:
    """Resolve `auto`: bf16 where it does not change ranks and the hardware multiplies it, else fp32."""
    if request != "auto":
        return request
    if not keeps_ranks:
        return "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    return "bf16" if _processor_flags() & _BF16_FLAGS else "fp32"


def _processor_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return frozenset()
    for line in text.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(flags.split())
    return frozenset()
