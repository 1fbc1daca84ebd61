"""What a conversion changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossstage.nn import Partial


@dataclass(frozen=True)
class StageReport:
    """A stage before and after.

    Attributes:
        name: The stage's name in the network.
        block: Name of the class of its blocks.
        blocks: Number of its blocks.
        in_channels: Number of channels of its input, which stays what it was.
        out_channels: Number of channels of its output, which stays what it was.
        carried: Number of channels that bypass the blocks.
        processed: Number of channels that the blocks read.
        processed_out: Number of channels that the blocks give.
        transition: Number of channels after T; None without T.
        merge: The place of U: ``"stage"``, the name of the pooling layer that it follows, or None without U.
        flops_before: Operations of the plain stage, two for each multiply-add of convolutions and linear layers.
        flops_after: Operations of the partial stage, U included wherever it runs.
        parameters_before: Number of learned values of the plain stage.
        parameters_after: Number of learned values of the partial stage, U included.
    """

    name: str
    block: str
    blocks: int
    in_channels: int
    out_channels: int
    carried: int
    processed: int
    processed_out: int
    transition: int | None
    merge: str | None
    flops_before: int
    flops_after: int
    parameters_before: int
    parameters_after: int

    @property
    def growth(self) -> str:
        """How computation grows, empty if it does not."""
        if self.flops_after < self.flops_before:
            return ""
        before, after = self.flops_before / 1e9, self.flops_after / 1e9
        return (
            f"computation grows from {before:.3f} to {after:.3f} BFLOPs, as what is added costs more than the narrower "
            "blocks save"
        )


@dataclass(frozen=True)
class Report:
    """What a conversion changed.

    Attributes:
        partial: The settings that were asked for.
        input_shape: Shape of the input that costs were counted at, ``(N, C, H, W)``.
        stages: The stages that are partial now.
        left: Names of the stages that are not, and the reasons.
        flops_before: Operations of the whole plain network.
        flops_after: Operations of the whole converted network.
        parameters_before: Number of learned values of the whole plain network.
        parameters_after: Number of learned values of the whole converted network.
        whole: Names of the tensors of the converted network's state dict that are the plain network's.
        cut: Names of the tensors that were cut from the plain network's wider ones.
        new: Names of the tensors of the added layers, which are drawn anew.
    """

    partial: Partial
    input_shape: tuple[int, ...]
    stages: tuple[StageReport, ...]
    left: tuple[tuple[str, str], ...]
    flops_before: int
    flops_after: int
    parameters_before: int
    parameters_after: int
    whole: tuple[str, ...]
    cut: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Stages, or the whole network, whose computation grows."""
        found = [f"{stage.name}: {stage.growth}" for stage in self.stages if stage.growth]
        if self.flops_after > self.flops_before:
            found.append("the network costs more than it did")
        return tuple(found)

    def rows(self) -> list[list[str]]:
        """Return the table of stages as text, the whole network last; see ``COLUMNS``."""
        rows = [
            [
                stage.name,
                f"{stage.blocks} {stage.block}",
                f"{stage.in_channels} > {stage.out_channels}",
                f"{stage.carried} + {stage.processed} > {stage.processed_out}",
                *_change(stage.flops_before, stage.flops_after, stage.parameters_before, stage.parameters_after),
            ]
            for stage in self.stages
        ]
        total = _change(self.flops_before, self.flops_after, self.parameters_before, self.parameters_after)
        return [*rows, ["network", "", "", "", *total]]

    def notes(self) -> list[str]:
        """Return what the table does not hold, a line each: where U runs, weights, stages left, warnings."""
        kept, cut, new = len(self.whole), len(self.cut), len(self.new)
        return [
            *(
                f"{stage.name}: U runs after {stage.merge}"
                for stage in self.stages
                if stage.merge not in (None, "stage")
            ),
            f"weights: {kept} tensors as they were, {cut} cut from wider ones, {new} new",
            *(f"left: {name}: {why}" for name, why in self.left),
            *(f"warning: {warning}" for warning in self.warnings),
        ]

    def __str__(self) -> str:
        return "\n".join([*_aligned([COLUMNS, *self.rows()]), *self.notes()])


COLUMNS = ("stage", "blocks", "channels", "carried + processed", "BFLOPs", "", "M parameters", "")
"""Titles of the columns of :meth:`Report.rows`.

Channels are those of the input > of the output, and of the two parts > of the blocks' output; costs are given as
before > after, and as a change.
"""


def _change(flops: int, flops_after: int, parameters: int, parameters_after: int) -> list[str]:
    return [
        f"{flops / 1e9:.3f} > {flops_after / 1e9:.3f}",
        f"{flops_after / flops - 1:+.0%}",
        f"{parameters / 1e6:.3f} > {parameters_after / 1e6:.3f}",
        f"{parameters_after / parameters - 1:+.0%}",
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
