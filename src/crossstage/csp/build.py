"""A plan carried out.

The layers that are added pass on what they read wherever a channel of their output stands for one of their input, so
that a trained network starts as itself with fewer layers between some of its channels, not as noise.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from crossstage.csp.narrow import narrow, narrow_tensor
from crossstage.csp.plan import Edit, StagePlan
from crossstage.nn import Channels, ConvNormAct, Copy, CrossStage, Split


def convert_stage(model: nn.Module, plan: StagePlan) -> CrossStage:
    """Make a stage partial, in place, and return it.

    A ``Sequential`` that holds the blocks and nothing else then holds the partial stage alone. Elsewhere that takes the
    first block's place and identities those of the others, so that what follows keeps its name.
    """
    stage = plan.stage
    for edit in plan.edits:
        apply_edit(model, edit)
    blocks = [model.get_submodule(path) for path in stage.paths]
    like = next(parameter for block in blocks for parameter in block.parameters())
    partial = cross_stage(blocks, plan).to(like.device, like.dtype).train(model.training)
    if stage.whole:
        _replace(model, stage.parent, nn.Sequential(partial))
    else:
        first, *others = stage.paths
        _replace(model, first, partial)
        for path in others:
            _replace(model, path, nn.Identity())
    if plan.merge_after:
        pool = model.get_submodule(plan.merge_after)
        merged = nn.Sequential(pool, merge(plan)).to(like.device, like.dtype).train(model.training)
        _replace(model, plan.merge_after, merged)
    return partial


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def apply_edit(model: nn.Module, edit: Edit) -> None:
    """Make a layer narrower, in place."""
    module = model.get_submodule(edit.path)
    if edit.tensor and edit.value is not None:
        setattr(module, edit.tensor, edit.value)
    elif edit.tensor:
        narrow_tensor(module, edit.tensor, *edit.channels)
    else:
        narrow(module, *edit.channels)


def cross_stage(blocks: list[nn.Module], plan: StagePlan) -> CrossStage:
    """Build the partial stage around blocks that are narrow already."""
    first, *rest = blocks
    following = rest if plan.opening else blocks
    return CrossStage(
        split=_split(first, plan),
        blocks=following[0] if len(following) == 1 else nn.Sequential(*following),
        transition=_transition(plan),
        merge=nn.Identity() if plan.merge_after else merge(plan),
    )


def _transition(plan: StagePlan) -> nn.Module:
    """Build the transition T of a stage."""
    if plan.transition is None:
        return nn.Identity()
    layer = ConvNormAct(plan.processed_out, plan.transition, style=plan.style)
    return _passing(layer, {number: number for number in range(min(plan.processed_out, plan.transition))})


def merge(plan: StagePlan) -> nn.Module:
    """Build the transition U of a stage."""
    if not plan.merge:
        return nn.Identity()
    processed = plan.joined_channels - plan.carried
    before = plan.out_channels - processed  # blocks that became narrower kept their last channels
    taken = {before + number: number for number in range(max(0, -before), processed)}
    if _corresponds(plan):
        taken |= {number: processed + number for number in range(min(before, plan.carried))}
    layer = _passing(ConvNormAct(plan.joined_channels, plan.out_channels, style=plan.style), taken)
    return nn.Sequential(layer, Copy()) if plan.copies_output else layer


def _corresponds(plan: StagePlan) -> bool:
    """Tell whether a stage's output has the channels of its input, as behind residual blocks of one width."""
    return plan.pool is None and plan.in_channels == plan.out_channels


@torch.no_grad()
def _passing(layer: ConvNormAct, taken: Mapping[int, int]) -> ConvNormAct:
    """Let channels of a 1x1 convolution's output be channels of its input; the others stay as drawn.

    Args:
        layer: The convolution, changed in place.
        taken: Channel of the input by that of the output.
    """
    for channel, read in taken.items():
        layer.conv.weight[channel] = 0
        layer.conv.weight[channel, read] = 1
    return layer


def _split(first: nn.Module, plan: StagePlan) -> Split:
    channels, carried = plan.in_channels, plan.carried
    if plan.partial.split == "slice":
        return Split(_pooled(Channels(0, carried), plan), _copied(Channels(carried, channels), plan))
    bypass = ConvNormAct(channels, carried, style=plan.style)
    if _corresponds(plan):
        _passing(bypass, {number: number for number in range(carried)})
    if plan.opening:
        return Split(_pooled(bypass, plan), nn.Sequential(Copy(), first) if plan.copies_input else first)
    before = channels - plan.processed
    taken = {number: before + number for number in range(plan.processed)}
    reading = _passing(ConvNormAct(channels, plan.processed, style=plan.style), taken)
    return Split(_pooled(bypass, plan), _copied(reading, plan))


def _copied(layer: nn.Module, plan: StagePlan) -> nn.Module:
    """Put a copy behind a layer, where the blocks write into what it gives."""
    return nn.Sequential(layer, Copy()) if plan.copies_input else layer


def _pooled(layer: nn.Module, plan: StagePlan) -> nn.Module:
    """Put the averaging of the carried part beside a layer, where the stage changes the resolution."""
    if plan.pool is None:
        return layer
    step, ceil = plan.pool
    pool = nn.AvgPool2d(step, ceil_mode=ceil, count_include_pad=False)
    return nn.Sequential(layer, pool) if isinstance(layer, Channels) else nn.Sequential(pool, layer)
