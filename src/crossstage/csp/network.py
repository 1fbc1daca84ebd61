"""A plain network's cross stage partial variant."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from crossstage.analysis import count_flops
from crossstage.csp.build import convert_stage, merge
from crossstage.csp.plan import StagePlan, plan_stage
from crossstage.csp.report import Report, StageReport
from crossstage.csp.stages import FoundStage, find_stages
from crossstage.csp.trace import Trace, shape_of
from crossstage.csp.training import check_training
from crossstage.errors import ConfigError, first_line
from crossstage.nn import Partial
from crossstage.nn.channels import input_channels

DEFAULT_SIDE = 224
MAX_REASONS = 2  # that a message holds


@dataclass(frozen=True)
class ConversionPlan:
    """What is to be done to a network.

    Attributes:
        partial: The settings that were asked for.
        stages: The stages that become partial, and what each costs before and after.
        left: Names of the stages that do not, and the reasons.
        example: The network's input.
    """

    partial: Partial
    stages: tuple[tuple[StagePlan, StageReport], ...]
    left: tuple[tuple[str, str], ...]
    example: Tensor


def to_partial(
    model: nn.Module,
    partial: Partial | None = None,
    stages: Sequence[str | int] | None = None,
    example_input: Tensor | None = None,
) -> tuple[nn.Module, Report]:
    """Give a plain network its cross stage partial variant (CSPNet, arXiv 1911.11929, section 3).

    The network is traced with torch.export, its stages are found (see
    :func:`~crossstage.csp.stages.find_stages`), and each becomes a :class:`~crossstage.nn.CrossStage`: the input is
    split, the stage's own blocks run on the processed part with every width inside them multiplied by ``1 - gamma``,
    and the transitions that ``partial.fusion`` asks for join the parts. The stage's input and output, and all that is
    not part of a stage, stay as they are, down to the names.

    Transitions and projections go where they are cheap: U after the pooling layer that alone reads a stage, the carried
    part's projection on the averaged map where the stage's first block changes the resolution, and none for the
    processed part there, since that block reads the whole input itself.

    Weights are carried over: those outside the stages as they are, those of narrower layers cut from the wider ones.
    Added layers pass on the channels that they read where input and output have the same, else they are drawn anew; the
    network has to be trained, but not from nothing.

    Args:
        model: The network, which is left untouched; on any device, the meta device included.
        partial: The gamma, fusion and split; by default ``Partial()``.
        stages: The stages to convert, by their names or by their numbers in the order in which they run; by default
            those that get cheaper, or all if none does.
        example_input: A batch that the network takes, ``(N, C, H, W)``; costs are counted at its size. By default one
            224 x 224 image with the channels of the network's first convolution.

    Returns:
        The converted network, in the same mode and on the same device, and the report of what changed.

    Raises:
        ConfigError: The network cannot be traced, has no stages, or a stage cannot be made partial: the message names
            the module and the reason.
    """
    return carry_out(model, make_plan(model, partial or Partial(), stages, example_input))


def carry_out(model: nn.Module, plan: ConversionPlan) -> tuple[nn.Module, Report]:
    """Do what a plan of :func:`make_plan` says to a copy of its network.

    Raises:
        ConfigError: The network's own code relies on the blocks that were replaced, or cannot be trained without them.
    """
    converted = copy.deepcopy(model)
    origins = {module: name for name, module in converted.named_modules()}
    for stage, _ in plan.stages:
        convert_stage(converted, stage)
    _check_outputs(model, converted, plan.example)
    check_training(model, converted, plan.example)
    return converted, _report(model, converted, plan, origins)


def make_plan(
    model: nn.Module, partial: Partial, stages: Sequence[str | int] | None = None, example_input: Tensor | None = None
) -> ConversionPlan:
    """Work out what :func:`to_partial` does, of the same arguments, without doing it."""
    example = _example(model) if example_input is None else example_input
    return plan_network(Trace(model, example), partial, stages)


def plan_network(trace: Trace, partial: Partial, stages: Sequence[str | int] | None = None) -> ConversionPlan:
    """Work out what :func:`to_partial` does to a traced network, which serves for any number of plans."""
    kind = type(trace.model).__name__
    found = find_stages(trace)
    if not found:
        raise ConfigError(
            f"{kind} has no stages: no nn.Sequential, list or module in which blocks that read one "
            "feature map and give one follow each other at one resolution; expected blocks as modules of their own, "
            "not layers called one by one in forward()"
        )
    chosen = found if stages is None else _choose(found, stages)
    blocks = [path for stage in found for path in stage.paths]
    sketch = copy.deepcopy(trace.model)
    plans: list[tuple[StagePlan, StageReport]] = []
    dear: list[tuple[StagePlan, StageReport]] = []
    left = [(stage.name, "not chosen") for stage in found if stage not in chosen]
    for stage in chosen:
        try:
            plan = plan_stage(trace, stage, partial, blocks)
            report = _try(trace, sketch, plan)
        except ConfigError as error:
            if stages is not None:
                raise
            left.append((stage.name, str(error).removeprefix(f"{stage.name}: ")))
            continue
        (dear if stages is None and report.growth else plans).append((plan, report))
    if not plans and not dear:
        reasons = "; ".join(f"{name}: {why}" for name, why in left[:MAX_REASONS])
        reasons += f"; and {len(left) - MAX_REASONS} more" if len(left) > MAX_REASONS else ""
        raise ConfigError(f"{kind}: no stage can be made partial: {reasons}")
    if plans:
        left += [(report.name, report.growth.replace("grows", "would grow")) for _, report in dear]
    return ConversionPlan(partial, tuple(plans or dear), tuple(left), trace.example)


def _example(model: nn.Module) -> Tensor:
    channels = input_channels(model)
    if channels is None:
        raise ConfigError(f"{type(model).__name__} has no 2-d convolution; expected a network of images")
    return torch.empty(1, channels, DEFAULT_SIDE, DEFAULT_SIDE, device="meta")


def _choose(found: Sequence[FoundStage], wanted: Sequence[str | int]) -> list[FoundStage]:
    names = [stage.name for stage in found]
    chosen: set[int] = set()
    for want in wanted:
        if isinstance(want, int) and -len(found) <= want < len(found):
            chosen.add(want % len(found))
        elif want in names:
            chosen.add(names.index(str(want)))
        else:
            raise ConfigError(f"stages holds {want!r}; expected 0 to {len(found) - 1}, or some of {', '.join(names)}")
    return [found[index] for index in sorted(chosen)]


def _try(trace: Trace, sketch: nn.Module, plan: StagePlan) -> StageReport:
    """Convert a stage of a sketch, a copy that takes no memory; see that the stage runs, and count what it costs."""
    stage, region = plan.stage, plan.stage.region
    plain = nn.Sequential(*(trace.model.get_submodule(path) for path in stage.paths))
    try:
        partial = convert_stage(sketch, plan)
        flops = count_flops(partial, region.in_shape)
        made = partial(torch.empty(*region.in_shape, dtype=trace.example.dtype, device="meta"))
    except Exception as error:  # whatever the blocks' own code raises
        raise ConfigError(f"{stage.name}: its blocks do not run when narrower: {first_line(error)}") from error
    if not isinstance(made, Tensor):
        raise ConfigError(f"{stage.name}: gives a {type(made).__name__}; expected blocks that give a single map")
    shape = tuple(made.shape)
    if shape != region.out_shape:
        raise ConfigError(f"{stage.name}: gives {shape} when narrower; expected {region.out_shape}")
    parameters = _parameters(partial)
    if plan.merge_after:
        reader = next(iter(region.result.users))
        pooled = merge(plan).to("meta").eval()
        flops += count_flops(pooled, shape_of(reader))
        parameters += _parameters(pooled)
    return StageReport(
        name=stage.name,
        block=stage.block,
        blocks=len(stage.children),
        in_channels=plan.in_channels,
        out_channels=plan.out_channels,
        carried=plan.carried,
        processed=plan.processed,
        processed_out=plan.processed_out,
        transition=plan.transition,
        merge=(plan.merge_after or "stage") if plan.merge else None,
        flops_before=trace.flops(stage.paths, region.in_shape),
        flops_after=flops,
        parameters_before=_parameters(plain),
        parameters_after=parameters,
    )


def _check_outputs(model: nn.Module, converted: nn.Module, example: Tensor) -> None:
    """See that the whole network gives what it gave."""
    before = _output_shapes(model, example)
    try:
        after = _output_shapes(converted, example)
    except Exception as error:  # whatever the network's own code raises
        raise ConfigError(
            f"{type(model).__name__} does not run with partial stages: its own code relies on the blocks that were "
            f"replaced: {first_line(error)}; expected stages= without those"
        ) from error
    if after != before:
        raise ConfigError(f"{type(model).__name__} gives {after} with partial stages; expected {before}, as before")


def _output_shapes(model: nn.Module, example: Tensor) -> list[tuple[int, ...]]:
    sketch = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad():
        output = sketch(torch.empty_like(example, device="meta"))
    return [tuple(leaf.shape) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def _report(model: nn.Module, converted: nn.Module, plan: ConversionPlan, origins: dict[nn.Module, str]) -> Report:
    whole, cut, new = [], [], []
    before = {name: tensor.shape for name, tensor in model.state_dict().items()}
    owners = {name: origins.get(module) for name, module in converted.named_modules(remove_duplicate=False)}
    for name, tensor in converted.state_dict().items():
        owner, _, own = name.rpartition(".")
        origin = owners.get(owner)
        if origin is None:
            new.append(name)
            continue
        same = before[f"{origin}.{own}" if origin else own] == tensor.shape
        (whole if same else cut).append(name)
    shape = tuple(plan.example.shape)
    return Report(
        partial=plan.partial,
        input_shape=shape,
        stages=tuple(report for _, report in plan.stages),
        left=plan.left,
        flops_before=count_flops(model, shape),
        flops_after=count_flops(converted, shape),
        parameters_before=_parameters(model),
        parameters_after=_parameters(converted),
        whole=tuple(whole),
        cut=tuple(cut),
        new=tuple(new),
    )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
