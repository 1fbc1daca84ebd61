"""What is to be done to a stage, worked out before anything is touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from crossstage.csp.flow import Flow
from crossstage.csp.held import Change, Held, held_numbers
from crossstage.csp.narrow import TENSORS, NormLayer, width_of
from crossstage.csp.parts import Axis, Kept
from crossstage.csp.rules import flow_of
from crossstage.csp.stages import FoundStage
from crossstage.csp.trace import Trace, is_written, module_paths, shape_of
from crossstage.errors import ConfigError
from crossstage.nn import ConvStyle, Partial


@dataclass(frozen=True)
class Edit:
    """A layer that becomes narrower.

    Attributes:
        path: The layer's dotted name in the network.
        channels: The channels that stay along each dimension of its tensors, see :func:`~crossstage.csp.narrow`.
        tensor: Name of the only tensor meant, where the layer is none that torch knows; or of a number of channels,
            or several, that the layer's own code holds.
        value: What these numbers become; None if a tensor is meant.
    """

    path: str
    channels: tuple[Kept | None, ...]
    tensor: str | None = None
    value: Held | None = None


@dataclass(frozen=True)
class StagePlan:
    """How a stage becomes partial.

    Attributes:
        stage: The stage as it was found.
        partial: The settings that were asked for.
        carried: Number of channels that bypass the blocks.
        processed: Number of channels that the blocks read.
        processed_out: Number of channels that the blocks give.
        transition: Number of channels after T; None if there is no T.
        merge: Whether there is a U.
        pool: The number of pixels that the carried part is averaged over, in either direction, and whether a rest
            counts as one more; None if the stage keeps the resolution.
        opening: Whether the first block, which changes the resolution, reads the whole input and so does the work of
            the projection of the processed part.
        merge_after: Name of the pooling layer that alone reads the stage's output and after which U runs; None if U
            ends the stage.
        style: Normalisation and activation of the layers that are added.
        copies_input: Whether the blocks read a copy, as they write into what they read.
        copies_output: Whether the stage gives a copy, as what reads it writes into it.
        edits: The layers of the blocks that become narrower.
    """

    stage: FoundStage
    partial: Partial
    carried: int
    processed: int
    processed_out: int
    transition: int | None
    merge: bool
    pool: tuple[int, bool] | None
    opening: bool
    merge_after: str | None
    style: ConvStyle
    copies_input: bool
    copies_output: bool
    edits: tuple[Edit, ...]

    @property
    def in_channels(self) -> int:
        """Channels of the stage's input."""
        return self.stage.region.in_shape[1]

    @property
    def out_channels(self) -> int:
        """Channels of the stage's output, which stay what they were."""
        return self.stage.region.out_shape[1]

    @property
    def joined_channels(self) -> int:
        """Channels of the concatenation."""
        return self.carried + (self.transition or self.processed_out)


def plan_stage(trace: Trace, stage: FoundStage, partial: Partial, blocks_of_stages: Iterable[str]) -> StagePlan:
    """Work out the widths of a partial stage.

    With ``split="project"`` the processed part has ``1 - gamma`` of the input's channels and the carried part what the
    blocks' output lacks to the stage's. With ``split="slice"`` the parts share out the input's channels.
    Every width inside the blocks is multiplied by ``1 - gamma``, rounded so that groups stay whole.

    Args:
        trace: The network that was traced.
        stage: One of its stages.
        partial: The settings of the partial stage.
        blocks_of_stages: Names of all blocks of all stages; pooling layers in them are left alone.

    Raises:
        ConfigError: The stage cannot be made partial: the message says which layer is why.
    """
    flow = flow_of(trace, stage.region)
    share = 1 - partial.gamma
    region = stage.region
    source, result = flow.parts.resolve(flow.source), flow.parts.resolve(flow.result)
    opening = (
        partial.split == "project" and stage.first.strided and len(stage.children) > 1 and not set(source) & set(result)
    )
    whole = source if opening else ()
    processed = width_of(flow.parts.kept(source, share, whole=whole))
    processed_out = width_of(flow.parts.kept(result, share, whole=whole))
    in_channels, out_channels = region.in_shape[1], region.out_shape[1]
    carried = in_channels - processed if partial.split == "slice" else out_channels - processed_out
    if carried < 1:
        raise ConfigError(
            f"{stage.name}: gamma = {partial.gamma} of {in_channels} channels carries none, as groups stay whole; "
            "expected a larger gamma"
        )
    transition = None
    if partial.has_transition:
        try:
            transition = partial.transition_width(carried, processed_out, out_channels)
        except ConfigError as error:
            raise ConfigError(f"{stage.name}: {error}") from None
    joined = carried + (transition or processed_out)
    if not partial.has_merge and joined != out_channels:
        raise ConfigError(
            f"{stage.name}: gives {out_channels} channels, and {carried} carried beside {processed_out} processed make "
            f"{joined}; fusion {partial.fusion!r} has no transition to mend that; expected fusion 'both'"
        )
    merge_after = None
    if partial.has_merge and joined == out_channels:
        merge_after = _pool_after(trace, stage, blocks_of_stages)
    return StagePlan(
        stage=stage,
        partial=partial,
        carried=carried,
        processed=processed,
        processed_out=processed_out,
        transition=transition,
        merge=partial.has_merge,
        pool=_pooling(trace, stage) if region.strided else None,
        opening=opening,
        merge_after=merge_after,
        style=_style(trace, stage),
        copies_input=is_written(region.source, region.nodes),
        copies_output=partial.has_merge and _is_written_later(trace, stage, merge_after),
        edits=(*_edits(trace.model, flow, share, whole), *_held_edits(trace, flow, share, whole)),
    )


