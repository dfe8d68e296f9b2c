"""Torch's own random draws (dropout) in a training: seeded, kept with a checkpoint, put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from xal_ray.model.training.checkpoint import Part


@contextmanager
def reproducible(seed: int, device: torch.device, threads: int) -> Iterator[None]:
    """Seed torch's own draws, fix threads and kernels, and put everything back afterwards."""
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.deterministic, cudnn.benchmark
    with torch.random.fork_rng(devices=_gpus(device)):
        for generator in _generators(device):
            generator.manual_seed(seed)
        torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark = True, False
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            cudnn.deterministic, cudnn.benchmark = before[1], before[2]


def torch_streams(device: torch.device) -> Part:
    """Return where torch's generators stand: uint8 tensors, of the processor and of the device."""
    return Part({str(number): stream.get_state() for number, stream in enumerate(_generators(device))})


def restore_torch_streams(part: Part, device: torch.device) -> None:
    """Go on where `torch_streams` was called; a generator that was not there then keeps its seed."""
    for number, stream in enumerate(_generators(device)):
        if str(number) in part.tensors:
            stream.set_state(part.tensors[str(number)])


def _generators(device: torch.device) -> list[torch.Generator]:
    return [torch.default_generator, *(torch.cuda.default_generators[gpu] for gpu in _gpus(device))]


def _gpus(device: torch.device) -> list[int]:
    if device.type != "cuda":
        return []
    return [torch.cuda.current_device() if device.index is None else device.index]
