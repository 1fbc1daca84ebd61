"""A network on a GPU in bfloat16, channels last: eager and compiled, one image and many, forward and training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossstage import create_model, fuse
from crossstage.weights.from_peer import from_peer
from research.bench.roofline import Ceilings, bound_ms, device_ms, layers_of
from research.bench.workers import Link, reason

MANY = 256
TRAINED = 64
TO_GPU: dict[str, Any] = {"device": "cuda", "memory_format": torch.channels_last}
OUT_OF_MEMORY = torch.cuda.OutOfMemoryError


@dataclass(frozen=True)
class NetworkTime:
    """A network of the table.

    Attributes:
        name: Ours.
        size: Side of the input.
        peer: timm's name of the same network; None if it has none.
    """

    name: str
    size: int
    peer: str | None = None

    def build(self) -> nn.Module:
        """Our network, with timm's weights where there is a peer."""
        torch.manual_seed(0)
        if self.peer is not None:
            return from_peer(f"timm:{self.peer}", self.build_peer().state_dict())
        model = create_model(self.name)
        assert isinstance(model, nn.Module)
        return model

    def build_peer(self) -> nn.Module:
        """The peer's network, initialised as ever."""
        import timm

        torch.manual_seed(0)
        assert self.peer is not None
        return timm.create_model(self.peer)

    def bound_ms(self, batch: int, ceilings: Ceilings) -> float:
        """The roofline's milliseconds of a forward pass."""
        model = self.build().eval().to("meta")
        return bound_ms(layers_of(model, (batch, 3, self.size, self.size)), ceilings)


ROWS = (
    NetworkTime("cspresnet50", 256, "cspresnet50"),
    NetworkTime("cspresnext50", 256, "cspresnext50"),
    NetworkTime("cspdarknet53", 256, "cspdarknet53"),
    NetworkTime("csppeleenet", 224),
    NetworkTime("vovnet39_v2", 224, "ese_vovnet39b"),
    NetworkTime("cspdarknet53_tiny_yolo", 416),
)


@dataclass
class Variant:
    """One way to run a network.

    Attributes:
        form: "eager", "fused" or "compiled".
        batch: Images.
        training: Whether it is a training step.
        run: Runs it once.
        failure: Why it cannot run.
    """

    form: str
    batch: int
    training: bool
    run: Callable[[], object]
    failure: str = ""


def forward_variants(model: nn.Module, size: int, *, ours: bool) -> list[Variant]:
    """Forward passes; compiled ones of ours have norms folded in, as :func:`crossstage.fuse` does."""
    images = {batch: _images(batch, size) for batch in (MANY, 1)}
    fused = fuse(model) if ours else model
    found = []
    for batch, given in images.items():
        mode = "reduce-overhead" if batch == 1 else "default"
        compiled = torch.compile(fused, dynamic=False, mode=mode)
        forms = (
            {"eager": model, "fused": fused, "compiled": compiled} if ours else {"eager": model, "compiled": compiled}
        )
        found += [Variant(form, batch, False, _forward(runs, given)) for form, runs in forms.items()]
    return found


def training_variants(model: nn.Module, size: int) -> list[Variant]:
    """Steps of SGD in autocast on float32 weights."""
    model = model.to(torch.float32).train()
    images = _images(TRAINED, size).float()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, fused=True)
    labels = torch.arange(TRAINED, device="cuda")

    def step(forward: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16):
                loss = F.cross_entropy(forward(images), labels)
            loss.backward()
            optimiser.step()

        return run

    compiled = torch.compile(model, dynamic=False)
    return [Variant(form, TRAINED, True, step(run)) for form, run in (("eager", model), ("compiled", compiled))]


def _images(batch: int, size: int) -> Tensor:
    images = torch.rand(batch, 3, size, size, device="cuda", dtype=torch.bfloat16)
    return images.contiguous(memory_format=torch.channels_last)


def _forward(model: Callable[[Tensor], object], images: Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return model(images)

    return run


def prepare(variant: Variant, until: float) -> None:
    """Run once, which compiles; what lacks memory beside the other processes is tried again when it is measured."""
    if variant.form != "compiled":
        return
    if monotonic() > until:
        variant.failure = "no time was left to compile it"
        return
    try:
        variant.run()
        torch.cuda.synchronize()
    except OUT_OF_MEMORY:
        pass
    except Exception as error:  # compilers fail in many ways, and the others are measured
        variant.failure = reason(error)
    torch.cuda.empty_cache()


def disagreement(row: NetworkTime) -> float:
    """Norm of the difference of our network's logits and timm's, over the norm of timm's, in float32."""
    images = torch.rand(2, 3, row.size, row.size, device="cuda")
    with torch.no_grad():
        ours, theirs = (model.cuda().eval()(images) for model in (row.build(), row.build_peer()))
    return float((ours - theirs).norm() / theirs.norm())


def work_network(link: Link, row: NetworkTime, side: str, until: float) -> None:
    """A process that prepares a network, and measures it on the requests "forward" and "training"."""
    torch.backends.cudnn.allow_tf32 = False
    if side == "ours" and row.peer is not None:
        link.send({"row": row.name, "disagreement": disagreement(row)})
    model = row.build() if side == "ours" else row.build_peer()
    model = model.to(torch.bfloat16).to(**TO_GPU).eval()
    variants = forward_variants(model, row.size, ours=side == "ours")
    for variant in variants:
        prepare(variant, until)
    if row.name != "cspdarknet53_tiny_yolo":  # its loss is not a classifier's
        trained = row.build() if side == "ours" else row.build_peer()
        training = training_variants(trained.to(**TO_GPU), row.size)
        for variant in training:
            prepare(variant, until)
        variants += training
    link.send("ready")
    while True:
        asked = link.recv()
        for variant in variants:
            if variant.training == (asked == "training"):
                link.send({"row": row.name, "side": side} | measure(variant))
        link.send("done")


def measure(variant: Variant) -> dict[str, object]:
    """Milliseconds, or why there are none."""
    shown: dict[str, object] = {"form": variant.form, "batch": variant.batch, "training": variant.training}
    if not variant.failure:
        try:
            shown["ms"] = device_ms(variant.run, 0.3)
        except Exception as error:
            variant.failure = reason(error)
    torch.cuda.empty_cache()
    return shown | {"failure": variant.failure}