def _is_written_later(trace: Trace, stage: FoundStage, merge_after: str | None) -> bool:
    """Tell whether what follows a stage writes into what U gives."""
    given = next(iter(stage.region.result.users)) if merge_after else stage.region.result
    inside = set(stage.region.nodes)
    return is_written(given, (node for node in trace.nodes if node not in inside and node is not given))


def _edits(model: nn.Module, flow: Flow, share: float, whole: tuple[int, ...]) -> Iterator[Edit]:
    """Yield the layers that become narrower, in the order in which they run."""

    def of(axis: Axis | None) -> Kept | None:
        kept = () if axis is None else flow.parts.kept(axis, share, whole=whole)
        return kept if any(stay != width for stay, width in kept) else None

    norms = {path: axis for path, axis in flow.norms.items() if isinstance(model.get_submodule(path), NormLayer)}
    without_weights = dict(norms)
    for name, axes in flow.weights.items():
        owner, _, tensor = name.rpartition(".")
        channels = tuple(of(axis) for axis in axes)
        if tensor in TENSORS and owner in norms:  # a norm's tensors go together
            channels, tensor = (of(without_weights.pop(owner, None)),), None
        elif tensor in TENSORS and isinstance(model.get_submodule(owner), (nn.Conv2d, nn.Linear)):
            channels, tensor = (channels[:2] if tensor == "weight" else ()), None  # and so do a layer's
        if any(channels):
            yield Edit(owner, channels, tensor)
    for owner, axis in without_weights.items():
        if kept := of(axis):
            yield Edit(owner, (kept,))


def _held_edits(trace: Trace, flow: Flow, share: float, whole: tuple[int, ...]) -> Iterator[Edit]:
    """Yield the numbers of channels in the blocks' own code that change."""
    wanted: list[tuple[str, Change]] = []
    for use in flow.uses:
        new = (
            size if axis is None else width_of(flow.parts.kept(axis, share, whole=whole))
            for size, axis in zip(use.sizes, use.axes, strict=True)
        )
        wanted.append((module_paths(use.node)[-1].partition("@")[0], (use.sizes, tuple(new))))
    for path, name, value in held_numbers(trace.model, trace.example, wanted):
        if value != getattr(trace.model.get_submodule(path), name):
            yield Edit(path, (), name, value)


def _pooling(trace: Trace, stage: FoundStage) -> tuple[int, bool]:
    """Work out how the carried part reaches the resolution of the blocks' output, see :class:`StagePlan`."""
    region = stage.region
    steps = {round(before / after) for before, after in zip(region.in_shape[2:], region.out_shape[2:], strict=True)}
    step = steps.pop()
    if steps or step < 2:
        raise ConfigError(
            f"{stage.name}: turns {region.in_shape[2:]} pixels into {region.out_shape[2:]}; expected the same step in "
            "both directions"
        )
    before, after = region.in_shape[2], region.out_shape[2]
    if before % step:
        return step, -(-before // step) == after
    blocks = nn.Sequential(*(trace.model.get_submodule(path) for path in stage.paths))
    larger = torch.empty(*region.in_shape[:2], before + 1, before + 1, dtype=trace.example.dtype, device="meta")
    try:
        made = blocks(larger)
    except Exception:  # whatever the blocks' own code raises: maps of one size alone are taken
        return step, False
    return step, isinstance(made, torch.Tensor) and made.shape[2] > after


def _pool_after(trace: Trace, stage: FoundStage, blocks_of_stages: Iterable[str]) -> str | None:
    """Return the name of the pooling layer over windows that alone reads the stage's output; None if there is none."""
    readers = list(stage.region.result.users)
    if len(readers) != 1:
        return None
    path = next(reversed(module_paths(readers[0])), "")  # what the network returns is read in no module
    if not isinstance(trace.model.get_submodule(path.partition("@")[0]), (nn.MaxPool2d, nn.AvgPool2d)):
        return None
    region = trace.region([path])
    inside = any(path == block or path.startswith(f"{block}.") for block in blocks_of_stages)
    return path if region and region.strided and "@" not in path and not inside else None


_ACTIVATIONS = {
    "relu": "relu",
    "relu6": "relu6",
    "silu": "silu",
    "hardswish": "hardswish",
    "mish": "mish",
    "gelu": "gelu",
}


def _style(trace: Trace, stage: FoundStage) -> ConvStyle:
    """Return the style of the layers to be added: the stage's usual activation, and batch norm if the network has it.

    Where the network has layer or group norms alone it is group norm, which does not mix images either. Where a stage
    ends with a sum or a norm that is not activated, as inverted residuals do, the layers are not activated either.
    """
    found = Counter(name for node in stage.region.nodes if (name := _activation(node)))
    if _operation(stage.region.result) in ("add", "batch_norm"):
        found = Counter(["linear"])
    names = {str(getattr(node.target, "overloadpacket", "")) for node in trace.nodes}
    plain = "aten.batch_norm" in names or not names & {"aten.layer_norm", "aten.group_norm"}
    return ConvStyle(act=found.most_common(1)[0][0] if found else "relu", norm="batch" if plain else "group")


def _operation(node: torch.fx.Node) -> str:
    return str(getattr(node.target, "overloadpacket", "")).removeprefix("aten.").removesuffix("_")


def _activation(node: torch.fx.Node) -> str | None:
    if len(shape_of(node)) < 4 or shape_of(node)[2:] == (1, 1):  # a gate's
        return None
    name = _operation(node)
    if name == "hardtanh" and tuple(node.args[1:]) == (0.0, 6.0):
        return "relu6"
    if name == "leaky_relu":
        return "leaky" if node.args[1:] == (0.1,) else "leaky_relu"
    return _ACTIVATIONS.get(name)
