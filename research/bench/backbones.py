"""Forward pass and training step against timm's and torchvision's same networks with the same weights, in one run.

    python -m research.bench.backbones [NAME ...] [--rounds N]   # by default eleven, named as in --weights-of
    python -m research.bench.backbones --memory                  # peak memory of a training step of the DenseNets

On a CPU: float32, both memory formats. On a GPU: bfloat16, channels last, eager and compiled. Ratios are the peer's
time over ours: above 1, ours is faster.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from crossstage import create_model, fuse
from crossstage.weights.from_peer import from_peer
from crossstage.weights.ref import parse
from research.bench.timing import machine, medians

NAMES = (
    "torchvision:resnet50",
    "torchvision:resnext50_32x4d",
    "torchvision:densenet121",
    "torchvision:densenet201",
    "torchvision:mobilenet_v2",
    "timm:darknet53",
    "timm:cspdarknet53",
    "timm:cspresnet50",
    "timm:cspresnext50",
    "timm:vovnet39a",
    "timm:ese_vovnet39b",
)
SIZE = 224
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
DENSENETS = ("torchvision:densenet201", "densenet201", "densenet201 memory_efficient", "cspdensenet201",
             "cspdensenet201 memory_efficient")  # fmt: skip


def peer_of(name: str) -> nn.Module:
    """The peer's network, every norm and weight different from its neutral start."""
    ref = parse(name)
    torch.manual_seed(0)
    model = timm.create_model(ref.name) if ref.library == "timm" else models.get_model(ref.name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def step(
    model: Callable[[Tensor], Tensor], optimiser: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> Callable[[], None]:
    """A training step as a function."""

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(model(images).float(), labels).backward()
        optimiser.step()

    return run


def inference(model: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], object]:
    """A forward pass as a function."""

    def run() -> Tensor:
        with torch.inference_mode():
            return model(images)

    return run


def compare(name: str, layout: str, rounds: int, *, batch: int, train_batch: int) -> dict[str, float]:
    """Medians in milliseconds of both networks and ours fused."""
    theirs = peer_of(name)
    ours = from_peer(name, theirs.state_dict())
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    to = {"device": device, "dtype": dtype, "memory_format": FORMATS[layout]}
    theirs, ours = theirs.to(**to), ours.to(**to)
    fused = fuse(ours)
    images = torch.rand(batch, 3, SIZE, SIZE).to(**to)
    runs = {
        "peer": inference(theirs.eval(), images),
        "ours": inference(ours.eval(), images),
        "fused": inference(fused, images),
    }
    if cuda:
        runs |= {f"{key} compiled": inference(torch.compile(model), images)
                 for key, model in (("peer", theirs), ("ours", ours), ("fused", fused))}  # fmt: skip
    found = medians(runs, rounds)
    images = torch.rand(train_batch, 3, SIZE, SIZE).to(**to)
    labels = torch.arange(train_batch, device=device)
    runs = {}
    for key, model in (("peer", theirs), ("ours", ours)):
        model.train().requires_grad_()
        optimiser = torch.optim.SGD(model.parameters(), lr=1e-6)
        runs[f"{key} step"] = step(model, optimiser, images, labels)
        if cuda:
            runs[f"{key} step compiled"] = step(torch.compile(model), optimiser, images, labels)
    return found | medians(runs, max(5, rounds // 4), warm_up=2)


def print_times(names: list[str], rounds: int) -> None:
    """One line for each network and memory format."""
    cuda = torch.cuda.is_available()
    batch, train_batch = (128, 64) if cuda else (1, 8)
    print(f"{machine()}, {SIZE} x {SIZE}, forward batch {batch}, training step batch {train_batch}, {rounds} rounds")
    for layout in ("channels last",) if cuda else FORMATS:
        for name in names:
            ms = compare(name, layout, rounds, batch=batch, train_batch=train_batch)
            kinds = [("forward", "ours", "peer"), ("fused", "fused", "peer"), ("step", "ours step", "peer step")]
            if cuda:
                kinds += [(f"{label} compiled", f"{a} compiled", f"{b} compiled") for label, a, b in list(kinds)]
            shown = "   ".join(f"{label} {ms[b]:.1f}/{ms[a]:.1f} = {ms[b] / ms[a]:.2f}" for label, a, b in kinds)
            print(f"{name:28} {layout:13} {shown}", flush=True)


def peak_of_step(name: str) -> float:
    """Peak resident memory in MiB that a training step at batch 8 adds to the model, in this process."""
    base, _, option = name.partition(" ")
    settings: dict[str, Any] = {option: True} if option else {}
    model = peer_of(base) if ":" in base else create_model(base, **settings)
    torch.manual_seed(0)
    images, labels = torch.rand(8, 3, SIZE, SIZE), torch.arange(8)
    model.train()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(model, torch.optim.SGD(model.parameters(), lr=0.01), images, labels)()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def print_memory() -> None:
    """One line for each DenseNet, each in a process of its own."""
    print(f"{machine()}, training step, batch 8, {SIZE} x {SIZE}")
    found: dict[str, float] = {}
    for name in DENSENETS:
        command = [sys.executable, "-m", "research.bench.backbones", "--peak", name]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = float(run.stdout)
        print(f"{name:34} {found[name]:8.0f} MiB   {found[name] / found[DENSENETS[0]]:5.2f} x torchvision", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.peak:
        print(peak_of_step(chosen.peak))
    elif chosen.memory:
        print_memory()
    else:
        print_times(chosen.names, chosen.rounds)


if __name__ == "__main__":
    main()
