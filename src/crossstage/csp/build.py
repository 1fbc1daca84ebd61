"""A plan carried out."""

from __future__ import annotations

from torch import nn

from crossstage.csp.narrow import narrow, narrow_tensor
from crossstage.csp.plan import Edit, StagePlan
from crossstage.nn import Channels, ConvNormAct, CrossStage, Split, transition


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
    if edit.tensor:
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
        transition=transition(plan.transition is not None, plan.processed_out, plan.transition or 0, style=plan.style),
        merge=nn.Identity() if plan.merge_after else merge(plan),
    )


def merge(plan: StagePlan) -> nn.Module:
    """Build the transition U of a stage."""
    return transition(plan.merge, plan.joined_channels, plan.out_channels, style=plan.style)


def _split(first: nn.Module, plan: StagePlan) -> Split:
    channels, carried = plan.in_channels, plan.carried
    if plan.partial.split == "slice":
        return Split(_pooled(Channels(0, carried), plan), Channels(carried, channels))
    projected = _pooled(ConvNormAct(channels, carried, style=plan.style), plan)
    if plan.opening:
        return Split(projected, first)
    return Split(projected, ConvNormAct(channels, plan.processed, style=plan.style))


def _pooled(layer: nn.Module, plan: StagePlan) -> nn.Module:
    """Put the averaging of the carried part beside a layer, where the stage changes the resolution."""
    if plan.pool is None:
        return layer
    step, ceil = plan.pool
    pool = nn.AvgPool2d(step, ceil_mode=ceil, count_include_pad=False)
    return nn.Sequential(layer, pool) if isinstance(layer, Channels) else nn.Sequential(pool, layer)
