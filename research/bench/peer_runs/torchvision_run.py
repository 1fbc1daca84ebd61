"""Fine-tune a classifier as torchvision's tutorial on transfer learning does it, and write what it scores.

    python torchvision_run.py START DATA OUT SIDE EPOCHS SEED OPTIMISER RATE

The network and its weights are ours, so that the loop alone differs: random crops of 8 to 100% of the area and flips
in training, the shorter side at 8/7 of the input and a crop of the middle in evaluation; SGD with momentum 0.9 or
AdamW, the rate times 0.1 every 7 epochs, no averaging; the epoch that scores best on the val images is kept.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from crossstage.models.classifier import Classifier
from crossstage.weights.starting import start_model

BATCH, STEP, MOMENTUM = 32, 7, 0.9


def main(start: str, data: str, out: str, side: int, epochs: int, seed: int, optimiser: str, rate: float) -> None:
    """Train, and score each epoch."""
    torch.manual_seed(seed)
    folder = Path(data)
    classes = sorted(path.name for path in (folder / "train").iterdir())
    model = start_model(start, classes, imgsz=side).model.to(memory_format=torch.channels_last)  # pyright: ignore
    assert isinstance(model, Classifier)
    assert model.preprocessing is not None
    finish = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Lambda(model.preprocessing.normalise)]
    varied = v2.Compose([v2.RandomResizedCrop(side), v2.RandomHorizontalFlip(), *finish])
    plain = v2.Compose([v2.Resize(side * 8 // 7), v2.CenterCrop(side), *finish])
    train = DataLoader(ImageFolder(folder / "train", varied), BATCH, shuffle=True, num_workers=1, drop_last=True)
    val = DataLoader(ImageFolder(folder / "val", plain), BATCH, num_workers=1)
    optimizer: torch.optim.Optimizer
    if optimiser == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), rate, momentum=MOMENTUM)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, STEP)
    scores: list[float] = []
    began = time.monotonic()
    for _ in range(epochs):
        model.train()
        for images, labels in train:
            loss = F.cross_entropy(model(images.to(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        scores.append(accuracy(model, val))
    seconds = time.monotonic() - began
    figures = {"top1": max(scores), "last": scores[-1], "scores": scores, "epochs": epochs, "training_seconds": seconds}
    Path(out).write_text(json.dumps(figures))


@torch.no_grad()
def accuracy(model: nn.Module, val: DataLoader) -> float:
    """Return the share of images whose class is found."""
    model.eval()
    right = [model(images).argmax(1) == labels for images, labels in val]
    return float(torch.cat(right).float().mean())


if __name__ == "__main__":
    words = sys.argv[1:]
    main(*words[:3], *map(int, words[3:6]), words[6], float(words[7]))  # pyright: ignore[reportCallIssue]
