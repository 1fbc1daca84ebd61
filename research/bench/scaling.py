"""Hours and cost of the published trainings, from the rate of a training step.

    python -m research.bench.scaling [--rate NAME=IMAGES_PER_SECOND ...] [--price PRICE_OF_A_DEVICE_HOUR] [--rounds N]

A rate that is not given is measured here, on one device, with a batch that lies in memory.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F

from crossstage import create_model
from crossstage.training import load_recipe
from crossstage.training.memory import keep_freed_memory
from research.bench.timing import machine, medians

EFFICIENCY = 0.9  # of several devices, an assumption
DATA = {"ImageNet": 1_281_167, "COCO": 118_287}
RUNS = (  # network, input, data, recipe
    ("csppeleenet", 224, "ImageNet", "imagenet_densenet"),
    ("cspresnet50", 256, "ImageNet", "imagenet"),
    ("cspdarknet53", 256, "ImageNet", "imagenet_gamma"),
    ("cspdarknet53_tiny_yolo", 416, "COCO", "coco_optimal"),
)
FLEETS = {"1 device": 1, "8 devices": 8, "4 machines of 8": 32}
BATCH = 16


def measured(name: str, size: int, rounds: int) -> float:
    """Images per second of a training step; a detector's loss, small beside its network, is left out."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = create_model(name).to(device, memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)
    images = torch.rand(BATCH, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(BATCH, dtype=torch.long, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output = model(images)
            loss = (
                sum(raw.square().mean() for raw in output.values())
                if isinstance(output, dict)
                else F.cross_entropy(output, labels)
            )
        torch.as_tensor(loss).backward()
        optimizer.step()
        optimizer.zero_grad()

    return BATCH / medians({"": step}, rounds, warm_up=1)[""] * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", nargs="*", default=[], metavar="NAME=IMAGES_PER_SECOND")
    parser.add_argument("--price", type=float, help="of an hour of one device, in any currency")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    rates = {name: float(rate) for name, _, rate in (entry.partition("=") for entry in chosen.rate)}
    keep_freed_memory()
    print(f"{machine()}\n")
    print(
        "| network | data | recipe | epochs | images/s | " + " | ".join(f"hours on {fleet}" for fleet in FLEETS) + " |"
    )
    print("|---" * (5 + len(FLEETS)) + "|")
    for name, size, data, recipe in RUNS:
        epochs = load_recipe(recipe)["epochs"]
        rate = rates.get(name) or measured(name, size, chosen.rounds)
        cells = []
        for devices in FLEETS.values():
            hours = DATA[data] * epochs / rate / 3600 / (devices * EFFICIENCY if devices > 1 else 1)
            cost = f", {hours * devices * chosen.price:,.0f}" if chosen.price else ""
            cells.append(f"{hours:,.1f}{cost}")
        print(f"| {name} at {size} | {data} | {recipe} | {epochs} | {rate:,.1f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
