"""Small networks as users write them, each with a habit that a conversion must follow or refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from research.soak.blocks import (
    Block,
    ChannelsLast,
    Checkpointed,
    Chunked,
    Computed,
    ConvNorm,
    DropPath,
    Gated,
    Ghost,
    LayerScale,
    Listed,
    Mixed,
    Multiplied,
    Preactivated,
    ScaledInput,
    Selective,
    Shuffled,
    Sliced,
    SplitSizes,
    SplitWidth,
    StochasticDepth,
)


class Maps(NamedTuple):
    """Two maps that are given by name."""

    fine: Tensor
    coarse: Tensor


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
        Computed,
    ),
    *(Selective, LayerScale, ChannelsLast, Shuffled, Multiplied, Gated, Ghost, Listed, Mixed, Computed),
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
