"""A conversion as source that a person can read and change.

The file builds the plain network and makes its stages partial, one function for each kind of stage: first the layers
of the blocks become narrower, line by line, then they are put between a split and transitions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from keyword import iskeyword

from torch import nn

from crossstage.csp.edits import narrowing
from crossstage.csp.expressions import access, assignment
from crossstage.csp.network import ConversionPlan
from crossstage.csp.origin import Origin
from crossstage.csp.plan import StagePlan
from crossstage.csp.report import Report, StageReport
from crossstage.nn import ConvStyle

_NAMES = {  # where the names come from that a file may use
    "crossstage.csp": ("narrow", "narrow_tensor"),
    "crossstage.nn": ("Channels", "ConvNormAct", "ConvStyle", "Copy", "CrossStage", "Split"),
}
_RESERVED = {"plain", "convert", "build", "nn", *(name for names in _NAMES.values() for name in names)}


def write_source(model: nn.Module, plan: ConversionPlan, report: Report, origin: Origin, title: str) -> str:
    """Return the text of a file that does what a plan says.

    Args:
        model: The plain network.
        plan: The plan of its conversion.
        report: The report of what the conversion changes.
        origin: The source that makes the network.
        title: The network's name, and the command that the file is written by, for its docstring.
    """
    functions, calls = _stage_functions(model, plan)
    body = "\n\n\n".join(
        [
            "\n".join(f"{_style_name(style)} = {_style(style)}" for style in _styles(plan)),
            _function("plain", "The plain network, with weights drawn anew.", origin.expression),
            *functions,
            "\n".join(
                [
                    "def convert(network: Any) -> nn.Module:",
                    '    """Make the stages of a plain network partial, in place; its weights are carried over."""',
                    *(f"    {line}" for line in calls),
                    "    return network",
                ]
            ),
            _function("build", "The partial network, with weights drawn anew.", "convert(plain())"),
            'if __name__ == "__main__":\n    print(build())',
        ]
    )
    return f'"""{_in_docstring(title)}\n\n{_totals(report)}\n"""\n\n{_imports(origin, body)}\n\n{body}\n'


def _in_docstring(text: str) -> str:
    """Return a text that stands in a docstring as it is, whatever is in it: a path may hold quotes and backslashes."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _function(name: str, docstring: str, result: str) -> str:
    return f'def {name}() -> nn.Module:\n    """{docstring}"""\n    return {result}'


def _imports(origin: Origin, body: str) -> str:
    used = [
        f"from {module} import {', '.join(found)}"
        for module, names in _NAMES.items()
        if (found := [name for name in names if re.search(rf"\b{name}\(", body)])
    ]
    standard = [line for line in origin.imports if line.startswith("from pathlib")]
    others = [line for line in origin.imports if line not in standard]
    lines = sorted(
        [*others, "from torch import nn", *used], key=lambda line: (line.startswith("from"), line.split()[1])
    )
    own = ["", *origin.own] if origin.own else []
    return "\n".join([*standard, "from typing import Any", "", *lines, *own])


def _totals(report: Report) -> str:
    *_, total = report.rows()
    flops, flops_change, parameters, parameters_change = total[-4:]
    return (
        f"On {' x '.join(map(str, report.input_shape))}: {flops} BFLOPs ({flops_change}), {parameters} M parameters "
        f"({parameters_change})."
    )


def _stage_functions(model: nn.Module, plan: ConversionPlan) -> tuple[list[str], list[str]]:
    """Return a function for each kind of stage, and the lines that call them."""
    users: dict[str, list[StageReport]] = {}  # by what the function does
    calls: list[str] = []
    for stage, report in plan.stages:
        users.setdefault("\n".join(_body(model, stage)), []).append(report)
    functions = []
    names: dict[str, str] = {}
    for body, reports in users.items():
        name = _function_name(reports[0].name)
        names |= dict.fromkeys((report.name for report in reports), name)
        functions.append(f"def {name}(blocks: Any) -> CrossStage:\n{_docstring(reports)}\n{body}")
    for stage, report in plan.stages:
        calls += _call(model, stage, names[report.name])
    return functions, calls


def _function_name(stage: str) -> str:
    name = re.sub(r"\W+", "_", stage)
    return name if name.isidentifier() and not iskeyword(name) and name not in _RESERVED else f"stage_{name}"


def _docstring(reports: Sequence[StageReport]) -> str:
    first, names = reports[0], _in_docstring(", ".join(report.name for report in reports))
    return (
        f'    """{names}: {first.blocks} {first.block}, {first.in_channels} > '
        f"{first.out_channels} channels.\n\n"
        f"    {first.carried} channels are carried, {first.processed} processed; "
        f'{first.flops_before / 1e9:.3f} > {first.flops_after / 1e9:.3f} BFLOPs.\n    """'
    )


