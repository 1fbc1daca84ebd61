"""How many images a step may have: measured on steps of a few, as many as memory holds.

A step's memory grows by the same amount with each image. On a GPU two steps are taken and the allocator is asked; on a
CPU, whose allocator tells nothing, what the forward pass keeps for the backward pass is counted, and ``OVERHEAD`` times
that much is what the process has been seen to grow by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossstage.data.cache import free_memory

MEASURED = 2, 4  # images of the two steps
OVERHEAD = 1.5  # bytes for each that is kept; 1.33 to 1.39 were measured, of detectors at 160 to 416 pixels
SHARE = 0.8  # of free memory that a training may take


@dataclass(frozen=True)
class StepMemory:
    """What a training step takes on one device.

    Attributes:
        fixed: Bytes whatever the batch is.
        image: Bytes for each image.
        free: Bytes that there are.
    """

    fixed: float
    image: float
    free: float

    def fits(self, images: int) -> bool:
        """Tell whether a pass of so many images has its memory."""
        return self.fixed + images * self.image <= SHARE * self.free

    def told(self, images: int) -> str:
        """Return in words what a pass of so many images takes."""
        gigabytes = 2**30
        return f"{(self.fixed + images * self.image) / gigabytes:.2g} of {self.free / gigabytes:.3g} GB that are free"


def measured(
    steps: Mapping[int, Callable[[], object]], model: nn.Module, device: torch.device, *, copies: int, enlarged: float
) -> StepMemory:
    """Measure what a step takes.

    Args:
        steps: What takes a step, by the number of its images: a few, and some more.
        model: What is trained.
        device: Where.
        copies: How many copies of the weights the training keeps: gradients, the optimiser's state, an average.
        enlarged: How much larger than these images may be, as a factor of their area.
    """
    few, more = steps
    for step in steps.values():
        step()  # sets up what stays: the optimiser's state, the libraries' workspaces
    of = _peak if device.type == "cuda" else _kept
    first, second = (of(step, model, device) for step in steps.values())
    image = max(0.0, enlarged * (second - first) / (more - few))
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        return StepMemory(max(0.0, first - few * (second - first) / (more - few)), image, free)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return StepMemory(float((1 + copies) * weights), OVERHEAD * image, free_memory())


def _peak(step: Callable[[], object], _: nn.Module, device: torch.device) -> float:
    """Return the most bytes that torch holds on a GPU during a step."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return float(torch.cuda.max_memory_reserved(device))


def _kept(step: Callable[[], object], model: nn.Module, _: torch.device) -> float:
    """Return the bytes that the forward passes of a step keep for its backward passes, without the weights."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return float(sum(kept.values()))
