"""Small networks as users write them, each with a habit that a conversion must follow or refuse."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Maps(NamedTuple):
    """Two maps that are given by name."""

    fine: Tensor
    coarse: Tensor


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


class Net(nn.Module):
    """A stem, a stage for each kind of block, and a classifier."""

    def __init__(self, *kinds: Callable[..., nn.Module], width: int = 32, act: nn.Module | None = None) -> None:
        super().__init__()
        kinds = kinds or (Block, Block)
        writing = kinds[0] in (Preactivated, ScaledInput)  # what they read must not be needed for a gradient
        self.stem = ConvNorm(3, width, nn.Identity() if writing else act, 2)
        for number, kind in enumerate(kinds, 1):
            settings = {} if act is None else {"act": act}
            first = kind(width, 2 * width if number == len(kinds) else width, 1 + (number > 1), **settings)
            width = 2 * width if number == len(kinds) else width
            self.add_module(f"stage{number}", nn.Sequential(first, *(kind(width, width, **settings) for _ in range(2))))
        self.head = nn.Linear(width, 10)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return what the stages give."""
        x, made = self.stem(x), []
        for name, module in self.named_children():
            if name.startswith("stage"):
                x = module(x)
                made.append(x[0] if isinstance(x, list) else x)
        return made

    def forward(self, x: Tensor) -> Any:
        """Return the classes' logits."""
        return self.head(self.maps(x)[-1].mean((2, 3)))


class Giving(Net):
    """Gives its maps in whatever it is told to."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Any:
        """Return the maps."""
        return self.form(*self.maps(x))


class Supervised(Net):
    """Reads a map inside a stage in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Conv2d(32, 10, 1)

    def forward(self, x: Tensor) -> Any:
        """Return the logits, in training with the auxiliary ones."""
        x, inside = self.stem(x), None
        assert isinstance(self.stage1, nn.Sequential)
        for number, block in enumerate(self.stage1):
            x = block(x)
            inside = x if number == 0 else inside
        logits = self.head(self.get_submodule("stage2")(x).mean((2, 3)))
        return (logits, self.aux(inside).mean((2, 3))) if self.training and inside is not None else logits


class Watched(Supervised):
    """Gives a map inside a stage in training alone, and reads it in no module."""

    def forward(self, x: Tensor) -> Any:
        """Return the logits, in training with a map's mean."""
        assert isinstance(self.stage1, nn.Sequential)
        inside = self.stage1[0](self.stem(x))
        logits = self.head(self.get_submodule("stage2")(self.stage1[2](self.stage1[1](inside))).mean((2, 3)))
        return (logits, inside.mean()) if self.training else logits


class Aliased(Net):
    """Has two names for a stage and runs it by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleList(self.get_submodule(name) for name in ("stage1", "stage2"))

    def forward(self, x: Tensor) -> Any:
        """Return the classes' logits."""
        x = self.stem(x)
        for stage in self.backbone:
            x = stage(x)
        return self.head(x.mean((2, 3)))


class Measured(Net):
    """Looks at a layer inside a block."""

    def forward(self, x: Tensor) -> Any:
        """Return the logits, with the weights' size."""
        assert isinstance(self.stage1, nn.Sequential)
        weights = self.stage1[0].get_submodule("one.conv").get_parameter("weight")
        return super().forward(x), weights.square().mean()


class Decoding(nn.Module):
    """An encoder and a decoder that joins its maps."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Net()
        self.up = nn.Sequential(Block(96, 32), Block(32, 32))
        self.last = nn.Conv2d(32, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's size."""
        fine, coarse = self.body.maps(x)
        joined = torch.cat([fine, F.interpolate(coarse, size=fine.shape[2:], mode="bilinear")], 1)
        return F.interpolate(self.last(self.up(joined)), size=x.shape[2:])


def _tied() -> nn.Module:
    made = Net()
    assert isinstance(made.stage1, nn.Sequential)
    setattr(made.stage1[2], "two", made.stage1[1].get_submodule("two"))  # noqa: B010
    return made


def _normed(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    made = Net()
    wrap(made.get_submodule("stage2.1.one.conv"))
    return made


def _learned() -> nn.Module:
    made = Net()
    for module in list(made.modules()):
        if isinstance(module, ConvNorm) and isinstance(module.act, nn.ReLU):
            module.act = nn.PReLU(module.conv.out_channels)
    return made


def _frozen() -> nn.Module:
    made = Net()
    made.get_submodule("stage1").requires_grad_(False)
    return made


def _without_norm(kind: Callable[[int], nn.Module]) -> nn.Module:
    made = Net()
    for module in list(made.modules()):
        if isinstance(module, ConvNorm):
            setattr(module, "bn", kind(module.conv.out_channels))  # noqa: B010
    return made


_KINDS = (
    *(
        Block,
        Preactivated,
        ScaledInput,
        DropPath,
        StochasticDepth,
        Checkpointed,
        SplitSizes,
        SplitWidth,
        Sliced,
        Chunked,
    ),
    *(Selective, LayerScale, ChannelsLast, Shuffled, Multiplied, Gated, Ghost, Listed, Mixed),
)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{kind.__name__: lambda kind=kind: Net(kind, kind) for kind in _KINDS},
    "one activation for all": lambda: Net(act=nn.ReLU(inplace=True)),
    "learned activations": _learned,
    "list": lambda: Giving(lambda fine, coarse: [fine, coarse]),
    "tuple in a dictionary": lambda: Giving(lambda fine, coarse: {"maps": (fine, coarse)}),
    "named tuple": lambda: Giving(Maps),
    "list of one": lambda: Giving(lambda _, coarse: [coarse]),
    "supervised inside": Supervised,
    "watched inside": Watched,
    "aliased": Aliased,
    "measured": Measured,
    "decoder": Decoding,
    "tied": _tied,
    "weight norm": lambda: _normed(nn.utils.parametrizations.weight_norm),
    "spectral norm": lambda: _normed(nn.utils.parametrizations.spectral_norm),
    "frozen": _frozen,
    "odd widths": lambda: Net(width=27),
    "group norm": lambda: _without_norm(lambda width: nn.GroupNorm(4, width)),
    "instance norm": lambda: _without_norm(lambda width: nn.InstanceNorm2d(width, affine=True)),
    "no norm": lambda: _without_norm(lambda _: nn.Identity()),
}
