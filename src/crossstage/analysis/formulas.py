"""Closed formulas of the papers, beside what is counted."""

from __future__ import annotations


def dense_block_cio(channels: int, layers: int, growth: int) -> int:
    r"""Return the values that a dense block's convolutions move at each position: :math:`cm + (m^2 + m) d / 2`.

    CSPNet, arXiv 1911.11929, section 3, for layers of a single convolution.

    Args:
        channels: Number c of channels of the block's input.
        layers: Number m of layers.
        growth: Number d of channels that each layer adds.
    """
    return channels * layers + (layers**2 + layers) * growth // 2


def partial_dense_block_cio(channels: int, layers: int, growth: int) -> float:
    r"""Return the same of a partial dense block, which processes half of the channels: :math:`(cm + (m^2 + m) d) / 2`.

    Only the input's own channels are halved: the layers add as many as before.
    """
    return (channels * layers + (layers**2 + layers) * growth) / 2
