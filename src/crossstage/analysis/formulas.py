"""Closed formulas of the papers, beside what is counted."""

from __future__ import annotations


def dense_block_cio(channels: int, layers: int, growth: int) -> int:
    r"""Values that a dense block's convolutions read and write at each position: :math:`cm + (m^2 + m) d / 2`.

    CSPNet, arXiv 1911.11929, section 3, for layers of a single convolution.

    Args:
        channels: c, of the block's input.
        layers: m.
        growth: d, channels that each layer adds.
    """
    return channels * layers + (layers**2 + layers) * growth // 2


def partial_dense_block_cio(channels: int, layers: int, growth: int) -> float:
    r"""The same of a partial dense block, which processes half of the channels: :math:`(cm + (m^2 + m) d) / 2`.

    Only the input's own channels are halved: the layers add as many as before.
    """
    return (channels * layers + (layers**2 + layers) * growth) / 2
