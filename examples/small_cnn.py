"""A network of one's own, for docs/guides/partial.md: `crossstage convert examples/small_cnn.py:small_cnn`."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions and a gate, added to their input."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.gate = nn.Conv2d(outputs, outputs, 1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if inputs != outputs or stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of ``outputs`` channels, smaller by ``stride``."""
        y = self.body(x)
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return nn.functional.silu(y + self.shortcut(x))


class SmallCNN(nn.Module):
    """Three stages of blocks and a classifier; pools after the first."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.SiLU())
        self.stage1 = nn.Sequential(Block(32, 32), Block(32, 32))
        self.pool = nn.MaxPool2d(2)
        self.stage2 = nn.ModuleList([Block(32, 64), Block(64, 64), Block(64, 64)])
        self.stage3 = nn.Sequential(Block(64, 128, 2), Block(128, 128), Block(128, 128))
        self.head = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W) -> (N, classes)``."""
        x = self.pool(self.stage1(self.stem(images)))
        for block in self.stage2:
            x = block(x)
        return self.head(self.stage3(x).mean((2, 3)))


def small_cnn() -> SmallCNN:
    """The network for ten classes."""
    return SmallCNN()