def _body(model: nn.Module, plan: StagePlan) -> Iterator[str]:
    yield from (f"    {line}" for line in narrowing(model, plan))
    count = len(plan.stage.children)
    if plan.opening:
        blocks = "blocks[1]" if count == 2 else "nn.Sequential(*blocks[1:])"
    else:
        blocks = "blocks[0]" if count == 1 else "nn.Sequential(*blocks)"
    merge = "nn.Identity()" if plan.merge_after else _merge(plan)
    yield "    return CrossStage("
    yield "        Split("
    yield from (f"            {line}" for line in _parts(plan))
    yield "        ),"
    yield f"        blocks={blocks},"
    transition = _convolution(plan.transition is not None, plan.processed_out, plan.transition or 0, plan)
    yield f"        transition={transition},"
    yield f"        merge={merge},{'  # after the pooling that follows' if plan.merge_after else ''}"
    yield "    )"


def _parts(plan: StagePlan) -> Iterator[str]:
    slices = plan.partial.split == "slice"
    carried = f"Channels(0, {plan.carried})"
    if not slices:
        carried = _convolution(True, plan.in_channels, plan.carried, plan)
    if plan.pool is None:
        yield f"carried={carried},"
    else:
        step, ceil = plan.pool
        pool = f"nn.AvgPool2d({step}, ceil_mode={ceil}, count_include_pad=False)"
        yield "carried=nn.Sequential("
        yield from (f"    {layer}," for layer in ((carried, pool) if slices else (pool, carried)))
        yield "),"
    if slices:
        processed = f"Channels({plan.carried}, {plan.in_channels})"
    elif plan.opening:
        processed = "blocks[0]"
    else:
        processed = _convolution(True, plan.in_channels, plan.processed, plan)
    if plan.copies_input:
        first, second = ("Copy()", processed) if plan.opening else (processed, "Copy()")
        processed = f"nn.Sequential({first}, {second})"
    yield f"processed={processed},"


def _merge(plan: StagePlan) -> str:
    layer = _convolution(plan.merge, plan.joined_channels, plan.out_channels, plan)
    return f"nn.Sequential({layer}, Copy())" if plan.copies_output else layer


def _listed(model: nn.Module, path: str) -> str:
    """Return the expression for a container that can be sliced, which a subclass with another constructor cannot be."""
    plain = type(model.get_submodule(path)) in (nn.Sequential, nn.ModuleList)
    return access(model, path) if plain else f"[*{access(model, path)}]"


def _call(model: nn.Module, plan: StagePlan, function: str) -> Iterator[str]:
    stage = plan.stage
    parent = access(model, stage.parent)
    if stage.whole:
        yield assignment(model, stage.parent, f"nn.Sequential({function}({_listed(model, stage.parent)}))")
    else:
        indices = _positions(model.get_submodule(stage.parent), stage.children)
        paths = [access(model, path) for path in stage.paths]
        blocks = f"[{', '.join(paths)}]"
        if indices and len(indices) > 1:
            blocks = f"{_listed(model, stage.parent)}[{indices[0]}:{indices[-1] + 1}]"
        first, *others = stage.paths
        yield assignment(model, first, f"{function}({blocks})")
        if indices and others:
            yield f"for index in range({indices[1]}, {indices[-1] + 1}):"
            yield f"    {parent}[index] = nn.Identity()"
        else:
            yield from (assignment(model, path, "nn.Identity()") for path in others)
    if plan.merge_after:
        pool = access(model, plan.merge_after)
        merge = _merge(plan)
        yield assignment(model, plan.merge_after, f"nn.Sequential({pool}, {merge})")


def _positions(parent: nn.Module, children: Sequence[str]) -> list[int] | None:
    """Return where children are in a list; None if they are in none."""
    if not isinstance(parent, (nn.Sequential, nn.ModuleList)):
        return None
    names = [name for name, _ in parent.named_children()]
    first = names.index(children[0])
    return list(range(first, first + len(children)))


def _convolution(exists: bool, inputs: int, outputs: int, plan: StagePlan) -> str:
    return f"ConvNormAct({inputs}, {outputs}, style={_style_name(plan.style)})" if exists else "nn.Identity()"


def _styles(plan: ConversionPlan) -> list[ConvStyle]:
    return list(dict.fromkeys(stage.style for stage, _ in plan.stages))


def _style_name(style: ConvStyle) -> str:
    return style.act.upper()


def _style(style: ConvStyle) -> str:
    norm = "" if style.norm == "batch" else f', norm="{style.norm}"'
    return f'ConvStyle(act="{style.act}"{norm})'
