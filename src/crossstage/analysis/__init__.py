"""What a network costs, operation by operation."""

from crossstage.analysis.cost import count_flops, operations
from crossstage.analysis.formulas import dense_block_cio, partial_dense_block_cio
from crossstage.analysis.layer import Kind, Layer, Precision
from crossstage.analysis.profile import Bottleneck, Profile, profile_module
from crossstage.analysis.roof import Roof

__all__ = [
    "Bottleneck",
    "Kind",
    "Layer",
    "Precision",
    "Profile",
    "Roof",
    "count_flops",
    "dense_block_cio",
    "operations",
    "partial_dense_block_cio",
    "profile_module",
]
