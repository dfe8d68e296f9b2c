"""What an explanation costs: CPU time and peak memory of scoring a batch, against pure inference.

Sides, all on the same random images and weights, one thread:
  inference            logits only, float32, as torchvision's model gives them
  inference, folded    the same with BatchNorm folded and channels last; and in bf16
  ours                 the Scorer: logits, uncertainty, exact Grad-CAM, alignment with an ROI, the Arrow table
  grad-cam, shared     pytorch-grad-cam, logits taken from its own forward pass
  grad-cam, README     a forward pass for the logits, then pytorch-grad-cam as its README shows
  image by image       the same for each image alone
CPU time is measured in turn in one process and given as the median ratio; peak memory in a process of its own
for each side, above what the process had with model and images loaded.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

from xal_ray import config
from xal_ray.acquire import alignment, fullsize
from xal_ray.model.inference import Explainer
from xal_ray.model.network import ModelSpec, images_to_tensor
from xal_ray.model.saliency import explain
from xal_ray.model.weights import build_network, load_model, save_model
from xal_ray.pool.schema import PixelRows
from xal_ray.scoring.scorer import Scorer

TARGETS = {"resnet": lambda model: model.layer4[-1], "densenet": lambda model: model.features.denseblock4}
CPU = torch.device("cpu")


def main() -> None:
    parser = common.arguments("scoring", __doc__ or "")
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50", "densenet121"])
    parser.add_argument("--image-size", type=int, default=224, help="pixels (default: 224)")
    parser.add_argument("--batch-size", type=int, default=32, help="images in a batch (default: 32)")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns (default: 5)")
    args = parser.parse_args()
    if args.smoke:
        args.backbones, args.image_size, args.batch_size, args.repeats = ["resnet18"], 64, 4, 1
    rows: list[dict[str, Any]] = []
    notes = [
        f"{args.image_size} px, batch {args.batch_size}, one thread, random weights, an ROI in every image"
    ]
    for backbone in args.backbones:
        with tempfile.TemporaryDirectory() as folder:
            setup(Path(folder), backbone, args.image_size)
            rows += measure(args, Path(folder), backbone)
            notes.append(
                f"{backbone}: largest difference of a map from pytorch-grad-cam's (float64): "
                f"{largest_difference(Path(folder), args.image_size):.1e}"
            )
    common.publish(args, "Scoring against pure inference", rows, notes)


def setup(folder: Path, backbone: str, size: int) -> None:
    """A saved model with random weights, and BatchNorm statistics of its own."""
    spec = ModelSpec(backbone, ("a", "b", "c"), size, 1)  # type: ignore[arg-type]
    network = build_network(spec, "none", seed=0)
    network.train()
    with torch.no_grad():
        network(images_to_tensor(make_rows(8, size).pixels, spec, CPU))
    save_model(folder, network.eval(), spec, {})


def make_rows(count: int, size: int) -> PixelRows:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    rois = np.stack(
        [255 * (np.hypot(y - cy, x - cx) < size / 6) for cy, cx in rng.integers(0, size, (count, 2))]
    )
    pixels = rng.integers(0, 256, (count, size, size, 1), dtype=np.uint8)
    return PixelRows(
        [str(n) for n in range(count)], pixels, rois.astype(np.uint8), np.ones(count, dtype=bool)
    )


def sides(folder: Path, size: int, batch_size: int) -> dict[str, Callable[[], Callable[[], Any]]]:
    """For each side what sets it up, and gives the function that does one batch."""
    torch.set_num_threads(1)
    rows = make_rows(batch_size, size)

    def plain() -> tuple[Any, torch.Tensor, Any]:
        network, spec, _ = load_model(folder)
        model = network.model.to(memory_format=torch.contiguous_format)
        target = TARGETS["densenet" if "dense" in spec.backbone else "resnet"](model)
        return model, images_to_tensor(rows.pixels, spec, CPU).contiguous(), target

    def inference() -> Callable[[], Any]:
        model, images, _ = plain()
        return torch.no_grad()(lambda: model(images).softmax(dim=1))

    def folded(precision: Any) -> Callable[[], Any]:
        network, spec, _ = load_model(folder)
        explainer = Explainer(network, spec, CPU, precision=precision)
        images = images_to_tensor(rows.pixels, spec, CPU)
        return torch.no_grad()(lambda: network.head(explainer._features(images, False)).softmax(dim=1))

    def ours(precision: Any) -> Callable[[], Any]:
        settings = config.Score(precision=precision, batch_size=batch_size, tie_sigmas=0.0)
        scorer = Scorer(folder, settings, use_roi=True)
        return lambda: scorer(rows)

    def shared() -> Callable[[], Any]:
        import pytorch_grad_cam

        model, images, target = plain()
        cam = pytorch_grad_cam.GradCAM(model, [target])
        return lambda: (cam(images, targets=None), cam.outputs.softmax(dim=1))

    def readme() -> Callable[[], Any]:
        import pytorch_grad_cam

        model, images, target = plain()

        def run() -> None:
            model(images).softmax(dim=1)
            with pytorch_grad_cam.GradCAM(model=model, target_layers=[target]) as cam:
                cam(input_tensor=images, targets=None)

        return run

    def one_by_one() -> Callable[[], Any]:
        import pytorch_grad_cam

        model, images, target = plain()

        def run() -> None:
            for image in images:
                model(image[None]).softmax(dim=1)
                with pytorch_grad_cam.GradCAM(model=model, target_layers=[target]) as cam:
                    cam(input_tensor=image[None], targets=None)

        return run

    return {
        "inference": inference,
        "inference, folded": lambda: folded("fp32"),
        "inference, folded, bf16": lambda: folded("bf16"),
        "ours, fp32": lambda: ours("fp32"),
        "ours, bf16": lambda: ours("bf16"),
        "grad-cam, shared": shared,
        "grad-cam, README": readme,
        "image by image": one_by_one,
    }


def measure(args: argparse.Namespace, folder: Path, backbone: str) -> list[dict[str, Any]]:
    made = {name: build() for name, build in sides(folder, args.image_size, args.batch_size).items()}
    seconds = common.interleaved_cpu_s(made, args.repeats)
    same = {"ours, fp32": "inference, folded", "ours, bf16": "inference, folded, bf16"}
    rows = []
    memory = {name: peak_above_model_mb(args, folder, name) for name in made}
    for name, spent in seconds.items():
        own = same.get(name, "inference")
        rows.append(
            {
                "backbone": backbone,
                "side": name,
                "CPU / inference": common.median_ratio(spent, seconds["inference"]),
                "CPU / same inference": common.median_ratio(spent, seconds[own]),
                "CPU / ours, fp32": common.median_ratio(spent, seconds["ours, fp32"]),
                "peak MB above model": round(memory[name]),
                "peak / ours, fp32": memory[name] / max(memory["ours, fp32"], 1.0),
            }
        )
    return rows


def peak_above_model_mb(args: argparse.Namespace, folder: Path, name: str) -> float:
    if args.smoke:  # without a process of its own, whose imports take longer than all else
        return run_alone(folder, name, args.image_size, args.batch_size)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return float(pool.apply(run_alone, (folder, name, args.image_size, args.batch_size)))


def run_alone(folder: Path, name: str, size: int, batch_size: int) -> float:
    run = sides(folder, size, batch_size)[name]()
    return common.peak_above_now_mb(lambda: [run() for _ in range(2)])


def largest_difference(folder: Path, size: int) -> float:
    import pytorch_grad_cam

    network, spec, _ = load_model(folder)
    network = network.double().to(memory_format=torch.contiguous_format)
    images = images_to_tensor(make_rows(4, size).pixels, spec, CPU).double()
    _, maps = explain(network, images)
    target = TARGETS["densenet" if "dense" in spec.backbone else "resnet"](network.model)
    with pytorch_grad_cam.GradCAM(network.model, [target]) as cam:
        theirs = cam(images, targets=None)
    cams, defined = alignment.minmax(maps.numpy())
    full, _ = alignment.minmax(fullsize.upsample(cams, (size, size)))
    return float(np.abs(full - theirs)[defined].max())


if __name__ == "__main__":
    main()
