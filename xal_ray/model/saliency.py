"""Saliency maps of the predicted class, at the resolution of the target layer.

Grad-CAM needs the gradient at the target layer only, so the backbone runs once and without a graph. Behind a
global average pool and a linear layer that gradient is known: `dy_c / dA_kij = w_ck / (h w)`. Behind other
heads it is taken by automatic differentiation of the head alone. Both are exact, and so is the third way, for
a plug-in's network without a cut: it runs as a whole, and its graph begins at the target layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xal_ray.config import Config, Saliency
from xal_ray.errors import ModelError
from xal_ray.model.network import Network
from xal_ray.registry.strategies import StrategySpec

SCORECAM_BATCH = 16  # masked images in one forward pass


@dataclass(frozen=True)
class Kept:
    """Holds what a frozen backbone gave for n images.

    Attributes:
        embeddings: (n, d) float32, the last linear layer's input.
        activations: n arrays of the target layer's activation, float32; read-only and not copied.
    """

    embeddings: npt.NDArray[np.float32]
    activations: Sequence[npt.NDArray[np.float32]]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.activations)

    def __getitem__(self, some: slice) -> Kept:
        """Return some of the images."""
        return Kept(self.embeddings[some], self.activations[some])


def explain(network: Network, images: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Exact Grad-CAM from a single forward pass: `relu(sum_k a_k A_k)`, `a_k = mean_ij dy_c / dA_kij`.

    Not for use inside `torch.inference_mode`, whose tensors can't be differentiated.

    Args:
        network: The network; it is put into eval mode.
        images: (n, 3, s, s) float32, on the network's device.
        targets: (n,) int64 class indices; the predicted classes where None.

    Returns:
        Logits (n, C), and maps (n, h, w) float32, >= 0, not normalised.

    Source:
        Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
        ICCV 2017, equations 1 and 2.
    """
    network.eval()
    if not network.is_cut:
        return _explain_whole(network, images, targets)
    with torch.no_grad():
        activation = network.features(images)
    return explain_activation(network, activation, targets)


def explain_activation(
    network: Network, activation: Tensor, targets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`explain` from the target layer's activation on.

    Args:
        network: The network, in eval mode; one that is cut.
        activation: What `network.features` gave, in the head's precision.
        targets: (n,) int64 class indices; the predicted classes where None.

    Returns:
        As `explain`.
    """
    if network.linear_weight is not None:
        with torch.no_grad():
            logits = network.head(activation)
            chosen = logits.argmax(dim=1) if targets is None else targets
            height, width = activation.shape[2:]
            weights = network.linear_weight[chosen] / (height * width)
            return logits, _weighted_map(activation, weights)
    with torch.enable_grad():
        leaf = activation.detach().requires_grad_()
        logits = network.head(leaf)
    return logits.detach(), _map_of_gradient(network, leaf, logits, targets)


def _explain_whole(network: Network, images: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
    """`explain` of a network without a cut: all of it runs once, with a graph behind the target layer."""
    leaf, logits = network.from_activation(images)
    return logits.detach(), _map_of_gradient(network, leaf, logits, targets)


def check_cut(network: Network, settings: Config) -> None:
    """Refuse settings that need a network in two parts, where a plug-in's is run as a whole.

    Args:
        network: The network.
        settings: The sections model and score count.

    Raises:
        ModelError: They do.
    """
    if network.is_cut:
        return
    needs = {
        "score.precision=bf16": settings.score.precision == "bf16",
        "score.compile=true": settings.score.compile,
        "model.cache_activations=true": settings.model.cache_activations,
    }
    for key, is_asked in needs.items():
        if is_asked:
            raise ModelError(
                f"{key} needs a backbone that can be run in two parts, and this one can't",
                expected="a built-in backbone, or a plug-in that says pooled_linear: behind the target layer "
                "a global average pool and a linear layer, nothing else",
                found=network.backbone.title,
                where="model.backbone",
                next_step=f"leave {key.partition('=')[0]} at its default, or choose another model.backbone",
            )


def check_maps(network: Network, image_size: int, strategy: StrategySpec) -> None:
    """Refuse a strategy that looks at saliency maps where each of them is a single cell.

    A map of one cell is the same everywhere, so that its misalignment is undefined for every image.

    Args:
        network: The network, on any device.
        image_size: Height and width of its images, pixels.
        strategy: What is known of `select.strategy`.

    Raises:
        ModelError: It is so.
    """
    if not strategy.needs_map:
        return
    network.eval()
    device = network.classifier.weight.device
    with torch.no_grad():
        activation = network.features(torch.zeros(1, 3, image_size, image_size, device=device))
    height, width = network.spatial(activation).shape[2:]
    if height * width == 1:
        raise ModelError(
            f"select.strategy={strategy.name} ranks by saliency maps, and these would be of a single cell",
            expected=f"an image size at which {network.target_layer_name} has several cells",
            found=f"1 x 1 at {image_size} pixels",
            where="pool.image_size",
            next_step="set select.strategy to one that looks at no map (entropy, say), or prepare another "
            f"pool with pool.image_size={2 * image_size}",
        )


def explain_kept(network: Network, kept: Kept, device: torch.device) -> tuple[Tensor, Tensor]:
    """`explain` from what a frozen backbone gave before; with a pooled linear head nothing is copied.

    Args:
        network: The network, in eval mode, on the device.
        kept: Of n images.
        device: Where to compute.

    Returns:
        As `explain`.
    """
    linear = network.linear_weight
    if linear is None or device.type != "cpu":
        return explain_activation(network, torch.from_numpy(np.stack(kept.activations)).to(device))
    with torch.no_grad():
        logits = network.classifier(torch.from_numpy(kept.embeddings))
        weights = linear[logits.argmax(dim=1)].numpy()
    # Image by image: an activation then passes the processor's cache once, straight from the mapped file.
    shape = kept.activations[0].shape
    maps = np.empty((len(kept), shape[1] * shape[2]), dtype=np.float32)
    for weight, activation, target in zip(weights, kept.activations, maps, strict=True):
        np.einsum("k,kp->p", weight, activation.reshape(shape[0], -1), out=target)
    maps = np.maximum(maps, 0.0) / np.float32(shape[1] * shape[2])
    return logits, torch.from_numpy(maps.reshape(-1, *shape[1:]))


def explain_with_library(network: Network, images: Tensor, method: Saliency) -> tuple[Tensor, Tensor]:
    """Maps of the predicted class by pytorch-grad-cam, left at the target layer's resolution.

    Args:
        network: The network; it is put into eval mode.
        images: (n, 3, s, s) float32, on the network's device.
        method: How maps are drawn.

    Returns:
        Logits (n, C), and maps (n, h, w) float32, which the library has scaled to [0, 1].

    Source:
        The paper of each method is named in https://github.com/jacobgil/pytorch-grad-cam.
    """
    if method == "scorecam" and len(images) > 1:
        # The library keeps the masks of all images at once: n * k maps of the images' size.
        parts = [explain_with_library(network, image[None], method) for image in images]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    split = _SplitNetwork(network).eval()
    with _library_class(method)(split, [split.tap], reshape_transform=network.spatial) as cam:
        cam.get_target_width_height = lambda _: None  # no size: the map is not resized
        maps = cam(images, targets=None)
        logits = cam.outputs.detach()
    network.zero_grad(set_to_none=True)  # the library's backward pass leaves gradients in the head
    return logits, torch.from_numpy(maps).to(logits.device)


class _SplitNetwork(nn.Module):
    """The network with a graph from the target layer on, so that the library differentiates the head only.

    It also makes a frozen backbone's activation differentiable.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.tap = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        if not self.network.is_cut:
            return self.network.from_activation(images, self.tap)[1]
        with torch.no_grad():
            activation = self.network.features(images)
        return self.network.head(self.tap(activation.requires_grad_()))


def _weighted_map(activation: Tensor, weights: Tensor) -> Tensor:
    """`relu(sum_k weights_nk activation_nkij)`, (n, h, w)."""
    return F.relu(torch.einsum("nk,nkhw->nhw", weights, activation)).float()


def _map_of_gradient(network: Network, leaf: Tensor, logits: Tensor, targets: Tensor | None) -> Tensor:
    """Return the map, by the gradient of each image's target logit with respect to its own activation."""
    chosen = logits.argmax(dim=1) if targets is None else targets
    with torch.enable_grad():
        # Images are independent behind the target layer: the sum's gradient holds each image's own.
        (gradient,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), leaf)
    weights = network.spatial(gradient).mean(dim=(2, 3))
    return _weighted_map(network.spatial(leaf.detach()), weights)


