"""Blocks as users write them, each with a habit that a conversion must follow or refuse."""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class ConvNorm(nn.Module):
    """A convolution, a norm, and an activation that may be shared with others."""

    def __init__(
        self, inputs: int, outputs: int, act: nn.Module | None = None, stride: int = 1, kernel: int = 3, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = nn.ReLU() if act is None else act

    def forward(self, x: Tensor) -> Tensor:
        """Run the three."""
        return self.act(self.bn(self.conv(x)))


class Block(nn.Module):
    """A residual block around whatever :meth:`body` computes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, act: nn.Module | None = None) -> None:
        super().__init__()
        self.one = ConvNorm(inputs, outputs, act, stride)
        self.two = ConvNorm(outputs, outputs, nn.Identity())
        self.act = nn.ReLU(inplace=True) if act is None else act
        self.down = ConvNorm(inputs, outputs, nn.Identity(), stride, 1) if stride > 1 or inputs != outputs else None
        self.more(outputs)

    def more(self, width: int) -> None:
        """Build what a kind of block has beside these."""

    def body(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        return self.two(self.one(x))

    def forward(self, x: Tensor) -> Tensor:
        """Add and activate."""
        y = self.body(x)
        y += x if self.down is None else self.down(x)
        return self.act(y)


class Preactivated(Block):
    """Writes into what it reads: ``relu_(x)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Activate first."""
        x = self.act(x)
        y = self.body(x)
        return y + (x if self.down is None else self.down(x))


class ScaledInput(Block):
    """Writes into what it reads: ``x *= ...``."""

    def forward(self, x: Tensor) -> Tensor:
        """Scale the input in its own memory."""
        x *= 0.9
        return F.silu(self.body(x) + (x if self.down is None else self.down(x)))


class DropPath(Block):
    """Leaves out its residual for a share of the images in training."""

    def body(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        y = super().body(x)
        if not self.training:
            return y
        return y * torch.empty(len(x), 1, 1, 1, dtype=y.dtype, device=y.device).bernoulli_(0.8).div_(0.8)


class StochasticDepth(Block):
    """Is left out as a whole in some steps."""

    def forward(self, x: Tensor) -> Tensor:
        """Throw a die in training."""
        if self.training and self.down is None and random.random() < 0.3:
            return x
        return super().forward(x)


class Checkpointed(Block):
    """Computes its residual twice in training."""

    def body(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        made = checkpoint(super().body, x, use_reentrant=False) if self.training else super().body(x)
        assert isinstance(made, Tensor)
        return made


class SplitSizes(Block):
    """Parts channels by sizes that it holds: three for kernels of their own."""

    def more(self, width: int) -> None:
        """Build the kernels."""
        rest = width - 2 * (width // 4)
        self.sizes = [width // 4, width // 4, rest]
        self.kernels = nn.ModuleList(
            nn.Conv2d(size, size, kernel, padding=kernel // 2, groups=size)
            for size, kernel in zip(self.sizes, (3, 5, 7), strict=True)
        )

    def body(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        parts = torch.split(self.one(x), self.sizes, 1)
        return self.two(torch.cat([kernel(part) for kernel, part in zip(self.kernels, parts, strict=True)], 1))


class SplitWidth(Block):
    """Parts channels by one width that it holds, as Res2Net does."""

    def more(self, width: int) -> None:
        """Build the convolutions of the parts."""
        self.width = width // 4
        self.convs = nn.ModuleList(nn.Conv2d(self.width, self.width, 3, padding=1) for _ in range(3))

    def body(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        first, *parts = torch.split(self.one(x), self.width, 1)
        made = [first]
        for conv, part in zip(self.convs, parts, strict=True):
            made.append(conv(part + made[-1]))
        return self.two(torch.cat(made, 1))


class Sliced(Block):
    """Convolves the first quarter of its channels alone, as FasterNet does."""

    def more(self, width: int) -> None:
        """Build the convolution."""
        self.quarter = width // 4
        self.part = nn.Conv2d(self.quarter, self.quarter, 3, padding=1)

    def body(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        y = self.one(x)
        return self.two(torch.cat([self.part(y[:, : self.quarter]), y[:, self.quarter :]], 1))


class Chunked(Block):
    """Gates one half of its channels with the other."""

    def more(self, width: int) -> None:
        """Build the layer that is halved."""
        self.wide = nn.Conv2d(width, 2 * width, 1)

    def body(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        gate, value = self.wide(self.one(x)).chunk(2, 1)
        return self.two(gate.sigmoid() * value)


class Selective(Block):
    """Weighs two stacked maps against each other, as SKNet does."""

    def more(self, width: int) -> None:
        """Build the two and their weights."""
        self.width = width
        self.paths = nn.ModuleList(nn.Conv2d(width, width, kernel, padding=kernel // 2) for kernel in (1, 3))
        self.weigh = nn.Conv2d(width, 2 * width, 1)

    def body(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        y = self.one(x)
        maps = torch.stack([path(y) for path in self.paths], 1)
        weights = self.weigh(maps.sum(1).mean((2, 3), keepdim=True)).view(len(x), 2, self.width, 1, 1).softmax(1)
        return self.two((maps * weights).sum(1))


class LayerScale(Block):
    """Scales its residual by a learned value for each channel."""

    def more(self, width: int) -> None:
        """Build the scale, whose shape the block holds."""
        self.shape = (width, 1, 1)
        self.scale = nn.Parameter(0.1 * torch.ones(width))

    def body(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        return super().body(x) * self.scale.view(self.shape)


class ChannelsLast(Block):
    """Normalises and mixes along the last dimension, as ConvNeXt does, with a response norm."""

    def more(self, width: int) -> None:
        """Build the layers along the last dimension."""
        self.norm = nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def body(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        y = F.gelu(self.wide(self.norm(self.one(x).permute(0, 2, 3, 1))))
        y = y * y.norm(p=2, dim=(1, 2), keepdim=True)
        return (self.gamma * self.narrow(y)).permute(0, 3, 1, 2)


class Shuffled(Block):
    """Shuffles the channels of a convolution in groups."""

    def more(self, width: int) -> None:
        """Build the convolution."""
        self.groups = 4
        self.grouped = nn.Conv2d(width, width, 3, padding=1, groups=4)

    def body(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        y = self.grouped(self.one(x))
        batch, width, height, breadth = y.shape
        y = y.view(batch, self.groups, width // self.groups, height, breadth).transpose(1, 2).contiguous()
        return self.two(y.view(batch, -1, height, breadth))


class Multiplied(Block):
    """Has a convolution in groups that gives more channels than it reads."""

    def more(self, width: int) -> None:
        """Build the convolution."""
        self.wider = nn.Conv2d(width, 2 * width, 3, padding=1, groups=width)
        self.back = nn.Conv2d(2 * width, width, 1)

    def body(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        return self.two(self.back(self.wider(self.one(x)).relu()))


class Gated(Block):
    """Weighs channels by their mean, in a linear layer and by a number that it holds, and places by all channels."""

    def more(self, width: int) -> None:
        """Build the gates."""
        self.channels = width
        self.gate = nn.Sequential(nn.Linear(width, width // 4), nn.ReLU(inplace=True), nn.Linear(width // 4, width))
        self.place = nn.Conv2d(2, 1, 7, padding=3)
        self.near = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def body(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        y = super().body(x)
        y = y * self.gate(y.mean((2, 3))).view(-1, self.channels, 1, 1).sigmoid()
        mean = y.mean((2, 3)).unsqueeze(1)
        y = y * self.near(mean).view(len(x), -1, 1, 1).sigmoid().expand_as(y)
        return y * self.place(torch.cat([y.mean(1, keepdim=True), y.max(1, keepdim=True)[0]], 1)).sigmoid()


class Ghost(Block):
    """Makes half of its channels from the others and cuts what is too many."""

    def more(self, width: int) -> None:
        """Build the halves."""
        self.outputs = width
        self.main = nn.Conv2d(width, width // 2, 1)
        self.cheap = nn.Conv2d(width // 2, width // 2, 3, padding=1, groups=width // 2)

    def body(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        half = self.main(self.one(x))
        return self.two(torch.cat([half, self.cheap(half)], 1)[:, : self.outputs])


class Listed(Block):
    """Gives a list."""

    def forward(self, x: Any) -> Any:
        """Add and activate."""
        return [super().forward(x[0] if isinstance(x, list) else x)]


class Mixed(Block):
    """Mixes places by products of its channels."""

    def body(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        y = self.one(x)
        return self.two(torch.einsum("nchw,ncij->nhwij", y, y).mean((3, 4)).unsqueeze(1) * y)


class Computed(Block):
    """Computes the weights of a convolution, as CondConv does."""

    def more(self, width: int) -> None:
        """Build what they are mixed from."""
        self.routes = nn.Linear(width, 2)
        self.bank = nn.Parameter(0.01 * torch.randn(2, width * width * 9))

    def body(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        y = self.one(x)
        batch, width, *places = y.shape
        weights = torch.matmul(self.routes(y.mean((2, 3))).sigmoid(), self.bank)
        maps = y.reshape(1, batch * width, *places)
        made = F.conv2d(maps, weights.view(batch * width, width, 3, 3), padding=1, groups=batch)
        return self.two(made.view(batch, width, *places))