def _library_class(method: Saliency) -> Any:
    # Imported here: the import takes seconds, and the default method does without.
    import pytorch_grad_cam as library

    class QuietScoreCAM(library.ScoreCAM):  # type: ignore[misc]  # the library is untyped
        """The library's Score-CAM without its progress bars, and with memory for one minibatch of masks."""

        def get_cam_weights(
            self,
            input_tensor: Tensor,
            target_layer: Any,
            targets: list[Any],
            activations: npt.NDArray[np.float32],
            grads: Any,
        ) -> npt.NDArray[np.float32]:
            return _scorecam_weights(self.model.network, input_tensor, targets, activations)

    return {
        "gradcam": library.GradCAM,
        "gradcam++": library.GradCAMPlusPlus,
        "hirescam": library.HiResCAM,
        "xgradcam": library.XGradCAM,
        "layercam": library.LayerCAM,
        "eigencam": library.EigenCAM,
        "eigengradcam": library.EigenGradCAM,
        "scorecam": QuietScoreCAM,
    }[method]


@torch.no_grad()
def _scorecam_weights(
    network: Network, images: Tensor, targets: list[Any], activations: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """A channel's weight: the softmax over channels of the target logit of the image masked by the channel.

    Args:
        network: The network.
        images: (n, 3, s, s).
        targets: n functions, logits of an image → its target's logit.
        activations: (n, k, h, w).

    Returns:
        (n, k), each row summing to 1.

    Source:
        Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks", CVPR
        Workshops 2020; without its baseline, as the library has it.
    """
    weights = []
    for image, target, channels in zip(images, targets, torch.from_numpy(activations), strict=True):
        scores = []
        for some in channels.to(images.device).split(SCORECAM_BATCH):
            masks = F.interpolate(some[None], size=image.shape[1:], mode="bilinear", align_corners=True)[0]
            low, high = masks.amin(dim=(1, 2), keepdim=True), masks.amax(dim=(1, 2), keepdim=True)
            masks = (masks - low) / (high - low + 1e-8)
            scores += [target(logits) for logits in network(image * masks[:, None])]
        weights.append(torch.softmax(torch.stack(scores), dim=0))
    return torch.stack(weights).cpu().numpy()
